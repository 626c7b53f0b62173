"""The paper's figures of where a network looks: Figs. 1 and 4, 3, 6, 7, 8, 10 and 11.

Each takes the command line and the runs that figures.py lists for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.blocks import BLOCK_LENGTH
from datamodules.videos import DataError
from reproduce.common.settings import SettingsError
from reproduce.visual.clips import POOLS, Rule, parse_rule
from reproduce.visual.figure_runs import Need, Request
from reproduce.visual.pages import Strip, evenly, save_strips
from reproduce.visual.shown import Shown, named_videos, overlays

MINIATURE = "The data are generated stand-ins, so that this says nothing about the real data sets."


def attention(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Figs. 1 and 4: clips that are classified correctly, frames above overlays."""
    shown = show(request, needs[0])
    names, rule = _chosen(request, shown, Rule("correct", "confident"), 3)
    strips = [shown.strip(name, request.settings.columns) for name in names]
    title = f"Attention over time: {shown.name}, {shown.model}"
    return save(request, "attention", strips, title, [(needs[0], shown)], rule)


def penalty(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 3: the same clips under λ = 0, 1 and 10, chosen by what λ = 0 says of them."""
    shown = [show(request, need) for need in needs]
    first = shown[0]
    names, rule = _chosen(request, first, Rule("correct", "confident"), 1)
    strips = []
    for name in names:
        tracks = [one.track(name) for one in shown]
        chosen = evenly(len(tracks[0].frames), request.settings.columns)
        frames = first.frames(name, tracks[0].frames[chosen])
        rows = [("frames", list(frames))]
        for one, track in zip(shown, tracks, strict=True):
            assert track.attention is not None
            rows.append((f"λ = {one.penalty:g}\n{_guess(one, name)}", overlays(frames, track.attention[chosen])))
        caption = f"{first.short(name)} · true: {first.true(name)}"
        strips.append(Strip(caption, tuple(rows), first.seconds(name, tracks[0].frames[chosen])))
    title = f"Attention under different penalties λ: {first.name}{first.kind}"
    return save(request, "penalty", strips, title, list(zip(needs, shown, strict=True)), rule)


def background(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 6: clips that are classified correctly though the actor gets the least attention."""
    shown = show(request, needs[0])
    names, rule = _chosen(request, shown, Rule("correct", "background"), 3)
    strips = []
    for name in names:
        ratio = shown.foreground(name)
        measure = f"entropy {100 * shown.entropy(name):.0f} %" if ratio is None else f"attention on the actor × {ratio:.2f}"
        strips.append(shown.strip(name, request.settings.columns, None, measure))
    title = f"Correct with the least attention on the actor: {shown.name}, {shown.model}"
    if shown.data.has_boxes:
        rule += " Attention on the actor: inside the actor's box, over what uniform attention has there."
    else:
        rule += " Entropy: over that of uniform attention."
    return save(request, "background", strips, title, [(needs[0], shown)], rule)


def fps(request: Request, needs: Sequence[Need]) -> list[Path]:
    """Fig. 7: the first block of the same clips at 6 and at 30 fps; the network of 6 fps decides which clips."""
    shown = [show(request, need) for need in needs]
    names, rule = _chosen(request, shown[0], Rule("correct", "confident"), 1)
    strips = [
        one.strip(name, request.settings.columns, BLOCK_LENGTH, f"{one.trained.settings.data.fps:g} fps")
        for name in names
        for one in shown
    ]
    title = f"A block of 30 steps at 6 and at 30 fps: {shown[0].name}, {shown[0].model}"
    return save(request, "fps", strips, title, list(zip(needs, shown, strict=True)), rule)


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


def _by_outcome(request: Request, name: str, needs: Sequence[Need], pools: Sequence[str], count: int, title: str) -> list[Path]:
    """Clips of several data sets, of each so many that are classified correctly and so many that are not."""
    if set(request.settings.choose) & set(POOLS):
        raise SettingsError(f"choose: {name} shows {' and '.join(pools)} clips by itself; give an order alone")
    shown = [show(request, need) for need in needs]
    strips: list[Strip] = []
    rules: dict[str, list[str]] = {}  # in words, of which data sets
    given = named_videos(request.settings.videos, shown) if request.settings.videos else None
    for number, one in enumerate(shown):
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
    named = f"{title}: {', '.join(one.name for one in shown)}; {shown[0].model}"
    return save(request, name, strips, named, list(zip(needs, shown, strict=True)), said, several=True)


def _of(shown: Shown, name: str, request: Request) -> Strip:
    """A clip of one data set among several."""
    strip = shown.strip(name, request.settings.columns)
    return Strip(f"{shown.name} · {strip.caption}", strip.rows, strip.columns, strip.good)


def show(request: Request, need: Need) -> Shown:
    """The best finished run of a need, beside its videos."""
    return Shown(request.best(need), request.settings_of(need))


def _chosen(request: Request, shown: Shown, default: Rule, count: int) -> tuple[list[str], str]:
    """The videos that the command line names, or those of its rule; and how they were chosen, in words."""
    if request.settings.videos:
        return named_videos(request.settings.videos, [shown])[0], ""
    rule = parse_rule(request.settings.choose, default)
    names, said = shown.choose(rule, request.settings.clips or count)
    if not names:
        raise DataError(f"{shown.name}: {shown.trained.folder.name} has no clip {POOLS[rule.pool]}; choose=any draws others")
    return names, said


def _guess(shown: Shown, name: str) -> str:
    """``✓ diving (0.61)``."""
    found, score, good = shown.prediction(name)
    mark = {True: "✓ ", False: "✗ ", None: ""}[good]
    return f"{mark}{found} ({score:.2f})"


def save(
    request: Request,
    name: str,
    strips: Sequence[Strip],
    title: str,
    shown: Sequence[tuple[Need, Shown]],
    rule: str,
    several: bool = False,
) -> list[Path]:
    """Write a figure with notes on its runs, on how its clips were chosen, and on what the pictures mean.

    Args:
        request: the command line.
        name: of the figure.
        strips: its clips.
        title: of it.
        shown: its runs.
        rule: how its clips were chosen.
        several: whether the figure is of fixed data sets.

    Raises:
        DataError: there is no clip, or the folder cannot be written to.
    """
    if not strips:
        raise DataError(f"figure={name}: none of the clips belongs into it")
    path = request.path(name, [need for need, _ in shown], several)
    runs = "; ".join(one.about(len(request.runs(need))) for need, one in shown)
    notes = [f"{runs[0].upper()}{runs[1:]}.", *([rule] if rule else []), _recipe([one for _, one in shown])]
    if any(one.annotation.miniature for _, one in shown):
        notes.append(MINIATURE)
    return save_strips(strips, path, title, notes)


def _recipe(shown: Sequence[Shown]) -> str:
    """What the overlays mean."""
    grids = list(dict.fromkeys(f"{rows}×{columns}" for rows, columns in (one.trained.grid for one in shown)))
    return (
        f"Overlays: attention of {' and '.join(grids)} cells, enlarged, blurred and divided by its maximum in every picture: "
        "white is where the network looks most in that picture. After each class the mean of its probabilities over the clip."
    )
