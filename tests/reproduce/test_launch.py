from reproduce.launch import Job, run_all, visible_gpus


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
    import reproduce.launch as launch

    given = []

    def start(job, gpus, workers):
        given.append(tuple(gpus))
        job.process = type("Done", (), {"poll": lambda self: 0, "terminate": lambda self: None})()

    monkeypatch.setattr(launch, "_start", start)
    jobs = [Job(str(number), "train.py", [], tmp_path / str(number)) for number in range(3)]
    assert launch.run_all(jobs, workers=5, gpus=[0, 1, 2, 3], devices=2) == []
    assert sorted(given[:2]) == [(0, 1), (2, 3)] and len(given) == 3
