"""What a RAR archive declares: the name, size and kind of every entry, read from its headers.

No tool is needed for that, so an archive is judged before a tool is let loose on it, and its result afterwards.
Both formats: RAR 1.5 to 4 and RAR 5. Source: the format's technical notes (technote.txt of RAR 3.93 and 5.0).
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from reproduce.acquisition.entries import ArchiveError, Entry

MAGIC4, MAGIC5 = b"Rar!\x1a\x07\x00", b"Rar!\x1a\x07\x01\x00"
LARGEST_HEADER = 1 << 21  # of RAR 5 by its specification
UNIX4, UNIX5 = 3, 1  # "host" of an entry whose attributes are a Unix mode
REPARSE_POINT = 0x400  # Windows' attribute of links and junctions


def read_entries(path: Path) -> list[Entry]:
    """Every entry of an archive, in its order.

    Raises:
        ArchiveError: it is encrypted, one of several volumes, damaged, or cut short.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(0)
        magic = file.read(len(MAGIC5))
        try:
            if magic == MAGIC5:
                return list(_entries5(path, file, end))
            file.seek(len(MAGIC4))
            return list(_entries4(path, file, end))
        except (struct.error, IndexError) as error:
            raise ArchiveError(f"{path}: a damaged header before byte {file.tell():,}") from error


def _skip(path: Path, file: BinaryIO, size: int, end: int) -> None:
    if file.tell() + size > end:
        raise ArchiveError(
            f"{path}: cut short: it has {end:,} bytes, and an entry that ends at byte {file.tell() + size:,}. "
            "Remove the file and get it again"
        )
    file.seek(size, 1)


def _kind(is_folder: bool, is_link: bool, mode: int | None) -> str:
    if is_link or (mode is not None and stat.S_ISLNK(mode)):
        return "link"
    if is_folder:
        return "folder"
    return "file" if mode is None or stat.S_IFMT(mode) in (0, stat.S_IFREG) else "special file"


def _entries4(path: Path, file: BinaryIO, end: int) -> Iterator[Entry]:
    while file.tell() < end:
        begin = file.tell()
        head = file.read(7)
        if len(head) < 7:
            raise ArchiveError(f"{path}: cut short within a header at byte {begin:,}. Remove the file and get it again")
        crc, kind, flags, size = struct.unpack("<HBHH", head)
        head += file.read(max(0, size - 7))
        if size < 7 or len(head) < size or not 0x72 <= kind <= 0x7B:
            raise ArchiveError(f"{path}: a damaged header at byte {begin:,}")
        if kind == 0x73 and flags & 0x0081:
            _refuse(path, encrypted=bool(flags & 0x80))
        if kind == 0x7B:
            return
        data = struct.unpack_from("<I", head, 7)[0] if flags & 0x8000 else 0
        if kind == 0x74:
            if not flags & 0x08 and zlib.crc32(head[2:]) & 0xFFFF != crc:  # 0x08: a comment that the sum leaves out
                raise ArchiveError(f"{path}: a damaged header at byte {begin:,}")
            if flags & 0x07:
                _refuse(path, encrypted=bool(flags & 0x04))
            size, host, total = struct.unpack_from("<IBI", head, 11)
            length, attributes = struct.unpack_from("<HI", head, 26)
            at = 32
            if flags & 0x0100:
                high, high_size = struct.unpack_from("<II", head, at)
                data, size, at = data + (high << 32), size + (high_size << 32), at + 8
            name = _name4(head[at : at + length], bool(flags & 0x0200))
            mode = attributes if host == UNIX4 else None
            is_link = mode is None and bool(attributes & REPARSE_POINT)
            yield Entry(name.replace("\\", "/"), size, _kind(flags & 0xE0 == 0xE0, is_link, mode), total)
        _skip(path, file, data, end)


def _name4(raw: bytes, unicode: bool) -> str:
    """A name of RAR 4: bytes, or bytes and after a zero how the Unicode name differs from them."""
    plain, zero, code = raw.partition(b"\0")
    if not (unicode and zero):
        return plain.decode("utf-8", errors="surrogateescape")
    high, at, bits, flags = code[0] << 8, 1, 0, 0
    name: list[int] = []
    while at < len(code):
        if bits == 0:
            flags, bits, at = code[at], 8, at + 1
        bits -= 2
        how = flags >> bits & 3
        if how < 2:
            name.append(code[at] | (high if how else 0))
            at += 1
        elif how == 2:
            name.append(code[at] | code[at + 1] << 8)
            at += 2
        else:
            count, at = code[at], at + 1
            added = 0
            if count & 0x80:
                added, at = code[at], at + 1
            for _ in range((count & 0x7F) + 2):
                byte = plain[len(name)]
                name.append((byte + added & 0xFF) | high if count & 0x80 else byte)
    return b"".join(unit.to_bytes(2, "little") for unit in name).decode("utf-16-le", errors="replace")


def _vint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next one begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _entries5(path: Path, file: BinaryIO, end: int) -> Iterator[Entry]:
    while file.tell() < end:
        begin = file.tell()
        start = file.read(7)  # CRC-32 and at most three bytes of size
        size, at = _vint(start, 4)
        file.seek(begin + at)
        head = file.read(min(size, LARGEST_HEADER))
        if len(head) < size:
            raise ArchiveError(f"{path}: cut short within a header at byte {begin:,}. Remove the file and get it again")
        if zlib.crc32(start[4:at] + head) != struct.unpack_from("<I", start)[0]:
            raise ArchiveError(f"{path}: a damaged header at byte {begin:,}")
        kind, at = _vint(head, 0)
        flags, at = _vint(head, at)
        extra, at = _vint(head, at) if flags & 1 else (0, at)
        data, at = _vint(head, at) if flags & 2 else (0, at)
        if kind == 4 or flags & 0x18 or (kind == 1 and _vint(head, at)[0] & 1):
            _refuse(path, encrypted=kind == 4)
        if kind == 5:
            return
        if kind == 2:
            yield _entry5(path, head, at, head[len(head) - extra :] if extra else b"")
        _skip(path, file, data, end)


def _entry5(path: Path, head: bytes, at: int, extra: bytes) -> Entry:
    flags, at = _vint(head, at)
    size, at = _vint(head, at)
    attributes, at = _vint(head, at)
    at += 4 * bool(flags & 2)  # time
    crc32 = struct.unpack_from("<I", head, at)[0] if flags & 4 else None
    at += 4 * bool(flags & 4)
    _, at = _vint(head, at)  # compression
    host, at = _vint(head, at)
    length, at = _vint(head, at)
    name = head[at : at + length].decode("utf-8", errors="surrogateescape")
    if flags & 8:
        raise ArchiveError(f"{path}: does not say how large {name!r} is")
    is_link, at = False, 0
    while at < len(extra):
        record, at = _vint(extra, at)
        kind, _ = _vint(extra, at)
        if kind == 1:
            _refuse(path, encrypted=True)
        is_link |= kind == 5  # a symbolic or hard link, a junction, or a reference to another entry
        at += record
    mode = attributes if host == UNIX5 else None
    is_link |= mode is None and bool(attributes & REPARSE_POINT)
    return Entry(name, size, _kind(bool(flags & 1), is_link, mode), crc32)


def _refuse(path: Path, encrypted: bool) -> None:
    what = "encrypted; the official archive is not" if encrypted else "one of several volumes; join them first"
    raise ArchiveError(f"{path}: {what}")
