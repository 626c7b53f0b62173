"""A guard admits an archive's entries: plain files and folders, below one folder, of names and sizes that a disk holds.

Everything is refused before it is written; a refusal names the archive and the entry.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.videos import DataError

MOST_ENTRIES = 200_000  # the largest data set has 7000 files; a million of them exhaust a disk's inodes
MOST_RATIO = 50  # extracted to archived bytes; videos have 1, their annotations in XML 20
SMALL = 16 << 20  # bytes that are no bomb, however well they are packed
LONGEST_NAME, LONGEST_PATH = 255, 1024  # bytes of UTF-8: most file systems' limit, and far beyond any data set's
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ArchiveError(DataError):
    """An archive is none, is damaged or hostile, or cannot be extracted; its message says what to do."""


@dataclass(frozen=True)
class Entry:
    """Describes one entry of an archive.

    Args:
        name: with forward slashes.
        bytes: its size when extracted.
        kind: ``file``, ``folder``, ``link`` or ``special file``.
        crc32: of its contents; None where the archive does not say, or its reader compares it already.
    """

    name: str
    bytes: int
    kind: str
    crc32: int | None = None


@dataclass
class Guard:
    """Admits the entries of one archive.

    Args:
        archive: its file.
        folder: where it is extracted to; decides which names are the same, and how much fits.
    """

    archive: Path
    folder: Path
    files: dict[str, Entry] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    declared: int = 0
    written: int = 0

    def __post_init__(self) -> None:
        packed = self.archive.stat().st_size
        self.most = max(SMALL, MOST_RATIO * packed)
        self.free = shutil.disk_usage(self.folder).free
        self.same_names = not tells_case(self.folder)
        self.seen = 0

    def admit(self, entry: Entry) -> None:
        """Take an entry in.

        Raises:
            ArchiveError: it may not be written; nothing of it has been.
        """
        self.seen += 1
        if self.seen > MOST_ENTRIES:
            raise ArchiveError(f"{self.archive}: more than {MOST_ENTRIES:,} entries; not one of the official archives")
        wrong = wrong_name(entry.name)
        if wrong:
            raise self._refusal(entry, wrong)
        if entry.kind not in ("file", "folder"):
            raise self._refusal(entry, f"is a {entry.kind}; only plain files and folders are extracted")
        if entry.bytes < 0:
            raise self._refusal(entry, f"has {entry.bytes} bytes")
        parts = [part for part in entry.name.split("/") if part not in ("", ".")]
        key = self._key("/".join(parts))
        parents = {self._key("/".join(parts[:n])) for n in range(1, len(parts))}
        if entry.kind == "folder":
            parents.add(key)  # of "./" the empty key, which is no file's
        elif key in self.files:
            other = self.files[key].name
            how = "stands twice" if other == entry.name else f"is {other!r} on this disk, which does not tell case"
            raise self._refusal(entry, how)
        elif key in self.folders:
            raise self._refusal(entry, "is a file and a folder")
        if not parents.isdisjoint(self.files):
            raise self._refusal(entry, "lies in a file")
        self.folders |= parents
        if entry.kind == "file":
            self.files[key] = entry
            self.declared += entry.bytes
        if self.declared > self.most:
            raise self._bomb(self.declared)
        if self.declared > self.free:
            raise ArchiveError(
                f"{self.archive}: {self.declared / 2**30:.1f} GiB or more when extracted, {self.free / 2**30:.1f} GiB are free "
                f"in {self.folder.parent}; set paths.data to a larger disk"
            )

    def wrote(self, count: int) -> None:
        """Count bytes that were really written.

        Raises:
            ArchiveError: more than the archive declared.
        """
        self.written += count
        if self.written > self.declared:
            raise self._bomb(self.written)

    def _key(self, name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold() if self.same_names else name

    def _refusal(self, entry: Entry, why: str) -> ArchiveError:
        name = entry.name if len(entry.name) <= 100 else f"{entry.name[:60]} … {entry.name[-30:]}"
        return ArchiveError(f"{self.archive}: refused: the entry {name!r} {why}. Nothing was kept of it")

    def _bomb(self, count: int) -> ArchiveError:
        packed = self.archive.stat().st_size
        return ArchiveError(
            f"{self.archive}: refused: {packed:,} bytes that become {count:,} or more, which no archive of videos does. "
            "Nothing was kept of it"
        )


def wrong_name(name: str) -> str | None:
    """Say what is wrong with an entry's name; None if nothing is."""
    pieces = re.split(r"[/\\]", name[:-1] if name.endswith("/") else name)
    if not name.strip("/") or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "has an absolute or empty name"
    if ".." in pieces:
        return "leads out of its folder (..)"
    if "" in pieces[:-1] or "." in pieces[1:] or not pieces[-1]:
        return "has an empty part in its name"
    if "\\" in name or CONTROL.search(name):
        return "has a backslash or a control character in its name"
    try:
        lengths = [len(os.fsencode(piece)) for piece in pieces]
    except UnicodeEncodeError:
        return "has a name that is no text"
    if max(lengths) > LONGEST_NAME or sum(lengths) + len(lengths) > LONGEST_PATH:
        return f"has a name of more than {LONGEST_NAME} bytes, or a path of more than {LONGEST_PATH}"
    return None


def tells_case(folder: Path) -> bool:
    """Tell whether ``a`` and ``A`` are two files on a folder's disk."""
    with tempfile.NamedTemporaryFile(prefix="case-", dir=folder) as file:
        return not Path(file.name).with_name(Path(file.name).name.upper()).exists()
