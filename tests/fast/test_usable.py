"""Which maps the kernels take, and what happens where there are none."""

import torch

from esc_arch.fast import kernels
from esc_arch.fast.kernels import abi

IMAGE = torch.rand(1, 3, 40, 37, generator=torch.Generator().manual_seed(0))


def test_the_kernels_were_compiled():
    """They are optional for users without a compiler, and required here."""
    assert kernels.available()


@torch.inference_mode()
def test_float32_in_inference_alone():
    assert kernels.usable(IMAGE)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert not kernels.usable(IMAGE.to(dtype))
    assert not kernels.usable(IMAGE.to("meta"))
    with torch.enable_grad():
        assert not kernels.usable(IMAGE) and kernels.usable_in_training(IMAGE)
    with torch.autocast("cpu"):
        assert not kernels.usable_in_training(IMAGE)


@torch.inference_mode()
def test_a_package_without_kernels(monkeypatch, tmp_path):
    monkeypatch.setattr(abi, "__file__", str(tmp_path / "__init__.py"))
    abi.library.cache_clear()
    try:
        assert not kernels.available() and not kernels.usable(IMAGE)
    finally:
        monkeypatch.undo()
        abi.library.cache_clear()
    assert kernels.available()


@torch.inference_mode()
def test_kernels_that_cannot_be_loaded_are_named(monkeypatch, tmp_path, said):
    path = tmp_path / f"_kernels{abi.EXTENSION_SUFFIXES[0]}"
    path.write_bytes(b"not a library")
    monkeypatch.setattr(abi, "__file__", str(tmp_path / "__init__.py"))
    abi.library.cache_clear()
    try:
        assert not kernels.usable(IMAGE)
    finally:
        monkeypatch.undo()
        abi.library.cache_clear()
    assert len(said) == 1 and said[0][0] == "WARNING" and str(path) in said[0][1]


def test_maps_that_take_a_result():
    """The pixels of a row have to lie side by side, rows and images may lie anywhere."""
    x = torch.empty(2, 16, 9, 8, memory_format=torch.channels_last)
    assert kernels.takes_result(x)
    assert kernels.takes_result(x[:, :, 2:, 3:5])
    assert not kernels.takes_result(x[:, :8])
    assert not kernels.takes_result(x[..., ::2])
    assert not kernels.takes_result(x.contiguous())
