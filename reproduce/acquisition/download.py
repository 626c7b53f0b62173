"""A file comes from the first of several addresses that has it: resumed, verified, put in its place whole.

Bytes go to ``<name>.part``; ``<name>.part.json`` says where they come from. A broken transfer goes on with HTTP's Range
(FTP's REST), on condition that the file is still the same: the server is asked to say so (If-Range), and the last bytes
on disk are fetched again and compared, which also unmasks servers that do not know. Standard library only.
"""

from __future__ import annotations

import contextlib
import ftplib
import http.client
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from datamodules.files import write_atomically
from datamodules.videos import DataError
from reproduce.common.files import sync_folder
from reproduce.common.progress import Progress

OVERLAP = 1 << 16  # bytes fetched again on resuming, to see whether the file is the same
HEAD = 512  # bytes that tell an archive from a web page
CHUNK = 1 << 20
LONGEST_WAIT = 60.0  # seconds that a server's Retry-After is obeyed
SCHEMES = ("http", "https", "ftp")
PROTOCOL_ERRORS = (OSError, EOFError, http.client.HTTPException, *ftplib.all_errors)
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class GiveUp(Exception):
    """This address will not do; the next one may."""


class Broken(Exception):
    """The transfer ended early; ``wait`` seconds may help."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class DownloadError(DataError):
    """No address gave the file, or it cannot be written; the message has every address's reason."""


@dataclass(frozen=True)
class Patience:
    """Says how long a server may take.

    Args:
        timeout: seconds without an answer.
        attempts: in a row without a new byte, before the next address is tried.
        pause: seconds before the second attempt; doubled for each further one.
        least_rate: bytes per second, below which a connection counts as broken …
        slow_seconds: … when it has been that slow for so long.
    """

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 1.0
    least_rate: float = 1024.0
    slow_seconds: float = 60.0


def download(
    addresses: Sequence[str],
    target: Path,
    check_head: Callable[[bytes], object],
    check: Callable[[Path], None],
    room: Callable[[int, int], None],
    patience: Patience | None = None,
    has_hash: bool = False,
) -> str:
    """Fetch a file; the caller holds a lock on it.

    Args:
        addresses: of the same file, in the order of trial: http, https or ftp.
        target: where to put it. Appears when it is complete, checked and on disk.
        check_head: told the first bytes as soon as they are there; raises DataError if they are not of such a file.
        check: told the complete ``.part`` file; raises DataError if it is not as it should be.
        room: told (bytes still to come, bytes in all) before they come; raises DataError where they do not fit.
        patience: with slow and broken servers.
        has_hash: ``check`` compares a published hash, so that bytes of one address may be completed from another.

    Returns:
        The address that gave the file.

    Raises:
        DownloadError: no address gave it, or the disk is full; what has come so far stays for the next call.
    """
    part, patience = target.with_name(f"{target.name}.part"), patience or Patience()
    reasons = []

    def fetch(address: str) -> bool:
        return _fetch(address, part, check_head=check_head, room=room, patience=patience, has_hash=has_hash)

    for number, address in enumerate(addresses):
        try:
            resumed = fetch(address)
            try:
                check(part)
            except DataError:
                if not resumed:
                    raise
                print(f"note: {target.name} is wrong after resuming; fetching all of it again", flush=True)
                _discard(part)
                fetch(address)
                check(part)
            _put_in_place(part, target)
            return address
        except GiveUp as error:
            reason = str(error)
        except DownloadError:
            raise
        except DataError as error:  # of a check: these bytes are of no use
            _discard(part)
            reason = str(error)
        reasons.append(f"    {address}: {reason}")
        if number + 1 < len(addresses):
            print(f"note: {address}: {reason}; trying {addresses[number + 1]}", flush=True)
    raise DownloadError(f"cannot download {target.name}:\n" + "\n".join(reasons))


def _put_in_place(part: Path, target: Path) -> None:
    try:
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise DownloadError(f"cannot write {target} ({error})") from error
    _sidecar(part).unlink(missing_ok=True)


def _fetch(
    address: str,
    part: Path,
    check_head: Callable[[bytes], object],
    room: Callable[[int, int], None],
    patience: Patience,
    has_hash: bool,
) -> bool:
    """Complete ``part`` from one address; return whether any byte was there before."""
    try:
        scheme = urlsplit(address).scheme
    except ValueError:
        scheme = ""
    if scheme not in SCHEMES:
        raise GiveUp(f"is no address; write {', '.join(f'{scheme}://…' for scheme in SCHEMES)}")
    resumed, most, failures = False, _size(part), 0
    while True:
        transfer = _Transfer(address, part, check_head=check_head, room=room, patience=patience, has_hash=has_hash)
        try:
            transfer.run()
            return resumed or transfer.resumed
        except (Broken, *PROTOCOL_ERRORS) as error:
            resumed |= transfer.resumed
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= patience.attempts:
                raise GiveUp(f"{_reason(error)} ({failures} attempts without a new byte)") from error
            time.sleep(max(min(patience.pause * 2 ** max(0, failures - 1), LONGEST_WAIT), getattr(error, "wait", 0.0)))


@dataclass
class Answer:
    """Holds an open transfer: bytes from ``begin`` on of ``total`` (None if the server does not say)."""

    begin: int
    total: int | None
    validator: str | None
    read: Callable[[], bytes]
    close: Callable[[], None]


class _Pace:
    """Tells a transfer that trickles from one that comes."""

    def __init__(self, patience: Patience) -> None:
        self.patience, self.since, self.bytes = patience, time.monotonic(), 0

    def came(self, count: int) -> None:
        """Count bytes.

        Raises:
            Broken: too few of them for too long.
        """
        self.bytes += count
        elapsed = time.monotonic() - self.since
        if elapsed >= self.patience.slow_seconds:
            if self.bytes / elapsed < self.patience.least_rate:
                raise Broken(f"slower than {self.patience.least_rate:.0f} bytes a second")
            self.since, self.bytes = time.monotonic(), 0


class _Transfer:
    """Attempts once to fetch what is missing of a file."""

    def __init__(
        self,
        address: str,
        part: Path,
        check_head: Callable[[bytes], object],
        room: Callable[[int, int], None],
        patience: Patience,
        has_hash: bool,
    ) -> None:
        self.address, self.part, self.patience, self.has_hash = address, part, patience, has_hash
        self.check_head, self.room = check_head, room
        self.resumed = False

    def run(self) -> None:
        """Fetch what is missing.

        Raises:
            GiveUp: the address has no such file.
            Broken: the transfer ended early, or the file has changed (nothing of it is then left).
            DownloadError: it does not fit on the disk.
        """
        have, origin = _size(self.part), _read_sidecar(self.part)
        same = origin.get("address") == self.address
        if have and not same and not self.has_hash:
            print(f"note: {self.part.name} came from {origin.get('address', 'elsewhere')}; beginning again", flush=True)
            have = 0
        offset = max(0, have - OVERLAP)
        answer = open_at(self.address, offset, origin.get("validator") if same else None, self.patience.timeout)
        try:
            if answer.begin not in (0, offset) or (
                have and answer.begin == offset and self._changed(answer, origin, same, have)
            ):
                _discard(self.part)
                raise Broken("the file changed between two attempts")
            if have and answer.begin != offset:
                print(f"note: {self.address} has a new file, or cannot resume; beginning again", flush=True)
                have = 0
            self.resumed = have > 0
            head = b"" if have else self._head(answer)
            try:
                self.room(max(0, (answer.total or have) - have), answer.total or 0)
            except DataError as error:
                raise DownloadError(str(error)) from error
            self._receive(answer, have, head)
        finally:
            answer.close()

    @staticmethod
    def _changed(answer: Answer, origin: dict[str, Any], same: bool, have: int) -> bool:
        facts = (("total", answer.total), ("validator", answer.validator if same else None))
        differ = any(found is not None and origin.get(key) not in (None, found) for key, found in facts)
        return differ or (answer.total is not None and answer.total < have)

    def _head(self, answer: Answer) -> bytes:
        """Read the first bytes before anything is overwritten: a web page may call itself an archive."""
        head, pace = b"", _Pace(self.patience)
        while len(head) < HEAD and (data := answer.read()):
            head += data
            pace.came(len(data))
        if len(head) < min(HEAD, answer.total or 0):
            raise Broken(f"the connection ended after {len(head)} of {answer.total:,} bytes")
        try:
            self.check_head(head[:HEAD])
        except DataError as error:
            raise GiveUp(str(error)) from error
        return head

    def _receive(self, answer: Answer, have: int, data: bytes) -> None:
        progress = Progress(f"downloading {self.part.stem}", "MB")
        try:
            if not have:
                self.part.unlink(missing_ok=True)  # before the sidecar speaks of other bytes
            origin = {"address": self.address, "validator": answer.validator, "total": answer.total}
            write_atomically(_sidecar(self.part), json.dumps(origin) + "\n")
            file = self.part.open("rb+" if have else "xb", buffering=0)
        except OSError as error:
            raise DownloadError(f"cannot write {self.part} ({error})") from error
        with file:
            if have:
                data = self._compare(answer, file, have)
            at, pace = have, _Pace(self.patience)
            while data or (data := answer.read()):
                self._write(file, data, at)
                pace.came(len(data))
                at, data = at + len(data), b""
                rate = (at - have) / max(1e-9, time.perf_counter() - progress.started)
                extra = f"{at / 1e9:.2f} GB in all, {rate / 1e6:.1f} MB/s"
                progress.update((at - have) / 1e6, (answer.total - have) / 1e6 if answer.total else 0, extra)
        if answer.total is not None and at != answer.total:
            raise Broken(f"the connection ended after {at:,} of {answer.total:,} bytes")
        progress.close()

    def _write(self, file: Any, data: bytes, at: int) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            raise DownloadError(
                f"cannot write {self.part} beyond {at:,} bytes ({error}). What is there stays: make room and run the same "
                "command again"
            ) from error

    def _compare(self, answer: Answer, file: Any, have: int) -> bytes:
        """Compare what is on disk with the answer from its beginning on; return what came beyond."""
        file.seek(answer.begin)
        known, got = file.read(have - answer.begin), b""
        while len(got) < len(known):
            data = answer.read()
            if not data:
                raise Broken("the connection ended before the first new byte")
            got += data
        if got[: len(known)] != known:
            file.truncate(0)
            raise Broken("the file changed between two attempts")
        return got[len(known) :]


def open_at(address: str, offset: int, validator: str | None, timeout: float) -> Answer:
    """Open a transfer.

    Args:
        address: http, https or ftp.
        offset: first byte that is wanted; the answer may begin elsewhere.
        validator: of the file that earlier bytes came from; None for any file.
        timeout: seconds without an answer.

    Raises:
        GiveUp: the address has no such file.
        Broken: the server cannot answer now.
        OSError: neither can the network; or another of ``PROTOCOL_ERRORS``.
    """
    if urlsplit(address).scheme == "ftp":
        return _open_ftp(address, offset, timeout)
    headers = {"User-Agent": "visual-attention-reproduction", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and offset:  # shorter than what is on disk: another file
                return Answer(-1, None, None, lambda: b"", lambda: None)
            reason = f"HTTP {error.code} {error.reason}"
            if error.code in TRY_AGAIN:
                wait = error.headers.get("Retry-After", "")
                raise Broken(reason, min(float(wait), LONGEST_WAIT) if wait.isdigit() else 0.0) from error
            raise GiveUp(reason) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise GiveUp(f"is no address ({error})") from error
    begin, total, length = 0, None, response.headers.get("Content-Length", "")
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        begin = int(found[1]) if found else -1
        total = int(found[2]) if found and found[2] != "*" else None
    elif length.isdigit():
        total = int(length)
    etag = response.headers.get("ETag", "")
    mark = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    return Answer(begin, total, mark, lambda: response.read1(CHUNK), response.close)


def _open_ftp(address: str, offset: int, timeout: float) -> Answer:
    parts = urlsplit(address)
    path = unquote(parts.path)
    client = ftplib.FTP(timeout=timeout)
    try:
        client.connect(parts.hostname or "", parts.port or ftplib.FTP_PORT)
        client.login(unquote(parts.username or ""), unquote(parts.password or ""))
        client.voidcmd("TYPE I")
        total = validator = None
        with contextlib.suppress(ftplib.error_perm):  # optional commands
            total = client.size(path)
            validator = client.sendcmd(f"MDTM {path}")
        try:
            data = client.transfercmd(f"RETR {path}", offset or None)
        except ftplib.error_perm as error:
            if not offset or not str(error).startswith("50"):
                raise
            data, offset = client.transfercmd(f"RETR {path}"), 0  # a server without REST
    except (ftplib.error_perm, ValueError, UnicodeError) as error:
        client.close()
        raise GiveUp(f"FTP {error}") from error
    except PROTOCOL_ERRORS:
        client.close()
        raise

    def close() -> None:
        data.close()
        client.close()

    return Answer(offset, total, validator, lambda: data.recv(CHUNK), close)


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, (TimeoutError, socket.timeout)):
        return "no answer in time"
    return str(inner) or type(inner).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sidecar(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_sidecar(part: Path) -> dict[str, Any]:
    try:
        found = json.loads(_sidecar(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _sidecar(part).unlink(missing_ok=True)
