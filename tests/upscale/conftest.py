"""Until the tiling is merged: the whole image at once."""

import importlib.util
import sys
import types

import pytest


@pytest.fixture(autouse=True)
def tiling(monkeypatch):
    if importlib.util.find_spec("esc_arch.upscale.tiling") is not None:
        return

    class ArraySink:
        def __init__(self, array):
            self.array = array

        def __call__(self, region, part):
            white = {"uint8": 255, "uint16": 65535}[str(self.array.dtype)]
            values = part[0].permute(1, 2, 0).float().clamp(0, 1).mul(white).round()
            self.array[...] = values.cpu().numpy()

    def enlarge(network, image, scale, *, memory, tile, advance, sink):
        result = network(image)
        for _ in range(3):
            advance(1)
        if sink is not None:
            sink(None, result)
            return None
        return result

    module = types.ModuleType("esc_arch.upscale.tiling")
    module.ArraySink, module.enlarge, module.work = ArraySink, enlarge, lambda network, size: 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
