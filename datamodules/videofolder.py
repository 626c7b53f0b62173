"""Anybody's videos: ``<root>/<class>/**/*.mp4``, or of another ending of ``SUFFIXES``, with an optional ``videos.csv``."""

from __future__ import annotations

import contextlib
import re
import stat
import unicodedata
from pathlib import Path, PurePosixPath

from datamodules.parts import WHOLE, Part
from datamodules.reading import SHOWN, DataError, read_rows, unusable_name
from datamodules.videos import SUFFIXES, Annotation, Video, check, hold_out

TEST_FRACTION = 0.3
SPLIT_SEED = 0
SPLITS = r"default|seed-\d{1,9}"
DEFAULT_SPLIT = "default"
COLUMNS = ("path", "class", "group", "split")
OFFICIAL = ("ucf11", "hmdb51", "hollywood2")
WHERE = "Lay the videos out as <root>/<class>/<video>.mp4 (or .avi, .mkv …), or list them in <root>/videos.csv"
BY_NAME = "Clips v_<class>_g<nn>_c<nn> that differ in the last number alone are one group, unless videos.csv has groups"
CLIP_OF_GROUP = r"(v_.+_g\d+)_c\d+"  # UCF-50's and UCF-101's names: class, group (one scene, one actor), clip


def is_split(name: str) -> bool:
    """Whether there is a split of that name."""
    return bool(re.fullmatch(SPLITS, name))


def read(root: Path, split: str = "default", skip_bad: bool = False, part: Part = WHOLE) -> Annotation:
    """Read and check a folder of videos.

    Args:
        root: folder with one sub-folder a class, whose own sub-folders are read too. If it holds ``videos.csv`` (columns
            ``path,class[,group][,split]``, split ``train`` or ``test``), only the videos listed there are used, with the
            classes named there. Without groups, clips ``v_<class>_g<nn>_c<nn>`` of one class and number are a group.
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
    rows, passed_over = (_read_csv(listing), []) if listed else _scan(root)
    _refuse_look_alikes(root, rows)
    classes = tuple(sorted({row["class"] for row in rows}))
    label = {name: number for number, name in enumerate(classes)}
    videos = [Video(row["path"], (label[row["class"]],), _group_of(row)) for row in rows]
    given = {row.get("split") for row in rows} - {None}
    if not re.fullmatch(SPLITS, split):
        raise DataError(f"data.split={split}: a videofolder has 'default' and 'seed-<n>'")
    if given:
        if split != "default":
            raise DataError(f"data.split={split}: {listing} has its own split column; use data.split=default")
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
    annotation = Annotation(name, split, root, root, classes, False, train, test, passed_over=tuple(passed_over))
    by_name = any(re.fullmatch(CLIP_OF_GROUP, video.group + "_c01") for video in videos)
    return check(annotation, f"{WHERE}\n{BY_NAME}" if by_name else WHERE, skip_bad=skip_bad, part=part)


def _group_of(row: dict[str, str]) -> str:
    """What a row names, or else a clip's group by its name, or the video itself."""
    found = re.fullmatch(CLIP_OF_GROUP, PurePosixPath(row["path"]).stem) if "group" not in row else None
    return found[1] if found else row.get("group") or row["path"]


def _scan(root: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The videos of each class folder, and the other files there."""
    folders = sorted(path for path in _entries(root) if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"videofolder: {root.resolve()} has no class folder\n{WHERE}")
    rows, passed_over = [], []
    for folder in folders:
        found = []
        for name in sorted(_files(folder)):
            is_video = PurePosixPath(name).suffix.lower() in SUFFIXES
            (found if is_video else passed_over).append(f"{folder.name}/{name}")
        if not found:
            raise DataError(
                f"videofolder: the class folder {folder.resolve()} holds no video ({', '.join(SUFFIXES)})\n"
                "    put videos into it, or remove it"
            )
        rows += [{"path": name, "class": folder.name} for name in found]
    return rows, passed_over


def _files(folder: Path) -> list[str]:
    """Paths of the files below a folder, but for hidden ones and those in hidden folders."""
    found = []
    for entry in (entry for entry in _entries(folder) if not entry.name.startswith(".")):
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


def _read_csv(path: Path) -> list[dict[str, str]]:
    rows, lines = [], {}
    for line, row in read_rows(path, ("path", "class"), COLUMNS):
        where = f"{path}, line {line}"
        name = PurePosixPath(row["path"])
        if not row["path"] or unusable_name(str(name)):
            why = f" ({unusable_name(str(name))})" if row["path"] else ""
            raise DataError(f"{where}: path {row['path'][:SHOWN]!r} does not lie below {path.parent}{why}")
        if not row["class"]:
            raise DataError(f"{where}: no class")
        if row["class"] != row["class"].strip():
            raise DataError(f"{where}: the class {row['class'][:SHOWN]!r} begins or ends with a blank")
        if row.get("split", "train") not in ("train", "test"):
            raise DataError(f"{where}: split {row['split'][:SHOWN]!r} is neither train nor test")
        first = lines.setdefault(str(name), line)
        if first != line:
            raise DataError(f"{where}: {str(name)!r} listed twice, in line {first} already")
        rows.append({**row, "path": str(name)})
    if not rows:
        raise DataError(f"{path}: lists no video")
    return rows


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
