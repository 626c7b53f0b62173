"""SIGTERM and lost processes: what ends, how, and that the same command goes on to the same figures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import MPI_FREE, STORE, children, commands, processes, start, words
from conftest import PATIENCE, REPOSITORY, script, wait_for

from datamodules.features import FeatureStore
from reproduce.common.cli import resolve
from reproduce.common.settings import Settings, SettingsError
from reproduce.experiments.history import History
from reproduce.experiments.jobs import Job, run_all
from reproduce.systems import preemption as preemption_module
from reproduce.systems.preemption import Preemption

LONG = ["data.batch_size=1", "trainer.max_epochs=2", "protocol=holdout"]  # epochs of a second, to be met within


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while commands(group):
        assert time.monotonic() < deadline, f"still there: {commands(group)}"
        time.sleep(0.1)


def epochs_in(folder: Path) -> int:
    return sum(len(History(path).epochs()) for path in folder.glob("runs/clips/*/history.csv"))


@pytest.fixture
def here(trained, tmp_path):
    """A working folder with the clips' features."""
    shutil.copytree(trained / "features", tmp_path / "features")
    return tmp_path


@pytest.fixture(scope="module")
def long_run(trained, clips, tmp_path_factory):
    """A run of long epochs, undisturbed; returns its folder."""
    folder = tmp_path_factory.mktemp("long")
    shutil.copytree(trained / "features", folder / "features")
    script("train.py", *words(clips, "row=soft_attention_1", *LONG), cwd=folder)
    (run,) = folder.glob("runs/clips/*")
    return run


@pytest.mark.counts("SIGTERMs")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")
def test_sigterm_within_an_epoch_ends_training_and_the_figures_are_the_same(clips, here, long_run):
    arguments = words(clips, "row=soft_attention_1", *LONG)
    checkpoint = here / "runs/clips" / long_run.name / "holdout/last.ckpt"
    process = start("train.py", *arguments, cwd=here)
    wait_for(checkpoint.is_file, process, here / "output.txt")  # one epoch of two is saved, the other one has begun
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    output = (here / "output.txt").read_text()
    assert output.count("holdout epoch") == epochs_in(here) == 1 and "Traceback" not in output
    assert not list(here.glob("runs/clips/*/metrics.json")) and not list(here.rglob("*.part"))
    script("train.py", *arguments, cwd=here)
    for name in ("predictions.csv", "history.csv"):
        assert (here / "runs/clips" / long_run.name / name).read_bytes() == (long_run / name).read_bytes()


def extracting(folder, arguments, finished: int):
    """An extraction that has finished so many videos or more."""
    journal = folder / STORE / "journal-0.jsonl"
    process = start("prepare.py", *arguments, cwd=folder)
    wait_for(lambda: journal.is_file() and journal.read_bytes().count(b"\n") >= finished, process, folder / "output.txt")
    return process


@pytest.mark.slow(measured=True)
@pytest.mark.counts("SIGTERMs")
def test_sigterm_ends_extraction_and_keeps_what_is_done(clips, tmp_path):
    arguments = words(clips, "backbone.batch_size=2", "backbone.workers=0")
    process = extracting(tmp_path, arguments, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    kept = {
        name: FeatureStore(tmp_path / STORE).file(name).stat().st_mtime_ns for name in FeatureStore(tmp_path / STORE).videos
    }
    assert 2 <= len(kept) < 18 and not list(tmp_path.rglob("*.part"))
    assert "Traceback" not in (tmp_path / "output.txt").read_text()
    result = script("prepare.py", *arguments, cwd=tmp_path)
    assert f"extracting features of {18 - len(kept)} videos" in result.stdout
    store = FeatureStore(tmp_path / STORE)
    assert {name: store.file(name).stat().st_mtime_ns for name in kept} == kept


@pytest.mark.counts("SIGTERMs")
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile writes C++")
def test_sigterm_ends_a_process_that_compiles_within_half_a_minute(clips, tmp_path):
    """Compiling this network takes a minute on two cores, and SLURM kills after half of one."""
    arguments = ["backbone.name=googlenet", "backbone.layer=inception5b.cat", "backbone.compile=true", "backbone.workers=0"]
    arguments = words(clips, *arguments)
    process = start("prepare.py", *arguments, cwd=tmp_path, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "compiled"))
    wait_for(lambda: list(tmp_path.rglob("compiled/*")), process, tmp_path / "output.txt")
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 30
    wait_until_gone(process.pid)
    output = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in output and "error:" not in output and not list(tmp_path.rglob("*.part"))


@pytest.mark.counts("SIGTERMs")
def test_sigterm_to_all_processes_blames_no_video(clips, tmp_path):
    """As SLURM and timeout send it; decoding processes die of it before the first one has looked."""
    arguments = words(clips, "backbone.workers=2", "backbone.batch_size=2")
    process = extracting(tmp_path, arguments, 1)
    for worker in children(process, "prepare.py"):
        os.kill(worker, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    output = (tmp_path / "output.txt").read_text()
    assert "error:" not in output and ".avi" not in output and not list(tmp_path.rglob("*.part"))


@pytest.mark.counts("SIGTERMs")
def test_sigterm_ends_what_does_not_come_to_the_end_of_its_batch():
    code = """
import os, signal, subprocess, sys
from reproduce.systems import preemption
preemption.GRACE = 0.2
told = preemption.Preemption()
told._listen()
os.kill(os.getpid(), signal.SIGTERM)
try:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(10000)"])
finally:
    print("told", told.told)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "told True\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_runs_of_a_table_end_with_it(clips, here, number, count):
    """Whether it is asked to end or killed; runs that went on unseen would hold the GPUs of the next call."""
    table = words(clips, "datasets=[videofolder]", "rows=[avg_pool_lstm,max_pool_lstm]", "workers=2", *LONG)
    table.remove("data.name=videofolder")
    process = start("table1.py", *table, cwd=here)
    wait_for(lambda: epochs_in(here) >= 1, process, here / "output.txt")
    assert len(children(process, "train.py")) >= 1
    process.send_signal(number)
    assert process.wait(PATIENCE) == (128 + number if number == signal.SIGTERM else -number)
    wait_until_gone(process.pid)
    count(f"{number.name}s", 1)
    if number == signal.SIGTERM:
        assert "the same command goes on with them" in (here / "output.txt").read_text()
    logs = "".join(path.read_text() for path in here.glob("runs/logs/*.txt"))
    assert "Traceback" not in logs and not list(here.glob("results/table1.*"))


@pytest.mark.counts("processes deaf to SIGTERM")
def test_a_worker_process_that_a_script_cannot_end_is_killed(tmp_path, monkeypatch):
    from reproduce.common import processes as children_of
    from reproduce.experiments import jobs as scripts

    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    (tmp_path / "deaf.py").write_text(code)
    monkeypatch.setattr(scripts, "SCRIPTS", tmp_path)
    monkeypatch.setattr(children_of, "PATIENCE", 0.5)
    jobs = [Job("deaf", "deaf.py", [], tmp_path / "deaf.txt")]

    def stop(job):
        if job.last_lines(1) == ["deaf"]:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_all(jobs, 1, stop=stop)
    assert jobs[0].process is not None and jobs[0].process.returncode == -signal.SIGKILL


@pytest.mark.counts("SIGTERMs")
@pytest.mark.slow
@pytest.mark.parametrize("to", ["all", "the first"])
def test_sigterm_ends_two_processes_together(clips, here, to):
    """Sent to all of them, at different moments of their work, as SLURM does, or to the one that the user started."""
    arguments = words(clips, "row=soft_attention_1", "trainer.devices=2", *LONG, "data.batch_size=2")
    process = start("train.py", *arguments, cwd=here)
    wait_for(lambda: epochs_in(here) == 1, process, here / "output.txt")
    ranks = children(process, "train.py")
    assert ranks
    (os.killpg if to == "all" else os.kill)(process.pid, signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert not set(ranks) & set(processes())
    output = (here / "output.txt").read_text()
    assert "Traceback" not in output and "error" not in output
    wait_until_gone(process.pid)
    if to == "the first":  # the others hear of it in the same way, and what is on disk is the same
        return
    script("train.py", *arguments, cwd=here)
    undisturbed = here / "undisturbed"
    undisturbed.mkdir()
    shutil.copytree(here / "features", undisturbed / "features")
    script("train.py", *arguments, cwd=undisturbed)
    for name in ("predictions.csv", "history.csv"):
        (one,), (two,) = here.glob(f"runs/clips/*/{name}"), undisturbed.glob(f"runs/clips/*/{name}")
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.counts("processes deaf to SIGTERM")
def test_the_end_waits_for_processes_with_something_to_do_and_kills_those_that_wait_in_vain(tmp_path):
    """As at the end of a script whose first process has left, in the list that Lightning's observer looks at."""
    code = f"""
import subprocess, sys
from reproduce.systems import preemption
preemption.PATIENCE, started = 5.0, []
ready = "print(flush=True)"
work = f"import time, pathlib; {{ready}}; time.sleep(0.5); pathlib.Path({str(tmp_path / "done")!r}).touch()"
deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {{ready}}; signal.pause()"
for command in (work, deaf):
    started.append(subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE))
    started[-1].stdout.readline()
print(*(process.pid for process in started), flush=True)
preemption._take_over(started)
assert not started, "Lightning's observer has nothing more to look at"
raise SystemExit(143)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 143 and not done.stderr
    assert (tmp_path / "done").is_file()
    assert not {int(word) for word in done.stdout.split()} & set(processes())


def test_a_process_that_does_not_notice_that_another_one_is_lost_ends_in_words():
    """As in a collective operation that waits for the lost one without end."""
    code = """
import subprocess, sys, time
from reproduce.systems import preemption
preemption.PATIENCE = preemption.POLL = 0.1
started = [subprocess.Popen([sys.executable, "-c", end]) for end in ("raise SystemExit(3)", "import time; time.sleep(10000)")]
print(*(process.pid for process in started), flush=True)
preemption._take_over(started)
time.sleep(10000)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: another of the 3 processes of this run is gone") and "same command" in done.stderr
    left = {int(word) for word in done.stdout.split()}
    deadline = time.monotonic() + PATIENCE
    while left & set(processes()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_process_whose_starter_is_killed_ends_in_words_though_its_communication_waits(tmp_path):
    """As a rank under NCCL whose first process is killed: it would wait for it without end, and keep its GPU."""
    child = """
import os, time
from reproduce.systems import preemption
preemption.PATIENCE = preemption.POLL = 0.1
preemption._watch_parent(os.getppid(), 2)
print("ready", flush=True)
time.sleep(10000)
"""
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(10000)"
    with (tmp_path / "said.txt").open("w") as said:
        starter = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=said, stderr=said)
    wait_for(lambda: "ready" in (tmp_path / "said.txt").read_text(), starter, tmp_path / "said.txt")
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + PATIENCE
    while "error:" not in (said := (tmp_path / "said.txt").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "another of the 2 processes of this run is gone" in said


def test_nothing_is_waited_for_under_nccl_which_says_nothing(monkeypatch):
    assert preemption_module._patience() == preemption_module.PATIENCE
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for backend, patience in (("gloo", preemption_module.PATIENCE), ("nccl", 0.0)):
        monkeypatch.setattr(torch.distributed, "get_backend", lambda backend=backend: backend)
        assert preemption_module._patience() == patience


def test_a_gpus_memory_that_runs_out_is_an_error_that_says_what_to_set():
    settings = resolve(Settings, [])
    said = "memory ran out .Tried to allocate 2.00 GiB.*set data.batch_size lower"
    with pytest.raises(SettingsError, match=said), preemption_module.explained(settings, "data.batch_size lower"):
        raise torch.cuda.OutOfMemoryError("Tried to allocate 2.00 GiB.\nand much more")


def test_a_signal_that_comes_while_the_processes_agree_to_go_on_counts_at_the_next_question(monkeypatch):
    preemption = Preemption()
    answers = []

    def decide(told: bool, all: bool) -> bool:
        if not answers:
            preemption._note()  # the question has been put already
        answers.append(told)
        return told

    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=decide))
    monkeypatch.setenv("LOCAL_RANK", "0")
    preemption._leave_together(trainer)
    with pytest.raises(SystemExit) as stop:
        preemption._leave_together(trainer)
    assert answers == [False, True] and stop.value.code == 128 + signal.SIGTERM


@pytest.mark.counts("SIGKILLs")
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_a_lost_rank_ends_the_others_in_words_and_the_same_command_goes_on(clips, here, launcher):
    arguments = words(clips, "row=avg_pool_lstm", "trainer.devices=2", *LONG, "data.batch_size=2")
    before = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2") if launcher == "torchrun" else ()
    process = start("train.py", *arguments, cwd=here, before=before)
    wait_for(lambda: epochs_in(here) >= 1, process, here / "output.txt")
    ranks = children(process, "train.py")
    os.kill(ranks[-1], signal.SIGKILL)
    assert process.wait(PATIENCE) != 0
    output = (here / "output.txt").read_text()
    assert "is gone" in output and "run the same command again" in output, output[-3000:]
    deadline = time.monotonic() + PATIENCE
    while left := set(ranks) & set(processes()):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)
    begin = [sys.executable, *before, str(REPOSITORY / "reproduce/train.py"), *arguments]
    done = subprocess.run(begin, cwd=here, capture_output=True, text=True, timeout=PATIENCE, env=MPI_FREE)
    assert done.returncode == 0, done.stderr
    (metrics,) = here.glob("runs/clips/*/metrics.json")
    assert json.loads(metrics.read_text())["holdout/epoch"] in (0, 1)


def test_on_slurm_no_run_starts_from_another_ones_checkpoint(trained, clips, here):
    """Lightning, there, begins every fit without a checkpoint from ``hpc_ckpt_<n>.ckpt`` in the working folder."""
    foreign = next((trained / "run").resolve().glob("holdout/last.ckpt"))
    shutil.copy(foreign, here / "hpc_ckpt_1.ckpt")
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "job", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    slurm |= {"SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1"}
    result = script("train.py", *words(clips, "row=soft_attention_1"), cwd=here, env={**os.environ, **slurm})
    assert "holdout epoch 1/3" in result.stdout
    run = here / (trained / "run").resolve().relative_to(trained.resolve())
    for name in ("predictions.csv", "history.csv"):
        assert (run / name).read_bytes() == (trained / "run" / name).read_bytes()
