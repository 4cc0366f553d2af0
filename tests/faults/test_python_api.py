"""The same refusals from Python, and a reader of the output that is gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import esc_arch
from esc_arch.checkpoints import convert, open_weights, read_state_dict
from esc_arch.checkpoints.state_dicts import first_nonfinite
from esc_arch.errors import UserError


def spoilt(path: Path, key: str, value: float) -> Path:
    state = esc_arch.create("esc_light", scale=2).state_dict()
    state[key].view(-1)[-1] = value
    torch.save({"params": state}, path)
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none(tmp_path, value):
    key = "proj.weight"
    assert key in esc_arch.create("esc_light", scale=2).state_dict()
    path = spoilt(tmp_path / "x.pth", key, value)
    for call in (
        lambda: esc_arch.create("esc_light", scale=2, weights=path),
        lambda: open_weights(path),
        lambda: esc_arch.Upscaler(path),
        lambda: read_state_dict(path),
        lambda: convert(path, tmp_path / "y.safetensors"),
    ):
        with pytest.raises(UserError, match=rf"x\.pth: expected numbers; found NaN.* in {key}"):
            call()
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_sums_are_no_infinities(dtype):
    largest = torch.full((70_000,), torch.finfo(dtype).max, dtype=dtype)
    assert first_nonfinite({"a": largest, "count": torch.tensor(2**40)}) is None
    largest[-1] = float("nan")
    assert first_nonfinite({"whole": torch.ones(3), "a": largest}) == "a"


def test_checkpoints_without_checksums_are_read(tmp_path):
    state = {"params": {"a": torch.arange(9.0)}}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_state_dict(tmp_path / "x.pth")["a"], state["params"]["a"])


def test_a_closed_pipe_ends_quietly():
    done = subprocess.run(
        f"{sys.executable} -m esc_arch data download | head -c 10",
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert len(done.stdout) == 10 and done.stderr == ""
