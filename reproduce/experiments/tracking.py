"""Weights & Biases. The one module that imports wandb; nothing here waits for a prompt or a network.

Inside a sweep, ``wandb agent`` dictates the W&B run, whatever the run folder: a configuration that is finished already is
entered into the agent's run from its folder, by ``report``.
"""

from __future__ import annotations

import netrc
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import wraps
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import urlopen

from datamodules.files import write_atomically
from datamodules.videos import DataError
from reproduce.common.settings import Settings
from reproduce.experiments.folder import FILES, RunFolder
from reproduce.experiments.history import History

if TYPE_CHECKING:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    Log: TypeAlias = wandb.Run | None
    """A run's W&B run; None where W&B is disabled, and in further processes of a run."""

REACH_SECONDS = 5.0  # how long a server may take to accept a connection before a run goes on offline
INIT_SECONDS = 9.0  # and to answer the client after that, unless WANDB_INIT_TIMEOUT says otherwise
FINISH_SECONDS = 300  # how long the end of a run may upload; the rest stays in its folder for `wandb sync`
CALL_SECONDS = 60.0  # until a call of its public interface counts as refused
SOURCE = "wandb:"
FIRST_STAGE = "holdout"
FOLDERS = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")  # what the client keeps at home unless these name other folders
T = TypeVar("T")
P = ParamSpec("P")
RUN_METRICS = re.compile(r"[^/]+/[^/]+-[0-9a-f]{12}/metrics\.json")


def server() -> str:
    """Address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def init_seconds() -> float:
    """How long the client waits for the server: W&B's own ``WANDB_INIT_TIMEOUT``, or `INIT_SECONDS`."""
    try:
        return float(os.environ.get("WANDB_INIT_TIMEOUT", ""))
    except ValueError:
        return INIT_SECONDS


def has_login() -> bool:
    """Whether an API key for the server lies in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(urlparse(server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def is_reachable() -> bool:
    """Whether the server answers, in whatever words, within a few seconds, the look-up of its name included."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urlopen(server(), timeout=REACH_SECONDS).close()
            answered.set()
        except HTTPError:
            answered.set()
        except (OSError, HTTPException, ValueError):
            pass

    attempt = threading.Thread(target=ask, daemon=True)  # a look-up of names has no time limit of its own
    attempt.start()
    attempt.join(REACH_SECONDS)
    return answered.is_set()


def mode_of(setting: str) -> str:
    """``online``, ``offline`` or ``disabled``, from ``logging.wandb`` and what is there; says so where it gives way."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled") and setting == "auto":
        return os.environ["WANDB_MODE"]
    if setting == "auto":
        setting = "online" if has_login() else "offline"
        if setting == "offline":
            return setting
    if setting == "online" and not has_login():
        print(f"W&B: no login for {server()} (wandb login makes one); logging offline", flush=True)
        return "offline"
    if setting == "online" and not is_reachable():
        print(f"W&B: {server()} does not answer within {REACH_SECONDS:.0f} s; logging offline", flush=True)
        return "offline"
    return setting


def _harmless(call: Callable[P, T]) -> Callable[P, T | None]:
    """The same, but whatever the tracker raises is one warning a process, and None: no run fails of its bookkeeping."""

    @wraps(call)
    def guarded(*words: P.args, **named: P.kwargs) -> T | None:
        try:
            return call(*words, **named)
        except Exception as error:  # the client raises what it likes
            if not _warned:
                _warned.append(error)
                reason = (str(error) or type(error).__name__).splitlines()[0]
                print(f"W&B: {type(error).__name__}: {reason}; the run goes on, and W&B may lack parts of it", flush=True)
            return None

    return guarded


_warned: list[Exception] = []


def in_sweep() -> bool:
    """Whether a ``wandb agent`` started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def configure() -> None:
    """Set what the client reads when it is first imported, which Lightning does; to be called before that."""
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))  # older clients do not know it as a setting
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # the client's telemetry waits for a server that is silent
    os.environ.setdefault("WANDB_SILENT", "true")  # run.save warns of its links in spite of the setting


def _keep_below(folder: Path) -> None:
    """Let the client write below a run's folder alone, unless the user names other folders; its settings are read at home."""
    for name in FOLDERS:
        if os.environ.get(name) == _kept.get(name):  # not set, or set here for another run
            _kept[name] = os.environ[name] = str((folder / "wandb" / name.split("_")[1].lower()).resolve())


_kept: dict[str, str] = {}


@_harmless
def start(settings: Settings, folder: RunFolder) -> Log:
    """Open a run's W&B run, the same one when the run is resumed; None where W&B is disabled, or fails."""
    mode: Any = mode_of(settings.logging.wandb)
    if mode == "disabled":
        return None
    configure()
    _keep_below(folder.path)
    import wandb

    options: dict[str, Any] = {
        "name": f"{folder.path.name} seed {settings.seed}",
        "dir": str(folder.path),
        "group": settings.logging.group or f"{settings.data.name}/{folder.path.name.rsplit('-', 1)[0]}",
        "tags": [settings.data.name, settings.model.name, *settings.preset, *settings.logging.tags],
        "config": {**asdict(settings), "run_folder": folder.name},
        "settings": wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=init_seconds()),
    }
    if not in_sweep():  # an agent dictates these
        if not folder.wandb_id.is_file():
            write_atomically(folder.wandb_id, secrets.token_hex(4) + "\n")
        options |= {
            "id": folder.wandb_id.read_text().strip(),
            "project": settings.logging.project,
            "entity": settings.logging.entity,
        }
    try:
        resume = "allow" if mode == "online" and not in_sweep() else None
        run = wandb.init(mode=mode, resume=resume, **options)
    except wandb.Error as error:
        if mode == "offline":
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"W&B: {server()} does not take the run ({reason}); logging offline", flush=True)
        wandb.teardown()  # the client takes the failed run's id for one in use
        run = wandb.init(mode="offline", **options)
    write_atomically(folder.wandb_id, run.id + "\n")
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    run.define_metric("cv/*", step_metric="cv/epoch")
    return run


@_harmless
def stage_logger(run: Log, stage: str) -> WandbLogger | None:
    """Make Lightning's logger of a stage, whose curves stand under ``<stage>-``, those of the first one without it."""
    if run is None:
        return None
    from lightning.pytorch.loggers import WandbLogger

    class Harmless(WandbLogger):
        """What Lightning calls while it trains."""

        log_metrics, log_hyperparams = _harmless(WandbLogger.log_metrics), _harmless(WandbLogger.log_hyperparams)
        save, finalize = _harmless(WandbLogger.save), _harmless(WandbLogger.finalize)
        after_save_checkpoint = _harmless(WandbLogger.after_save_checkpoint)

    return Harmless(experiment=run, prefix="" if stage == FIRST_STAGE else stage)


@_harmless
def log(run: Log, figures: dict[str, float]) -> None:
    """Log figures of no stage."""
    if run is not None:
        run.log(figures)


@_harmless
def finish(run: Log, folder: RunFolder) -> None:
    """Log what a finished run's folder holds, and end the W&B run.

    Figures go into the summary, per-class scores, confusion matrix and filmstrips beside it, and so do the files that
    tables are made from.
    """
    if run is None:
        return
    import wandb

    metrics, about = folder.metrics() or {}, folder.about()
    run.summary.update({key: value for key, value in metrics.items() if isinstance(value, int | float)})
    scores = about.get("per_class") or {}
    tables: dict[str, Any] = {}
    if scores:
        rows: list[Any] = [[name, score] for name, score in scores.items()]
        tables["test/per_class"] = wandb.Table(columns=["class", "score"], data=rows)
    if about.get("confusion"):
        cells: list[Any] = [
            [actual, predicted, number]
            for actual, row in zip(scores, about["confusion"], strict=True)
            for predicted, number in zip(scores, row, strict=True)
            if number
        ]
        tables["test/confusion_matrix"] = wandb.Table(columns=["actual", "predicted", "videos"], data=cells)
    strips = {folder.path / name: caption for name, caption in about.get("filmstrips", {}).items()}
    images = [wandb.Image(str(path), caption=caption) for path, caption in strips.items() if path.is_file()]
    if images:  # a folder that came from W&B has none
        tables["attention/filmstrips"] = images
    if tables:
        run.log(tables)
    for path in folder.files():  # named <data set>/<run>/<file>, so that they come back as a run folder
        run.save(path, base_path=folder.path.parent.parent, policy="now")
    run.finish()


@_harmless
def report(settings: Settings, folder: RunFolder) -> None:
    """Inside a sweep, enter a run that was finished before into the W&B run that the agent made for it."""
    run = start(settings, folder) if in_sweep() else None
    if run is None:
        return
    for number, epoch in enumerate(History(folder.history).epochs(), start=1):
        prefix = "" if epoch["stage"] == FIRST_STAGE else f"{epoch['stage']}-"
        figures = {key if key.startswith("cv/") else prefix + key: value for key, value in epoch.items() if key != "stage"}
        run.log(figures | ({"cv/epoch": number} if "cv/score" in epoch else {}))
    finish(run, folder)


@_harmless
def fetch(settings: Settings, folder: RunFolder) -> dict[str, Any] | None:
    """Inside a sweep, the figures of a run of this configuration that another machine finished in the same project.

    Its files, but no checkpoints, are written to the run folder. Returns None where there is none or W&B does not answer.
    """
    if not in_sweep() or mode_of(settings.logging.wandb) != "online":
        return None
    configure()
    import wandb

    def work() -> list[Any]:
        api = wandb.Api(timeout=round(init_seconds()))
        project = f"{os.environ.get('WANDB_ENTITY') or api.default_entity}/{os.environ['WANDB_PROJECT']}"
        return list(api.runs(project, filters={"config.run_folder": folder.name, "state": "finished"}))

    try:
        _download(answered(work), folder.path.parent.parent)
    except DataError as error:
        print(f"W&B: cannot look for a finished run of this configuration ({error}); running it", flush=True)
    return folder.metrics()


def download(source: str, cache: Path) -> list[RunFolder]:
    """The finished runs of a project or sweep, as run folders.

    Args:
        source: ``wandb:<entity>/<project>`` or ``wandb:<entity>/<project>/<sweep>``.
        cache: folder below which they are kept; what is there already is not fetched again.

    Returns:
        Run folders without checkpoints, the newest run of each configuration.

    Raises:
        DataError: there is no such project or sweep, no login, or no answer.
    """
    parts = source.removeprefix(SOURCE).strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise DataError(f"source={source}: write wandb:<entity>/<project> or wandb:<entity>/<project>/<sweep>")
    if not has_login():  # the client would ask for one
        raise DataError(f"source={source}: there is no login for {server()}; wandb login makes one")
    if not is_reachable():
        raise DataError(f"source={source}: {server()} does not answer within {REACH_SECONDS:.0f} s")
    configure()
    import wandb

    def work() -> list[Any]:
        api = wandb.Api(timeout=round(init_seconds()))
        filters: dict[str, Any] = {"state": "finished"}
        if len(parts) == 3:
            filters["sweep"] = api.sweep("/".join(parts)).id
        return list(api.runs("/".join(parts[:2]), filters=filters, order="-created_at"))

    try:
        return _download(answered(work), cache / parts[0] / parts[1])
    except DataError as error:
        raise DataError(f"source={source}: {error}") from error


def _download(runs: Iterable[Any], root: Path) -> list[RunFolder]:
    """The files of W&B runs below a folder, ``metrics.json`` last; of two runs of one configuration the first.

    Raises:
        DataError: a file could not be fetched or written.
    """
    folders: dict[str, RunFolder] = {}
    for run in runs:
        files = {file.name: file for file in run.files()}
        name = next((name.removesuffix("/metrics.json") for name in files if RUN_METRICS.fullmatch(name)), None)
        if name is None or name in folders:
            continue
        folders[name] = folder = RunFolder(root / name)
        if folder.metrics() is not None and folder.wandb_id.is_file() and folder.wandb_id.read_text().strip() == run.id:
            continue  # fetched before
        try:
            for wanted in FILES:
                if f"{name}/{wanted}" in files:
                    files[f"{name}/{wanted}"].download(root=str(root), replace=True).close()
            write_atomically(folder.wandb_id, run.id + "\n")
        except Exception as error:  # the client raises what it likes
            raise DataError(f"{name} cannot be fetched ({(str(error) or type(error).__name__).splitlines()[0]})") from error
    return list(folders.values())


def require() -> None:
    """Refuse where there is no login or no answer: the client would ask, or try for minutes.

    Raises:
        DataError: says which of the two, and what helps.
    """
    configure()
    if not has_login():
        raise DataError(f"there is no login for {server()}: wandb login makes one; report.py needs none")
    if not is_reachable():
        raise DataError(f"{server()} does not answer within {REACH_SECONDS:.0f} s; report.py needs no network")


def answered(call: Callable[[], T]) -> T:
    """What a call to the W&B server returns.

    Raises:
        DataError: the server refuses it, or says nothing for a minute; one line.
    """
    outcome: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # the client raises what it likes, even a bare Exception
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)  # the client repeats failed calls for as long as it likes
    thread.start()
    thread.join(CALL_SECONDS)
    if errors:
        raise DataError(f"{server()} says: {(str(errors[0]) or type(errors[0]).__name__).splitlines()[0]}") from errors[0]
    if not outcome:
        raise DataError(f"{server()} has not answered within {CALL_SECONDS:.0f} s")
    return outcome[0]


def default_entity() -> str:
    """User or team that the login's runs go to by default."""
    import wandb

    return str(answered(lambda: wandb.Api(timeout=round(init_seconds())).default_entity))


def annotate(project: str, figures: Mapping[str, Mapping[str, float]]) -> int:
    """Add figures to the summaries of W&B runs.

    Args:
        project: ``<entity>/<project>``.
        figures: by the run's id; runs that the project does not have, such as offline ones, are left out.

    Returns:
        How many runs it has.
    """
    import wandb

    def work() -> int:
        api, found = wandb.Api(timeout=round(init_seconds())), 0
        for identifier, values in figures.items():
            try:
                run = api.run(f"{project}/{identifier}")
            except (wandb.Error, ValueError):
                continue
            run.summary.update(dict(values))
            found += 1
        return found

    return answered(work) if figures else 0
