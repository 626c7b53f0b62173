"""The paper's figures of attention, from finished runs, as PNG and PDF.

    python reproduce/figures.py preset=miniature
    python reproduce/figures.py figure=penalty paths.data=/data
    python reproduce/figures.py figure=attention data.name=hmdb51 row=soft_attention_1 choose=[correct,foreground] clips=6
    python reproduce/figures.py figure=attention videos=[v_shooting_05_01,v_diving_08_03] columns=8
    python reproduce/figures.py figure=[fps,gallery] paths.data=/data train=true

    attention          Figs. 1 and 4: clips classified correctly, frames above overlays
    penalty            Fig. 3: the same clips under λ = 0, 1, 10
    background         Fig. 6: correct though the actor gets the least attention
    fps                Fig. 7: the same clips at 6 and at 30 fps, λ = 1
    hmdb51_hollywood2  Fig. 8: clips of HMDB-51 and Hollywood2, classified correctly and incorrectly
    gallery            Figs. 10 and 11: clips of all data sets, classified correctly and incorrectly
    glimpse            Fig. 5: what the network predicts with attention given by hand: glimpse=3,4
    correction         Fig. 9: every misclassified clip (most=8 of them with preset=miniature), its location softmax optimised
                       until the prediction is correct
    mistakes           of each class its most confident mistake, or clips= of them
    tradeoff           λ against accuracy, focus and coverage, in numbers
    reads              accuracy against the locations that a step reads: a soft run tested on its k likeliest ones, and networks
                       that were trained so

A row's run is that of its finished runs, which differ in the seed alone, with the best validation figure; seed= names
another. Only rows with attention can be drawn. With preset=miniature, or with train=true, what is missing is trained first,
as the tables do it; otherwise the command that makes it is named.

Writes results/figures/<figure>.{png,pdf}, further pages as <figure>.2.png and so on; glimpse, correction, mistakes,
tradeoff and reads write their numbers as CSV too. In the name stands, in this order, what else than usual is shown: a data
set that is not UCF-11, a row (attention_hmdb51_soft_attention_1), preset=released (tradeoff_released), other settings of the
runs (attention_num_layers_5), seed=, and which clips or glimpse. What is long or not safe in a name is cut, with a hash of all
of it. So the same command writes the same files again, and another one others, but for columns=, clips=, most= and
preset=miniature, which change no name.
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from datamodules.videos import DataError
from reproduce.common.cli import command_line, fail
from reproduce.common.presets import GENERATED
from reproduce.common.settings import SettingsError
from reproduce.visual.figure_runs import OWN_KEYS, FigureSettings, Need, Request, Rule, parse_rule

PENALTIES = (Need(row="soft_attention_0"), Need(row="soft_attention_1"), Need(row="soft_attention_10"))
NEEDS: dict[str, tuple[Need, ...]] = {
    "attention": (Need(),),
    "penalty": PENALTIES,
    "background": (Need(),),
    "fps": (Need(row="soft_attention_1", fps=6), Need(row="soft_attention_1", fps=30)),
    "hmdb51_hollywood2": (Need(data="hmdb51"), Need(data="hollywood2")),
    "gallery": (Need(data="ucf11"), Need(data="hmdb51"), Need(data="hollywood2")),
    "glimpse": (Need(),),
    "correction": (Need(row="soft_attention_1"),),  # the paper's Fig. 9 is of λ = 1
    "mistakes": (Need(),),
    "tradeoff": PENALTIES,
    "reads": (Need(),),
}
"""The runs that each figure is drawn from; `drawers` says by what."""


def main(argv: list[str] | None = None) -> list[Path]:
    """Draw figures; returns the files."""
    argv = sys.argv[1:] if argv is None else argv
    settings = command_line(FigureSettings, __doc__ or "", argv)
    request = Request(settings, tuple(word for word in argv if word.partition("=")[0] not in OWN_KEYS))
    try:
        names = _names(settings)
        parse_rule(settings.choose, Rule("any", "first"))
        for name in names:
            request.check(name, NEEDS[name])
        lacking = _missing(request, names)
        if lacking and (settings.train or GENERATED in settings.preset):
            request.train(lacking)
    except (DataError, SettingsError) as error:
        raise fail(error) from None
    files, problems = [], []
    draw = drawers()
    for name in names:
        started = time.perf_counter()
        try:
            drawn = draw[name](request, NEEDS[name])
            print(f"figure {name}: {', '.join(map(str, drawn))}, took {time.perf_counter() - started:.0f} s", flush=True)
            files += drawn
        except (DataError, SettingsError) as error:
            problems.append(f"figure {name}: {error}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr, flush=True)
    if problems:
        raise SystemExit(1)
    return files


def _names(settings: FigureSettings) -> list[str]:
    """The figures asked for."""
    for name, number in {"columns": settings.columns, "clips": settings.clips, "most": settings.most}.items():
        if number is not None and number < 1:
            raise SettingsError(f"{name}={number}: must be at least 1")
    if not settings.figure:
        raise SettingsError(f"figure=[]: choose from all, {', '.join(NEEDS)}")
    known = ["all", *NEEDS]
    for name in settings.figure:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise SettingsError(f"figure={name}: {f'did you mean {close[0]}? ' if close else ''}choose from {', '.join(known)}")
    if "all" not in settings.figure:
        return list(dict.fromkeys(settings.figure))
    if settings.model.attention == "location":
        return list(NEEDS)
    print("note: no figure=correction: content attention has no location softmax weights to optimise", flush=True)
    return [name for name in NEEDS if name != "correction"]


def _missing(request: Request, names: list[str]) -> list[Need]:
    """What the figures need and what has no finished run, each once."""
    needs = {tuple(request.words_of(need)): need for name in names for need in NEEDS[name]}
    return [need for need in needs.values() if not request.runs(need)]


def drawers() -> dict[str, Callable[[Request, Sequence[Need]], list[Path]]]:
    """What draws each figure; imports torch and matplotlib."""
    from reproduce.visual import intervention_figures, paper_figures, tradeoff
    from reproduce.visual.reads import reads

    return {
        "attention": paper_figures.attention,
        "penalty": paper_figures.penalty,
        "background": paper_figures.background,
        "fps": paper_figures.fps,
        "hmdb51_hollywood2": paper_figures.hmdb51_hollywood2,
        "gallery": paper_figures.gallery,
        "glimpse": intervention_figures.glimpse,
        "correction": intervention_figures.correction,
        "mistakes": paper_figures.mistakes,
        "tradeoff": tradeoff.tradeoff,
        "reads": reads,
    }


if __name__ == "__main__":
    main()
