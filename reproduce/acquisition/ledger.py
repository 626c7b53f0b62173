"""A ledger says what a data set was made from, so that what is no longer needed can be deleted.

The hashes of its archives are recorded at first use and compared at every later one; those of its videos are recorded
before these are deleted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from datamodules.files import file_hashes, file_sha256, write_atomically
from datamodules.reading import read_json
from datamodules.removed import REMOVED, removed_videos
from datamodules.stores import Store
from datamodules.videos import Annotation, DataError
from reproduce.common.progress import Progress

CHOICES = ("none", "archives", "videos")
"""Of what to delete."""
NAME = "archives.json"
LONG = 1 << 28  # bytes from which on hashing is worth a progress line


class Ledger:
    """Reads and writes ``archives.json`` in a data set's folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / NAME
        advice = "remove it, and hashes are recorded anew"
        self.content: dict[str, Any] = read_json(self.path, advice) if self.path.is_file() else {}
        for part in ("archives", "extracted"):
            entries = self.content.setdefault(part, {})
            if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
                raise DataError(f"{self.path}: {part!r} is no list of archives; {advice}")

    def knows(self, path: Path) -> bool:
        """Tell by size and time whether a file is as it was when its hashes were recorded."""
        status, known = path.stat(), self.content["archives"].get(path.name, {})
        return (known.get("bytes"), known.get("modified")) == (status.st_size, status.st_mtime_ns)

    def verify(self, path: Path, md5: str | None, name: str) -> dict[str, str]:
        """Compare a file with its published hash, and with what was recorded of it.

        Args:
            path: the file.
            md5: published; None where nobody publishes one.
            name: that it is recorded under.

        Returns:
            Its hashes.

        Raises:
            DataError: it is another file; says which was expected, and what to do.
        """
        found, known = hashes(path), self.content["archives"].get(name, {})
        if md5 is not None and found["md5"] != md5:
            raise DataError(
                f"{path}: is not the published archive: its MD5 is {found['md5']}, {md5} is published. Remove the file and get "
                "it again; an archive that you have packed yourself goes by another name, as archive=<file>"
            )
        if known.get("sha256", found["sha256"]) != found["sha256"]:
            raise DataError(
                f"{path}: is not the file that was used before: its SHA-256 is {found['sha256']}, {self.path} recorded "
                f"{known['sha256']} on {known.get('first_used')}. One of the two is damaged, or its publisher has replaced it. "
                f"Get the file again; if the new one is right, remove {self.path}"
            )
        return found

    def enter(self, path: Path, origin: str, found: dict[str, str]) -> None:
        """Record an archive: its hashes and where it is from; the first use stays the first."""
        status, archives = path.stat(), self.content["archives"]
        first = archives.get(path.name, {}).get("first_used", datetime.now(timezone.utc).isoformat(timespec="seconds"))
        facts = {"bytes": status.st_size, "modified": status.st_mtime_ns, "from": origin, "first_used": first}
        archives[path.name] = {**found, **facts}
        self._write()

    def enter_extracted(self, name: str, place: Path, files: int, size: int, tools: list[str]) -> None:
        """Record what came out of an archive, and the tools of the call that completed it."""
        self.content["extracted"][name] = {"to": str(place.resolve()), "files": files, "bytes": size, "by": tools}
        self._write()

    def _write(self) -> None:
        text = json.dumps(self.content, indent=1, ensure_ascii=False) + "\n"
        try:
            content = text.encode()
        except UnicodeEncodeError:
            raise DataError(f"{self.path}: cannot record a path that is not UTF-8; rename the archive or its folder") from None
        write_atomically(self.path, content)


def hashes(path: Path) -> dict[str, str]:
    """Compute ``md5`` and ``sha256`` of an archive; a long one shows progress."""
    total = path.stat().st_size
    progress = Progress(f"hashing {path.name}", "MB", enabled=total >= LONG)
    found = file_hashes(path, ["md5", "sha256"], lambda done: progress.update(done / 1e6, total / 1e6))
    progress.close()
    return found


def delete(what: str, annotation: Annotation, stores: Sequence[Store], archives: Sequence[Path]) -> int:
    """Delete a data set's archives, or these and its videos, after all that was made of them was read once more.

    Bad videos stay. The names, sizes and hashes of deleted ones are on disk before the first is deleted, so that the data
    set still counts as whole.

    Args:
        what: ``none``, ``archives`` or ``videos``.
        annotation: the data set; all its videos count, those that the split has on neither side too.
        stores: of its features, one at least.
        archives: its archives.

    Returns:
        Bytes freed.

    Raises:
        DataError: features are missing or damaged; nothing was deleted.
    """
    if what == "none":
        return 0
    good = set.intersection(*(_whole(what, annotation, store) for store in stores))
    freed = sum(map(_remove, archives))
    if what == "videos":
        freed += _delete_videos(annotation, sorted(good))
    print(f"deleted {what if what == 'archives' else 'archives and videos'}: {freed / 1e9:.2f} GB are free again", flush=True)
    return freed


def _whole(what: str, annotation: Annotation, store: Store) -> set[str]:
    """The videos that a store has, of which none is missing or damaged."""
    names = [video.name for video in annotation.listed]
    missing = store.missing(names)
    if missing:
        refusal = f"delete={what}: {len(missing)} videos have no features yet, {missing[0]!r} for one; nothing was deleted"
        spare = len(set(missing) & {video.name for video in annotation.spare})
        if spare:
            refusal += (
                f". {spare} of them have no side in split {annotation.split} but may have one in another: prepare.py without "
                "data.split extracts their features too"
            )
        raise DataError(refusal)
    good = [name for name in names if name in store.videos]
    progress = Progress("reading the features once more", "videos")
    for done, name in enumerate(good, start=1):
        damaged = store.damaged([name])
        if damaged:
            raise DataError(f"delete={what}: {damaged[name]}; nothing was deleted")
        progress.update(done, len(good))
    progress.close()
    return set(good)


def _delete_videos(annotation: Annotation, names: Sequence[str]) -> int:
    paths = {name: annotation.folder / name for name in names if (annotation.folder / name).is_file()}
    progress = Progress("hashing the videos", "videos")
    entries = {}
    for done, (name, path) in enumerate(paths.items(), start=1):
        entries[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        progress.update(done, len(paths))
    progress.close()
    content = {"videos": dict(sorted({**removed_videos(annotation.root), **entries}.items()))}
    write_atomically(annotation.root / REMOVED, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return sum(map(_remove, paths.values()))


def _remove(path: Path) -> int:
    size = path.stat().st_size
    path.unlink()
    return size
