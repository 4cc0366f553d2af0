"""A web server on loopback that misbehaves as it is told."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class File:
    """One address, and how the server lies about it.

    Attributes:
        breaks: after how many bytes of the body each of the first answers breaks off.
        statuses: what the first answers say instead of giving the file.
        length: replaces the right Content-Length; "" leaves it out and closes at the end.
        content_range: replaces the right Content-Range.
        chunked: send without a length, in chunks.
        stall: after each break silence, until it is set, before the connection is closed.
        gave_up: whether a silence lasted a minute, which no client should wait for.
        pace_s: pause before each piece of the body.
        piece: bytes of a piece.
        header_pace_s: pause before each byte of a header that never ends.
        asked: the headers of each question so far.
    """

    body: bytes = b""
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    length: str | None = None
    content_range: str | None = None
    chunked: bool = False
    redirect: str | None = None
    stall: threading.Event | None = None
    gave_up: bool = False
    pace_s: float = 0
    piece: int = 1 << 16
    header_pace_s: float = 0
    asked: list[dict[str, str]] = field(default_factory=list)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, File] = {}

    def put(self, name: str, file: File) -> str:
        """Serve a file; its address."""
        self.files[f"/{name}"] = file
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is what some tests want."""


@contextmanager
def served() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        # One question each, said so: else a client may ask again just as it is closed.
        self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, *_) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        file = self.server.files.get(self.path)
        if file is None:
            self._plain(404)
            return
        file.asked.append(dict(self.headers))
        if file.header_pace_s:
            self._endless_header(file.header_pace_s)
        elif file.redirect:
            self.send_response(302)
            self.send_header("Location", file.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif file.statuses:
            self._plain(file.statuses.pop(0))
        else:
            self._file(file)

    def _endless_header(self, pace_s: float) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(1000):
            time.sleep(pace_s)
            self.wfile.write(b"x")

    def _plain(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"sorry")

    def _file(self, file: File) -> None:
        start = 0
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, file.etag, file.last_modified)
        if wanted and file.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(file.body):
                self._plain(416)
                return
            self.send_response(206)
            right = f"bytes {start}-{len(file.body) - 1}/{len(file.body)}"
            self.send_header("Content-Range", file.content_range or right)
        else:
            self.send_response(200)
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.last_modified:
            self.send_header("Last-Modified", file.last_modified)
        body = file.body[start:]
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif file.length != "":
            self.send_header("Content-Length", file.length or str(len(body)))
        self.end_headers()
        cut = file.breaks.pop(0) if file.breaks else None
        self._body(body[:cut], file)
        if cut is not None and file.stall is not None:
            file.gave_up |= not file.stall.wait(60)
        elif file.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self, body: bytes, file: File) -> None:
        for start in range(0, len(body), file.piece):
            piece = body[start : start + file.piece]
            time.sleep(file.pace_s)
            if file.chunked:
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            self.wfile.write(piece)
            self.wfile.flush()
