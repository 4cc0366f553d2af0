from contextlib import contextmanager

import pytest
import torch

from esc_arch.fast.kernels import abi


@pytest.fixture(params=[16, 8, 4])
def lanes(request, monkeypatch):
    """The kernels for AVX-512, for AVX2, and for any processor, as far as this one has them."""
    monkeypatch.setattr(abi, "lanes", request.param)
    return request.param


@pytest.fixture
def with_threads():
    """A context in which PyTorch, and so the kernels, take a number of threads."""

    @contextmanager
    def context(threads: int):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return context


@pytest.fixture
def check_threads(with_threads):
    """Asserts that a function gives the same tensors, to the bit, by any number of threads."""

    def check(function):
        found = []
        for threads in (torch.get_num_threads(), 1, 2, 3, 16):
            with with_threads(threads):
                found.append(function())
        for others in found[1:]:
            assert all(map(torch.equal, others, found[0]))

    return check
