"""Downloads over HTTP that resume after a broken connection and are checked before use.

Until a file is complete, these lie beside it: ``.NAME.part``, the bytes received;
``.NAME.part.json``, their address, total size and version; ``.NAME.lock``, held by one process.
"""

import hashlib
import json
import queue
import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import requests
import urllib3
from rich.filesize import decimal

from esc_arch.errors import UserError, first_line
from esc_arch.files import free_bytes, locked, put_in_place, remedy, whole_file
from esc_arch.progress import progress
from esc_arch.terminal import say
from esc_arch.version import __version__

__all__ = ["exclusive", "fetch"]

CONNECT_TIMEOUT_S = 10.0
# From the question to the end of the answer's header, redirects included.
HEADER_TIMEOUT_S = 30.0
# Longest silence of a server in the middle of a file.
READ_TIMEOUT_S = 60.0
# The least that must arrive in each such time: a server may never be silent and never get done.
RATE_TIME_S = 60.0
RATE_BYTES = 60 << 10
# Attempts in all, and in a row without a new byte.
ATTEMPTS = 100
FRUITLESS_ATTEMPTS = 5
# Before the second attempt; it doubles while no new byte arrives.
PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
# The largest file from a server that sends no Content-Length.
UNANNOUNCED_BYTES = 8 << 30

# Small, as a chunk is lost when the connection breaks in it.
_CHUNK = 1 << 15
_HASHED_AT_ONCE = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_ADDRESS = re.compile(r"https?://(\[[0-9a-f:]+\]|[^/\[])", re.IGNORECASE)
_TRY_LATER = (408, 429, 500, 502, 503, 504)


def fetch(
    url: str,
    path: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    refuse: Callable[[Path], str | None] | None = None,
) -> Path:
    """Download a file, or resume an earlier download of it.

    An existing file is checked and kept, without a request.  When another process is downloading
    the same file, this one waits for it.

    Args:
        url: http or https.
        path: name of the file; its folder is made.
        size: in bytes, when known.
        sha256, md5: checksums in hex, when known.
        refuse: says what is wrong with the content of a complete file, such as that it is a web
            page; then it does not get its name.

    Returns:
        ``path``, complete.

    Raises:
        UserError: when the file cannot be downloaded, is not the expected one, or cannot be
            written.
    """
    path = Path(path)
    checks = _Checks(size, sha256, md5)
    if not _ADDRESS.match(url):
        raise UserError(
            f"{url}: expected an address that begins with https:// or http:// and a host; found "
            "another. Check it."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(_beside(path, "lock")):
            if not path.exists():
                _Transfer(url, path, checks, refuse).run()
            elif wrong := checks.wrong(path, path.name):
                raise UserError(
                    f"{path}: expected the file of {url}, {wrong}. Move it away to download it."
                )
    except OSError as error:
        raise UserError(
            f"{url}: expected to write it to {path}; found {error.strerror or error}. "
            f"{remedy(error)} Run it again then: it resumes."
        ) from error
    return path


def exclusive(lock: Path) -> AbstractContextManager[None]:
    """Wait, with a notice on stderr, until no other process or thread holds a lock.

    Args:
        lock: its file, which is deleted at the end.
    """

    def notify(holder: str) -> None:
        say(f"waiting for another process{holder} that has locked {lock}")

    return locked(lock, waiting=notify, remove=True)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


@dataclass(frozen=True)
class _Checks:
    """Size and checksums that are known of a file beforehand."""

    size: int | None
    sha256: str | None
    md5: str | None

    @property
    def by_content(self) -> bool:
        return bool(self.sha256 or self.md5)

    def wrong(self, path: Path, name: str) -> str | None:
        """The first difference of a file, as ``expected ...; found ...``, or None.

        Args:
            name: of the file, for the progress bar.
        """
        if not path.is_file():
            return "expected a file; found a folder"
        present = path.stat().st_size
        if self.size not in (None, present):
            return f"expected {self.size} bytes; found {present}"
        known = {"sha256": self.sha256 or "", "md5": self.md5 or ""}
        sums = {
            kind: hashlib.new(kind, usedforsecurity=False) for kind, hex_ in known.items() if hex_
        }
        if not sums:
            return None
        with (
            open(path, "rb") as file,
            progress(f"checking {name}", present, "bytes") as advance,
        ):
            while chunk := file.read(_HASHED_AT_ONCE):
                for checksum in sums.values():
                    checksum.update(chunk)
                advance(len(chunk))
        for kind, checksum in sums.items():
            if checksum.hexdigest() != known[kind].lower():
                return f"expected {kind} {known[kind]}; found {checksum.hexdigest()}"
        return None


class _BrokenOff(Exception):
    """An attempt failed for a reason that may pass."""

    def __init__(self, reason: str, pause_s: float = 0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class _Transfer:
    """The download of one file."""

    def __init__(
        self,
        url: str,
        path: Path,
        checks: _Checks,
        refuse: Callable[[Path], str | None] | None = None,
    ) -> None:
        self._url, self._path, self._checks, self._refuse = url, path, checks, refuse
        self._part = _beside(path, "part")
        self._record = _beside(path, "part.json")

    def run(self) -> None:
        attempts = fruitless = 0
        # The same bytes again are no progress.
        furthest = self._present()
        while True:
            try:
                self._attempt()
                break
            except _BrokenOff as broken:
                attempts += 1
                fruitless = 0 if self._present() > furthest else fruitless + 1
                furthest = max(furthest, self._present())
                if attempts == ATTEMPTS or fruitless == FRUITLESS_ATTEMPTS:
                    raise self._error(
                        f"expected the whole file; found in {attempts} attempts: {broken}. "
                        f"Run again later: {decimal(self._present())} of it are kept and the "
                        "rest is downloaded."
                    ) from broken
                pause_s = max(min(PAUSE_S * 2**fruitless, LONGEST_PAUSE_S), broken.pause_s)
                say(f"{broken}; trying again in {pause_s:.0f} s")
                time.sleep(pause_s)
        if self._refuse is not None and (wrong := self._refuse(self._part)):
            self._forget()
            raise self._error(f"{wrong} It was deleted.")
        if wrong := self._checks.wrong(self._part, self._path.name):
            self._forget()
            raise self._error(
                f"{wrong}. It was deleted; run again to download it again, and check the "
                "address if that does not help."
            )
        put_in_place(self._part, self._path)
        self._record.unlink(missing_ok=True)

    def _attempt(self) -> None:
        """Download the missing bytes; return when the file is complete."""
        record = self._resumable()
        offset = self._present() if record else 0
        if record and offset == record["total"]:
            return
        headers = {"Accept-Encoding": "identity", "User-Agent": f"esc-arch/{__version__}"}
        if record and offset:
            headers["Range"] = f"bytes={offset}-"
            if record["validator"]:
                headers["If-Range"] = record["validator"]
        with self._answer(headers) as response:
            if response.status_code == 206 and record and offset:
                total = self._continued(response, record, offset)
            elif response.status_code == 200:
                offset, total = 0, self._begun(response)
            elif response.status_code in (206, 416):
                self._start_over(f"{response.status_code} {response.reason}")
            else:
                raise self._refused(response)
            self._check_room((total or 0) - offset)
            self._receive(response, offset, total)

    def _answer(self, headers: dict[str, str]) -> requests.Response:
        try:
            response = _ask(self._url, headers)
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            # Other errors of TLS are broken connections.
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise _BrokenOff(_reason(error)) from error
            raise self._error(
                f"expected a trusted certificate; found {_reason(error)}. Check the address, the "
                "clock, and the certificates of this machine."
            ) from error
        except requests.RequestException as error:
            # Such as a redirect to file:, to itself, or to no address at all.
            raise self._error(
                f"expected a file; found {_reason(error)}. Check the address."
            ) from error
        hops = [hop.url for hop in (*response.history, response)]
        if self._url.startswith("https:") and any(hop.startswith("http:") for hop in hops):
            response.close()
            raise self._error(
                f"expected https all the way; found a redirect to {hops[-1]}. Check the address."
            )
        return response

    def _begun(self, response: requests.Response) -> int | None:
        """Empty the part, for an answer with the whole file; its length."""
        length = response.headers.get("Content-Length", "")
        total = self._agreed(int(length) if length.isdecimal() else None)
        # Emptied first: a record must never stand beside the bytes of another file.
        self._part.write_bytes(b"")
        record = {"url": self._url, "total": total, "validator": _validator(response)}
        with whole_file(self._record) as written:
            written.write_text(json.dumps(record))
        return total

    def _continued(
        self, response: requests.Response, record: dict[str, Any], offset: int
    ) -> int | None:
        """The length of the whole file, when the answer continues the part."""
        text = response.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(text)
        if not found or int(found[1]) != offset or int(found[2]) < offset:
            self._start_over(f"Content-Range {text!r} to a request for bytes {offset}-")
        total = record["total"] if found[3] == "*" else self._agreed(int(found[3]))
        changed = _validator(response) not in (None, record["validator"])
        if record["total"] not in (None, total) or changed:
            self._start_over("another file than before")
        return total

    def _agreed(self, announced: int | None) -> int | None:
        known = self._checks.size
        if known is not None and announced not in (None, known):
            raise self._error(
                f"expected {known} bytes; found that the server announces {announced}. It may "
                "have another file there, or a page about it: check the address."
            )
        return announced if known is None else known

    def _receive(self, response: requests.Response, offset: int, total: int | None) -> None:
        most = UNANNOUNCED_BYTES if total is None else total
        # What has arrived, not a whole chunk, which a slow server may never fill; urllib3 before
        # 2.1 has no such call.
        read = getattr(response.raw, "read1", response.raw.read)
        with (
            open(self._part, "ab") as file,
            progress(f"downloading {self._path.name}", total, "bytes", done=offset) as advance,
        ):
            present = offset
            since, then = time.monotonic(), present
            try:
                while chunk := read(_CHUNK, decode_content=False):
                    present += len(chunk)
                    if present > most:
                        self._forget()
                        raise self._error(
                            f"expected at most {most} bytes; found more. It was deleted; "
                            "check the address."
                        )
                    file.write(chunk)
                    advance(len(chunk))
                    if time.monotonic() > since + RATE_TIME_S:
                        if present - then < RATE_BYTES and present != total:
                            raise self._error(
                                f"expected at least {decimal(RATE_BYTES)} in {RATE_TIME_S:.0f} s; "
                                f"found {decimal(present - then)}. Run again later, which "
                                "resumes, or use another server."
                            )
                        since, then = time.monotonic(), present
            except urllib3.exceptions.HTTPError as error:
                raise _BrokenOff(_reason(error)) from error
        if total is not None and present < total:
            raise _BrokenOff(f"the connection ended after {present} of {total} bytes")

    def _refused(self, response: requests.Response) -> Exception:
        status = f"{response.status_code} {response.reason}"
        if response.status_code not in _TRY_LATER:
            return self._error(f"expected a file; found {status}. Check the address.")
        later = response.headers.get("Retry-After", "")
        return _BrokenOff(status, min(int(later), LONGEST_PAUSE_S) if later.isdecimal() else 0)

    def _check_room(self, needed: int) -> None:
        free = free_bytes(self._path.parent)
        if needed > free:
            raise self._error(
                f"expected {decimal(needed)} of room for it in {self._path.parent}; found "
                f"{decimal(free)}. Make room or name another folder, and run again."
            )

    def _present(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _resumable(self) -> dict[str, Any] | None:
        """The record of a part that can be continued."""
        try:
            record = json.loads(self._record.read_text())
            same = record["url"] == self._url
            # Without either, a mixture of two files would not be noticed.
            sure = bool(record["validator"] or self._checks.by_content)
            within = record["total"] is None or self._present() <= record["total"]
            return record if same and sure and within else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _start_over(self, reason: str) -> NoReturn:
        self._forget()
        raise _BrokenOff(f"{reason}, so the file is downloaded from its beginning")

    def _forget(self) -> None:
        self._record.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)

    def _error(self, text: str) -> UserError:
        return UserError(f"{self._url}: {text}")


def _ask(url: str, headers: dict[str, str]) -> requests.Response:
    """The answer of a server, as far as its header.

    Raises:
        _BrokenOff: when that takes too long; requests only bounds the time between two bytes.
        requests.RequestException, urllib3.exceptions.HTTPError: as requests does.
    """
    answers: queue.SimpleQueue[requests.Response | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
            answers.put(requests.Session().get(url, headers=headers, stream=True, timeout=timeout))
        except Exception as error:  # raised again where it is awaited
            answers.put(error)

    # A daemon, so that a server that goes on sending does not keep the process.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=HEADER_TIMEOUT_S)
    except queue.Empty:
        raise _BrokenOff(f"no complete header of an answer in {HEADER_TIMEOUT_S:.0f} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _validator(response: requests.Response) -> str | None:
    """A strong ETag, or the time of change: HTTP allows no weak ETag for parts of a file."""
    etag = response.headers.get("ETag", "")
    strong = etag if etag.startswith('"') else None
    return strong or response.headers.get("Last-Modified")


def _reason(error: Exception) -> str:
    """The innermost cause of an exception of requests or urllib3, in one line."""
    while inner := [
        cause
        for cause in (getattr(error, "reason", None), *error.args)
        if isinstance(cause, Exception)
    ]:
        error = inner[0]
    # urllib3 puts the object that failed first: "<...>: Failed to ...".
    return re.sub(r"^(<[^>]*>|\S*\(host=[^)]*\)): ", "", first_line(error))
