"""A saved W&B report with the panels that compare the rows: curves, classes, confusions, differences from the baseline row.

    pip install -e '.[dashboard]' && wandb login
    python reproduce/dashboard.py
    python reproduce/dashboard.py project=visual-attention entity=our-team datasets=[ucf11,hmdb51]

For every run below paths.runs it first adds to the W&B run's summary by how many points the run differs from the
average-pooled row of the same seed (a run cannot know that while it trains); then it saves the report and prints its
address. Panels show whatever the project's runs have logged, and go on doing so. Without an account, use report.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Optional

from datamodules.videos import DataError
from reproduce.common.catalogue import BASELINE, COLUMNS, DATASETS, TABLE2_COLUMNS, kind_of, label_of
from reproduce.common.cli import command_line, fail
from reproduce.experiments.scheduler import sweep_values

if TYPE_CHECKING:
    from wandb_workspaces.reports import v2 as wr

AGAINST = "test/against_avg_pool"
"""Summary key of a run's figure less that of the average-pooled run of the same seed and set-up, in points."""
STEP = "trainer/global_step"
ROW = "row"  # the setting that runs are grouped by
SPLIT = "data.split"
CONFUSION = {"Actual": "actual", "Predicted": "predicted", "nPredictions": "videos"}  # fields of W&B's own chart


@dataclass
class DashboardPaths:
    """Where things lie; relative paths start at the working directory."""

    runs: str = "runs"
    """run folders, for the differences from the average-pooled row"""


@dataclass
class DashboardSettings:
    """Settings of dashboard.py."""

    project: str = "visual-attention"
    """W&B project, as in logging.project"""
    entity: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """W&B user or team; null for the login's own"""
    title: str = "Action recognition using visual attention"
    """of the report"""
    datasets: list[str] = field(default_factory=lambda: sweep_values("table1")["data.name"])
    """data sets with a section of their own, by data.name"""
    paths: DashboardPaths = field(default_factory=DashboardPaths)


def main(argv: list[str] | None = None) -> str:
    """Save the W&B report; returns its address."""
    settings = command_line(DashboardSettings, __doc__ or "", argv)
    try:
        from reproduce.experiments import tracking

        tracking.require()
        wr = _package()
        figures = differences(Path(settings.paths.runs).expanduser())
        entity = settings.entity or tracking.default_entity()
        noted = tracking.annotate(f"{entity}/{settings.project}", figures)
        print(f"W&B: {noted} of {len(figures)} runs below {settings.paths.runs} have their difference in {AGAINST}", flush=True)
        report = build(wr, entity, settings)
        address = tracking.answered(lambda: report.save().url)
    except DataError as error:
        raise fail(error) from None
    print(f"W&B report: {address}")
    return address


def _package() -> Any:
    try:
        from wandb_workspaces.reports import v2
    except ImportError as error:
        raise DataError(f"the package wandb-workspaces is missing ({error}): pip install -e '.[dashboard]'") from error
    return v2


def differences(root: Path) -> dict[str, dict[str, float]]:
    """By W&B run, its figure less that of the average-pooled run of the same seed and set-up, in points."""
    from reproduce.evaluation.collection import read
    from reproduce.evaluation.results import is_deterministic
    from reproduce.experiments.identity import NO_SEED

    found: dict[str, dict[str, float]] = {}
    for data in read(root)[0]:
        for configuration in data.configurations:
            reference = data.like(configuration).get(BASELINE)
            scores = {run.settings["seed"]: run.score for run in reference.runs} if reference else {}
            if scores and is_deterministic(configuration.row):  # of one seed, which stands for all
                scores = {NO_SEED: fmean(scores.values())}
            for run in configuration.runs:
                if run.folder.wandb_id.is_file() and run.settings["seed"] in scores:
                    points = 100 * (run.score - scores[run.settings["seed"]])
                    found[run.folder.wandb_id.read_text().strip()] = {AGAINST: round(points, 4)}
    return found


def build(wr: Any, entity: str, settings: DashboardSettings) -> wr.Report:
    """The report, not saved yet.

    Args:
        wr: the module ``wandb_workspaces.reports.v2``.
        entity: W&B user or team.
        settings: of the script.
    """
    blocks = [
        wr.P(f"Finished runs of {settings.project}, by table, data set and row. Bars are means over seeds; table1.py and"),
        wr.P("report.py give intervals and significance, which W&B does not know."),
        wr.TableOfContents(),
        wr.H1("Table 1"),
    ]
    for name in settings.datasets:
        blocks += [wr.H2(label_of(name)), _grid(wr, [_runs(wr, name, [ROW])], _of_rows(wr, name))]
    splits = [name for name in settings.datasets if name in {COLUMNS[column].data for column in TABLE2_COLUMNS}]
    if splits:
        runs = [_runs(wr, name, [SPLIT, ROW]) for name in splits]
        bars = [_bar(wr, _figure(name), f"{label_of(name)}: test {_figure(name)}") for name in splits]
        blocks += [wr.H1("Table 2"), wr.P("By split of the data set."), _grid(wr, runs, bars)]
    blocks += [wr.H1("Settings")]
    for name in settings.datasets:
        runs = _runs(wr, name, [])
        blocks += [wr.H2(f"{label_of(name)}: λ, layers, fps"), _grid(wr, [runs], _of_settings(wr, name))]
    return wr.Report(project=settings.project, entity=entity, title=settings.title, blocks=blocks, width="fluid")


def _figure(data: str) -> str:
    return "mAP" if DATASETS[kind_of(data)].multi_label else "accuracy"


def _runs(wr: Any, data: str, keys: list[str]) -> Any:
    """The finished runs of a data set, grouped by some settings."""
    name = label_of(data)
    filters = f"Tags() in ['{data}'] and State = 'finished'"  # every run bears its data set as a tag
    return wr.Runset(name=name, filters=filters, groupby=[f"config.{key}" for key in keys])


def _grid(wr: Any, runs: list[Any], panels: list[Any]) -> Any:
    """Panels three abreast."""
    for number, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * (number % 3), y=8 * (number // 3), w=8, h=8)
    return wr.PanelGrid(runsets=runs, panels=panels)


def _bar(wr: Any, figure: str, title: str) -> Any:
    return wr.BarPlot(title=title, metrics=[f"test/{figure}"], groupby=wr.Config(ROW), groupby_aggfunc="mean", orientation="h")


def _curve(wr: Any, key: str, title: str) -> Any:
    grouped = {"groupby": wr.Config(ROW), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return wr.LinePlot(title=title, x=STEP, y=[key], **grouped)


def _of_rows(wr: Any, data: str) -> list[Any]:
    """What compares the rows on a data set."""
    figure = _figure(data)
    panels = [
        _bar(wr, figure, f"Test {figure}"),
        wr.BarPlot(
            title="Points from the average-pooled LSTM",
            metrics=[AGAINST],
            groupby=wr.Config(ROW),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        ),
        _curve(wr, f"val/{figure}", f"Validation {figure}, first stage"),
        _curve(wr, "train/loss", "Training loss, first stage"),
        _curve(wr, "retrain-train/loss", "Training loss, second stage"),
        _curve(wr, "attention/penalty", "Attention penalty"),
        wr.MediaBrowser(title="Where it looks", media_keys=["attention/filmstrips"]),
        wr.CustomChart(
            query={"summaryTable": {"tableKey": "test/per_class"}},
            chart_name="wandb/bar/v0",
            chart_fields={"label": "class", "value": "score"},
            chart_strings={"title": "Test score by class"},
        ),
    ]
    if figure == "accuracy":  # a confusion matrix needs one label a video
        panels.append(
            wr.CustomChart(
                query={"summaryTable": {"tableKey": "test/confusion_matrix"}},
                chart_name="wandb/confusion_matrix/v1",
                chart_fields=CONFUSION,
                chart_strings={"title": "Confusion matrix"},
            )
        )
    return panels


def _of_settings(wr: Any, data: str) -> list[Any]:
    """The test figure over the settings that the paper varies."""
    key = wr.SummaryMetric(f"test/{_figure(data)}")
    axes = {"objective.attention_penalty": "Attention penalty λ", "model.num_layers": "LSTM layers"}
    axes |= {"data.fps": "Frames per second"}
    return [wr.ScatterPlot(title=title, x=wr.Config(setting), y=key) for setting, title in axes.items()]


if __name__ == "__main__":
    main()
