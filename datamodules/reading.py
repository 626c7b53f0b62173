"""Text, CSV and JSON that others wrote: understood as UTF-8, or refused with file and line, never half-read.

Free of torch, and the first module of the package: everything else may import it.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_NAME = 230  # bytes of a path's part; disks allow 255, of which a file being written takes up to 25 for its suffixes
SHOWN = 200  # characters of a row that a message repeats
LARGEST_LIST = 256 * 2**20  # bytes; a list of a million videos has some 50 MB
GZIP = b"\x1f\x8b"  # its first bytes


class DataError(RuntimeError):
    """Data on disk are not as they should be; the message says what, where, and what to do."""


def read_text(path: Path, packed: bool = False) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; with ``packed``, it may be a gzip.

    Raises:
        DataError: it cannot be read, is not UTF-8, holds a zero byte, or is larger than any list; names the line.
    """
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise DataError(f"{path}: {path.stat().st_size} bytes are too many for a list; is it another file?")
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if packed and content.startswith(GZIP):
        content = _unpacked(path, content)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}, line 1: not UTF-8 but UTF-16, as Unicode text of a spreadsheet is; save it as CSV in UTF-8")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise DataError(f"{path}, line {line}: holds a zero byte; it is no text in UTF-8, or damaged. Write it again")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise DataError(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}); save the file in that encoding") from None


def _unpacked(path: Path, content: bytes) -> bytes:
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)  # 16: gzip
    try:
        text = unpacking.decompress(content, LARGEST_LIST)
    except zlib.error as error:
        raise DataError(f"{path}: a damaged gzip ({error}); get it again") from None
    if unpacking.unconsumed_tail:
        raise DataError(
            f"{path}: unpacks to more than {LARGEST_LIST} bytes, which are too many for a list; is it another file?"
        )
    if not unpacking.eof:
        raise DataError(f"{path}: a damaged gzip (it breaks off); get it again")
    return text


def read_lines(path: Path, packed: bool = False) -> list[tuple[int, str]]:
    r"""Read the lines that are not blank, with their numbers; ``\n`` and ``\r\n`` end a line, and nothing else does.

    ``str.splitlines`` also breaks at characters that a file name may hold, such as U+2028.
    """
    lines = (line.removesuffix("\r") for line in read_text(path, packed).split("\n"))
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


class Row(NamedTuple):
    """A row of a CSV file.

    Args:
        line: of the file, where the row begins.
        values: by column.
    """

    line: int
    values: dict[str, str]


def read_rows(path: Path, required: Sequence[str], known: Sequence[str] | None = None, in_order: bool = False) -> list[Row]:
    """Read a CSV file with a header.

    Args:
        path: the file.
        required: columns that must be there.
        known: all columns that may be there; None for any.
        in_order: whether the columns must begin with the required ones as they are given.

    Raises:
        DataError: no UTF-8, no CSV, a column that is missing, unknown, without a name or there twice, or a row with fewer
            or more values than columns; names the line.
    """
    expected = ",".join([*required, *(f"[,{name}]" for name in known or () if name not in required)]).replace(",[", "[")
    rows, columns, line = [], None, 0
    for line, values in read_records(path):
        if columns is None:
            columns = values
            unknown = known is not None and set(columns) - set(known)
            moved = in_order and columns[: len(required)] != list(required)
            if set(required) - set(columns) or unknown or moved or "" in columns:
                raise DataError(f"{path}, line {line}: expected the columns {expected}, found {','.join(columns)[:SHOWN]!r}")
            twice = sorted({name for name in columns if columns.count(name) > 1})
            if twice:
                raise DataError(f"{path}, line {line}: the column {twice[0]!r} stands there twice")
        elif len(values) != len(columns):
            raise DataError(
                f"{path}, line {line}: expected {len(columns)} values, as line 1 has columns, found {len(values)} in "
                f"{','.join(values)[:SHOWN]!r}"
            )
        else:
            rows.append(Row(line, dict(zip(columns, values, strict=True))))
    if columns is None:
        raise DataError(f"{path}, line 1: expected the columns {expected}, found nothing")
    return rows


def read_records(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Read a CSV file: the line at which each record begins, and its values; blank lines are passed over.

    Args:
        path: the file.
        delimiter: stands between two values.

    Raises:
        DataError: no UTF-8, or no CSV; names the line.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", read_text(path))  # not splitlines: see read_lines
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    begin = 1
    try:
        for values in reader:
            if values:
                yield begin, values
            begin = reader.line_num + 1
    except csv.Error as error:
        reason = "a quoted value is not closed" if "unexpected end" in str(error) else error
        raise DataError(f"{path}, line {begin}: not CSV ({reason})") from None


def csv_text(records: Iterable[Sequence[object]]) -> str:
    r"""Records as CSV, a line each; unlike ``csv.writer`` with these line ends it quotes a value that holds ``\r``."""
    lines = []
    for values in records:
        line = StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(values)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def whole_number(text: str, most: int) -> int | None:
    """The number that some ASCII digits write, up to ``most``; None for anything else."""
    text = text.strip(" ")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) and int(text) <= most else None


def number(text: str) -> float | None:
    """The finite decimal number that a text writes in ASCII; None for anything else."""
    text = text.strip(" ")
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None
    return float(text) if math.isfinite(float(text)) else None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON, whatever it holds.

    Raises:
        ValueError: it is none, has a name twice in an object, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: the file.
        advice: what to do where it does not.

    Raises:
        DataError: it cannot be read, is no JSON, or holds something else; names the line where it breaks off.
    """
    try:
        found = parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: no JSON ({error.msg}); {advice}") from error
    except ValueError as error:
        raise DataError(f"{path}: no JSON ({error}); {advice}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no JSON object ({type(found).__name__}); {advice}")
    return found


def unusable_name(name: str) -> str | None:
    """Why a path below a folder cannot be the name of a video, in words; None where it can."""
    if not name or name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")):
        return "it is no path below the folder"
    if "\0" in name:
        return "it holds a zero byte"
    try:
        longest = max(len(part.encode()) for part in name.split("/"))
    except UnicodeEncodeError:
        return "it is not UTF-8; rename the file"
    if longest > LONGEST_NAME:
        return f"it is longer than {LONGEST_NAME} bytes, so that no file of features can bear it; rename the file"
    return None
