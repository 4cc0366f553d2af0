"""Tiles against the whole image, in float64, where only a wrong pixel makes a difference."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import esc_arch
from esc_arch.archs import ESC, ESCFP, ESCLTE
from esc_arch.archs.elan_arch import ELAN
from esc_arch.archs.esc_real_arch import ESCReal, ESCRealM
from esc_arch.archs.hit_srf_arch import HiT_SRF
from esc_arch.errors import UserError
from esc_arch.progress import Progress
from esc_arch.upscale.tiling import ArrayOutput, enlarge
from tests.reference_cases import fill_parameters

SMALL = {
    "dim": 8,
    "pdim": 4,
    "kernel_size": 5,
    "n_blocks": 2,
    "conv_blocks": 2,
    "window_size": 4,
    "num_heads": 2,
}
NETWORKS = {
    "esc": lambda: ESC(**SMALL, upscaling_factor=3),
    "esc_norm": lambda: ESC(**{**SMALL, "kernel_size": 13}, upscaling_factor=2, use_ln=True),
    "esc_fp": lambda: ESCFP(**SMALL, upscaling_factor=3),
    "esc_real": lambda: ESCReal(**SMALL, upscaling_factor=4),
    "esc_real_dysample": lambda: ESCReal(**SMALL, upscaling_factor=2, use_dysample=True),
    "esc_real_m": lambda: ESCRealM(**SMALL, upscaling_factor=1),
    "esc_real_m_x2": lambda: ESCRealM(**SMALL, upscaling_factor=2, upsampler="pixelshuffle"),
    "esc_real_m_x3": lambda: ESCRealM(**SMALL, upscaling_factor=3, upsampler="pixelshuffledirect"),
    "esc_real_m_dysample": lambda: ESCRealM(
        **SMALL, upscaling_factor=2, upsampler="dysample", mid_dim=4
    ),
}


def in_float64(network: nn.Module) -> nn.Module:
    """With all parameters random, the dynamic kernels' too."""
    return fill_parameters(network).eval().double()


def whole(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    with torch.no_grad():
        return network(image)


@pytest.mark.parametrize("memory", [0, 10**9], ids=["file", "memory"])
@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_of_esc_networks_are_exact(name, memory, tmp_path):
    network = in_float64(NETWORKS[name]())
    scale = network.upscaling_factor
    for size in ((1, 1), (3, 30), (17, 9), (26, 23)):
        image = torch.rand(1, 3, *size, dtype=torch.float64)
        expected = whole(network, image)
        for tile in (1, 9, 16):
            result = enlarge(network, image, scale, tile=tile, memory=memory, scratch=tmp_path)
            deviation = (result - expected).abs().max() / expected.abs().max()
            assert result.shape == expected.shape
            assert deviation < 1e-9, (size, tile)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory", [0, 10**9], ids=["file", "memory"])
def test_tiles_of_any_scale_are_exact(memory, tmp_path):
    network = in_float64(ESCLTE(**SMALL, hidden_dim=8))
    for size, scale in (((1, 1), 3), ((3, 30), 1.0), ((17, 9), 2.5), ((26, 23), 3.7), ((9, 7), 30)):
        image = torch.rand(1, 3, *size, dtype=torch.float64)
        expected_size = tuple(max(1, round(side * scale)) for side in size)
        with torch.no_grad():
            expected = network(image, size=expected_size, max_scale=4)
        for tile in (1, 9, "off", "auto"):
            result = enlarge(network, image, scale, tile=tile, memory=memory, scratch=tmp_path)
            assert result.shape == expected.shape
            assert (result - expected).abs().max() < 1e-9, (size, scale, tile)
    assert not list(tmp_path.iterdir())


def test_any_scale_with_a_hook_is_computed_whole():
    network = in_float64(ESCLTE(**SMALL, hidden_dim=8))
    image = torch.rand(1, 3, 21, 13, dtype=torch.float64)
    with torch.no_grad():
        expected = network(image, scale=2.5)
    network.encoder.register_forward_hook(lambda module, inputs, feat: 2 * feat)
    with torch.no_grad():
        hooked = network(image, scale=2.5)
    result = enlarge(network, image, 2.5, tile=4)
    torch.testing.assert_close(result, hooked)
    assert (hooked - expected).abs().max() > 1e-3


def test_without_the_common_mean_the_tiles_would_differ():
    """The dynamic kernel is not zero here: what is tested above is there to be missed."""
    network = in_float64(NETWORKS["esc"]())
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    half = torch.cat([whole(network, part) for part in image.split(8, dim=3)], dim=3)
    expected = whole(network, image)
    assert (half - expected).abs()[..., :9].max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("memory", [0, 10**9], ids=["file", "memory"])
def test_kernels_of_the_cpu_on_tiles(memory):
    """In float32, with sizes that the C++ kernels take, folded and deployed."""
    arguments = {**SMALL, "dim": 32, "pdim": 16, "window_size": 8}
    network = fill_parameters(ESC(**arguments, upscaling_factor=2))
    deployed = esc_arch.deploy(network)
    image = torch.rand(1, 3, 70, 53)
    expected = whole(deployed, image)
    result = enlarge(deployed, image, 2, tile=24, memory=memory)
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()


def test_large_maps_whose_layers_run_in_bands():
    """Not in the kernels: there the layers write over their inputs."""
    network = in_float64(ESC(**{**SMALL, "n_blocks": 1}, upscaling_factor=2))
    image = torch.rand(1, 3, 160, 300, dtype=torch.float64)
    result = enlarge(network, image, 2, tile=152, memory=10**9)
    expected = whole(network, image)
    assert (result - expected).abs().max() < 1e-9 * expected.abs().max()


def test_automatic_tiles_are_those_that_fit():
    # A hook outside of the network, which tiles go around.
    network = esc_arch.deploy(in_float64(NETWORKS["esc"]()), torch.float64)
    image = torch.rand(2, 3, 40, 50, dtype=torch.float64)
    seen = []
    for memory in (0, 10**5, 10**6, 10**10):
        handle = network.register_forward_hook(lambda *args: seen.append(args[1][0].shape))
        result = enlarge(network, image, 3, memory=memory)
        handle.remove()
        assert (result - whole(network, image)).abs().max() < 1e-9 * result.abs().max()
    assert seen.count((1, 3, 40, 50)) == 2  # both images of the last


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_output_rounds_to_integers(dtype):
    network = in_float64(NETWORKS["esc"]())
    image = torch.rand(1, 3, 13, 10, dtype=torch.float64)
    array = np.full((39, 30, 3), 7, dtype)
    assert enlarge(network, image, 3, tile=4, output=ArrayOutput(array)) is None
    white = np.iinfo(dtype).max
    expected = whole(network, image)[0].permute(1, 2, 0).clamp(0, 1).numpy() * white
    assert np.abs(array - expected).max() < 0.51
    assert 0 < (array == 0).mean() < 1


def test_output_refuses_what_it_cannot_take():
    with pytest.raises(ValueError, match="float32"):
        ArrayOutput(np.zeros((2, 2, 3), np.float32))
    with pytest.raises(ValueError, match="not 2"):
        enlarge(nn.Identity(), torch.rand(2, 3, 4, 4), 1, output=lambda region, part: None)


@pytest.mark.parametrize("tile", ["auto", "off", 4])
def test_progress_adds_up_to_the_work(tile):
    network = in_float64(NETWORKS["esc_real_m_dysample"]())
    steps = []
    image = torch.rand(1, 3, 19, 11, dtype=torch.float64)
    enlarge(network, image, 2, tile=tile, memory=0, progress=Progress(steps.append))
    assert sum(steps) == pytest.approx(1) and min(steps) > 0


@pytest.mark.parametrize("tile", [0, -3, "all", 2.5, True])
def test_wrong_tile_is_named(tile):
    with pytest.raises(UserError, match="tile: expected auto, off"):
        enlarge(nn.Identity(), torch.rand(1, 3, 4, 4), 1, tile=tile)


def test_scratch_folder_that_is_not_there_is_named(tmp_path):
    network = in_float64(NETWORKS["esc"]())
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(UserError, match="nowhere: expected room"):
        enlarge(network, image, 3, tile=4, memory=0, scratch=tmp_path / "nowhere")


class Greedy(nn.Module):
    """Finds no memory for more than so many pixels."""

    def __init__(self, pixels: int, error: Exception) -> None:
        super().__init__()
        self.pixels, self.error, self.refused = pixels, error, 0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] * x.shape[3] > self.pixels:
            self.refused += 1
            raise self.error
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError(), RuntimeError("can't allocate: not enough memory")],
)
def test_smaller_tiles_when_memory_runs_out(error):
    network = Greedy(200 * 200, error)
    image = torch.rand(1, 3, 256, 300)
    steps = []
    result = enlarge(network, image, 2, tile=128, progress=Progress(steps.append))
    assert torch.equal(result, image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert network.refused == 1 and sum(steps) == pytest.approx(1)
    with pytest.raises(type(error)):
        enlarge(Greedy(100, error), image, 2, tile=128)


def test_windows_of_overlapping_tiles_are_those_of_the_image():
    """Windows without shifts see nothing beyond them: with aligned tiles the result is exact."""
    network = HiT_SRF(
        embed_dim=24,
        depths=(2,),
        num_heads=(2,),
        base_win_size=(8, 8),
        hier_win_ratios=(0.5, 1),
        upscale=2,
    )
    network = in_float64(network)
    image = torch.rand(1, 3, 52, 43, dtype=torch.float64)
    expected = whole(network, image)
    result = enlarge(network, image, 2, tile=24)
    assert (result - expected).abs().max() < 1e-9 * expected.abs().max()


def test_shifted_windows_of_overlapping_tiles():
    """ELAN's wrap around the image, whose sides are no multiples of the windows here."""
    network = in_float64(ELAN(2, window_sizes=(2, 2, 4), m_elan=4, c_elan=12))
    image = torch.rand(1, 3, 90, 141, dtype=torch.float64)
    expected = whole(network, image)
    result = enlarge(network, image, 2, tile=24)
    assert (result - expected).abs().max() < 1e-9 * expected.abs().max()


class ChannelAttention(nn.Module):
    """Two means over the image, one of them at half its resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1), nn.Sigmoid())
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(6, 12, 1)
        )
        self.to_img = nn.Conv2d(6, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        feat = self.conv(x)
        feat = feat * self.gate(feat)
        return nn.functional.pixel_shuffle(self.to_img(feat) + self.coarse(feat), 2)


def test_tiles_take_the_means_of_all():
    network = in_float64(ChannelAttention())
    image = torch.rand(1, 3, 192, 256, dtype=torch.float64)
    expected = whole(network, image)
    result = enlarge(network, image, 2, tile=64, memory=10**9)
    assert (result - expected).abs().max() < 1e-9


def test_some_tiles_stand_for_the_mean_of_all_where_memory_is_short():
    network = in_float64(ChannelAttention())
    image = torch.rand(1, 3, 192, 256, dtype=torch.float64)
    expected = whole(network, image)
    result = enlarge(network, image, 2, tile=64, memory=0)
    difference = (result - expected).abs().max()
    assert 1e-9 < difference < 0.02 * expected.std()
    assert not network.gate[0]._forward_hooks


def test_an_error_in_one_tile_ends_them_all():
    network = in_float64(ChannelAttention())
    image = torch.rand(1, 3, 128, 128, dtype=torch.float64)
    calls = []

    def fail(module, args):
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("of the third tile")

    network.to_img.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="of the third tile"):
        enlarge(network, image, 2, tile=64, memory=10**9)
    assert not network.gate[0]._forward_hooks


def test_ctrl_c_while_the_tiles_are_started(monkeypatch):
    """Those that have started are ended; they waited for a turn that never came."""
    network = in_float64(ChannelAttention())
    started = []

    def submit(threads, *work):
        if started:
            raise KeyboardInterrupt
        started.append(plain(threads, *work))
        return started[0]

    plain = ThreadPoolExecutor.submit
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    image = torch.rand(1, 3, 128, 128, dtype=torch.float64)
    with pytest.raises(KeyboardInterrupt):
        enlarge(network, image, 2, tile=64, memory=10**9)
    assert started[0].done() and not network.gate[0]._forward_hooks


def test_a_function_is_tiled_too():
    def network(x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)

    image = torch.rand(1, 3, 130, 200)
    assert torch.equal(enlarge(network, image, 1, tile=64), image.mean(1, keepdim=True))
