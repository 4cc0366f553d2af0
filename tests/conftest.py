"""For every test: a repaired basicsr, the same random numbers, esc_arch's log."""

# In this order, before any import of torchvision: esc_arch repairs both for basicsr.
import esc_arch  # noqa: F401, I001
import basicsr  # noqa: F401

import logging
import signal

import pytest
import torch


# A shell that starts a job in the background has it ignore Ctrl-C, and its children too; the tests
# of Ctrl-C would wait for nothing then.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def said(caplog, monkeypatch):
    """The messages that esc_arch has logged since the test began, a list that grows.

    BasicSR's own logger hands nothing on to the root logger, where caplog listens.
    """
    logger = logging.getLogger("basicsr.esc_arch")
    monkeypatch.setattr(logger, "propagate", False)
    caplog.set_level(logging.INFO, logger=logger.name)
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append((record.levelname, record.getMessage()))
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
