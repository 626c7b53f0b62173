"""Anybody's videos: ``<root>/<class>/**/*.mp4``, or of another ending of ``SUFFIXES``, with an optional ``videos.csv``."""

from __future__ import annotations

import contextlib
import re
import stat
import unicodedata
from pathlib import Path, PurePosixPath

from datamodules.layouts import LEFTOVERS, SIDES, class_folders, listed_name, read_table, settle_validation
from datamodules.parts import WHOLE, Part
from datamodules.reading import SHOWN, DataError, unusable_name
from datamodules.videos import SUFFIXES, Annotation, Video, check, hold_out, shortened

TEST_FRACTION = 0.3
SPLIT_SEED = 0
SPLITS = r"default|seed-\d{1,9}"
DEFAULT_SPLIT = "default"
COLUMNS = ("path", "class", "group", "split")
OFFICIAL = ("ucf11", "hmdb51", "hollywood2", "ucf101", "sports1m")
WHERE = "Lay the videos out as <root>/<class>/<video>.mp4 (or .avi, .mkv …), or list them in <root>/videos.csv"
BY_NAME = "Clips v_<class>_g<nn>_c<nn> that differ in the last number alone are one group, unless videos.csv has groups"
CLIP_OF_GROUP = r"(v_.+_g\d+)_c\d+"  # UCF-50's and UCF-101's names: class, group (one scene, one actor), clip


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return bool(re.fullmatch(SPLITS, name))


def read(root: Path, split: str = "default", skip_bad: bool = False, part: Part = WHOLE) -> Annotation:
    """Read and check a folder of videos.

    Args:
        root: folder with one sub-folder a class, whose own sub-folders are read too, or with ``train``, ``test`` and ``val`` of
            such folders. If it holds ``videos.csv`` (columns ``path,class[,group][,split]``, split ``train``, ``test`` or
            ``val``), only the videos listed there are used, with the classes named there. Without groups, clips
            ``v_<class>_g<nn>_c<nn>`` of one class and number are a group.
        split: ``default``: the CSV's own split, or 70/30 with groups kept whole, seeded.
            ``seed-<n>``: another seed of the 70/30 split.
        skip_bad: leave missing videos out instead of raising.
        part: what to take of it.

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
    listed = listing.is_file() or listing.is_symlink()
    rows, remarks = _read_csv(listing) if listed else _scan(root)
    remarks += settle_validation(rows)
    _refuse_look_alikes(root, rows)
    classes = tuple(sorted({row["class"] for row in rows}))
    label = {name: number for number, name in enumerate(classes)}
    videos = [Video(row["path"], (label[row["class"]],), _group_of(row)) for row in rows]
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
        if shared and "group" in rows[0]:  # groups by name are told by the check for leaks
            raise DataError(f"{listing}: group {sorted(shared)[0]!r} is in train and in test; a group is one source")
    else:
        seed = SPLIT_SEED if split == "default" else int(split.removeprefix("seed-"))
        train, test = hold_out(videos, TEST_FRACTION, seed)
    if len(classes) < 2:
        raise DataError(
            f"videofolder: {root.resolve()} has one class only, {''.join(classes)!r}; recognition needs two\n{WHERE}"
        )
    annotation = Annotation(name, split, root, root, classes, False, train, test, remarks=tuple(remarks))
    by_name = any(re.fullmatch(CLIP_OF_GROUP, video.group + "_c01") for video in videos)
    return check(annotation, f"{WHERE}\n{BY_NAME}" if by_name else WHERE, skip_bad=skip_bad, part=part)


def _group_of(row: dict[str, str]) -> str:
    """What a row names, or else a clip's group by its name, or the video itself."""
    found = re.fullmatch(CLIP_OF_GROUP, PurePosixPath(row["path"]).stem) if "group" not in row else None
    return found[1] if found else row.get("group") or row["path"]


def _scan(root: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The videos of each class folder, and remarks for a reader."""
    try:
        folders, remarks = class_folders(root)
    except OSError as error:
        raise DataError(f"videofolder: the folder {error.filename or root} cannot be read ({error.strerror})") from error
    if not folders:
        raise DataError(f"videofolder: {root.resolve()} has no class folder\n{WHERE}")
    rows, others = [], []
    for folder, side in folders:
        below, found = folder.relative_to(root).as_posix(), []
        for name in sorted(_files(folder)):
            is_video = PurePosixPath(name).suffix.lower() in SUFFIXES
            (found if is_video else others).append(f"{below}/{name}")
        if not found:
            raise DataError(
                f"videofolder: the class folder {folder.resolve()} holds no video ({', '.join(SUFFIXES)})\n"
                "    put videos into it, or remove it"
            )
        of_split = {"split": side} if side else {}
        rows += [{"path": name, "class": folder.name, **of_split} for name in found]
    if others:
        remarks.append(f"{len(others)} files passed over, which do not end like a video: {shortened(others)}")
    return rows, remarks


def _files(folder: Path) -> list[str]:
    """Paths of the files below a folder, but for hidden ones and those in hidden folders."""
    found = []
    for entry in (one for one in _entries(folder) if not (one.name.startswith(".") or one.name.lower() in LEFTOVERS)):
        if not entry.is_dir():
            found.append(entry.name)
        elif entry.is_symlink():  # which may lead back
            found.append(f"{entry.name}/")
        else:
            found += [f"{entry.name}/{name}" for name in _files(entry)]
    return found


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
