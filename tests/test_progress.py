"""Progress: amounts, parts of parts, second attempts, and lines in a log file."""

import pytest

from esc_arch import progress as module
from esc_arch.progress import Progress, progress


def test_parts_add_up_to_their_share():
    reported = []
    images = Progress(reported.append)
    first, second = images.part(), images.part()
    tile = first.part(0.5, total=200)
    tile(150)
    tile(150)  # more than its total
    assert sum(reported) == pytest.approx(0.5)
    first.finish()
    second.finish()
    second.finish()
    assert sum(reported) == pytest.approx(2) and min(reported) > 0


def test_a_second_attempt_reports_nothing_twice():
    reported = []
    work = Progress(reported.append, total=10)
    work(6)
    work.restart()
    work(4)
    assert reported == [6]
    work(5)
    work.finish()
    assert reported == [6, 3, 1]


def test_lines_in_a_file(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_INTERVAL_S", 0.0)
    with progress("packing", 4, done=1) as advance:
        advance(0.5)
        advance.part(2.5).finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("packing: 1/4 images, 0 s, about ")
    assert lines[-1] == "packing: 4/4 images, 0 s"
    with progress("downloading", None, "bytes") as advance:
        advance(2_000_000)
    assert capsys.readouterr().err.splitlines()[-1] == "downloading: 2.0 MB, 0 s"
