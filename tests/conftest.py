"""What tests share: a small folder of drawn clips, entry scripts run as a user runs them, a count of what they inject."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # a busy machine is no failure
settings.register_profile("repeatable", deadline=None, derandomize=True)  # the same examples each time, for CI
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
PATIENCE = 600  # seconds for what another process does, on a busy machine
LOOPBACK = SHARED / "tools/wandb_loopback/server.py"
KEY = "0123456789012345678901234567890123456789"  # of W&B; no real one

# Several tests run at a time; threads that wait for one another's cores take many times as long. torch reads it when imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A user's own W&B login must not make tests talk to a server.
os.environ.pop("WANDB_API_KEY", None)
os.environ["WANDB_MODE"] = "offline"

# Small enough for seconds: 3 classes, 2 epochs, a small network on small frames.
TINY = [
    "preset=miniature",
    "data.name=videofolder",
    "data.folder=clips",
    "backbone.name=mobilenet_v3_small",
    "backbone.size=64",
    "backbone.layer=features.3",
    "model.hidden_dim=8",
    "model.num_layers=2",
    "model.dropout=0.5",
    "data.batch_size=8",
    "trainer.max_epochs=3",
    "optim.lr=0.01",
    "trainer.threads=1",
    "logging.wandb=disabled",
]


# Features of fresh videos in seconds, the same on every machine.
SMALL_BACKBONE = [
    "backbone.name=mobilenet_v3_small",
    "backbone.weights=random",
    "backbone.size=64",
    "backbone.layer=features.3",
    "backbone.precision=fp32",
    "trainer.threads=1",
]

COUNTED = "counted"  # name of a test's properties that the summary adds up


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first, so that no process is left with one of them when the others have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        item.user_properties += [(COUNTED, (mark.args[0], 1)) for mark in item.iter_markers("counts")]


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """``count(what, number)``: so many faults were injected, or bad inputs given; properties travel from xdist's workers."""
    return lambda what, number: request.node.user_properties.append((COUNTED, (what, int(number))))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests that passed have injected and given, by kind."""
    numbers, tests = Counter[str](), Counter[str]()
    passed = {report.nodeid for report in terminalreporter.getreports("passed")}
    for report in terminalreporter.getreports(""):
        if report.when == "teardown" and report.nodeid in passed:  # the last one: fixtures count as they end
            found = Counter[str]()
            for name, value in report.user_properties:
                if name == COUNTED:
                    found[value[0]] += value[1]
            numbers += found
            tests.update((+found).keys())
    if numbers:
        terminalreporter.section("injected faults and bad inputs")
    for what in sorted(numbers):
        terminalreporter.write_line(f"{numbers[what]:7} {what}, in {tests[what]} test{'s' * (tests[what] != 1)}")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Tests at a time: one more than there are cores, since many wait for processes or for time to pass."""
    return min((os.cpu_count() or 1) + 1, 8)


MEASURING = "COVERAGE_"  # how the environment's variables begin that make coverage measure a process


def unmeasured() -> dict[str, str]:
    """The environment without what makes coverage measure a process, whose files a test's limits would forbid."""
    return {key: value for key, value in os.environ.items() if not key.startswith(MEASURING)}


@pytest.fixture(autouse=True)
def long_tests_are_not_measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What most long tests start runs lines that shorter ones run too; to count them again would take a third more time."""
    mark = request.node.get_closest_marker("slow")
    if mark and not mark.kwargs.get("measured"):
        for name in [name for name in os.environ if name.startswith(MEASURING)]:
            monkeypatch.delenv(name)


@pytest.fixture
def on_slurm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the cores that this process is bound to, and what SLURM says of them."""

    def told(bound: int, **given: str) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
        for name in ("SLURM_PROCID", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return told


def script(name: str, *words: str, cwd: Path, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Run an entry script in a folder, in a process of its own."""
    command = [sys.executable, str(REPOSITORY / "reproduce" / name), *words]
    if sys.platform == "linux" and not options:
        import forked

        result = forked.run(Path(command[1]), [*words], cwd, dict(os.environ), PATIENCE)
    else:
        result = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, **options
        )
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
    return result


def wait_for(condition: Callable[[], object], process: subprocess.Popen, output: Path | None = None) -> None:
    """Wait until a condition holds of what a process does, which prints to ``output``."""

    def met() -> object:
        try:
            return condition()
        except FileNotFoundError:  # what it looks at comes and goes
            return False

    deadline = time.monotonic() + PATIENCE
    while True:
        ended = process.poll() is not None  # before the look: what it did last counts
        if met():
            return
        if ended or time.monotonic() > deadline:
            printed = output.read_text()[-3000:] if output else ""
            raise AssertionError(f"{'ended before it was met' if ended else 'never came'}: {printed}")
        time.sleep(0.005)


def draw_clips(root: Path, per_class: int = 6, classes: int = 3) -> None:
    """A videofolder of drawn clips, two to a group."""
    from datamodules.miniature import Clip, _write

    rows = ["path,class,group"]
    for label in range(classes):
        for number in range(per_class):
            name = f"class{label}/clip{number}.avi"
            _write(root, Clip(name, name, (label,), f"{label} {number // 2}", "mpeg4", Fraction(30)))
            rows.append(f"{name},class{label},{label}-{number // 2}")
    (root / "videos.csv").write_text("\n".join(rows) + "\n")


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of pytest-xdist's workers makes and the others find; to be read, not written."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of one that failed
            part.mkdir()
            make(part)
            part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds ``clips/``, a videofolder of 18 drawn clips of 3 classes."""
    return once(tmp_path_factory, "clips", lambda folder: draw_clips(folder / "clips"))


@pytest.fixture(scope="session")
def trained(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which ``train.py`` has finished one soft attention run on the clips."""

    def train(folder: Path) -> None:
        result = script("train.py", *TINY, f"paths.data={clips}", "row=soft_attention_1", cwd=folder)
        (folder / "stdout").write_text(result.stdout)

    first, folder = once(tmp_path_factory, "first-trained", train), tmp_path_factory.mktemp("trained") / "here"
    shutil.copytree(first, folder)  # tests run scripts in it
    run = next(folder.glob("runs/clips/soft_attention_1-*"))
    (folder / "run").symlink_to(run)
    *printed, _ = (folder / "stdout").read_text().splitlines()
    (folder / "stdout").write_text("\n".join([*printed, str(run.resolve())]) + "\n")
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A stand-in W&B server; yields its folder and the environment of a client."""
    if not LOOPBACK.is_file():
        pytest.skip(f"{LOOPBACK} is absent")
    data = tmp_path / "server"
    process = subprocess.Popen([sys.executable, str(LOOPBACK), "--data", str(data)], stdout=subprocess.DEVNULL)
    wait_for(lambda: (data / "url").is_file() and (data / "url").read_text().strip(), process)
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"WANDB_BASE_URL": (data / "url").read_text().strip(), "WANDB_API_KEY": KEY, "HOME": str(home)}
    yield data, {**environment, "WANDB_INIT_TIMEOUT": str(PATIENCE)}
    process.terminate()
    process.wait()


def finished_runs(data: Path, count: int) -> dict[str, dict]:
    """The runs of the stand-in server in ``data``, as soon as it has written that so many are finished."""
    deadline = time.monotonic() + PATIENCE
    while True:
        runs = json.loads((data / "state.json").read_text())["runs"]
        if sum(run["state"] == "finished" for run in runs.values()) >= count:
            return runs
        assert time.monotonic() < deadline, {name: run["state"] for name, run in runs.items()}
        time.sleep(0.05)
