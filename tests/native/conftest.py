import contextlib

import pytest
import torch

from esc_arch import native


@pytest.fixture(params=[16, 8, 4])
def lanes(request, monkeypatch):
    """The kernels for AVX-512, for AVX2, and for any processor, as far as this one has them."""
    monkeypatch.setattr(native, "lanes", request.param)
    return request.param


@pytest.fixture
def with_threads():
    """A context in which PyTorch, and so the kernels, have a number of threads."""

    @contextlib.contextmanager
    def context(number):
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return context
