"""What the tables' tests share: finished runs written by hand, and a tiny HMDB-51 in its official layout."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from datamodules import hmdb51, miniature
from datamodules.videos import MINIATURE_MARKER
from reproduce.experiments.folder import RunFolder


def finished_run(
    path: Path,
    hits,
    data: str = "hmdb51",
    names: list[str] | None = None,
    groups: dict[str, str] | None = None,
    split: str = "1",
    multi_label: bool = False,
) -> RunFolder:
    """A run of two classes, right on the videos that ``hits`` names.

    For multi-label every other video has the first class, the others none, and a hit means that its score says so.
    """
    hits = [bool(hit) for hit in hits]
    names = names or [f"v{number}" for number in range(len(hits))]
    path.mkdir(parents=True)
    with (path / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "target", "prediction", "a", "b"])
        for number, (name, hit) in enumerate(zip(names, hits, strict=True)):
            true = not multi_label or number % 2 == 0
            score = (0.5 + 0.001 * number / len(hits)) + (0.4 if hit == true else -0.4)
            writer.writerow([name, "a" if true else "", "a" if score > 0.5 else "b", f"{score:.5f}", f"{1 - score:.5f}"])
    folder = RunFolder(path)
    about = {"data": data, "split": split, "miniature": False, "multi_label": multi_label, "notes": [], "stride": 1}
    about |= {"train_videos": 9, "test_videos": len(hits), "groups": groups or dict(zip(names, names, strict=True))}
    folder.write_about(about)
    figure = 0.3 if multi_label else float(np.mean(hits))
    folder.finish({"test/mAP" if multi_label else "test/accuracy": figure})
    return folder


def tiny_hmdb51(clips: Path) -> None:
    """HMDB-51 as miniature data: 51 classes of three clips of four frames, the test clip turning with the split."""
    for label, name in enumerate(hmdb51.CLASSES):
        files = [f"Film_[{label}]_({number})_{name}_f_cm_np1_fr_med_0.avi" for number in range(3)]
        for file in files:
            noise(clips / name / file)
        for split in range(3):
            lines = [f"{file} {2 if number == split else 1} \n" for number, file in enumerate(files)]
            path = clips / f"testTrainMulti_7030_splits/{name}_test_split{split + 1}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(lines))
    marker = {"version": miniature.VERSION, "counts": {"train": 102, "test": 51}}
    (clips / MINIATURE_MARKER).write_text(json.dumps(marker))


def noise(path: Path) -> None:
    """A clip of four frames that cost nothing to decode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        image = np.random.default_rng(len(path.name)).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
