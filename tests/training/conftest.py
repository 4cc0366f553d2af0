"""A folder of tiny images to train in."""

from pathlib import Path

import pytest
from tiny_run import write_data


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
