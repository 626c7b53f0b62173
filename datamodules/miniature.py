"""Miniature stand-ins for the data sets: generated video files in the official folder layouts.

In every clip a small actor (about a twentieth of the frame) does a class-specific thing, told by its shape, colours and
motion, in front of a background of textures. Clips of one group share background and lighting. ``boxes.csv`` gives the
actor's box in every frame. Everything is drawn from the clip's name, so that the same call always writes the same files.

UCF-11 is a positive control. A white halo marks the actor, which stands in one of four places; in the others, actors as
vivid as it do other classes' actions. Who looks at the mark knows the class, and who averages over places does not know
whose action counts. Or nothing marks the actor, and the others ring it in the middle of the frame. Then who weights places
knows the class: see ``truths`` in ``reproduce/common/catalogue.py``. The other data sets show layouts, splits and
several labels; there dull distractors of the same shapes drift. Numbers made from these data say nothing about the real ones.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from io import StringIO
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from datamodules import hmdb51, hollywood2, sports1m, ucf11, ucf101
from datamodules.boxes import COLUMNS
from datamodules.files import write_atomically
from datamodules.reading import DataError
from datamodules.videos import MINIATURE_MARKER, TRUTHS, miniature_marker

HALO, RING = TRUTHS
VERSION = 3  # of the drawings; another version regenerates
HEIGHT, WIDTH = 96, 128
ACTOR = 13  # half the side of the actor's box, pixels: (2·13)² of 96·128 pixels is 5.5 % of the frame
HALO_RADIUS = 15  # radius in pixels of the white disc behind the marked actor of a crowd
PLACES = np.array([(WIDTH * across / 4, HEIGHT * down / 4) for down in (1, 3) for across in (1, 3)])  # of a crowd's actors
REACH = 0.5  # share of its own motion that an actor in a crowd has room for
CROWD = 3  # actors beside the one that counts
RADII = np.array([46, 34])  # pixels from the middle of the frame to a ring's actors, along x and y
CLIPS_PER_GROUP = 2  # UCF-11: 550 clips
HMDB_SIDES = (("1", 5), ("0", 1), ("2", 2))  # clips of each class on each side; pairs of one film stay together
HOLLYWOOD_CLIPS = {"train": 144, "test": 96}
UCF101_GROUPS = (1, 8, 15, 22)  # a clip each; every split tests on one of them
SPORTS = 12  # labels of Sports-1M
SPORTS_CLIPS = {"train": 8, "test": 4}  # of each; as many again are listed and absent
SHORT_CLIPS = {0: 19, 1: 12}  # every 17th clip is shorter than a block, as in the real sets


@dataclass(frozen=True)
class Clip:
    """What to draw.

    Args:
        path: file below the data set's folder, with forward slashes.
        name: the video's name in the data set.
        actions: class numbers, done one after the other; empty for a grey actor that does nothing.
        scene: seed of background and light.
        codec: encoder.
        rate: frames per second.
        crowd: class numbers that others do beside it, each as vivid as the actor.
        truth: with a crowd, what tells the actor from it, see ``TRUTHS``.
    """

    path: str
    name: str
    actions: tuple[int, ...]
    scene: str
    codec: str
    rate: Fraction
    crowd: tuple[int, ...] = ()
    truth: str = HALO


def generate(
    root: Path, data: str, workers: int = 1, progress: Callable[[int, int], None] | None = None, truth: str = HALO
) -> bool:
    """Write one miniature data set, unless it is there already.

    Args:
        root: the data set's folder.
        data: a key of ``LAYOUTS``.
        workers: drawing processes.
        progress: called with (clips done, clips in all).
        truth: of the clips that have a crowd.

    Returns:
        Whether anything was written.

    Raises:
        FileExistsError: the folder holds something that is no miniature data set.
    """
    if is_complete(root, truth):
        return False
    if root.exists() and any(root.iterdir()) and not (root / ".miniature").is_file():
        raise FileExistsError(f"{root.resolve()} is not empty and holds no miniature data; choose another paths.data")
    root.mkdir(parents=True, exist_ok=True)
    (root / ".miniature").write_text("generated, may be removed\n")
    clips, files, marker = LAYOUTS[data]()
    clips = [replace(clip, truth=truth) for clip in clips]
    boxes: dict[str, np.ndarray] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        for done, (clip, frames) in enumerate(
            zip(clips, pool.map(partial(_write, root), clips, chunksize=8), strict=True), start=1
        ):
            boxes[clip.name] = frames
            if progress:
                progress(done, len(clips))
    for path, text in files.items():
        write_atomically(root / path, text)
    write_atomically(root / "boxes.csv", _boxes_table(boxes))
    sizes = {path: (root / path).stat().st_size for path in sorted([*(clip.path for clip in clips), *files, "boxes.csv"])}
    marker = {"version": VERSION, "truth": truth, **marker, "files": sizes}
    write_atomically(root / MINIATURE_MARKER, json.dumps(marker, indent=1) + "\n")
    return True


def _end_with_parent() -> None:
    """In a drawing process: end when the one that started it is killed, instead of waiting for work for ever."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def is_complete(root: Path, truth: str = HALO) -> bool:
    """Whether a miniature data set of this version and truth lies in a folder, and no file of it was lost or cut short."""
    path = root / MINIATURE_MARKER
    if not path.is_file():
        return False
    try:
        marker = miniature_marker(root) or {}
    except DataError:
        return False  # it is drawn again
    sizes = marker.get("files", {})
    if marker.get("version") != VERSION or marker.get("truth", HALO) != truth or not isinstance(sizes, dict):
        return False
    try:
        return all((root / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _ucf11() -> tuple[list[Clip], dict[str, str], dict]:
    rate = Fraction(30000, 1001)
    clips = []
    for label, (name, prefix) in enumerate(ucf11.PREFIXES.items()):
        for group in range(1, ucf11.GROUPS + 1):
            for number in range(1, CLIPS_PER_GROUP + 1):
                stem = f"v_{prefix}_{group:02d}"
                video = f"{name}/{stem}/{stem}_{number:02d}.mpg"
                scene = f"ucf11 {name} {group}"
                others = np.delete(np.arange(len(ucf11.PREFIXES)), label)
                crowd = tuple(_generator("crowd", video).permutation(others)[:CROWD].tolist())
                clips.append(Clip(f"UCF11_updated_mpg/{video}", video, (label,), scene, "mpeg1video", rate, crowd))
    return clips, {}, {"clips": {name: [CLIPS_PER_GROUP] * ucf11.GROUPS for name in ucf11.PREFIXES}}


def _hmdb51() -> tuple[list[Clip], dict[str, str], dict]:
    clips, files = [], {}
    for label, name in enumerate(hmdb51.CLASSES):
        sides = [side for side, number in HMDB_SIDES for _ in range(number)]
        names = [f"Film_[{label}]_({n // 2})_{name}_f_cm_np1_fr_med_{n % 2}.avi" for n in range(len(sides))]
        clips += [
            Clip(f"{name}/{clip}", f"{name}/{clip}", (label,), hmdb51.source_title(clip, name), "mpeg4", Fraction(30))
            for clip in names
        ]
        for split in range(3):
            turned = sides[-2 * split :] + sides[: -2 * split]
            lines = [f"{clip} {side} \n" for clip, side in zip(names, turned, strict=True)]
            files[f"testTrainMulti_7030_splits/{name}_test_split{split + 1}.txt"] = "".join(lines)
    numbers = dict(HMDB_SIDES)
    counts = {"train": numbers["1"] * len(hmdb51.CLASSES), "test": numbers["2"] * len(hmdb51.CLASSES)}
    return clips, files, {"counts": counts}


def _ucf101() -> tuple[list[Clip], dict[str, str], dict]:
    clips, files = [], {ucf101.NUMBERS: "".join(f"{label} {name}\r\n" for label, name in enumerate(ucf101.CLASSES, start=1))}
    lines: dict[str, list[str]] = {f"{side}list0{split}.txt": [] for side in ("train", "test") for split in ucf101.SPLITS}
    for label, name in enumerate(ucf101.CLASSES):
        spelt = name.replace("HandstandP", "HandStandP")  # as the official clips are
        for group in UCF101_GROUPS:
            video = f"{name}/v_{spelt}_g{group:02d}_c01.avi"
            clips.append(Clip(f"UCF-101/{video}", video, (label,), f"ucf101 {name} {group}", "mpeg4", Fraction(25)))
            for split, tested in ucf101.TEST_GROUPS.items():
                testing = group in tested
                end = "" if testing else f" {label + 1}"
                lines[f"{'test' if testing else 'train'}list0{split}.txt"].append(f"{video}{end}\r\n")
    files |= {name: "".join(of_list) for name, of_list in lines.items()}
    tested = len(ucf101.CLASSES)
    counts = {"train": tested * (len(UCF101_GROUPS) - 1), "test": tested}
    return clips, {f"ucfTrainTestlist/{name}": text for name, text in files.items()}, {"counts": counts}


def _hollywood2() -> tuple[list[Clip], dict[str, str], dict]:
    clips, files = [], {}
    for side, number in HOLLYWOOD_CLIPS.items():
        labels = {}
        for clip in range(number):
            first = clip % len(hollywood2.CLASSES)
            second = (first + 1 + clip // len(hollywood2.CLASSES)) % len(hollywood2.CLASSES)
            actions = ((first,), (first,), (first, second), (first,), (first, second), ())[
                (clip // len(hollywood2.CLASSES)) % 6 if clip % 9 else 5
            ]
            name = f"actionclip{side}{clip + 1:05d}"
            labels[name] = actions
            path = f"Hollywood2/AVIClips/{name}.avi"
            clips.append(Clip(path, f"{name}.avi", actions, f"hollywood2 {name}", "mpeg4", Fraction(24000, 1001)))
        for label, class_name in enumerate(hollywood2.CLASSES):
            lines = [f"{name}  {1 if label in actions else -1}\n" for name, actions in labels.items()]
            files[f"Hollywood2/ClipSets/{class_name}_{side}.txt"] = "".join(lines)
    return clips, files, {"counts": dict(HOLLYWOOD_CLIPS)}


def _sports1m() -> tuple[list[Clip], dict[str, str], dict]:
    clips, files = [], {sports1m.LABELS: "".join(f"sport {label}\n" for label in range(SPORTS))}
    for side, number in SPORTS_CLIPS.items():
        lines = []
        for clip in range(2 * number * SPORTS):
            first = clip % SPORTS
            actions = (first,) if clip % 5 else (first, (first + 1 + clip // SPORTS) % SPORTS)
            key = f"{side}-{clip:05d}".ljust(11, "_")
            lines.append(f"https://www.youtube.com/watch?v={key} {','.join(map(str, actions))}\n")
            if clip < number * SPORTS:
                video = f"{key}.mp4"
                clips.append(Clip(f"{sports1m.VIDEOS}/{video}", video, actions, f"sports1m {key}", "mpeg4", Fraction(30)))
        files[f"original/{side}_partition.txt"] = "".join(lines)
    return clips, files, {"counts": {"labels": SPORTS}}


LAYOUTS = {"ucf11": _ucf11, "hmdb51": _hmdb51, "hollywood2": _hollywood2, "ucf101": _ucf101, "sports1m": _sports1m}


def _write(root: Path, clip: Clip) -> np.ndarray:
    """Draw and encode one clip; returns its boxes (F, 4) as fractions."""
    frames, boxes = draw(clip)
    path = root / clip.path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with av.open(str(part), "w", options={"fflags": "bitexact"}) as container:
        stream = cast(VideoStream, container.add_stream(clip.codec, rate=clip.rate))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"qmin": "2", "qmax": "3", "flags": "bitexact"}
        stream.bit_rate = 4_000_000
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    part.replace(path)
    return boxes


def _boxes_table(boxes: dict[str, np.ndarray]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, frames in sorted(boxes.items()):
        for number, edges in enumerate(frames):
            writer.writerow([name, number, *(f"{edge:.4f}" for edge in edges)])
    return text.getvalue()


def _generator(*words: object) -> np.random.Generator:
    """A random generator that depends on the words alone."""
    digest = hashlib.sha256(repr((VERSION, *words)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def draw(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Frames (F, 96, 128, 3) uint8 and the actor's boxes (F, 4) as fractions: left, top, right, bottom."""
    random = _generator("clip", clip.name)
    ordinal = int(random.integers(34))
    length = SHORT_CLIPS.get(ordinal) or int(random.integers(30, 36 if clip.crowd else 32))
    scene = _scene(clip.scene, length, random, distractors=0 if clip.crowd else 4)
    light = _generator("light", clip.scene).uniform(0.85, 1.1)
    if not clip.crowd:
        places = np.array([WIDTH, HEIGHT]) * random.normal(0.5, 0.11, (1, 2))
    else:
        places = random.permutation(PLACES) if clip.truth == HALO else _ring(len(clip.crowd), random)
    everyone = [*((action,) for action in clip.crowd), clip.actions]
    phases = random.uniform(0, 2 * np.pi, len(everyone))
    frames = np.empty((length, HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes = np.empty((length, 4))
    for t in range(length):
        for actions, place, phase in zip(everyone, places, phases, strict=False):
            action = actions[t * len(actions) // length] if actions else None
            offset, angle, scale = motion(action, t, phase)
            steps = REACH * offset if clip.crowd else offset
            x, y = np.clip(place + steps, ACTOR + 1.0, np.array([WIDTH, HEIGHT]) - ACTOR - 1.0)
            if clip.crowd and clip.truth == HALO and actions is clip.actions:
                scene[t][np.hypot(*(np.indices((HEIGHT, WIDTH))[::-1] - np.array([x, y])[:, None, None])) < HALO_RADIUS] = 235
            _paint(scene[t], action, light * palette(action), (x, y), ACTOR, angle, scale)
        image = scene[t] + random.normal(0, 4, (HEIGHT, WIDTH, 1))
        frames[t] = np.clip(image, 0, 255)
        boxes[t] = (x - ACTOR) / WIDTH, (y - ACTOR) / HEIGHT, (x + ACTOR) / WIDTH, (y + ACTOR) / HEIGHT
    return frames, boxes


def _ring(others: int, random: np.random.Generator) -> np.ndarray:
    """(others + 1, 2) places in pixels: at even distances on an ellipse that is turned at random, and its middle."""
    angles = random.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(others) / others
    around = np.append(np.stack([np.cos(angles), np.sin(angles)], axis=1), [[0, 0]], axis=0)
    return np.array([WIDTH, HEIGHT]) / 2 + RADII * around


def _paint(
    image: np.ndarray,
    action: int | None,
    colours: np.ndarray,
    at: tuple[float, float],
    size: float,
    angle: float = 0.0,
    scale: float = 1.0,
    opacity: float = 1.0,
) -> None:
    """Draw a figure of half side ``size`` pixels into an image (H, W, 3), in place."""
    x, y = at
    left, right = max(0, int(x - size)), min(WIDTH, int(x + size) + 2)
    top, bottom = max(0, int(y - size)), min(HEIGHT, int(y + size) + 2)
    if left >= right or top >= bottom:
        return
    u, v = np.meshgrid((np.arange(left, right) - x) / size, (np.arange(top, bottom) - y) / size)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    inside, tone = figure(action, cos * u + sin * v, cos * v - sin * u)
    window = image[top:bottom, left:right]
    window[inside] = (1 - opacity) * window[inside] + opacity * colours[tone][inside]


def motion(action: int | None, t: int, phase: float) -> tuple[np.ndarray, float, float]:
    """(offset in pixels (2,), angle in radians, scale) of an action's actor at frame t."""
    if action is None:
        return np.zeros(2), 0.0, 1.0
    swing = np.sin(0.45 * t + phase)
    kind = (action * 5 + action // 8) % 8
    moves = (
        (np.array([10 * swing, 0]), 0.0, 1.0),  # shakes
        (np.array([0, 9 * swing]), 0.0, 1.0),  # hops
        (8 * np.array([swing, np.cos(0.45 * t + phase)]), 0.0, 1.0),  # circles
        (np.zeros(2), 0.25 * t + phase, 1.0),  # spins
        (np.zeros(2), 0.0, 0.8 + 0.2 * swing),  # breathes
        (np.array([12 * swing, 8 * np.sin(0.9 * t + phase)]), 0.0, 1.0),  # weaves
        (np.zeros(2), 0.6 * swing, 1.0),  # rocks
        (np.array([1.0 * (t % 24) - 12, 0]), 0.0, 1.0),  # walks and starts again
    )
    return moves[kind]


def figure(action: int | None, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the actor in its own coordinates (box [-1, 1]²), and which of its two colours each pixel has."""
    radius = np.hypot(u, v)
    kind = 0 if action is None else action % 8
    masks: tuple[Callable[[], np.ndarray], ...] = (
        lambda: radius < 0.95,  # disc
        lambda: np.maximum(abs(u), abs(v)) < 0.8,  # square
        lambda: (abs(u) + abs(v)) < 0.98,  # diamond
        lambda: (np.minimum(abs(u), abs(v)) < 0.32) & (np.maximum(abs(u), abs(v)) < 0.95),  # cross
        lambda: (radius < 0.95) & (radius > 0.5),  # ring
        lambda: (v > -0.9) & (v < 0.85) & (abs(u) < (v + 0.95) * 0.5),  # triangle
        lambda: (abs(u) < 0.95) & (abs(v) < 0.45),  # bar
        lambda: ((abs(v + 0.55) < 0.35) & (abs(u) < 0.95)) | ((abs(u) < 0.32) & (abs(v) < 0.95)),  # T
    )
    stripes = 0 if action is None else (action // 8) % 3
    tones = (u * u + v * v < 0.25, np.sin(9 * u) > 0, np.sin(9 * v) > 0)
    return masks[kind](), tones[stripes].astype(np.int64)


def palette(action: int | None) -> np.ndarray:
    """(2, 3) the actor's two colours, vivid where it acts."""
    if action is None:
        return np.array([[150.0, 150, 150], [110, 110, 110]])
    hue = (action * 7 % 51) / 51 if action >= 12 else action * 5 % 12 / 12
    return np.stack([_vivid(hue), _vivid(hue + 0.37)])


def _vivid(hue: float) -> np.ndarray:
    return 40 + 215 * np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)


def _scene(scene: str, length: int, random: np.random.Generator, distractors: int) -> np.ndarray:
    """Background (F, H, W, 3) float: a soft texture, and dull distractors that drift."""
    own = _generator("scene", scene)
    coarse = own.uniform(85, 155, (5, 6, 1)) + own.uniform(-12, 12, (5, 6, 3))
    texture = _enlarge(coarse) + 7 * np.sin(own.uniform(0.2, 0.7) * np.arange(WIDTH))[None, :, None]
    frames = np.repeat(texture[None], length, axis=0)
    for _ in range(distractors):
        x, y = own.uniform(0, WIDTH), own.uniform(0, HEIGHT)
        drift = own.normal(0, 0.25, 2)
        action, size, start = int(own.integers(51)), own.uniform(0.6, 1.2) * ACTOR, random.uniform(-6, 6, 2)
        grey = palette(action).mean(axis=1, keepdims=True)
        dull = 0.85 * grey + 0.15 * palette(action)
        for t in range(length):
            px, py = np.array([x, y]) + start + drift * t
            _paint(frames[t], action, dull, (px, py), size, opacity=0.6)
    return frames


def _enlarge(grid: np.ndarray) -> np.ndarray:
    """Bilinear enlargement of a coarse grid (r, c, 3) to the frame."""
    rows, columns = grid.shape[:2]
    y = np.linspace(0, rows - 1, HEIGHT)
    x = np.linspace(0, columns - 1, WIDTH)
    y0, x0 = np.minimum(y.astype(int), rows - 2), np.minimum(x.astype(int), columns - 2)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    upper = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x0 + 1] * fx
    lower = grid[y0 + 1][:, x0] * (1 - fx) + grid[y0 + 1][:, x0 + 1] * fx
    return upper * (1 - fy) + lower * fy
