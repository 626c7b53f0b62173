"""A writer of RAR archives that stores without compressing, in both formats: no free tool writes RAR."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

FILE, FOLDER, SYMLINK = 0o100644, 0o040755, 0o120777


@dataclass(frozen=True)
class Item:
    """An entry as an attacker would write it: nothing of it need be true."""

    name: str
    data: bytes = b""
    mode: int = FILE
    size: int | None = None  # declared, instead of the data's
    link: str | None = None  # RAR 5's record of a link; RAR 4 keeps the target as the data
    link_kind: int = 1  # 1 symbolic, 4 hard
    encrypted: bool = False


def rar(items: dict[str, bytes] | list[Item], version: int = 4) -> bytes:
    """An archive of some files."""
    entries = [Item(name, data) for name, data in items.items()] if isinstance(items, dict) else items
    return {4: _rar4, 5: _rar5}[version](entries)


def block4(kind: int, flags: int, body: bytes) -> bytes:
    rest = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
    return struct.pack("<H", zlib.crc32(rest) & 0xFFFF) + rest


def _rar4(items: list[Item]) -> bytes:
    out = b"Rar!\x1a\x07\x00" + block4(0x73, 0, bytes(6))
    for item in items:
        name, size = item.name.replace("/", "\\").encode(), len(item.data) if item.size is None else item.size
        flags = 0x8000 | (0xE0 if item.mode == FOLDER else 0) | (0x04 if item.encrypted else 0)
        fields = (len(item.data), size, 3, zlib.crc32(item.data), 0x5A215A21, 20, 0x30, len(name), item.mode)
        out += block4(0x74, flags, struct.pack("<IIBIIBBHI", *fields) + name) + item.data
    return out + block4(0x7B, 0x4000, b"")


def vint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def block5(*fields: int, body: bytes = b"") -> bytes:
    head = b"".join(map(vint, fields)) + body
    rest = vint(len(head)) + head
    return struct.pack("<I", zlib.crc32(rest)) + rest


def _rar5(items: list[Item]) -> bytes:
    out = b"Rar!\x1a\x07\x01\x00" + block5(1, 0, 0)
    for item in items:
        name, size = item.name.encode(), len(item.data) if item.size is None else item.size
        extra = b""
        if item.link is not None:
            record = vint(5) + vint(item.link_kind) + vint(0) + vint(len(item.link)) + item.link.encode()
            extra = vint(len(record)) + record
        if item.encrypted:
            record = vint(1) + bytes(20)
            extra += vint(len(record)) + record
        is_folder = item.mode == FOLDER
        head = b"".join(map(vint, (1 if is_folder else 4, size, item.mode)))
        head += (b"" if is_folder else struct.pack("<I", zlib.crc32(item.data))) + vint(0) + vint(1) + vint(len(name)) + name
        lengths = ([len(extra)] if extra else []) + [len(item.data)]
        out += block5(2, 3 if extra else 2, *lengths, body=head + extra) + item.data
    return out + block5(5, 0, 0)
