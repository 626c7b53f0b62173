"""These functions extract archives to folders, checked and whole or not at all: zip and tar by themselves, RAR by a tool.

An archive is a stranger's file. Its entries pass a ``Guard`` before they are written; everything goes to a folder of its
own that nobody reads; what lies there at the end, whoever wrote it, is looked at file by file, and only then moved.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from datamodules.videos import DataError
from reproduce.acquisition.entries import ArchiveError, Entry, Guard
from reproduce.acquisition.rar import list_rar, unpack_rar
from reproduce.common.files import sync_folder
from reproduce.common.progress import Progress

KINDS = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"Rar!\x1a\x07": "rar"}
DECOMPRESSORS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
TAR_MAGIC = slice(257, 262), b"ustar"
CHUNK = 1 << 20
AT_ONCE = 8  # files that are flushed together, which disks do in the time of one
LARGEST_READ = 1 << 24  # at once, from within a tar: headers have no business being larger
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, RuntimeError)  # the last: zipfile
FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # 3.10.12, 3.11.4


@dataclass(frozen=True)
class Extracted:
    """Says what came out of an archive: number of files, their bytes, and what extracted it."""

    files: int
    bytes: int
    tool: str


def kind_of(head: bytes) -> str:
    """Tell ``zip``, ``tar`` (plain, or in gzip, bzip2 or xz) or ``rar`` by a file's first 512 bytes.

    Raises:
        ArchiveError: something else, such as a web page.
    """
    for magic, kind in KINDS.items():
        if head.startswith(magic):
            return kind
    if head.startswith(tuple(DECOMPRESSORS)) or head[TAR_MAGIC[0]] == TAR_MAGIC[1]:
        return "tar"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--", b"<script")):
        raise ArchiveError("a web page instead of an archive")
    raise ArchiveError(f"no zip, tar or RAR archive: it begins with {head[:24]!r}" if head else "an empty file, no archive")


def inspect(path: Path) -> list[Entry] | None:
    """List the entries that an archive declares; None for a tar, which does not before it is read to its end.

    Raises:
        ArchiveError: it is no archive, or cut short.
    """
    try:
        kind = _kind(path)
        if kind == "rar":
            return list_rar(path)
        if kind == "zip":
            with zipfile.ZipFile(path) as archive:
                return [_of_zip(info) for info in archive.infolist()]
    except ArchiveError as error:
        raise ArchiveError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except (*DAMAGE, ValueError) as error:
        raise ArchiveError(f"{path}: damaged or cut short ({error}). Remove the file and get it again") from error
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read ({error})") from error
    return None


def extract(path: Path, target: Path) -> Extracted:
    """Extract an archive to a folder, which appears when everything in it is checked and on disk.

    Args:
        path: the archive.
        target: must not exist; its parent must, and is on the same disk. What a killed process has left of an
            earlier call is removed.

    Raises:
        ArchiveError: the archive is damaged or hostile, no tool reads it, or it does not fit. ``target`` does not exist.
    """
    for stale in target.parent.glob(f"{target.name}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)  # a tool that outlived its process may still write there
    try:
        stage = Path(tempfile.mkdtemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent))
        try:
            folder = stage / "in"
            folder.mkdir()
            entries = inspect(path)
            guard = Guard(path, folder)
            for entry in entries or ():
                guard.admit(entry)
            kind = _kind(path)
            if kind == "tar":
                tool = "tarfile"
                _extract_tar(path, folder, guard)
            elif kind == "zip":
                tool = "zipfile"
                _extract_zip(path, folder, guard)
            else:
                tool = unpack_rar(path, folder, guard, lambda: audit(stage, guard))
            total = audit(stage, guard)
            folder.replace(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except DAMAGE as error:
        if isinstance(error, DataError):
            raise
        raise ArchiveError(f"{path}: damaged or cut short ({error}). Remove the file and get it again") from error
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be extracted to {target.parent} ({error})") from error
    return Extracted(len(guard.files), total, tool)


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        return kind_of(file.read(512))


def _of_zip(info: zipfile.ZipInfo) -> Entry:
    mode = info.external_attr >> 16
    kind = "folder" if _is_folder(info) else "file"
    if stat.S_ISLNK(mode):
        kind = "link"
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        kind = "special file"
    return Entry(info.orig_filename, info.file_size, kind)  # filename ends at a NUL, which hides the rest


def _is_folder(info: zipfile.ZipInfo) -> bool:
    """Do as ``is_dir``, which fails on an empty name before Python 3.12."""
    return info.orig_filename.endswith("/")


def _extract_zip(path: Path, folder: Path, guard: Guard) -> None:
    progress = Progress(f"extracting {path.name}", "MB")
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise ArchiveError(f"{path}: encrypted; the official archive is not")
            place = folder / info.orig_filename
            if _is_folder(info):
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, place.open("xb") as file:
                while data := source.read(CHUNK):  # its CRC is compared at its end
                    guard.wrote(len(data))
                    file.write(data)
                    progress.update(guard.written / 1e6, guard.declared / 1e6)
    progress.close()


class _Forward:
    """Gives ``tarfile`` decompressed bytes: forward only, in reads of a bounded size.

    Args:
        file: decompressed.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.at, self.last = file, 0, b""

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_READ:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.last = self.file.read(size)
        self.at += len(self.last)
        return self.last

    def seek(self, to: int) -> int:
        while self.at < to and self.read(min(CHUNK, to - self.at)):
            pass
        if self.at != to:
            raise tarfile.ReadError("unexpected end of data")
        return self.at


def _extract_tar(path: Path, folder: Path, guard: Guard) -> None:
    progress = Progress(f"extracting {path.name}", "MB")
    packed = path.stat().st_size
    with path.open("rb") as raw:
        head = raw.read(8)
        raw.seek(0)
        opened = next((opener(raw) for magic, opener in DECOMPRESSORS.items() if head.startswith(magic)), raw)
        stream: Any = _Forward(opened)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                kind = "file" if member.isfile() else "folder" if member.isdir() else "special file"
                if member.issym() or member.islnk():
                    kind = "link"
                guard.admit(Entry(member.name, member.size, kind))
                if member.issparse():
                    raise ArchiveError(f"{path}: refused: the entry {member.name!r} is sparse. Nothing was kept of it")
                archive.extract(member, folder, **FILTER)
                guard.wrote(member.size if member.isfile() else 0)
                progress.update(raw.tell() / 1e6, packed / 1e6)
            if stream.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"no header and no end at byte {stream.at:,}")
        while stream.at < guard.most + LARGEST_READ and stream.read(CHUNK):  # to the compressor's sum at the end
            pass
    progress.close()


def audit(stage: Path, guard: Guard) -> int:
    """Look at everything that was extracted to ``stage/in``, and wait until it is on disk.

    Returns:
        Bytes of all files.

    Raises:
        ArchiveError: there is a link, a special file, something beside ``in``, a file that the archive did not declare
            or that has another size, or a declared one is missing.
    """
    beside = sorted(entry.name for entry in os.scandir(stage) if entry.name != "in")
    if beside:
        for name in beside:
            place = stage / name
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        raise ArchiveError(f"{guard.archive}: refused: an entry escaped from its folder, {beside[0]!r}. Nothing was kept of it")
    files: list[Path] = []
    folders = [stage / "in"]
    for folder in folders:
        folder.chmod((folder.stat().st_mode | 0o700) & 0o777)  # archives may hold folders that nobody can enter
        for entry in sorted(folder.iterdir()):
            status = entry.lstat()
            if stat.S_ISDIR(status.st_mode):
                folders.append(entry)
                continue
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                name = entry.relative_to(stage / "in").as_posix()
                raise ArchiveError(
                    f"{guard.archive}: refused: {name!r} became a link or a special file. Nothing was kept of it"
                )
            entry.chmod((status.st_mode | 0o600) & 0o666)
            files.append(entry)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(files, pool.map(_settle, files), strict=True))
    for folder in folders:
        sync_folder(folder)
    _compare(guard, {path.relative_to(stage / "in").as_posix(): facts for path, facts in found.items()})
    return sum(size for size, _ in found.values())


def _settle(path: Path) -> tuple[int, int]:
    """Wait until a file is on disk; return its size and CRC-32."""
    size = crc32 = 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            size, crc32 = size + len(data), zlib.crc32(data, crc32)
        os.fsync(file.fileno())
    return size, crc32


def _compare(guard: Guard, found: dict[str, tuple[int, int]]) -> None:
    """Compare sizes and CRC-32s with what was declared; not every tool compares the latter."""
    declared = {entry.name.removeprefix("./"): entry for entry in guard.files.values()}
    if not all(name.isascii() for name in declared):  # tools spell other letters in more than one way
        by_content = {facts: name for name, facts in found.items()}
        declared = {by_content.get((each.bytes, each.crc32 or 0), name): each for name, each in declared.items()}
    for name in sorted(declared.keys() | found.keys()):
        if name not in declared:
            raise ArchiveError(f"{guard.archive}: {name!r} was extracted, and the archive declares no such file")
        entry, (size, crc32) = declared[name], found.get(name, (None, None))
        if size != entry.bytes:
            how = "is missing" if size is None else f"has {size:,} bytes"
            raise ArchiveError(
                f"{guard.archive}: {name!r} {how} where the archive declares {entry.bytes:,}; damaged or cut short"
            )
        if entry.crc32 not in (None, crc32):
            raise ArchiveError(f"{guard.archive}: {name!r} is damaged (CRC-32). Remove the file and get it again")
