"""Figures of how a network fails, and of what another gaze changes: Figs. 5 and 9, and each class's mistakes.

Each takes the command line and the runs that figures.py lists for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.videos import DataError
from reproduce.common.files import write_rows
from reproduce.common.settings import SettingsError
from reproduce.visual.clips import Rule
from reproduce.visual.correcting import Gazes, Outcome, correct_all, correct_one, mistaken, summary
from reproduce.visual.figure_runs import DEFAULTS, Need, Request
from reproduce.visual.interventions import SEARCH, dense, parse_glimpse, scores_of_cells, scores_with, top, write_cells
from reproduce.visual.pages import Strip, evenly, save_strips
from reproduce.visual.paper_figures import save, show
from reproduce.visual.shown import SEPARATOR, Shown, named_videos, overlays

SEARCHED = 12  # misclassified clips among which a glimpse that corrects one is looked for
MINIATURE_CLIPS = 8  # that are corrected with preset=miniature, where most= does not say
DRAWN = 4  # corrected clips on the figure's page; every one has a filmstrip of its own


def correction(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 9 as an experiment: every misclassified clip, its location softmax optimised until it is predicted correctly."""
    shown = show(request, needs[0])
    folder = request.folder / "correction" / shown.trained.folder.path.name
    seed, limit = shown.trained.settings.seed, request.settings.limit
    if limit < 1:
        raise SettingsError(f"limit={limit}: must be at least 1")
    strips = folder if limit == DEFAULTS.limit else folder / f"limit_{limit}"
    most = request.settings.most or (MINIATURE_CLIPS if "miniature" in request.settings.preset else None)
    trained, store = shown.trained, shown.data.store
    file, wrong = folder / "correction.csv", {video.name: video for video in mistaken(trained, shown.annotation)}
    if request.settings.videos:
        names, rule = named_videos(request.settings.videos, [shown])[0], ""
        for name in names:
            if name not in wrong:
                raise DataError(f"videos: {shown.short(name)} is classified correctly by {trained.folder.name}")
        found = ((one, gazes) for one, gazes in (correct_one(trained, store, wrong[name], seed, limit) for name in names))
    else:
        names, rule = shown.choose(Rule("incorrect", "first"), most or len(wrong))
        found = correct_all(trained, shown.annotation, store, names, file, seed, limit)
    outcomes: list[Outcome] = []
    known_gazes: dict[str, Gazes] = {}
    title = f"Mistakes corrected by gaze alone: {shown.name}, {shown.model}"

    def strip(outcome: Outcome) -> Strip:
        name = outcome.video
        if name not in known_gazes:  # of an earlier call: the same once more
            _, known_gazes[name] = correct_one(trained, store, shown.videos[name], seed, limit)
        return _corrected(shown, outcome, known_gazes[name], request.settings.columns)

    for outcome, gazes in found:
        outcomes.append(outcome)
        if gazes is not None:
            known_gazes[outcome.video] = gazes
        path = strips / shown.file_name(outcome.video)
        if gazes is not None or not path.with_suffix(".png").is_file():
            save_strips([strip(outcome)], path, title)
    said = summary(outcomes)
    print("\n".join(said), flush=True)
    if not outcomes:
        raise DataError(f"{shown.name}: {trained.folder.name} misclassifies no test video; there is nothing to correct")
    learned = [one for one in outcomes if one.corrected and one.steps]
    page = [strip(one) for one in (learned or outcomes)[:DRAWN]]
    if len(outcomes) < len(wrong) and rule:
        said.append(f"Only {len(outcomes)} of the {len(wrong)} were tried. {rule}")
    those = " that became correct after a step or more" if learned else ""
    said.append(f"Shown: the first of them{those}; {strips.relative_to(request.folder).as_posix()}/ has all.")
    return [*save(request, "correction", page, title, [(needs[0], shown)], " ".join(said)), file]


def _corrected(shown: Shown, outcome: Outcome, gazes: Gazes, columns: int) -> Strip:
    chosen = evenly(len(gazes.learned.frames), columns)
    frames = shown.frames(outcome.video, gazes.learned.frames[chosen])
    found = outcome.target if outcome.corrected else shown.trained.classes[int(gazes.optimised.scores.argmax())]
    rows = [("frames", list(frames))]
    for label, track, said in (
        ("learned", gazes.learned, outcome.prediction),
        ("random", gazes.random, outcome.random_prediction),
        ("optimised", gazes.optimised, found),
    ):
        assert track.attention is not None
        rows.append((f"{label}: {'✓' if said == outcome.target else '✗'} {said}", overlays(frames, track.attention[chosen])))
    steps = f"{outcome.steps} step{'s' if outcome.steps != 1 else ''}"
    caption = SEPARATOR.join([shown.short(outcome.video), f"true: {outcome.target}", steps])
    seconds = shown.seconds(outcome.video, gazes.learned.frames[chosen])
    return Strip(caption, tuple(rows), seconds, outcome.corrected)


def glimpse(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 5: what a network predicts when it is made to look somewhere else."""
    shown = show(request, needs[0])
    wanted = request.settings.glimpse
    given = None if wanted == SEARCH else parse_glimpse(wanted, shown.trained.grid)
    if request.settings.videos:
        names, rule = named_videos(request.settings.videos, [shown])[0], ""
    else:
        names, rule = shown.choose(Rule("incorrect", "confident"), SEARCHED if given is None else 1)
    if not names:
        raise DataError(f"{shown.name}: {shown.trained.folder.name} misclassifies no test video; name one with videos=[…]")
    strips, files, tables = [], [], request.path("glimpse", needs)
    for name in names:
        video, labels = dense(shown.trained, shown.data.store, name), shown.videos[name].labels
        there = given
        if there is None:
            cells = scores_of_cells(shown.trained, video)
            files.append(tables / f"{shown.file_name(name)}.csv")
            write_cells(files[-1], shown.trained, cells, labels)
            there = np.zeros(shown.trained.grid)
            helpful = cells[..., list(labels)].sum(axis=-1) if labels else cells.max(axis=-1)
            there[np.unravel_index(int(helpful.argmax()), helpful.shape)] = 1
        scores = scores_with(shown.trained, video, there)
        print(f"{shown.short(name)}, true: {shown.true(name)}", flush=True)
        print(f"    its own glimpse:   {top(shown.trained, shown.track(name).scores)}", flush=True)
        print(f"    {_where(there, wanted)}: {top(shown.trained, scores)}", flush=True)
        changed = int(scores.argmax()) in labels
        strips.append((changed, _glimpsed(shown, name, there, scores, _where(there, wanted), request.settings.columns)))
    if not request.settings.videos and given is None:
        strips = sorted(strips, key=lambda pair: not pair[0])[: request.settings.clips or 2]
        rule = (
            f"Of the {len(names)} misclassified clips with the highest score, those that looking at one cell alone corrects, \
if any; the cell is the one that makes the true class most probable."
        )
    title = f"Different glimpses, different predictions: {shown.name}, {shown.model}"
    return [*save(request, "glimpse", [strip for _, strip in strips], title, [(needs[0], shown)], rule), *files]


def _where(given: np.ndarray, wanted: str) -> str:
    """The glimpse in words."""
    if (given > 0).sum() == 1:
        row, column = (int(place[0]) for place in np.nonzero(given))
        return f"cell {row},{column}"
    return f"glimpse {wanted}"


def _glimpsed(shown: Shown, name: str, given: np.ndarray, scores: np.ndarray, where: str, columns: int) -> Strip:
    track = shown.track(name)
    assert track.attention is not None
    chosen = evenly(len(track.frames), columns)
    frames = shown.frames(name, track.frames[chosen])
    labels, best = shown.videos[name].labels, int(scores.argmax())
    own, score, good = shown.prediction(name)
    rows = (
        ("frames", list(frames)),
        (f"own: {'✓' if good else '✗'} {own} ({score:.2f})", overlays(frames, track.attention[chosen])),
        (
            f"{where}: {'✓' if best in labels else '✗'} {shown.trained.classes[best]} ({scores[best]:.2f})",
            overlays(frames, np.broadcast_to(given, (len(frames), *given.shape))),
        ),
    )
    caption = f"{shown.short(name)}{SEPARATOR}true: {shown.true(name)}"
    return Strip(caption, rows, shown.seconds(name, track.frames[chosen]))


def mistakes(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Of each class its most confident mistakes: its own videos taken for another class; with several labels a video,
    videos without the class that score highest in it."""
    shown = show(request, needs[0])
    predictions, most = shown.trained.folder.predictions(), request.settings.clips or 1
    rows: list[tuple] = [("class", "video", "true", "predicted", "score")]
    strips: list[Strip] = []
    for label, kind in enumerate(predictions.classes):
        if shown.trained.multi_label:
            wrong, score = ~predictions.target[:, label], predictions.scores[:, label]
        else:
            best = predictions.scores.argmax(axis=1)
            wrong, score = predictions.target[:, label] & (best != label), predictions.scores.max(axis=1)
        ranked = sorted(np.flatnonzero(wrong).tolist(), key=lambda number: (-score[number], predictions.videos[number]))
        for number in ranked[:most]:
            name = predictions.videos[number]
            taken_for = label if shown.trained.multi_label else int(predictions.scores[number].argmax())
            found = predictions.classes[taken_for]
            said = f"taken for {found} ({score[number]:.2f})"
            strips.append(_mistaken(shown, name, said, request.settings.columns))
            rows.append((kind, name, shown.true(name), found, f"{score[number]:.6f}"))
    if not strips:
        raise DataError(f"{shown.name}: {shown.trained.folder.name} makes no mistake")
    path = request.path("mistakes", needs)
    table = path.with_name(f"{path.name}.csv")
    write_rows(table, rows)
    each = "the video" if most == 1 else f"up to {most} videos"
    rule = f"Of each class, {each} with the highest score for a class that is not its own, if there is one."
    if shown.trained.multi_label:
        rule = f"Of each class, {each} without it that score highest in it."
    title = f"The most confident mistakes: {shown.name}, {shown.model}"
    return [*save(request, "mistakes", strips, title, [(needs[0], shown)], rule), table]


def _mistaken(shown: Shown, name: str, said: str, columns: int) -> Strip:
    strip = shown.strip(name, columns)
    caption = SEPARATOR.join([shown.short(name), f"true: {shown.true(name)}", said])
    return Strip(caption, strip.rows, strip.columns, False)
