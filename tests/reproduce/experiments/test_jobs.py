import subprocess
import sys

import pytest

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


def test_jobs_that_wait_for_another_do_not_hold_up_the_rest(tmp_path, monkeypatch):
    """Three wait for the first one, which ends when the last one has."""
    gate, begun = tmp_path / "gate", []

    def start(job: Job, *_) -> None:
        begun.append(job.name)
        job.process = subprocess.Popen(["sh", "-c", job.words[0]])

    monkeypatch.setattr(launch, "_start", start)
    first = Job(
        "first", "train.py", [f"for i in $(seq 400); do test -e {gate} && exit; sleep 0.05; done; exit 1"], tmp_path / "log"
    )
    fusions = [Job(f"fusion {n}", "train.py", ["true"], tmp_path / "log", needs=(first,)) for n in range(3)]
    last = Job("last", "train.py", [f"touch {gate}"], tmp_path / "log")
    assert run_all([first, *fusions, last], workers=2) == []
    assert begun == ["first", "last", *(job.name for job in fusions)]


@pytest.mark.parametrize(
    ("said", "gpus"),
    [
        ("2,3", ["2", "3"]),
        ("GPU-5f1c, GPU-77aa", ["GPU-5f1c", "GPU-77aa"]),
        ("MIG-0b2e,MIG-1c3f,MIG-2d40", ["MIG-0b2e", "MIG-1c3f", "MIG-2d40"]),
        ("1,-1,2", ["1"]),
        ("-1", []),
        ("NoDevFiles", []),
        ("", []),
    ],
)
def test_gpus_are_those_that_the_environment_allows_by_whatever_name(said, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert visible_gpus() == gpus


def test_without_the_environment_the_driver_lists_them(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    assert visible_gpus() == ["0", "1"]


@pytest.mark.parametrize("tool", [None, "#!/bin/sh\necho No devices were found\nexit 6\n"], ids=["absent", "failing"])
def test_where_nothing_lists_the_gpus_one_run_at_a_time_is_started(tool, tmp_path, monkeypatch):
    """As in a container that has CUDA's library and no nvidia-smi: several runs would all take the first GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(launch, "cores", lambda: 64)
    if tool:
        (tmp_path / "nvidia-smi").write_text(tool)
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setattr(launch, "CUDA_FILES", (str(tmp_path / "nvidiactl"),))
    assert visible_gpus() == [] and workers_for(None, "auto", 1) == (launch.MOST_ON_CPU, [])
    (tmp_path / "nvidiactl").touch()
    assert visible_gpus() is None and workers_for(None, "auto", 1) == (1, [])
    assert workers_for(3, "auto", 1) == (3, []), "whoever asks knows better"
    assert workers_for(None, "cpu", 1) == (launch.MOST_ON_CPU, [])


def test_a_job_sees_the_gpus_that_it_was_given_by_their_names(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(launch, "open_child", lambda command, **options: seen.update(options["env"]))
    launch._start(Job("one", "train.py", [], tmp_path / "log.txt"), ["MIG-0b2e", "GPU-77aa"], 2)
    assert seen["CUDA_VISIBLE_DEVICES"] == "MIG-0b2e,GPU-77aa"


def test_jobs_share_the_cores_of_a_slurm_task(tmp_path, monkeypatch, on_slurm):
    """A node of 64 cores, of which the task has 6: as many runs, and threads in them, as these allow."""
    on_slurm(64, SLURM_PROCID="0", SLURM_CPUS_PER_TASK="6")
    assert workers_for(None, "cpu", 1) == (6, []) and workers_for(None, "cpu", 2) == (3, [])
    seen = {}
    monkeypatch.setattr(launch, "open_child", lambda command, **options: seen.update(options["env"], words=command))
    launch._start(Job("one", "train.py", [], tmp_path / "log.txt"), [], 2)
    assert (seen["OMP_NUM_THREADS"], seen["words"][-1]) == ("3", "trainer.threads=3")


def test_every_job_gets_gpus_of_its_own(tmp_path, monkeypatch):
    given = []

    def start(job, gpus, workers):
        given.append(tuple(gpus))
        job.process = type("Done", (), {"poll": lambda self: 0, "terminate": lambda self: None})()

    monkeypatch.setattr(launch, "_start", start)
    jobs = [Job(str(number), "train.py", [], tmp_path / str(number)) for number in range(3)]
    assert launch.run_all(jobs, workers=5, gpus=["0", "1", "2", "3"], devices=2) == []
    assert sorted(given[:2]) == [("0", "1"), ("2", "3")] and len(given) == 3


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
    assert workers_for(None, "auto", 1) == (3, ["4", "5", "6"]) and workers_for(2, "auto", 1) == (2, ["4", "5", "6"])
    assert workers_for(None, "auto", 2) == (1, ["4", "5", "6"])
    assert workers_for(None, "gpu", 4)[1] == [], "a run that asks for more than there are says so itself"
    monkeypatch.setattr(launch, "cores", lambda: 64)
    assert workers_for(None, "cpu", 2) == (launch.MOST_ON_CPU, [])
    monkeypatch.setattr(launch, "cores", lambda: 1)
    assert workers_for(None, "cpu", 2) == (1, [])
