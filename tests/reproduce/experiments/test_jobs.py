import subprocess
import sys

from reproduce.experiments import jobs as launch
from reproduce.experiments.jobs import Job, run_all, visible_gpus, workers_for


def test_a_failing_job_does_not_stop_the_others_and_keeps_its_log(tmp_path):
    jobs = [
        Job("bad", "train.py", ["no.such=1"], tmp_path / "bad.txt"),
        Job("good", "train.py", ["--help"], tmp_path / "good.txt"),
    ]
    failed = run_all(jobs, workers=1)
    assert [job.name for job in failed] == ["bad"]
    assert "no such setting" in jobs[0].last_lines()[-1]
    assert jobs[1].returncode == 0 and "model.num_layers" in (tmp_path / "good.txt").read_text()


def test_gpus_are_those_that_the_environment_allows(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_gpus() == [2, 3]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_every_job_gets_gpus_of_its_own(tmp_path, monkeypatch):
    given = []

    def start(job, gpus, workers):
        given.append(tuple(gpus))
        job.process = type("Done", (), {"poll": lambda self: 0, "terminate": lambda self: None})()

    monkeypatch.setattr(launch, "_start", start)
    jobs = [Job(str(number), "train.py", [], tmp_path / str(number)) for number in range(3)]
    assert launch.run_all(jobs, workers=5, gpus=[0, 1, 2, 3], devices=2) == []
    assert sorted(given[:2]) == [(0, 1), (2, 3)] and len(given) == 3


def test_jobs_are_asked_for_when_there_is_room_and_may_be_ended(tmp_path, monkeypatch):
    """As a search needs it: the next point depends on the results so far, and a poor run ends early."""
    running, most, ended = set(), [0], []

    def start(job, gpus, workers):
        running.add(job.name)
        most[0] = max(most[0], len(running))
        seconds = "0.1" if job.name == "short" else "60"
        job.process = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])

    def jobs():
        for name in ("long", "short", "short", "long"):
            assert len(running) < 2, "asked too early"
            yield Job(name, "train.py", [], tmp_path / name)

    def has_ended(job):
        running.discard(job.name)
        ended.append((job.name, job.returncode == 0))

    monkeypatch.setattr(launch, "_start", start)
    failed = run_all(jobs(), 2, total=4, stop=lambda job: job.name == "long", ended=has_ended)
    assert failed == [] and most == [2]
    assert sorted(ended) == [("long", False), ("long", False), ("short", True), ("short", True)]


def test_as_many_jobs_at_a_time_as_there_is_room_for(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert workers_for(None, "auto", 1) == (3, [4, 5, 6]) and workers_for(2, "auto", 1) == (2, [4, 5, 6])
    assert workers_for(None, "auto", 2) == (1, [4, 5, 6])
    assert workers_for(None, "gpu", 4)[1] == [], "a run that asks for more than there are says so itself"
    monkeypatch.setattr(launch, "cores", lambda: 64)
    assert workers_for(None, "cpu", 2) == (launch.MOST_ON_CPU, [])
    monkeypatch.setattr(launch, "cores", lambda: 1)
    assert workers_for(None, "cpu", 2) == (1, [])
