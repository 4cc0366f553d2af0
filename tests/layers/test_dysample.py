"""DySample by bands of rows against the whole map at one time."""

import pytest
import torch
from torch import nn

from esc_arch import fast
from esc_arch.layers.upsamplers import DySample


@pytest.mark.parametrize("batch, height, width, scale", [(1, 9, 7, 4), (2, 12, 5, 2), (1, 1, 3, 3)])
@torch.no_grad()
def test_bands_of_rows_sample_the_whole_map(batch, height, width, scale, monkeypatch):
    torch.manual_seed(0)
    layer = DySample(8, 3, scale).double()
    # Far beyond the rows of a band.
    nn.init.normal_(layer.offset.weight, std=4)
    nn.init.normal_(layer.scope.weight)
    x = torch.randn(batch, 8, height, width, dtype=torch.float64)
    expected = layer(x)
    assert layer.offsets(x).abs().max() > 3
    for rows in (1, 2, 10**6):
        monkeypatch.setattr(fast, "rows_of_bands", lambda *_, rows=rows: rows)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
