"""What goes through the C ABI of the kernels: the structures on both sides, errors, names."""

import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from esc_arch.fast import kernels
from esc_arch.fast.kernels import abi

HEADER = Path(abi.__file__).with_name("abi.hpp").read_text()
SCALARS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "float": ctypes.c_float}
CALLS = {
    "aggregate": abi.AggregateCall,
    "attention_layer": abi.AttentionLayerCall,
    "conv_ffn": abi.ConvFfnCall,
    "symmetric_conv": abi.SymmetricConvCall,
    "window_attention": abi.WindowAttentionCall,
    "window_attention_backward": abi.WindowAttentionBackwardCall,
}


def structures_of_the_header():
    """The name of each structure, and the names and types of its fields in their order."""
    header = re.sub(r"//[^\n]*", "", HEADER)
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", header, flags=re.DOTALL):
        fields = []
        for declaration in filter(None, map(str.strip, body.split(";"))):
            kind, pointer, field = re.fullmatch(
                r"(?:const )?(\w+) (\*?)(\w+)", declaration
            ).groups()
            fields.append((field, "pointer" if pointer else kind))
        yield name, fields


def type_in_python(kind):
    return ctypes.c_void_p if kind == "pointer" else SCALARS.get(kind) or getattr(abi, kind)


def test_both_sides_have_the_same_structures():
    in_cpp = dict(structures_of_the_header())
    in_python = {
        name: item
        for name, item in vars(abi).items()
        if isinstance(item, type) and issubclass(item, ctypes.Structure) and name != "Structure"
    }
    assert list(in_cpp) == list(in_python)
    assert set(CALLS.values()) <= set(in_python.values())
    for name, fields in in_cpp.items():
        assert in_python[name]._fields_ == [(field, type_in_python(kind)) for field, kind in fields]


def test_both_sides_have_the_same_results():
    names = re.search(r"enum Status \{(.*?)\}", HEADER).group(1)
    assert (
        names == " " + ", ".join(f"{status.name} = {status.value}" for status in abi.Status) + " "
    )


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_another_version_are_refused(name, monkeypatch):
    """Whose size is not the one that the compiled kernel has, by whatever it differs."""
    for change in (-8, 4, 8):
        size = ctypes.sizeof(CALLS[name]) + change
        monkeypatch.setattr(abi.ctypes, "sizeof", lambda call, size=size: size)
        with pytest.raises(RuntimeError, match=f"another version than its kernel {name}: install"):
            abi.run(name, CALLS[name]())


@pytest.mark.parametrize("name", CALLS)
def test_of_this_version_a_call_without_pixels_does_nothing(name):
    """Sizes of both sides are the same: the compiled kernel takes the call."""
    attention = {"attention": abi.Attention(heads=1, head_channels=16, window=4, bias_stride=16)}
    call = CALLS[name](**attention if "attention" in dict(CALLS[name]._fields_) else {})
    abi.run(name, call)


def test_a_kernel_without_memory_says_so(monkeypatch):
    class Library:
        esc_conv_ffn = staticmethod(lambda call: abi.Status.NO_MEMORY)

    monkeypatch.setattr(abi, "library", Library)
    with pytest.raises(MemoryError, match="conv_ffn"):
        abi.run("conv_ffn", abi.ConvFfnCall())


@torch.inference_mode()
def test_profiles_name_the_kernels():
    layer = nn.Conv2d(16, 16, 1)
    x = torch.randn(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        kernels.aggregate(x[:, :8], x, layer, torch.zeros_like(x))
        kernels.attend(torch.cat([x] * 3, dim=1), torch.zeros(2, 49), 4)
    counts = {event.key: event.count for event in found.key_averages()}
    assert counts["esc_arch::aggregate"] == counts["esc_arch::window_attention"] == 1
