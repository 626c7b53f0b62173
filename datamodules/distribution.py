"""How a data set is distributed: its official archives, where they are, and what they must hold. Facts only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """One official archive.

    Args:
        name: official file name.
        addresses: where it is published, tried in this order.
        about_bytes: its size as published, rounded; an estimate for the disk space until a server says it exactly.
        places: folders below the data set's root in which its contents are looked for; the first is where they are put.
        parts: what must lie in such a folder for it to be whole.
        md5: published hash; None where nobody publishes one.
        nested: whether it holds an archive ``<part>.rar`` of each part instead of the part itself.
        stems: other names, without suffix, under which its contents are handed on, such as of another edition.
    """

    name: str
    addresses: tuple[str, ...]
    about_bytes: int
    places: tuple[str, ...]
    parts: tuple[str, ...]
    md5: str | None = None
    nested: bool = False
    stems: tuple[str, ...] = ()

    def place(self, root: Path) -> Path | None:
        """The folder below ``root`` in which all its parts lie; None where there is none."""
        for place in self.places:
            if self.is_whole(root / place):
                return root / place
        return None

    def is_whole(self, folder: Path) -> bool:
        """Whether a folder holds all the parts."""
        return all((folder / part).exists() for part in self.parts)
