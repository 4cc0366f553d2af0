"""Downloads from a server that breaks off, lies and changes its mind."""

import hashlib
import io
import multiprocessing
import os
import random
import shutil
import ssl
import subprocess
import threading
import time
from collections import namedtuple

import pytest
import requests

from esc_arch import transfer
from esc_arch.errors import UserError
from esc_arch.transfer import exclusive, fetch
from tests.loopback_server import File, served

BODY = random.Random(0).randbytes(600_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
OTHER = random.Random(1).randbytes(600_000)

# Forked, as another interpreter takes seconds to import torch.
Process = multiprocessing.get_context("fork").Process


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)
    monkeypatch.setattr(transfer, "LONGEST_PAUSE_S", 0.005)


@pytest.fixture(scope="module")
def server():
    with served() as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "weights.pth"


def ranges(file: File) -> list[str | None]:
    return [headers.get("Range") for headers in file.asked]


def offset(range_: str) -> int:
    return int(range_.removeprefix("bytes=").removesuffix("-"))


def only(path) -> bool:
    """Nothing else lies beside a file."""
    return [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "file",
    [
        File(BODY),
        File(BODY, chunked=True),
        File(BODY, length="", etag=None),
        File(BODY, statuses=[500, 503, 429]),
        File(b""),
    ],
    ids=["plain", "chunked", "until closed", "server errors first", "empty"],
)
def test_brings_the_file_and_leaves_nothing_else(server, path, file):
    url = server.put("file", file)
    assert fetch(url, path) == path
    assert path.read_bytes() == file.body
    assert only(path)
    assert file.asked[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("tag", [{"etag": '"x"'}, {"etag": None, "last_modified": "Mon, 1 Jun"}])
def test_goes_on_after_each_break(server, path, tag):
    file = File(BODY, breaks=[100_000, 150_000, 200_000], **tag)
    fetch(server.put("file", file), path, size=len(BODY), sha256=SHA256)
    assert path.read_bytes() == BODY
    first, *later = ranges(file)
    assert first is None and len(later) == 3
    offsets = list(map(offset, later))
    # Each begins where the last ended, but for at most one chunk that broke.
    for before, sent, after in zip(
        [0, *offsets], [100_000, 150_000, 200_000], offsets, strict=False
    ):
        assert before + sent - (1 << 15) < after <= before + sent
    assert file.asked[1]["If-Range"] in ('"x"', "Mon, 1 Jun")


def test_a_silent_server_is_given_up_and_asked_again(server, path, monkeypatch):
    monkeypatch.setattr(transfer, "READ_TIMEOUT_S", 0.2)
    file = File(BODY, breaks=[300_000], stall=threading.Event())
    fetch(server.put("file", file), path)
    assert not file.gave_up
    file.stall.set()
    assert path.read_bytes() == BODY and len(file.asked) == 2


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(server, path, monkeypatch):
    """What has arrived is kept, and shown as it arrives."""
    monkeypatch.setattr(transfer, "RATE_TIME_S", 0.3)
    url = server.put("slow", File(BODY, pace_s=0.02, piece=1))
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        fetch(url, path)
    assert url in str(error.value) and time.monotonic() - start < 5
    assert 1 < path.with_name(f".{path.name}.part").stat().st_size < 200
    # A slow one that is fast enough is not.
    monkeypatch.setattr(transfer, "RATE_BYTES", 1 << 10)
    server.put("slow", File(BODY, pace_s=0.05))
    assert fetch(url, path).read_bytes() == BODY


def test_a_header_that_never_ends_is_given_up(server, path, monkeypatch, capsys):
    """Each byte of it comes before the longest silence is over."""
    monkeypatch.setattr(transfer, "HEADER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(transfer, "FRUITLESS_ATTEMPTS", 2)
    file = File(BODY, header_pace_s=0.01)
    start = time.monotonic()
    with pytest.raises(UserError, match="header"):
        fetch(server.put("file", file), path)
    assert time.monotonic() - start < 5 and len(file.asked) == 2
    assert "trying again" in capsys.readouterr().err


def test_a_weak_etag_is_no_proof_of_the_same_file(server, path):
    file = File(BODY, etag='W/"x"', breaks=[300_000])
    fetch(server.put("file", file), path)
    assert ranges(file) == [None, None]
    assert path.read_bytes() == BODY


def test_without_any_tag_a_checksum_allows_to_go_on(server, path):
    file = File(BODY, etag=None, breaks=[300_000])
    fetch(server.put("file", file), path, sha256=SHA256.upper())
    assert offset(ranges(file)[1]) > 0
    assert path.read_bytes() == BODY


def test_starts_again_where_ranges_are_ignored(server, path):
    file = File(BODY, ranges=False, breaks=[100_000, 300_000])
    fetch(server.put("file", file), path)
    assert path.read_bytes() == BODY and len(file.asked) == 3


def test_starts_again_when_the_file_changed_between_attempts(server, path):
    file = File(BODY, breaks=[400_000] + [0] * 20)
    url = server.put("file", file)
    with pytest.raises(UserError, match="Run again later"):
        fetch(url, path)
    server.put("file", file := File(OTHER, etag='"two"'))
    fetch(url, path)
    assert file.asked[0]["If-Range"] == '"one"'
    assert path.read_bytes() == OTHER


class ForgetsIfRange(File):
    """Sends parts of the new file whatever is asked."""

    def __getattribute__(self, name):
        if name == "last_modified" and self.asked:
            return self.asked[-1].get("If-Range")
        return super().__getattribute__(name)


def test_a_part_of_another_file_is_not_taken(server, path):
    url = server.put("file", File(BODY, breaks=[400_000] + [0] * 20))
    with pytest.raises(UserError):
        fetch(url, path)
    server.put("file", file := ForgetsIfRange(OTHER, etag='"two"'))
    fetch(url, path)
    assert path.read_bytes() == OTHER
    assert offset(ranges(file)[0]) > 0 and ranges(file)[1] is None


@pytest.mark.parametrize(
    "lie",
    ["bytes 0-599999/600000", "bytes 5-599999/600000", "bytes x", "bytes 400000-599999/9"],
)
def test_a_part_that_does_not_fit_is_not_taken(server, path, lie):
    file = File(BODY, content_range=lie, breaks=[400_000])
    fetch(server.put("file", file), path)
    assert path.read_bytes() == BODY
    assert ranges(file)[-1] is None


def test_a_part_longer_than_the_file_is_dropped(server, path):
    url = server.put("file", File(BODY, breaks=[400_000] + [0] * 20))
    with pytest.raises(UserError):
        fetch(url, path)
    server.put("file", File(BODY[:1000], etag='"one"'))
    fetch(url, path)
    assert path.read_bytes() == BODY[:1000]


def test_the_part_of_another_address_is_not_gone_on_with(server, path):
    with pytest.raises(UserError):
        fetch(server.put("a", File(BODY, breaks=[400_000] + [0] * 20)), path)
    file = File(OTHER)
    fetch(server.put("b", file), path)
    assert path.read_bytes() == OTHER and ranges(file) == [None]


def test_a_garbled_record_means_a_fresh_start(server, path):
    url = server.put("file", file := File(BODY, breaks=[400_000] + [0] * 5))
    with pytest.raises(UserError):
        fetch(url, path)
    path.with_name(f".{path.name}.part.json").write_text("[]")
    file.breaks.clear()
    fetch(url, path)
    assert path.read_bytes() == BODY and ranges(file)[-1] is None


@pytest.mark.parametrize(
    ("file", "known", "says", "asked"),
    [
        (File(BODY, length="700000"), {}, "expected the whole file; found in", 6),
        (File(BODY, length="500000"), {"size": 600_000}, "announces 500000", 1),
        (File(BODY, length="500000"), {"sha256": SHA256}, f"expected sha256 {SHA256}; found", 1),
        (File(BODY), {"size": 5}, "expected 5 bytes; found that the server announces 600000", 1),
        (File(BODY, chunked=True), {"size": 599_999}, "at most 599999 bytes; found more", 1),
        (File(BODY, chunked=True), {"size": 600_001}, "expected the whole file; found in 6", 6),
        (File(BODY, length=""), {"size": 600_001}, "expected the whole file; found in 6", 6),
        (File(OTHER), {"sha256": SHA256}, hashlib.sha256(OTHER).hexdigest(), 1),
        (File(OTHER), {"md5": "0" * 32}, hashlib.md5(OTHER).hexdigest(), 1),
    ],
)
def test_lies_about_size_and_content_are_found(server, path, file, known, says, asked):
    url = server.put("file", file)
    with pytest.raises(UserError) as error:
        fetch(url, path, **known)
    assert says in str(error.value) and str(error.value).startswith(f"{url}: ")
    assert len(file.asked) == asked
    assert not path.exists()


def test_a_wrong_checksum_leaves_no_part_to_go_on_with(server, path):
    url = server.put("file", File(OTHER, breaks=[100_000]))
    with pytest.raises(UserError, match="run again to download it again"):
        fetch(url, path, sha256=SHA256)
    assert list(path.parent.iterdir()) == []
    server.put("file", file := File(BODY))
    fetch(url, path, sha256=SHA256)
    assert ranges(file) == [None]


def test_an_endless_body_is_cut(server, path, monkeypatch):
    monkeypatch.setattr(transfer, "UNANNOUNCED_BYTES", 200_000)
    with pytest.raises(UserError, match="at most 200000 bytes; found more"):
        fetch(server.put("file", File(BODY, chunked=True)), path)
    assert list(path.parent.iterdir()) == []


def test_no_room_is_said_before_anything_is_taken(server, path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 599_999, 599_999))
    with pytest.raises(UserError, match=r"expected 600.0 kB of room .* found 600.0 kB"):
        fetch(server.put("file", File(BODY)), path)
    assert not path.exists()


def test_a_server_that_never_gets_further_is_given_up(server, path):
    file = File(BODY, breaks=[0] * 100)
    with pytest.raises(UserError, match="found in 5 attempts") as error:
        fetch(server.put("file", file), path)
    assert len(file.asked) == 5 and "Run again later" in str(error.value)


def test_the_number_of_attempts_is_bounded_even_with_progress(server, path, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 7)
    file = File(BODY, breaks=[40_000] * 100)
    with pytest.raises(UserError, match=r"found in 7 attempts.* 2\d\d.\d kB of it are kept"):
        fetch(server.put("file", file), path)
    fetch(server.put("file", File(BODY)), path)
    assert path.read_bytes() == BODY


def test_redirects_are_followed(server, path):
    server.put("final", File(BODY))
    fetch(server.put("file", File(redirect="/final")), path)
    assert path.read_bytes() == BODY


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (File(redirect="file:///etc/passwd"), "file:///etc/passwd"),
        (File(redirect="/file"), "30 redirects"),
        (File(statuses=[404]), "found 404 Not Found. Check the address."),
        (File(statuses=[403]), "found 403 Forbidden"),
    ],
)
def test_what_will_not_go_well_later_is_said_at_once(server, path, file, says):
    with pytest.raises(UserError, match=says):
        fetch(server.put("file", file), path)
    assert not path.exists()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/y", "weights.pth", "http://", "http://[x/y", "C:\\a"]
)
def test_only_http_is_spoken(path, url):
    with pytest.raises(UserError, match="expected an address that begins with https://"):
        fetch(url, path)


def test_no_one_listens(path):
    with pytest.raises(UserError, match=r"found in 5 attempts: [^<(]*Connection refused"):
        fetch("http://127.0.0.1:9/file", path)


def test_a_break_is_told_in_words(server, path):
    with pytest.raises(UserError, match=r"found in 5 attempts: [\w ,]*(IncompleteRead|bytes)"):
        fetch(server.put("file", File(BODY, breaks=[0] * 9)), path)


def test_https_never_becomes_http(path, monkeypatch):
    answer = requests.Response()
    answer.url, answer.status_code, answer.raw = "http://host/file", 200, io.BytesIO(BODY)
    monkeypatch.setattr(requests.Session, "get", lambda *_, **__: answer)
    with pytest.raises(UserError, match="expected https all the way; found a redirect to http:"):
        fetch("https://host/file", path)
    assert list(path.parent.iterdir()) == []


def test_a_certificate_that_no_one_signed(path, tmp_path):
    """Made here, so nobody trusts it; it is said at once."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        ["openssl", *request, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with served() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.put("file", file := File(BODY)).replace("http:", "https:")
        with pytest.raises(UserError, match="expected a trusted certificate; found"):
            fetch(url, path)
    assert file.asked == []


def test_a_file_that_is_there_is_kept_and_nothing_asked(server, path):
    url = server.put("file", file := File(BODY))
    fetch(url, path)
    fetch(url, path, size=len(BODY), sha256=SHA256, md5=hashlib.md5(BODY).hexdigest())
    assert len(file.asked) == 1
    with pytest.raises(UserError, match=r"weights.pth: expected the file .* Move it away"):
        fetch(url, path, sha256="0" * 64)
    assert path.read_bytes() == BODY


def test_a_folder_of_the_name_of_the_file(server, path):
    path.mkdir(parents=True)
    with pytest.raises(UserError, match="expected a file; found a folder"):
        fetch(server.put("file", file := File(BODY)), path)
    assert path.is_dir() and file.asked == []


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected to write it to"):
        fetch(server.put("file", File(BODY)), tmp_path / "file" / "x")


def test_processes_that_fetch_the_same_file_agree(server, path):
    url = server.put("file", file := File(BODY, pace_s=0.02, breaks=[200_000]))
    processes = [Process(target=fetch, args=(url, path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert path.read_bytes() == BODY and only(path)
    # One download, broken once.
    assert len(file.asked) == 2


def test_a_killed_download_goes_on(server, path):
    url = server.put("file", file := File(BODY, pace_s=0.1))
    process = Process(target=fetch, args=(url, path))
    process.start()
    part = path.with_name(f".{path.name}.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not path.exists()
    present = part.stat().st_size
    file.pace_s = 0
    fetch(url, path)
    assert path.read_bytes() == BODY and only(path)
    assert ranges(file) == [None, f"bytes={present}-"]


def test_killed_between_the_last_byte_and_the_name_nothing_is_asked(server, path, monkeypatch):
    url = server.put("file", file := File(BODY))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b: stop() if b == path else os.rename(a, b))
        with pytest.raises(KeyboardInterrupt):
            fetch(url, path)
    fetch(url, path)
    assert path.read_bytes() == BODY and len(file.asked) == 1


def _count_exclusively(lock, counter, times):
    for _ in range(times):
        with exclusive(lock):
            number = int(counter.read_text())
            counter.write_text(str(number + 1))


def test_one_at_a_time(tmp_path):
    """Also while the lock is deleted and made again under those who wait."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [
        Process(target=_count_exclusively, args=(tmp_path / "lock", counter, 50)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert counter.read_text() == "200"
    assert not (tmp_path / "lock").exists()
