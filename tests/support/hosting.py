"""Servers on 127.0.0.1 that misbehave on demand: HTTP and FTP."""

from __future__ import annotations

import hashlib
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html>\n<html><title>Moved</title>We have a new home.</html>" + b" " * 1000


@dataclass
class Served:
    """A file on a server.

    Args:
        data: its bytes.
        faults: one for each coming request, then none: ``drop:<bytes>``, ``status:<code>``, ``page``, ``stall``,
            ``trickle``, ``longer`` (Content-Length one half too large), ``shorter`` (… too small), ``change`` (the file is
            another one from now on), ``garble`` (wrong bytes after the first quarter), ``elsewhere`` (a range that was not
            asked for), ``redirect:<path>``.
        ranges, tag, length: whether the server knows Range, ETag, Content-Length.
    """

    data: bytes
    faults: list[str] = field(default_factory=list)
    ranges: bool = True
    tag: bool = True
    length: bool = True
    asked: list[str | None] = field(default_factory=list)
    """Range header of every request so far."""
    sent: int = 0


@dataclass
class Host:
    """An HTTP server: ``files`` by path, ``url`` of its root."""

    url: str
    files: dict[str, Served]
    injected: int = 0

    def put(self, path: str, data: bytes, *faults: str, **how: bool) -> str:
        """Serve a file; returns its address."""
        self.files[path] = Served(data, list(faults), **how)
        return f"{self.url}/{path}"


@contextmanager
def http_host() -> Iterator[Host]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    host = Host(f"http://127.0.0.1:{server.server_address[1]}", {})
    server.host = host  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        host: Host = self.server.host  # type: ignore[attr-defined]
        file = host.files.get(self.path.lstrip("/"))
        self.close_connection = True
        if file is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        file.asked.append(asked)
        fault, _, number = (file.faults.pop(0) if file.faults else "").partition(":")
        host.injected += bool(fault)
        if fault == "change":
            file.data = bytes(reversed(file.data[8:])) if not file.data.startswith(b"PK") else file.data[:600] + file.data[601:]
        if fault == "status":
            self.send_response(int(number))
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{host.url}/{number}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "stall":
            time.sleep(1.5)
            return
        data = PAGE if fault == "page" else file.data
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        begin = 0
        if asked and file.ranges and self.headers.get("If-Range") in (None, tag):
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            shown = begin + 7 if fault == "elsewhere" else begin
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[begin:]
        if file.tag:
            self.send_header("ETag", tag)
        if file.length:
            length = {"longer": len(body) * 3 // 2, "shorter": len(body) // 2}.get(fault, len(body))
            self.send_header("Content-Length", str(length))
        if fault == "page":
            self.send_header("Content-Type", "text/html")
        self.end_headers()
        if fault == "drop":
            body = body[: int(number)]
        if fault == "garble":
            body = body[: len(body) // 4] + bytes(byte ^ 0x55 for byte in body[len(body) // 4 :])
        if fault == "trickle":
            for position in range(40):
                self.wfile.write(body[position : position + 1])
                time.sleep(0.05)
            return
        file.sent += len(body)  # first: whom it is sent to may look at once
        self.wfile.write(body)


@contextmanager
def ftp_host(files: dict[str, Served]) -> Iterator[str]:
    """An FTP server; yields its address. Knows ``drop:<bytes>`` and ``status:<code>``, and REST where ``ranges`` is set."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 ready")
            rest, data = 0, None
            while line := self.rfile.readline().decode().strip():
                command, _, word = line.partition(" ")
                file = files.get(word.lstrip("/"))
                if command in ("USER", "PASS"):
                    self._say("331 password" if command == "USER" else "230 in")
                elif command == "TYPE":
                    self._say("200 binary")
                elif command == "SIZE" and file and file.length:
                    self._say(f"213 {len(file.data)}")
                elif command == "MDTM" and file:
                    self._say("213 20100101000000")
                elif command in ("EPSV", "PASV"):
                    data = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)
                    port = data.server_address[1]
                    passive = f"227 ok (127,0,0,1,{port // 256},{port % 256})"
                    self._say(f"229 ok (|||{port}|)" if command == "EPSV" else passive)
                elif command == "REST":
                    rest = int(word)
                    known = any(file.ranges for file in files.values())
                    self._say("350 from there" if known else "502 no")
                    rest = rest if known else 0
                elif command == "RETR" and file and data:
                    fault, _, number = (file.faults.pop(0) if file.faults else "").partition(":")
                    file.asked.append(str(rest))
                    if fault == "status":
                        self._say(f"{number} no")
                        continue
                    self._say("150 here it comes")
                    connection, _ = data.socket.accept()
                    body = file.data[rest:]
                    connection.sendall(body[: int(number)] if fault == "drop" else body)
                    connection.close()
                    data.server_close()
                    self._say("226 done")
                elif command == "QUIT":
                    self._say("221 bye")
                    return
                else:
                    self._say("550 no such file")

        def _say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"ftp://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
