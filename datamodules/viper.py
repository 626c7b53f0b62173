"""Boxes of actors from ViPER-GT files (``.xgtf``), the format of UCF-11's own annotations.

::

    <viper xmlns="http://lamp.cfar.umd.edu/viper#" xmlns:data="http://lamp.cfar.umd.edu/viperdata#">
      <config>…</config>
      <data>
        <sourcefile filename="v_shooting_01_01.mpg">
          <file id="0" name="Information">
            <attribute name="H-FRAME-SIZE"><data:dvalue value="320"/></attribute>
            <attribute name="V-FRAME-SIZE"><data:dvalue value="240"/></attribute>
          </file>
          <object framespan="1:120" id="0" name="PERSON">
            <attribute name="Location">
              <data:bbox framespan="1:8" height="101" width="39" x="81" y="79"/>
            </attribute>
            <attribute name="basketball_shooting"><data:bvalue framespan="1:120" value="true"/></attribute>
          </object>
        </sourcefile>
      </data>
    </viper>

Frames are numbered from 1, both ends of a span belong to it, and ``framespan="1:8 20:30"`` names several. The laboratory
annotated every person in the picture; who acts has a true value among the attributes. Free of torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from xml.parsers import expat

import numpy as np

from datamodules.features import FeatureStore
from datamodules.videos import Annotation, DataError

SUFFIX = ".xgtf"
ACTOR = "PERSON"
SIZES = ("H-FRAME-SIZE", "V-FRAME-SIZE")
LARGEST = 64 * 2**20  # bytes; a box in every frame of a long clip takes some 100 kB
MOST_ACTORS = 100  # in one film; more are no annotation of UCF-11's
SPANS = re.compile(r"\d{1,9}:\d{1,9}(?:\s+\d{1,9}:\d{1,9})*")
Spans = list[tuple[int, int]]


@dataclass
class _Object:
    spans: Spans
    acts: bool = False
    boxes: list[tuple[Spans, tuple[float, float, float, float]]] = field(default_factory=list)  # x, y, width, height


@dataclass
class _Source:
    filename: str
    size: dict[str, float] = field(default_factory=dict)
    people: list[_Object] = field(default_factory=list)


def read_viper(path: Path, frames: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read the actors' boxes of one video.

    Actors are the objects named PERSON that a ``bvalue`` of theirs says to act; where nobody is said to, every PERSON.
    Boxes are cut at the frame's edges; one that is empty or lies outside, and frames beyond the film, are left out.

    Args:
        path: the ``.xgtf`` file, named as the film is. Of several ``sourcefile`` elements the one of that name is read, or
            the first.
        frames: F, of the film.
        size: width and height in pixels to take where the file does not say what its coordinates refer to.

    Returns:
        (F, A, 4) left, top, right, bottom as fractions, of A actors; nan where one has no box.

    Raises:
        DataError: no ViPER file, or a number or span that cannot be read; names file and line.
    """
    sources = _Handler(path).read()
    if not sources:
        raise DataError(f"{path}: no <sourcefile>; expected a ViPER-GT annotation. Remove it to go without its boxes")
    source = next((one for one in sources if _stem(one.filename) == path.stem), sources[0])
    width, height = (source.size.get(name, 0.0) for name in SIZES)
    if not (width > 0 and height > 0):
        if size is None:
            raise DataError(f"{path}: no {' and '.join(SIZES)}, so that its boxes have no scale. Remove it to go without them")
        width, height = size
    actors = [one for one in source.people if one.acts] or source.people
    if len(actors) > MOST_ACTORS:
        raise DataError(f"{path}: {len(actors)} actors in one film, expected at most {MOST_ACTORS}")
    boxes = np.full((frames, len(actors), 4), np.nan)
    for number, actor in enumerate(actors):
        alive = _mask(actor.spans, frames) if actor.spans else np.ones(frames, dtype=bool)
        for spans, (x, y, w, h) in actor.boxes:
            left, right = np.clip([x / width, (x + w) / width], 0, 1)
            top, bottom = np.clip([y / height, (y + h) / height], 0, 1)
            if left < right and top < bottom:
                boxes[_mask(spans, frames) & alive if spans else alive, number] = left, top, right, bottom
    return boxes


def annotated_boxes(
    files: Mapping[str, Path], annotation: Annotation, store: FeatureStore
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The actors' boxes of the test videos that have an annotation.

    A file that cannot be read is left out, and a note says so: nobody trains on boxes.

    Args:
        files: by the videos' names, without folder and suffix.
        annotation: whose test videos are looked for.
        store: of their features, which knows their frames and sizes.

    Returns:
        Video name -> ``read_viper``, of those with a box; and what tables have to say of them.
    """
    boxes: dict[str, np.ndarray] = {}
    wrong: list[DataError] = []
    for video in annotation.test:
        file = files.get(PurePosixPath(video.name).stem)
        if file is None:
            continue
        facts = store.videos[video.name]
        size = (facts["width"], facts["height"]) if facts.get("width") and facts.get("height") else None
        try:
            found = read_viper(file, store.frames(video.name), size)
        except DataError as error:
            wrong.append(error)
        else:
            if np.isfinite(found).any():
                boxes[video.name] = found
    notes = []
    if boxes:
        of = f"{len(boxes)} of {len(annotation.test)} test videos"
        notes.append(f"{annotation.data}: attention is measured against the data set's own boxes of actors, which {of} have")
    if wrong:
        notes.append(f"{annotation.data}: {len(wrong)} annotations of boxes cannot be read, the first: {wrong[0]}")
    return boxes, notes


def _stem(filename: str) -> str:
    return PurePath(filename.replace("\\", "/")).stem  # ViPER runs on Windows too, and writes whole paths


def _mask(spans: Spans, frames: int) -> np.ndarray:
    """Which of F frames lie in spans that are counted from 1."""
    inside = np.zeros(frames, dtype=bool)
    for first, last in spans:
        inside[max(first, 1) - 1 : max(last, 0)] = True
    return inside


class _Handler:
    """Collects what matters while expat reads; a document type, and with it any entity, is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sources: list[_Source] = []
        self.object: _Object | None = None
        self.attribute = ""
        self.in_data = False
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse

    def read(self) -> list[_Source]:
        try:
            if self.path.stat().st_size > LARGEST:
                raise DataError(f"{self.path}: larger than {LARGEST >> 20} MiB, which no annotation of a clip is")
            self.parser.Parse(self.path.read_bytes(), True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise DataError(f"{self.path}, line {error.lineno}: no well-formed XML ({reason}); {self._advice}") from error
        except (LookupError, ValueError) as error:  # the encoding that it declares: unknown, or of several bytes a letter
            raise DataError(f"{self.path}, line 1: not readable ({error}); {self._advice}") from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error})") from error
        return self.sources

    _advice = "extract the data set's archive again, or remove the file to go without its boxes"

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self.path}, line {self.parser.CurrentLineNumber}: {what}; {self._advice}")

    def _refuse(self, *_: Any) -> None:
        raise self._wrong("a document type, which no annotation has and entities could abuse")

    def _start(self, name: str, given: dict[str, str]) -> None:
        kind = name.rpartition(":")[2]
        if kind == "data" and ":" not in name:
            self.in_data = True
        if not self.in_data:  # <config> only declares
            return
        if kind == "sourcefile":
            self.sources.append(_Source(given.get("filename", "")))
        elif kind == "attribute":
            self.attribute = given.get("name", "")
        elif not self.sources:
            return
        elif kind == "object" and given.get("name", "").upper() == ACTOR:
            self.object = _Object(self._spans(given))
            self.sources[-1].people.append(self.object)
        elif kind in ("dvalue", "fvalue") and self.object is None and self.attribute in SIZES:
            self.sources[-1].size[self.attribute] = self._number(given, "value")
        elif self.object is not None and kind == "bvalue":
            self.object.acts |= given.get("value", "").strip().lower() in ("true", "1")
        elif self.object is not None and kind == "bbox":
            x, y, width, height = (self._number(given, name) for name in ("x", "y", "width", "height"))
            self.object.boxes.append((self._spans(given), (x, y, width, height)))

    def _end(self, name: str) -> None:
        kind = name.rpartition(":")[2]
        if kind == "object":
            self.object = None
        elif kind == "attribute":
            self.attribute = ""

    def _spans(self, given: dict[str, str]) -> Spans:
        """The spans of an element, none where it names none: what does not change with time has no span of its own."""
        text = given.get("framespan", "").strip()
        if not text:
            return []
        if not SPANS.fullmatch(text):
            raise self._wrong(f"framespan={text!r}, expected <first>:<last>")
        spans = [(int(first), int(last)) for first, _, last in (one.partition(":") for one in text.split())]
        if any(last < first for first, last in spans):
            raise self._wrong(f"framespan={text!r} ends before it begins")
        return spans

    def _number(self, given: dict[str, str], name: str) -> float:
        try:
            value = float(given[name])
            if not math.isfinite(value):
                raise ValueError
        except (KeyError, ValueError):
            raise self._wrong(f"{name}={given.get(name)!r}, expected a number") from None
        return value
