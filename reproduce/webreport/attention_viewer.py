"""The report's attention viewer: what viewer.js draws of a data set's recordings, and filmstrips for who has no script.

Models stand side by side on the same video; of several seeds, the run with the best validation figure is shown. A
video's pictures stand in the page once, whichever the models.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from datamodules.videos import DataError
from reproduce.common.catalogue import SYSTEMS
from reproduce.evaluation.collection import PENALTY, Configuration, DataSet, Run, differences
from reproduce.experiments.attention_files import COLUMNS, SIDE, Recording, read_recordings, read_sheet
from reproduce.visual.overlay import GAP, MAP_SHARE, SIGMA, WHITE, overlay
from reproduce.webreport.html import Markup, join, missing, tag

MODELS = 12  # at most, to choose from
AT_FIRST = 4  # of them, shown when the page opens: λ = 0, 1, 10 and content attention
OTHERS = 5  # classes drawn besides the true ones
BUDGET = 2_000_000  # bytes of a data set's pictures; base64 takes a third more, and three data sets 8 MB
BLUR = SIGMA / 224  # of a picture's side, as of the released notebook's 224 px
STRIPS = 4  # videos that have a filmstrip
STRIP_COLUMNS, STRIP_SIDE = 6, 112  # as the run folders' filmstrips at half their size
STRIP_QUALITY = 75  # of WebP
TRUE_STYLES, OTHER_STYLES = (3, 5), (1, 2, 7, 4, 6, 0)  # of report.css; solid lines for the true class and the first other
SETTINGS_NAMED = 3  # of those that tell a model from the table's rows

Data = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A configuration with a recording.

    Args:
        name: for a reader.
        setup: what tells it from the table's rows, in words; empty for those.
        run: that is shown.
        recordings: of its videos, by name.
    """

    name: str
    setup: str
    run: Run
    recordings: dict[str, Recording]

    @property
    def attends(self) -> bool:
        """Whether it has attention."""
        system = SYSTEMS.get(self.run.settings["model.name"])
        return system is not None and system.attends


def viewer(data: DataSet, clips: Data) -> Markup:
    """Make the viewer of a data set, its filmstrips, and sentences on what is not there.

    Args:
        data: its runs.
        clips: receives the pictures and the numbers.
    """
    models, without, notes = models_of(data)
    names = list(dict.fromkeys(name for model in models for name in model.recordings))
    shown, sheets, size = [], {}, 0
    for name in names:
        try:
            sheet, pictures = _sheet(models, name)
        except DataError as error:
            notes.append(f"{name} is left out: {error}.")
            continue
        if size + len(sheet) > BUDGET and shown:
            notes.append(f"{len(names) - len(shown)} more recorded videos are left out, to keep this page small.")
            break
        size += len(sheet)
        sheets[name] = pictures
        shown.append(_clip(data, models, name, sheet))
    if not shown:
        sentence = "No run has a recording: fusions make none, and runs fetched from W&B or of earlier versions hold none."
        return join([missing(sentence, "python reproduce/train.py row=soft_attention_0 …"), *_lines(notes)])
    classes = list(models[0].run.predictions.classes)
    first = [number for number, model in enumerate(models) if model.attends][:AT_FIRST] or list(range(len(models)))[:AT_FIRST]
    clips[data.anchor] = {
        "title": data.title,
        "classes": classes,
        "models": [{"name": model.name, "setup": model.setup, "attends": model.attends} for model in models],
        "shown": first,
        "blur": BLUR,
        "share": MAP_SHARE,
        "videos": shown,
    }
    if without:
        notes.append(f"Without a recording, and so not here: {', '.join(without)}.")
    seeds = max(len(one.runs) for one in data.configurations) > 1
    words = (
        "Where each network looks in a test video, and what it says, frame by frame. The brighter, the more it looks there; "
        "at 100 % the overlay is the paper's. Videos are chosen by rule: the first by name of each of the first classes. "
        "Pictures are squashed to a square, as the networks see them. A network starts anew every 30 frames it looks at, "
        "which is where curves jump."
    )
    return join(
        [
            tag("p", words, " Of several seeds, the run with the best validation figure is shown." if seeds else None),
            tag("div", class_="viewer", data_clips=data.anchor),
            tag("noscript", tag("p", "The viewer needs JavaScript; the filmstrips show some of the same.", class_="missing")),
            *_lines(notes),
            _strips([models[number] for number in first if models[number].attends], sheets, data),
        ]
    )


def _lines(notes: Sequence[str]) -> list[Markup]:
    return [tag("p", note, class_="note") for note in notes]


def models_of(data: DataSet) -> tuple[list[Model], list[str], list[str]]:
    """The configurations on the videos of the table's rows that have a recording, the rows first.

    Returns:
        The models; names of those rows that have no recording; what could not be read, in words.
    """
    rows = list(data.rows.values())
    base = max(rows, key=lambda one: len(one.settings))
    others = [one for one in data.configurations if one not in rows and one.settings["videos"] == base.settings["videos"]]
    others.sort(key=lambda one: (len(differences(one, base)), -one.mean))
    content = [one for one in others if _is_content(one)][:1]  # beside the rows, whatever else there is
    models, without, notes = [], [], []
    for one in [*rows, *content, *(other for other in others if other not in content)]:
        found: Model | None = None
        for run in sorted(one.runs, key=lambda run: -_validation(run)):
            try:
                recordings = read_recordings(run.folder)
            except DataError as error:
                notes.append(f"{error}.")
                continue
            if recordings:
                apart = {} if one in rows else differences(one, base, ("model.name", "model.attention", PENALTY))
                found = Model(_name(one), _in_words(apart), run, {one.video: one for one in recordings})
                break
        if found is not None:
            models.append(found)
        elif one in rows:
            without.append(_name(one))
    return models[:MODELS], without, notes


def _validation(run: Run) -> float:
    return float(run.metrics.get("val/mAP" if run.multi_label else "val/accuracy", -1))


def _is_content(one: Configuration) -> bool:
    return one.settings.get("model.attention") == "content"


def _name(one: Configuration) -> str:
    return one.name.replace("Soft attention", "Content attention") if _is_content(one) else one.name


def _in_words(apart: dict[str, Any]) -> str:
    words = [f"{key.rpartition('.')[2]} {value}" for key, value in apart.items()]
    more = len(words) - SETTINGS_NAMED
    return ", ".join(words[:SETTINGS_NAMED]) + (f" and {more} more" if more > 0 else "")


def _sheet(models: Sequence[Model], name: str) -> tuple[bytes, np.ndarray]:
    """A video's pictures, as a file and as (n, SIDE, SIDE, 3), from the first run that has them."""
    problem: DataError | None = None
    for model in models:
        if name in model.recordings:
            try:
                pictures = read_sheet(model.run.folder, model.recordings[name])
                return model.run.folder.sheet(model.recordings[name].sheet).read_bytes(), pictures
            except DataError as error:
                problem = error
    assert problem is not None, "a name comes from some model's recording"
    raise problem


def _clip(data: DataSet, models: Sequence[Model], name: str, sheet: bytes) -> Data:
    """A video as viewer.js takes it."""
    first = next(model.recordings[name] for model in models if name in model.recordings)
    rates = [model.recordings[name].rate for model in models if name in model.recordings]
    found = models[0].run.predictions
    true = np.flatnonzero(found.target[found.videos.index(name)]).tolist()
    alike = [_matching(model, name, first) for model in models]
    guesses = [_said(model, name) for model in models]
    drawn = true + _others(true, [one for one in alike if one is not None], [label for said in guesses for label in said])
    others = len(drawn) - len(true)
    styles = [TRUE_STYLES[number % 2] for number in range(len(true))] + list(OTHER_STYLES[:others])
    tracks = [None if one is None else _track(one, drawn) | {"said": said} for one, said in zip(alike, guesses, strict=True)]
    return {
        "name": name,
        "true": true,
        "length": first.length,
        "rate": next((rate for rate in rates if rate is not None), None),
        "frames": first.frames.tolist(),
        "side": SIDE,
        "columns": COLUMNS,
        "picture": f"data:image/webp;base64,{base64.b64encode(sheet).decode()}",
        "drawn": drawn,
        "styles": styles,
        "several": data.multi_label,
        "tracks": tracks,
    }


def _matching(model: Model, name: str, first: Recording) -> Recording | None:
    """A model's recording of a video, if it is of the same pictures."""
    one = model.recordings.get(name)
    return one if one is not None and np.array_equal(one.frames, first.frames) else None


def _said(model: Model, name: str) -> list[int]:
    """The classes that a model gives to a video as a whole."""
    found = model.run.predictions
    scores = found.scores[found.videos.index(name)]
    return np.flatnonzero(scores >= 0.5).tolist() if model.run.multi_label else [int(scores.argmax())]


def _others(true: list[int], tracks: Sequence[Recording], guesses: list[int]) -> list[int]:
    """The classes besides the true ones that are worth a line: those that models took it for, then the most probable."""
    often = [label for label, _ in Counter(guesses).most_common()]
    likely = np.max([track.probabilities.astype(np.float64).mean(axis=0) for track in tracks], axis=0)
    ordered = dict.fromkeys([*often, *np.argsort(-likely, kind="stable").tolist()])
    return [label for label in ordered if label not in true][:OTHERS]


def _track(one: Recording, drawn: list[int]) -> Data:
    """A model's numbers on a video; probabilities in tenths of a percent.

    Attention comes as (n, rows, columns) bytes, the root of each cell's share of its map's maximum: the overlay divides
    by the maximum, and roots keep the many small cells of a large map exact enough.
    """
    probabilities = one.probabilities.astype(np.float64)
    top = probabilities.argmax(axis=1)
    numbers: Data = {
        "grid": None,
        "p": np.rint(1000 * probabilities[:, drawn].T).astype(int).tolist(),
        "top": top.tolist(),
        "topP": np.rint(1000 * probabilities.max(axis=1)).astype(int).tolist(),
    }
    if one.attention is not None:
        peak = one.attention.astype(np.float64).max(axis=(1, 2), keepdims=True)
        coded = np.rint(WHITE * np.sqrt(one.attention / peak)).astype(np.uint8)
        numbers |= {"grid": list(coded.shape[1:]), "attention": base64.b64encode(coded.tobytes()).decode()}
    return numbers


def _strips(models: Sequence[Model], sheets: dict[str, np.ndarray], data: DataSet) -> Markup | None:
    """For the first videos: six frames, and below them where each model looks."""
    figures = []
    for name, pictures in list(sheets.items())[:STRIPS]:
        chosen = np.rint(np.linspace(0, len(pictures) - 1, min(STRIP_COLUMNS, len(pictures)))).astype(int)
        frames = np.stack([np.asarray(Image.fromarray(pictures[at]).resize((STRIP_SIDE, STRIP_SIDE))) for at in chosen])
        rows = []
        for model in models:
            recording = model.recordings.get(name)
            if recording is None or recording.attention is None or len(recording.frames) != len(pictures):
                continue
            maps = recording.attention[chosen]
            rows.append((model.name, [overlay(*pair, BLUR * STRIP_SIDE) for pair in zip(frames, maps, strict=True)]))
        if rows:
            rows.insert(0, ("Frames", list(frames)))
            true = ", ".join(_labels(models[0], name)) or "no class"
            caption = tag("figcaption", tag("b", true), f" {name}")
            lines = [tag("div", tag("span", label), _strip(row, f"{label}: {name}"), class_="strip") for label, row in rows]
            figures.append(tag("figure", caption, *lines, class_="chart"))
    if not figures:
        return None
    summary = tag("summary", f"As filmstrips ({len(figures)} videos)" if len(figures) > 1 else "As a filmstrip")
    return tag("details", summary, tag("div", *figures, class_="strips"), open=True)


def _labels(model: Model, name: str) -> list[str]:
    found = model.run.predictions
    return [found.classes[label] for label in np.flatnonzero(found.target[found.videos.index(name)])]


def _strip(tiles: Sequence[np.ndarray], alt: str) -> Markup:
    """Pictures beside one another, with white gaps."""
    width = len(tiles) * (STRIP_SIDE + GAP) - GAP
    whole = Image.new("RGB", (width, STRIP_SIDE), (WHITE, WHITE, WHITE))
    for number, tile in enumerate(tiles):
        whole.paste(Image.fromarray(tile), (number * (STRIP_SIDE + GAP), 0))
    file = BytesIO()
    whole.save(file, "WEBP", quality=STRIP_QUALITY)
    address = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return tag("img", src=address, alt=alt, width=width, height=STRIP_SIDE)
