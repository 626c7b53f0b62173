"""Anybody's videos: ``<root>/<class>/*.{mp4,avi,mpg,mov,mkv,webm}`` with an optional ``videos.csv``."""

from __future__ import annotations

import csv
import re
from pathlib import Path, PurePosixPath

from datamodules.videos import SUFFIXES, Annotation, DataError, Video, check, hold_out

TEST_FRACTION = 0.3
SPLIT_SEED = 0
SPLITS = r"default|seed-\d{1,9}"
COLUMNS = {"path", "class", "group", "split"}
WHERE = "Lay the videos out as <root>/<class>/<video>.{mp4,avi,mpg,mov,mkv,webm}, or list them in <root>/videos.csv"


def read(root: Path, split: str = "default", skip_bad: bool = False) -> Annotation:
    """Read and check a folder of videos.

    Args:
        root: folder with one sub-folder a class. If it holds ``videos.csv`` (columns ``path,class[,group][,split]``,
            split ``train`` or ``test``), only the videos listed there are used, with the classes named there.
        split: ``default``: the CSV's own split, or 70/30 with groups kept whole, seeded.
            ``seed-<n>``: another seed of the 70/30 split.
        skip_bad: leave missing videos out instead of raising.

    Raises:
        DataError: no video, an empty class folder, a malformed CSV (file and line named), or missing videos.
    """
    if not root.is_dir():
        raise DataError(f"videofolder: the folder {root.resolve()} does not exist\n{WHERE}")
    listing = root / "videos.csv"
    rows = _read_csv(listing) if listing.is_file() else _scan(root)
    classes = tuple(sorted({row["class"] for row in rows}))
    label = {name: number for number, name in enumerate(classes)}
    videos = [Video(row["path"], (label[row["class"]],), row.get("group") or row["path"]) for row in rows]
    given = {row.get("split") for row in rows} - {None}
    if not re.fullmatch(SPLITS, split):
        raise DataError(f"data.split={split}: a videofolder has 'default' and 'seed-<n>'")
    if given:
        if split != "default":
            raise DataError(f"data.split={split}: {listing} has its own split column; use data.split=default")
        train = tuple(v for v, row in zip(videos, rows, strict=True) if row["split"] == "train")
        test = tuple(v for v, row in zip(videos, rows, strict=True) if row["split"] == "test")
        shared = {v.group for v in train} & {v.group for v in test}
        if shared:
            raise DataError(f"{listing}: group {sorted(shared)[0]!r} is in train and in test; a group is one source")
    else:
        seed = SPLIT_SEED if split == "default" else int(split.removeprefix("seed-"))
        train, test = hold_out(videos, TEST_FRACTION, seed)
    annotation = Annotation(root.name, split, root, root, classes, False, train, test)
    return check(annotation, WHERE, skip_bad=skip_bad)


def _scan(root: Path) -> list[dict[str, str]]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"videofolder: {root.resolve()} has no class folder\n{WHERE}")
    rows = []
    for folder in folders:
        found = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not found:
            raise DataError(
                f"videofolder: the class folder {folder.resolve()} holds no video ({', '.join(SUFFIXES)})\n"
                "    put videos into it, or remove it"
            )
        rows += [{"path": f"{folder.name}/{name}", "class": folder.name} for name in found]
    return rows


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        return _parse_csv(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from error


def _parse_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restkey="(more)")
        columns = set(reader.fieldnames or ())
        if not {"path", "class"} <= columns or columns - COLUMNS:
            raise DataError(f"{path}, line 1: expected the columns path,class[,group][,split], found {sorted(columns)}")
        rows = []
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row.values() or "(more)" in row:
                raise DataError(f"{where}: expected {len(columns)} values, as line 1 has columns")
            name = PurePosixPath(row["path"])
            if not row["path"] or name.is_absolute() or ".." in name.parts:
                raise DataError(f"{where}: path {row['path']!r} does not lie below {path.parent}")
            if not row["class"]:
                raise DataError(f"{where}: no class")
            if "split" in columns and row["split"] not in ("train", "test"):
                raise DataError(f"{where}: split {row['split']!r} is neither train nor test")
            rows.append({**row, "path": str(name)})
    if not rows:
        raise DataError(f"{path}: lists no video")
    return rows
