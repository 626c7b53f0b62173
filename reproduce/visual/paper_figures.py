"""Figures of attention on clips: the paper's Figs. 1 and 4, 3, 6, 7, 8, 10 and 11, and each class's mistakes.

Each takes the command line and the runs that figures.py lists for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.blocks import BLOCK_LENGTH
from datamodules.videos import DataError
from reproduce.common.files import write_rows
from reproduce.common.settings import SettingsError
from reproduce.visual.clips import SEPARATOR, RunClips, named_videos
from reproduce.visual.figure_runs import POOLS, Need, Request, Rule, parse_rule
from reproduce.visual.overlay import overlays
from reproduce.visual.pages import Strip, evenly, save_strips

MINIATURE = "The data are generated stand-ins, so that this says nothing about the real data sets."


def attention(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Figs. 1 and 4: clips that are classified correctly, frames above overlays."""
    run = best_run(request, needs[0])
    names, rule = _chosen(request, run, Rule("correct", "confident"), 3)
    strips = [clip_strip(run, name, request.settings.columns) for name in names]
    title = f"Attention over time: {run.name}, {run.model}"
    return save(request, "attention", strips, title, [(needs[0], run)], rule)


def penalty(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 3: the same clips under λ = 0, 1 and 10, chosen by what λ = 0 says of them."""
    runs = [best_run(request, need) for need in needs]
    first = runs[0]
    names, rule = _chosen(request, first, Rule("correct", "confident"), 1)
    strips = []
    for name in names:
        tracks = [one.track(name) for one in runs]
        chosen = evenly(len(tracks[0].frames), request.settings.columns)
        frames = first.frames(name, tracks[0].frames[chosen])
        rows = [("frames", list(frames))]
        for one, track in zip(runs, tracks, strict=True):
            assert track.attention is not None
            rows.append((f"λ = {one.penalty:g}\n{_guess(one, name)}", overlays(frames, track.attention[chosen])))
        caption = f"{first.short(name)} · true: {first.true(name)}"
        strips.append(Strip(caption, tuple(rows), first.seconds(name, tracks[0].frames[chosen])))
    title = f"Attention under different penalties λ: {first.name}{first.kind}"
    return save(request, "penalty", strips, title, list(zip(needs, runs, strict=True)), rule)


def background(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 6: clips that are classified correctly though the actor gets the least attention."""
    run = best_run(request, needs[0])
    names, rule = _chosen(request, run, Rule("correct", "background"), 3)
    strips = []
    for name in names:
        ratio = run.foreground(name)
        measure = f"entropy {100 * run.entropy(name):.0f} %" if ratio is None else f"attention on the actor × {ratio:.2f}"
        strips.append(clip_strip(run, name, request.settings.columns, None, measure))
    title = f"Correct with the least attention on the actor: {run.name}, {run.model}"
    if run.data.has_boxes:
        rule += " Attention on the actor: inside the actor's box, over what uniform attention has there."
    else:
        rule += " Entropy: over that of uniform attention."
    return save(request, "background", strips, title, [(needs[0], run)], rule)


def fps(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 7: the first block of the same clips at 6 and at 30 fps; the network of 6 fps decides which clips."""
    runs = [best_run(request, need) for need in needs]
    names, rule = _chosen(request, runs[0], Rule("correct", "confident"), 1)
    strips = [
        clip_strip(one, name, request.settings.columns, BLOCK_LENGTH, f"{one.trained.settings.data.fps:g} fps")
        for name in names
        for one in runs
    ]
    title = f"A block of 30 steps at 6 and at 30 fps: {runs[0].name}, {runs[0].model}"
    return save(request, "fps", strips, title, list(zip(needs, runs, strict=True)), rule)


def hmdb51_hollywood2(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 8: of HMDB-51 and of Hollywood2 a clip that is classified correctly and one that is not."""
    return _by_outcome(request, "hmdb51_hollywood2", needs, ("correct", "incorrect"), 1, "Attention over time")


def gallery(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Figs. 10 and 11: clips of all data sets, in one file those classified correctly, in another those that are not."""
    files = []
    for pool in ("correct", "incorrect"):
        title = f"Attention over time: clips {POOLS[pool]}"
        files += _by_outcome(request, f"gallery_{pool}", needs, (pool,), 3, title)
    return files


def mistakes(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Draw each class's most confident mistakes: its own videos taken for another class.

    With several labels a video, they are the videos without the class that score highest in it.
    """
    run = best_run(request, needs[0])
    predictions, most = run.trained.folder.predictions(), request.settings.clips or 1
    rows: list[tuple] = [("class", "video", "true", "predicted", "score")]
    strips: list[Strip] = []
    for label, kind in enumerate(predictions.classes):
        if run.trained.multi_label:
            wrong, score = ~predictions.target[:, label], predictions.scores[:, label]
        else:
            best = predictions.scores.argmax(axis=1)
            right = predictions.target[np.arange(len(best)), best]
            wrong, score = predictions.target[:, label] & ~right, predictions.scores.max(axis=1)
        ranked = sorted(np.flatnonzero(wrong).tolist(), key=lambda number: (-score[number], predictions.videos[number]))
        for number in ranked[:most]:
            name = predictions.videos[number]
            taken_for = label if run.trained.multi_label else int(predictions.scores[number].argmax())
            found = predictions.classes[taken_for]
            said = f"taken for {found} ({score[number]:.2f})"
            strips.append(_mistaken(run, name, said, request.settings.columns))
            rows.append((kind, name, run.true(name), found, f"{score[number]:.6f}"))
    if not strips:
        raise DataError(f"{run.name}: {run.trained.folder.name} makes no mistake")
    path = request.path("mistakes", needs)
    table = path.with_name(f"{path.name}.csv")
    write_rows(table, rows)
    each = "the video" if most == 1 else f"up to {most} videos"
    rule = f"Of each class, {each} with the highest score for a class that is not its own, if there is one."
    if run.trained.multi_label:
        rule = f"Of each class, {each} without it that score highest in it."
    title = f"The most confident mistakes: {run.name}, {run.model}"
    return [*save(request, "mistakes", strips, title, [(needs[0], run)], rule), table]


def _mistaken(run: RunClips, name: str, said: str, columns: int) -> Strip:
    strip = clip_strip(run, name, columns)
    caption = SEPARATOR.join([run.short(name), f"true: {run.true(name)}", said])
    return Strip(caption, strip.rows, strip.columns, False)


def _by_outcome(request: Request, name: str, needs: Sequence[Need], pools: Sequence[str], count: int, title: str) -> list[Path]:
    """Clips of several data sets, of each so many that are classified correctly and so many that are not."""
    if set(request.settings.choose) & set(POOLS):
        raise SettingsError(f"choose: {name} shows {' and '.join(pools)} clips by itself; give an order alone")
    runs = [best_run(request, need) for need in needs]
    strips: list[Strip] = []
    rules: dict[str, list[str]] = {}  # in words, of which data sets
    given = named_videos(request.settings.videos, runs) if request.settings.videos else None
    for number, one in enumerate(runs):
        if given is not None:
            of_pool = [clip for clip in given[number] if ("correct" if one.prediction(clip)[2] else "incorrect") in pools]
            strips += [_of(one, clip, request) for clip in of_pool]
            continue
        for pool in pools:
            rule = parse_rule(request.settings.choose, Rule(pool, "confident"))
            names, said = one.choose(rule, request.settings.clips or count)
            strips += [_of(one, clip, request) for clip in names]
            said = said.removeprefix(f"{one.name}: ") if names else f"there is no clip {POOLS[pool]}."
            rules.setdefault(said, []).append(one.name)
    said = " ".join(f"{', '.join(names)}: {rule}" for rule, names in rules.items())
    named = f"{title}: {', '.join(one.name for one in runs)}; {runs[0].model}"
    return save(request, name, strips, named, list(zip(needs, runs, strict=True)), said, several=True)


def _of(run: RunClips, name: str, request: Request) -> Strip:
    """A clip of one data set among several."""
    strip = clip_strip(run, name, request.settings.columns)
    return Strip(f"{run.name} · {strip.caption}", strip.rows, strip.columns, strip.good)


def best_run(request: Request, need: Need) -> RunClips:
    """The best finished run of a need, with its clips."""
    return RunClips(request.best(need), request.settings_of(need))


def _chosen(request: Request, run: RunClips, default: Rule, count: int) -> tuple[list[str], str]:
    """The videos that the command line names, or those of its rule; and how they were chosen, in words."""
    if request.settings.videos:
        return named_videos(request.settings.videos, [run])[0], ""
    rule = parse_rule(request.settings.choose, default)
    names, said = run.choose(rule, request.settings.clips or count)
    if not names:
        raise DataError(f"{run.name}: {run.trained.folder.name} has no clip {POOLS[rule.pool]}; choose=any draws others")
    return names, said


def _guess(run: RunClips, name: str) -> str:
    """``✓ diving (0.61)``."""
    found, score, good = run.prediction(name)
    mark = {True: "✓ ", False: "✗ ", None: ""}[good]
    return f"{mark}{found} ({score:.2f})"


def clip_strip(run: RunClips, name: str, columns: int, first: int | None = None, *more: str) -> Strip:
    """A clip's frames above its overlays.

    Args:
        run: the run with the clip.
        name: of the video.
        columns: pictures beside one another.
        first: steps from the clip's beginning that they are taken from; None for all.
        more: words for the caption.
    """
    track = run.track(name)
    assert track.attention is not None
    chosen = evenly(len(track.frames[:first]), columns)
    frames = run.frames(name, track.frames[chosen])
    rows = (("frames", list(frames)), ("attention", overlays(frames, track.attention[chosen])))
    return Strip(run.caption(name, *more), rows, run.seconds(name, track.frames[chosen]), run.prediction(name)[2])


def save(
    request: Request,
    name: str,
    strips: Sequence[Strip],
    title: str,
    runs: Sequence[tuple[Need, RunClips]],
    rule: str,
    several: bool = False,
) -> list[Path]:
    """Write a figure with notes on its runs, on how its clips were chosen, and on what the pictures mean.

    Args:
        request: the command line.
        name: of the figure.
        strips: its clips.
        title: of it.
        runs: it is drawn from.
        rule: how its clips were chosen.
        several: whether the figure is of fixed data sets.

    Raises:
        DataError: there is no clip, or the folder cannot be written to.
    """
    if not strips:
        raise DataError(f"figure={name}: none of the clips belongs into it")
    path = request.path(name, [need for need, _ in runs], several)
    said = "; ".join(one.about(len(request.runs(need))) for need, one in runs)
    notes = [f"{said[0].upper()}{said[1:]}.", *([rule] if rule else []), _recipe([one for _, one in runs])]
    if any(one.annotation.miniature for _, one in runs):
        notes.append(MINIATURE)
    return save_strips(strips, path, title, notes)


def _recipe(runs: Sequence[RunClips]) -> str:
    """What the overlays mean."""
    grids = list(dict.fromkeys(f"{rows}×{columns}" for rows, columns in (one.trained.grid for one in runs)))
    return (
        f"Overlays: attention of {' and '.join(grids)} cells, enlarged, blurred and divided by its maximum in every picture: "
        "white is where the network looks most in that picture. After each class the mean of its probabilities over the clip."
    )
