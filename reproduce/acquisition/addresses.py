"""Open an address at a byte: HTTP, HTTPS and FTP by the standard library, in one form for all."""

from __future__ import annotations

import contextlib
import ftplib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

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


@dataclass
class Answer:
    """An open transfer: bytes from ``begin`` on of ``total`` (None if the server does not say)."""

    begin: int
    total: int | None
    validator: str | None
    read: Callable[[], bytes]
    close: Callable[[], None]


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
