"""Figures of interventions: what a network predicts with another attention than its own, Figs. 5 and 9.

Each takes the command line and the runs that figures.py lists for it.
"""

from __future__ import annotations

import statistics as python_statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.videos import DataError
from reproduce.common.files import write_rows
from reproduce.common.presets import GENERATED
from reproduce.common.settings import SettingsError
from reproduce.systems.loading import Trained
from reproduce.visual.clips import SEPARATOR, RunClips, named_videos
from reproduce.visual.figure_runs import DEFAULTS, Need, Request, Rule
from reproduce.visual.interventions import (
    SEARCH,
    Outcome,
    Tracks,
    correct_all,
    correct_one,
    dense,
    mistaken,
    parse_glimpse,
    scores_of_cells,
    scores_with,
)
from reproduce.visual.overlay import overlays
from reproduce.visual.pages import Strip, evenly, save_strips
from reproduce.visual.paper_figures import best_run, save

SEARCHED = 12  # misclassified clips among which a glimpse that corrects one is looked for
MINIATURE_CLIPS = 8  # that are corrected with preset=miniature, where most= does not say
DRAWN = 4  # corrected clips on the figure's page; every one has a filmstrip of its own


def correction(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 9 as an experiment: every misclassified clip, its location softmax optimised until it is predicted correctly."""
    run = best_run(request, needs[0])
    folder = request.folder / "correction" / run.trained.folder.path.name
    seed, limit = run.trained.settings.seed, request.settings.limit
    if limit < 1:
        raise SettingsError(f"limit={limit}: must be at least 1")
    strips = folder if limit == DEFAULTS.limit else folder / f"limit_{limit}"
    most = request.settings.most or (MINIATURE_CLIPS if GENERATED in request.settings.preset else None)
    trained, store = run.trained, run.data.store
    file, wrong = folder / "correction.csv", {video.name: video for video in mistaken(trained, run.annotation)}
    if request.settings.videos:
        names, rule = named_videos(request.settings.videos, [run])[0], ""
        for name in names:
            if name not in wrong:
                raise DataError(f"videos: {run.short(name)} is classified correctly by {trained.folder.name}")
        found = ((one, tracks) for one, tracks in (correct_one(trained, store, wrong[name], seed, limit) for name in names))
    else:
        names, rule = run.choose(Rule("incorrect", "first"), most or len(wrong))
        found = correct_all(trained, run.annotation, store, names, file, seed, limit)
    outcomes: list[Outcome] = []
    known_tracks: dict[str, Tracks] = {}
    title = f"Mistakes corrected by attention alone: {run.name}, {run.model}"

    def strip(outcome: Outcome) -> Strip:
        name = outcome.video
        if name not in known_tracks:  # of an earlier call: the same once more
            _, known_tracks[name] = correct_one(trained, store, run.videos[name], seed, limit)
        return _corrected(run, outcome, known_tracks[name], request.settings.columns)

    for outcome, tracks in found:
        outcomes.append(outcome)
        if tracks is not None:
            known_tracks[outcome.video] = tracks
        path = strips / run.file_name(outcome.video)
        if tracks is not None or not path.with_suffix(".png").is_file():
            save_strips([strip(outcome)], path, title)
    said = summary(outcomes)
    print("\n".join(said), flush=True)
    if not outcomes:
        raise DataError(f"{run.name}: {trained.folder.name} misclassifies no test video; there is nothing to correct")
    learned = [one for one in outcomes if one.corrected and one.steps]
    page = [strip(one) for one in (learned or outcomes)[:DRAWN]]
    if len(outcomes) < len(wrong) and rule:
        said.append(f"Only {len(outcomes)} of the {len(wrong)} were tried. {rule}")
    those = " that became correct after a step or more" if learned else ""
    said.append(f"Shown: the first of them{those}; {strips.relative_to(request.folder).as_posix()}/ has all.")
    return [*save(request, "correction", page, title, [(needs[0], run)], " ".join(said)), file]


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """What the experiment found, in sentences."""
    if not outcomes:
        return ["No test video is misclassified."]
    corrected = [one for one in outcomes if one.corrected]
    at_once = sum(one.steps == 0 for one in corrected)
    lines = [
        f"{len(corrected)} of {len(outcomes)} misclassified test videos become correct ({len(corrected) / len(outcomes):.0%}) "
        f"when the location softmax alone is optimised for them, {at_once} of them by the random glimpse already; "
        f"limit {outcomes[0].limit} steps."
    ]
    learned = [one for one in corrected if one.steps]
    if learned:
        steps = [one.steps for one in learned]
        lines.append(
            f"Steps to the first correct prediction of the others: median {python_statistics.median(steps):g}, "
            f"{min(steps)} to {max(steps)}."
        )
    if corrected:
        turned, moved = (python_statistics.fmean(getattr(one, name) for one in corrected) for name in ("turned", "moved"))
        lines.append(
            f"Of the corrected ones, {turned:.0%} of the attention went elsewhere, and its centre moved by "
            f"{moved:.3f} of the frame's side, in the mean."
        )
    reached = sum(one.control_reached for one in outcomes)
    lines.append(
        f"Control: optimised for a label that is neither true nor predicted, {reached} of {len(outcomes)} "
        f"({reached / len(outcomes):.0%}) reach it."
    )
    return lines


def _corrected(run: RunClips, outcome: Outcome, tracks: Tracks, columns: int) -> Strip:
    chosen = evenly(len(tracks.learned.frames), columns)
    frames = run.frames(outcome.video, tracks.learned.frames[chosen])
    found = outcome.target if outcome.corrected else run.trained.classes[int(tracks.optimised.scores.argmax())]
    rows = [("frames", list(frames))]
    for label, track, said in (
        ("learned", tracks.learned, outcome.prediction),
        ("random", tracks.random, outcome.random_prediction),
        ("optimised", tracks.optimised, found),
    ):
        assert track.attention is not None
        rows.append((f"{label}: {'✓' if said == outcome.target else '✗'} {said}", overlays(frames, track.attention[chosen])))
    steps = f"{outcome.steps} step{'s' if outcome.steps != 1 else ''}"
    caption = SEPARATOR.join([run.short(outcome.video), f"true: {outcome.target}", steps])
    seconds = run.seconds(outcome.video, tracks.learned.frames[chosen])
    return Strip(caption, tuple(rows), seconds, outcome.corrected)


def glimpse(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 5: what a network predicts when it is made to look somewhere else."""
    run = best_run(request, needs[0])
    wanted = request.settings.glimpse
    given = None if wanted == SEARCH else parse_glimpse(wanted, run.trained.grid)
    if request.settings.videos:
        names, rule = named_videos(request.settings.videos, [run])[0], ""
    else:
        names, rule = run.choose(Rule("incorrect", "confident"), SEARCHED if given is None else 1)
    if not names:
        raise DataError(f"{run.name}: {run.trained.folder.name} misclassifies no test video; name one with videos=[…]")
    strips, files, tables = [], [], request.path("glimpse", needs)
    for name in names:
        video, labels = dense(run.trained, run.data.store, name), run.videos[name].labels
        there = given
        if there is None:
            cells = scores_of_cells(run.trained, video)
            files.append(tables / f"{run.file_name(name)}.csv")
            write_cells(files[-1], run.trained, cells, labels)
            there = np.zeros(run.trained.grid)
            helpful = cells[..., list(labels)].sum(axis=-1) if labels else cells.max(axis=-1)
            there[np.unravel_index(int(helpful.argmax()), helpful.shape)] = 1
        scores = scores_with(run.trained, video, there)
        print(f"{run.short(name)}, true: {run.true(name)}", flush=True)
        print(f"    its own glimpse:   {top(run.trained, run.track(name).scores)}", flush=True)
        print(f"    {_where(there, wanted)}: {top(run.trained, scores)}", flush=True)
        changed = int(scores.argmax()) in labels
        strips.append((changed, _glimpsed(run, name, there, scores, _where(there, wanted), request.settings.columns)))
    if not request.settings.videos and given is None:
        strips = sorted(strips, key=lambda pair: not pair[0])[: request.settings.clips or 2]
        rule = (
            f"Of the {len(names)} misclassified clips with the highest score, those that looking at one cell alone corrects, \
if any; the cell is the one that makes the true class most probable."
        )
    title = f"Different glimpses, different predictions: {run.name}, {run.model}"
    return [*save(request, "glimpse", [strip for _, strip in strips], title, [(needs[0], run)], rule), *files]


def write_cells(path: Path, trained: Trained, scores: np.ndarray, target: tuple[int, ...]) -> None:
    """Write what the network predicts when it looks at each cell alone, a row a cell.

    Raises:
        DataError: the file cannot be written.
    """
    rows: list[tuple] = [("row", "column", "prediction", "probability", "probability_of_true_class")]
    for row, column in np.ndindex(*trained.grid):
        here = scores[row, column]
        best = int(here.argmax())
        true = max((float(here[label]) for label in target), default=float("nan"))
        rows.append((row, column, trained.classes[best], f"{here[best]:.6f}", f"{true:.6f}"))
    write_rows(path, rows)


def top(trained: Trained, scores: np.ndarray, number: int = 5) -> str:
    """The most probable classes in words: ``diving 0.61, biking 0.20``."""
    best = np.argsort(-scores, kind="stable")[:number]
    return ", ".join(f"{trained.classes[label]} {scores[label]:.2f}" for label in best)


def _where(given: np.ndarray, wanted: str) -> str:
    """The glimpse in words."""
    if (given > 0).sum() == 1:
        row, column = (int(place[0]) for place in np.nonzero(given))
        return f"cell {row},{column}"
    return f"glimpse {wanted}"


def _glimpsed(run: RunClips, name: str, given: np.ndarray, scores: np.ndarray, where: str, columns: int) -> Strip:
    track = run.track(name)
    assert track.attention is not None
    chosen = evenly(len(track.frames), columns)
    frames = run.frames(name, track.frames[chosen])
    labels, best = run.videos[name].labels, int(scores.argmax())
    own, score, good = run.prediction(name)
    rows = (
        ("frames", list(frames)),
        (f"own: {'✓' if good else '✗'} {own} ({score:.2f})", overlays(frames, track.attention[chosen])),
        (
            f"{where}: {'✓' if best in labels else '✗'} {run.trained.classes[best]} ({scores[best]:.2f})",
            overlays(frames, np.broadcast_to(given, (len(frames), *given.shape))),
        ),
    )
    caption = f"{run.short(name)}{SEPARATOR}true: {run.true(name)}"
    return Strip(caption, rows, run.seconds(name, track.frames[chosen]))
