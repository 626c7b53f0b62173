"""What a data set was made from: hashes of its archives, recorded at first use, compared at every later one."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from datamodules.features import write_atomically
from datamodules.reading import read_json
from datamodules.videos import DataError
from reproduce.common.progress import Progress

NAME = "archives.json"
CHUNK = 1 << 22
LONG = 1 << 28  # bytes from which on hashing is worth a progress line


class Ledger:
    """``archives.json`` in a data set's folder.

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
        """Whether a file is as it was when its hashes were recorded, by size and time."""
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
    """``md5`` and ``sha256`` of a file."""
    total, done = path.stat().st_size, 0
    progress = Progress(f"hashing {path.name}", "MB", enabled=total >= LONG)
    digests = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            for digest in digests.values():
                digest.update(data)
            done += len(data)
            progress.update(done / 1e6, total / 1e6)
    progress.close()
    return {name: digest.hexdigest() for name, digest in digests.items()}
