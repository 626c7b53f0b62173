"""How people lay out and list their videos: folders of splits, leftovers of archives and systems, what spreadsheets save."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datamodules.reading import SHOWN, DataError, Row, read_records, read_text
from datamodules.videos import SUFFIXES

LEFTOVERS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
"""Folders that archives, disks and network storage leave among one's own, in lower case; hidden ones begin with a dot."""
SIDES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""What people call the sides of a split, in lower case."""
DEPTH = 4  # folders that an archive may have been unpacked into, one in another
DELIMITERS = ",;\t|"


class ClassFolder(NamedTuple):
    """A folder of one class.

    Args:
        path: the folder.
        side: ``train``, ``val`` or ``test`` where the layout says so.
    """

    path: Path
    side: str | None


def class_folders(root: Path) -> tuple[list[ClassFolder], list[str]]:
    """Find the folders of classes: those in ``root``, in its only folder, or in its folders ``train``, ``val`` and ``test``.

    Returns:
        The folders in order, and remarks for a reader.

    Raises:
        OSError: a folder cannot be read.
    """
    remarks: list[str] = []
    folders = _folders(root, root, remarks)
    for _ in range(DEPTH):
        if len(folders) != 1 or not _holds_folders_alone(folders[0]):
            break
        inner = folders[0]
        remarks.append(f"the classes are taken from {inner.relative_to(root).as_posix()!r}, the only folder there")
        folders = _folders(inner, root, remarks)
    sides = [SIDES.get(folder.name.lower()) for folder in folders]
    of_split = len(sides) > 1 and None not in sides and "train" in sides and all(map(_holds_folders_alone, folders))
    if not of_split:
        return [ClassFolder(folder, None) for folder in folders], remarks
    pairs = zip(folders, sides, strict=True)
    return [ClassFolder(path, side) for folder, side in pairs for path in _folders(folder, root, remarks)], remarks


def _folders(folder: Path, root: Path, remarks: list[str]) -> list[Path]:
    """The folders in a folder, in order, but for hidden ones and leftovers."""
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    left = [path for path in found if path.name.lower() in LEFTOVERS or path.name.startswith(".")]
    if left:
        listed = ", ".join(repr(path.relative_to(root).as_posix()) for path in left)
        remarks.append(f"folders passed over, as hidden or left by an archive or a system: {listed}")
    return [path for path in found if path not in left]


def _holds_folders_alone(folder: Path) -> bool:
    """Whether there are folders in a folder, and no video beside them."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = [path for path in inside if path.is_dir()]
    return bool(folders) and not any(path.suffix.lower() in SUFFIXES for path in inside)


def settle_validation(rows: Iterable[dict[str, str]]) -> list[str]:
    """Put rows of the side ``val`` into test where there is no other, else into train; returns remarks for a reader.

    Training holds videos out of train by itself (protocol §3).
    """
    rows = [row for row in rows if "split" in row]
    number = sum(row["split"] == "val" for row in rows)
    side = "train" if any(row["split"] == "test" for row in rows) else "test"
    for row in rows:
        row["split"] = side if row["split"] == "val" else row["split"]
    why = "training holds its own validation set out of train" if side == "train" else "there is no other test set"
    return [f"{number} videos of the split's validation set are taken into {side}, since {why}"] if number else []


def read_table(path: Path, required: Sequence[str], known: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Read a CSV file as spreadsheets save it.

    Columns may be separated by comma, semicolon, tab or bar, be named in capitals, and be joined by others; a line ``sep=;``
    may stand first; emptied rows are passed over.

    Args:
        path: the file.
        required: columns that must be there.
        known: all columns that are read.

    Returns:
        The rows, and remarks for a reader.

    Raises:
        DataError: no UTF-8, no CSV, a column missing or there twice, or a row with fewer or more values; names the line.
    """
    expected = ",".join([*required, *(f"[,{name}]" for name in known if name not in required)]).replace(",[", "[")
    records = [(line, values) for line, values in read_records(path, _delimiter(path, required)) if any(map(str.strip, values))]
    if records and records[0][1][0].lower().startswith("sep="):
        records = records[1:]
    if not records:
        raise DataError(f"{path}, line 1: expected the columns {expected}, found nothing")
    header, values = records[0]
    columns = [value.strip().lower() for value in values]
    if set(required) - set(columns):
        found = ",".join(values)[:SHOWN]
        raise DataError(f"{path}, line {header}: expected the columns {expected}, found {found!r}; rename them in that line")
    twice = sorted(name for name in known if columns.count(name) > 1)
    if twice:
        raise DataError(f"{path}, line {header}: the column {twice[0]!r} stands there twice")
    rows = []
    for line, values in records[1:]:
        if len(values) < len(columns) or any(map(str.strip, values[len(columns) :])):
            raise DataError(
                f"{path}, line {line}: expected {len(columns)} values, as line {header} has columns, found {len(values)} in "
                f"{','.join(values)[:SHOWN]!r}; quote a value that holds the separator"
            )
        rows.append(Row(line, {name: value for name, value in zip(columns, values, strict=False) if name in known}))
    others = [name for name in columns if name and name not in known]
    return rows, [f"columns of {path.name} passed over: {', '.join(others)}"] if others else []


def _delimiter(path: Path, required: Sequence[str]) -> str:
    """What separates the columns of the first line that names them."""
    lines = [line for line in read_text(path).split("\n") if line.strip()][:2]
    if lines and lines[0].lower().startswith("sep=") and lines[0][4:5] in DELIMITERS:
        return lines[0][4]
    for delimiter in DELIMITERS if lines else "":
        if set(required) <= {name.strip().strip('"').lower() for name in lines[0].split(delimiter)}:
            return delimiter
    return DELIMITERS[0]


def listed_name(path: str, root: Path) -> str:
    r"""Make a listed path a name below ``root``: an absolute one that leads there, and one with ``\`` for ``/``.

    A path is changed only where that leads to a file, since a name may hold a backslash itself.
    """
    for candidate in (path, path.replace("\\", "/")):
        for folder in (root.absolute(), root.resolve()):
            if candidate.startswith(f"{folder.as_posix()}/") and ".." not in candidate.split("/"):
                return PurePosixPath(candidate).relative_to(folder.as_posix()).as_posix()
    changed = path.replace("\\", "/")
    try:
        understood = changed != path and not (root / path).exists() and (root / changed).is_file()
    except (OSError, ValueError):  # a name that no file can have
        understood = False
    return str(PurePosixPath(changed if understood else path))
