import pytest
import torch

from esc_arch import native


@pytest.fixture(params=[16, 8, 4])
def lanes(request, monkeypatch):
    """The kernels for AVX-512, for AVX2, and for any processor, as far as this one has them."""
    monkeypatch.setattr(native, "lanes", request.param)
    return request.param


@pytest.fixture
def check_threads():
    """Asserts that a function gives the same tensors, to the bit, by any number of threads."""

    def check(function):
        before, found = torch.get_num_threads(), []
        try:
            for threads in (before, 1, 2, 3, 16):
                torch.set_num_threads(threads)
                found.append(function())
        finally:
            torch.set_num_threads(before)
        for others in found[1:]:
            assert all(map(torch.equal, others, found[0]))

    return check
