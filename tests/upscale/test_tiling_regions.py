"""Cutting images into tiles."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esc_arch.fast.maps import cut, tiles
from esc_arch.upscale.tiling.memory import available_memory, bytes_per_pixel, side_of_tiles

sides = st.integers(1, 300)


@given(sides, sides, st.integers(1, 40))
def test_parts_cover_a_side_at_multiples(size, side, multiple):
    parts = cut(size, side, multiple)
    assert [end for _, end in parts[:-1]] == [start for start, _ in parts[1:]]
    assert parts[0][0] == 0 and parts[-1][1] == size
    assert all(start % multiple == 0 and start < end for start, end in parts)
    if size >= multiple:
        assert all(end - start >= multiple for start, end in parts)
    assert all(end - start < max(side, multiple) + multiple for start, end in parts)


@settings(deadline=None)
@given(sides, sides, st.integers(1, 40), st.integers(0, 40), st.integers(1, 60_000))
def test_planned_tiles_keep_to_their_pixels(height, width, multiple, halo, pixels):
    size = (height, width)
    side = side_of_tiles(size, multiple, halo, pixels)
    parts = [part.grown(halo, size) for part in tiles(size, side, multiple)]
    if side != (multiple, multiple):
        assert max(part.pixels for part in parts) <= pixels
    if pixels >= height * width:
        assert len(parts) == 1


def test_memory_of_a_network_is_that_of_its_maps():
    """Two maps of 10 channels live at a time, of float32."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 10, 1), torch.nn.ReLU(), torch.nn.ReLU())
    with torch.no_grad():
        measured = bytes_per_pixel(network.eval(), torch.rand(1, 3, 8, 8))
    assert 80 <= measured <= 1.25 * 80 + 20


def test_some_memory_is_available():
    assert 10**6 < available_memory(torch.device("cpu")) < 10**14
