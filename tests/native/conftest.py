import pytest

from esc_arch import native


@pytest.fixture(params=[16, 8, 4])
def lanes(request, monkeypatch):
    """The kernels for AVX-512, for AVX2, and for any processor, as far as this one has them."""
    monkeypatch.setattr(native, "lanes", request.param)
    return request.param
