"""A data set comes from its archives: found or downloaded, verified, extracted, put in place. Free of torch.

Every step is found done when it is done: an archive that is there is not fetched, an extracted one not extracted, and
what a killed process has left behind is completed or begun again. One process works on a data set at a time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from datamodules.distribution import Archive
from datamodules.videos import DataError
from reproduce.acquisition.archives import Extracted, extract, inspect, kind_of
from reproduce.acquisition.download import DownloadError, Patience, download
from reproduce.acquisition.ledger import Ledger
from reproduce.common.files import Need, check_space, size_of, sync_folder
from reproduce.common.processes import one_at_a_time
from reproduce.common.settings import SettingsError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".rar")
"""Of archives that somebody packed again; their kind is told by their bytes."""
GROWTH = 1.1  # extracted to archived bytes: videos hardly compress
DEPTH = 3  # folders within an archive in which the data set may lie


@dataclass(frozen=True)
class Sources:
    """Says where a data set's archives may come from.

    Args:
        archives: files that the user named.
        mirrors: addresses that the user named, tried before the official ones; one that ends in a slash is a folder.
        online: whether to download what is not on disk.
        patience: with servers.
    """

    archives: Sequence[str] = ()
    mirrors: Sequence[str] = ()
    online: bool = True
    patience: Patience | None = None


def acquire(data: str, root: Path, archives: Sequence[Archive], sources: Sources, features: Need | None = None) -> list[Path]:
    """Bring a data set into its folder.

    Args:
        data: the data set's name, for messages.
        root: its folder.
        archives: that it is distributed as.
        sources: where they may come from.
        features: what the features will take, so that a small disk is found out now.

    Returns:
        The archives that were used.

    Raises:
        SettingsError: a file or an address that the user named belongs to none of the archives.
        DataError: an archive cannot be had, is not what it should be, or the disk is too small.
    """
    named = {archive.name: _named(archive, archives, sources.archives) for archive in archives}
    mirrors = {archive.name: _mirrors(archive, archives, sources.mirrors) for archive in archives}
    if all(archive.place(root) for archive in archives):  # perhaps on a disk that nobody may write to
        print(f"{data}: its files are in {root.resolve()} already", flush=True)
        return []
    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(root.parent / f".{root.name}.lock", f"gets {data}"):
            wanted = [archive for archive in archives if archive.place(root) is None]
            here = {archive.name: named[archive.name] or next(iter(_placed(archive, root)), None) for archive in wanted}
            check_space([*_needs(root, wanted, here), *([features] if features else [])])
            ledger = Ledger(root)
            used = []
            for archive in wanted:
                path = here[archive.name]
                if path is None and not _spread_out(archive, root):
                    if not sources.online:
                        raise DataError(f"{data}: {archive.name} is not in {root.resolve()}; add download=true to get it")
                    path = _download(archive, root, ledger, [*mirrors[archive.name], *archive.addresses], sources.patience)
                elif path is not None:
                    print(f"{data}: taking {path}", flush=True)
                    if not ledger.knows(path):
                        found = ledger.verify(path, archive.md5 if path.name == archive.name else None, path.name)
                        ledger.enter(path, "placed by hand", found)
                _install(archive, path, root, ledger)
                used += [path] if path else []
            return used
    except OSError as error:
        raise DataError(f"{data}: cannot write to {root.resolve()} ({error}); set paths.data") from error


def _belongs(name: str, archive: Archive, archives: Sequence[Archive]) -> bool:
    """Tell whether a file of some name is meant to be an archive: it has its stem, or there is only this one."""
    return len(archives) == 1 or _stem(name) == _stem(archive.name)


def _stem(name: str) -> str:
    suffix = next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _named(archive: Archive, archives: Sequence[Archive], files: Sequence[str]) -> Path | None:
    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if not path.is_file():
            raise SettingsError(f"archive={path}: there is no such file")
        if not any(_belongs(path.name, other, archives) for other in archives):
            raise SettingsError(f"archive={path}: expected {' and '.join(other.name for other in archives)}, by name")
    return next((path for path in paths if _belongs(path.name, archive, archives)), None)


def _mirrors(archive: Archive, archives: Sequence[Archive], mirrors: Sequence[str]) -> list[str]:
    found = []
    for mirror in mirrors:
        name = unquote(urlsplit(mirror).path).rpartition("/")[2]
        if name and not any(_belongs(name, other, archives) for other in archives):
            raise SettingsError(
                f"mirrors={mirror}: expected the address of {' or '.join(other.name for other in archives)}, or of a folder, "
                "with a slash at its end"
            )
        if not name:
            found.append(mirror + archive.name)
        elif _belongs(name, archive, archives):
            found.append(mirror)
    return found


def _placed(archive: Archive, root: Path) -> list[Path]:
    """Find an archive where a user may put it: in the data set's folder or the one above, packed as it was or otherwise."""
    stems = (_stem(archive.name), *archive.stems)
    names = dict.fromkeys([archive.name, *(stem + suffix for stem in stems for suffix in SUFFIXES)])
    return [folder / name for name in names for folder in (root, root.parent) if (folder / name).is_file()]


def archives_on_disk(archives: Sequence[Archive], root: Path) -> list[Path]:
    """Find all files of a data set's archives in its folder or the one above."""
    return [path for archive in archives for path in _placed(archive, root)]


def _spread_out(archive: Archive, root: Path) -> Path | None:
    """Find the inner archives of a nested one, of which a user has extracted only the outer one; their folder."""
    if archive.nested:
        for folder in (root / _stem(archive.name), root):
            if all((folder / f"{part}.rar").is_file() for part in archive.parts):
                return folder
    return None


def _needs(root: Path, wanted: Sequence[Archive], here: dict[str, Path | None]) -> list[Need]:
    """Estimate disk space by what is published or on disk; exact figures follow when a server or an archive says them."""
    needs = []
    for archive in wanted:
        path = here[archive.name]
        packed = path.stat().st_size if path else archive.about_bytes
        if path is None and not _spread_out(archive, root):
            part = root / f"{archive.name}.part"
            there = part.stat().st_size if part.is_file() else 0
            needs.append(Need(root, max(0, packed - there), archive.name))
        there = size_of(_stage(archive, root))
        needs.append(Need(root, max(0, _unpacked(archive, path, packed) - there), f"the files of {archive.name}"))
    return needs


def _unpacked(archive: Archive, path: Path | None, packed: int) -> int:
    """Count the bytes on disk while an archive is extracted: exactly where it declares them."""
    entries = inspect(path) if path else None
    total = sum(entry.bytes for entry in entries) if entries is not None else int(packed * GROWTH)
    return total + (int(total * GROWTH) if archive.nested else 0)


def _download(archive: Archive, root: Path, ledger: Ledger, addresses: Sequence[str], patience: Patience | None) -> Path:
    target = root / archive.name

    found: dict[str, str] = {}

    def check(part: Path) -> None:
        inspect(part)  # cut short?
        found.update(ledger.verify(part, archive.md5, archive.name))

    def room(to_come: int, total: int) -> None:
        extracted = Need(root, _unpacked(archive, None, total), f"the files of {archive.name}")
        check_space([Need(root, to_come, archive.name), extracted])

    try:
        address = download(
            addresses=addresses,
            target=target,
            check_head=kind_of,
            check=check,
            room=room,
            patience=patience,
            has_hash=archive.md5 is not None,
        )
    except DownloadError as error:
        raise DataError(
            f"{error}\nRun the same command again to go on, give another address as mirrors=[…], or put the file at\n"
            f"    {target.resolve()}\nyourself and run the same command"
        ) from error
    ledger.enter(target, address, found)
    return target


def _stage(archive: Archive, root: Path) -> Path:
    """Name the folder where an archive is extracted, on the disk where its files will be."""
    return root / f".{archive.name}.part"


def _install(archive: Archive, path: Path | None, root: Path, ledger: Ledger) -> None:
    """Extract an archive and move its parts to their place; ``path`` None where its inner archives lie about already."""
    stage, place = _stage(archive, root), root / archive.places[0]
    stage.mkdir(exist_ok=True)
    extracted: list[Extracted] = []
    tree = stage / "tree"
    if path is not None and not tree.exists():
        extracted.append(extract(path, tree))
    if archive.nested:
        tree, inner = _extract_inner(archive, tree if path is not None else root, stage)
        extracted += inner
    found = _find(archive, tree, place)
    if found is None:
        shutil.rmtree(stage, ignore_errors=True)
        raise DataError(
            f"{path or root}: holds no folder with all of {', '.join(archive.parts[:3])}"
            f"{f' … ({len(archive.parts)} in all)' if len(archive.parts) > 3 else ''}; not {archive.name}"
        )
    if place.exists():  # begun by hand, its inner archives lie there, or an earlier call was ended here
        for part in sorted(found.iterdir()):
            if not (place / part.name).exists():
                part.replace(place / part.name)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        found.replace(place)
    sync_folder(place)
    sync_folder(place.parent)
    files, size = sum(path.is_file() for path in place.rglob("*")), size_of(place)
    tools = sorted({each.tool for each in extracted})
    ledger.enter_extracted(name=archive.name, place=place, files=files, size=size, tools=tools)
    shutil.rmtree(stage, ignore_errors=True)
    print(f"extracted {files} files, {size / 1e9:.2f} GB, to {place.resolve()}", flush=True)


def _extract_inner(archive: Archive, outer: Path, stage: Path) -> tuple[Path, list[Extracted]]:
    """Extract the archive of each part; those that an interrupted call has finished stay."""
    parts, extracted = stage / "parts", []
    holder = next(
        (folder for folder in _folders(outer) if any((folder / f"{part}.rar").is_file() for part in archive.parts)), None
    )
    if holder is None:
        return (parts if parts.is_dir() else outer), []  # all are done; or packed again by somebody, without them
    parts.mkdir(exist_ok=True)
    ours = stage in holder.parents
    for part in archive.parts:
        inner, target = holder / f"{part}.rar", stage / f"inner-{part}"
        if (parts / part).is_dir() or not inner.is_file():
            continue
        if not target.exists():
            extracted.append(extract(inner, target))
        found = target / part if (target / part).is_dir() else target  # with or without a folder of its name
        found.replace(parts / part)
        sync_folder(parts)
        shutil.rmtree(target, ignore_errors=True)
        if ours:
            inner.unlink()
    return parts, extracted


def _find(archive: Archive, tree: Path, place: Path) -> Path | None:
    """Find the folder in an extracted tree that holds the parts, save those that are in their place already."""
    wanted = [part for part in archive.parts if not (place / part).exists()]
    return next((folder for folder in _folders(tree) if all((folder / part).exists() for part in wanted)), None)


def _folders(tree: Path) -> Iterator[Path]:
    """List a folder and those below it, level by level."""
    level = [tree]
    for _ in range(DEPTH):
        yield from level
        level = [Path(entry.path) for folder in level for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        level.sort()
