"""Anybody's videos: ``<root>/<class>/*.{mp4,avi,mpg,mov,mkv,webm}`` with an optional ``videos.csv``."""

from __future__ import annotations

import contextlib
import re
import stat
import unicodedata
from pathlib import Path

from datamodules.layouts import SIDES, class_folders, listed_name, read_table, settle_validation
from datamodules.reading import SHOWN, DataError, unusable_name
from datamodules.videos import SUFFIXES, Annotation, Video, check, hold_out

TEST_FRACTION = 0.3
SPLIT_SEED = 0
SPLITS = r"default|seed-\d{1,9}"
DEFAULT_SPLIT = "default"
COLUMNS = ("path", "class", "group", "split")
OFFICIAL = ("ucf11", "hmdb51", "hollywood2")
WHERE = "Lay the videos out as <root>/<class>/<video>.{mp4,avi,mpg,mov,mkv,webm}, or list them in <root>/videos.csv"


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return bool(re.fullmatch(SPLITS, name))


def read(root: Path, split: str = "default", skip_bad: bool = False) -> Annotation:
    """Read and check a folder of videos.

    Args:
        root: folder with one sub-folder a class, or with ``train``, ``test`` and ``val`` of such folders. If it holds
            ``videos.csv`` (columns ``path,class[,group][,split]``, split ``train``, ``test`` or ``val``), only the videos
            listed there are used, with the classes named there.
        split: ``default``: the CSV's own split, or 70/30 with groups kept whole, seeded.
            ``seed-<n>``: another seed of the 70/30 split.
        skip_bad: leave missing videos out instead of raising.

    Raises:
        DataError: no video, an empty class folder, a malformed CSV (file and line named), names or files that are not told
            apart, or missing videos.
    """
    if not root.is_dir():
        raise DataError(f"videofolder: the folder {root.resolve()} does not exist\n{WHERE}")
    name = root.name if root.name not in ("", "..") else root.resolve().name
    if name in OFFICIAL:
        raise DataError(
            f"videofolder: {root.resolve()} bears the name of an official data set, and its results would pass as that "
            f"one's; rename the folder, or use data.name={name}"
        )
    listing = root / "videos.csv"
    rows, remarks = _read_csv(listing) if listing.is_file() or listing.is_symlink() else _scan(root)
    remarks += settle_validation(rows)
    _refuse_look_alikes(root, rows)
    classes = tuple(sorted({row["class"] for row in rows}))
    label = {name: number for number, name in enumerate(classes)}
    videos = [Video(row["path"], (label[row["class"]],), row.get("group") or row["path"]) for row in rows]
    given = {row.get("split") for row in rows} - {None}
    if not re.fullmatch(SPLITS, split):
        raise DataError(f"data.split={split}: a videofolder has 'default' and 'seed-<n>'")
    if given:
        if split != "default":
            its = f"{listing} has its own split column" if listing.is_file() else f"{root} has its own folders of a split"
            raise DataError(f"data.split={split}: {its}; use data.split=default")
        train = tuple(v for v, row in zip(videos, rows, strict=True) if row["split"] == "train")
        test = tuple(v for v, row in zip(videos, rows, strict=True) if row["split"] == "test")
        shared = {v.group for v in train} & {v.group for v in test}
        if shared:
            raise DataError(f"{listing}: group {sorted(shared)[0]!r} is in train and in test; a group is one source")
    else:
        seed = SPLIT_SEED if split == "default" else int(split.removeprefix("seed-"))
        train, test = hold_out(videos, TEST_FRACTION, seed)
    if len(classes) < 2:
        raise DataError(
            f"videofolder: {root.resolve()} has one class only, {''.join(classes)!r}; recognition needs two\n{WHERE}"
        )
    annotation = Annotation(name, split, root, root, classes, False, train, test, remarks=tuple(remarks))
    return check(annotation, WHERE, skip_bad=skip_bad)


def _scan(root: Path) -> tuple[list[dict[str, str]], list[str]]:
    try:
        folders, remarks = class_folders(root)
    except OSError as error:
        raise DataError(f"videofolder: the folder {error.filename or root} cannot be read ({error.strerror})") from error
    if not folders:
        raise DataError(f"videofolder: {root.resolve()} has no class folder\n{WHERE}")
    rows = []
    for folder, side in folders:
        found = sorted(p.name for p in _entries(folder) if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not found:
            raise DataError(
                f"videofolder: the class folder {folder.resolve()} holds no video ({', '.join(SUFFIXES)})\n"
                "    put videos into it, or remove it"
            )
        of_split = {"split": side} if side else {}
        below = folder.relative_to(root).as_posix()
        rows += [{"path": f"{below}/{name}", "class": folder.name, **of_split} for name in found]
    return rows, remarks


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"videofolder: the folder {folder} cannot be read ({error.strerror})") from error


def _read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    rows, lines = [], {}
    listed, remarks = read_table(path, ("path", "class"), COLUMNS)
    for line, row in listed:
        where = f"{path}, line {line}"
        name = listed_name(row["path"], path.parent)
        if not row["path"] or unusable_name(name):
            why = f" ({unusable_name(name)})" if row["path"] else ""
            raise DataError(f"{where}: path {row['path'][:SHOWN]!r} does not lie below {path.parent}{why}")
        if not row["class"]:
            raise DataError(f"{where}: no class")
        if row["class"] != row["class"].strip():
            raise DataError(f"{where}: the class {row['class'][:SHOWN]!r} begins or ends with a blank")
        of_split = {"split": SIDES.get(row["split"].strip().lower())} if "split" in row else {}
        if None in of_split.values():
            raise DataError(f"{where}: split {row['split'][:SHOWN]!r} is neither train nor test, nor val")
        first = lines.setdefault(name, line)
        if first != line:
            raise DataError(f"{where}: {name!r} listed twice, in line {first} already")
        rows.append({**row, "path": name, **of_split})
    if not rows:
        raise DataError(f"{path}: lists no video")
    return rows, remarks


def _refuse_look_alikes(root: Path, rows: list[dict[str, str]]) -> None:
    """Refuse names that are one for some disks or for a reader, and files that are there under two names."""
    for what, names in (("classes", {row["class"] for row in rows}), ("videos", {row["path"] for row in rows})):
        seen: dict[str, str] = {}
        for name in sorted(names):
            other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if other != name:
                raise DataError(
                    f"videofolder: the {what} {other!r} and {name!r} differ only in case or in the form of their letters, "
                    f"which some disks do not tell apart; rename one. Looked in {root.resolve()}"
                )
    files: dict[tuple[int, int], str] = {}
    for row in rows:
        with contextlib.suppress(OSError, ValueError):  # a missing video is reported with all others
            found = (root / row["path"]).stat()
            other = files.setdefault((found.st_dev, found.st_ino), row["path"])
            if other != row["path"] and stat.S_ISREG(found.st_mode):
                raise DataError(
                    f"videofolder: {other!r} and {row['path']!r} are one file under two names; every video may stand once. "
                    f"Looked in {root.resolve()}"
                )
