"""A folder of tiny images to train in, and the log of the trainings."""

import logging
from pathlib import Path

import pytest
from tiny_run import write_data


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    # Of the logger's handlers that BasicSR has made in an earlier test, for its stderr.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    return tmp_path


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """What BasicSR's logger and ours say, a list that grows.

    BasicSR opens the log file of the first training of a process only.
    """
    logger = logging.getLogger("basicsr")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
