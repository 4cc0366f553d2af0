"""The WindowAttention layer against loops over windows of a map padded by numpy."""

import itertools

import numpy as np
import pytest
import torch

from esc_arch.archs.esc_arch import WindowAttention
from esc_arch.fast import executor
from esc_arch.layers.channels_last import ChannelLayerNorm
from esc_arch.ops import attention
from tests import brute_force

WINDOW = 4
SIDES = [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3]
SIZES = [*itertools.product(SIDES, SIDES), (5 * WINDOW - 1, 3)]


def make_layer(attn_type="auto", window=WINDOW, dim=6, heads=2):
    layer = WindowAttention(dim, window, heads, attn_type).double()
    # A bias as large as the scores, so that an error in it shows.
    torch.nn.init.normal_(layer.relative_position_bias)
    return layer


def by_loops(layer, x):
    state = {key: value.numpy() for key, value in layer.state_dict().items()}
    return brute_force.window_attention_layer(x.detach().numpy(), state, layer.window_size)


@pytest.fixture
def small_passes(monkeypatch):
    """Passes of one row of windows at most widths here, of a few at width 1; each by blocks."""
    monkeypatch.setattr(executor, "PIXELS_PER_BAND", 0)
    monkeypatch.setattr(executor, "ATTENDING_PIXELS_PER_CORE", 5 * WINDOW)
    monkeypatch.setattr(attention, "LARGE_MAP", 0)


@torch.no_grad()
def in_passes(layer, x, norm=None):
    """The layer by the executor, which adds what it was given."""
    out = torch.empty_like(x, memory_format=torch.channels_last)
    executor.self_attention(layer, norm or torch.nn.Identity(), x, out)
    return out - x


@pytest.mark.parametrize("height, width", SIZES)
def test_graph_blocks_and_passes_are_the_brute_force(small_passes, height, width):
    layer = make_layer()
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    before = x.clone()
    expected = by_loops(layer, x)
    graph = layer(x)
    assert graph.requires_grad
    with torch.no_grad():
        by_blocks = layer(x)
    for result in (graph.detach(), by_blocks, in_passes(layer, x)):
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)
    assert torch.equal(x, before)


@pytest.mark.parametrize("height, width", SIZES)
def test_the_kernel_takes_float32_maps(small_passes, height, width):
    layer = make_layer().float()
    x = torch.randn(2, 6, height, width)
    with torch.no_grad():
        results = layer(x), in_passes(layer, x)
    expected = by_loops(layer.double(), x.double())
    for result in results:
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("windows_per_core", [0, 10**6])
@pytest.mark.parametrize("height, width", SIZES)
def test_the_executor_with_a_norm(small_passes, monkeypatch, height, width, windows_per_core):
    """By the kernel of the whole layer and without it."""
    monkeypatch.setattr(executor, "WINDOWS_PER_CORE", windows_per_core)
    layer, norm = make_layer(dim=16).float(), ChannelLayerNorm(16)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 16, height, width)
    before = x.clone()
    result = in_passes(layer, x, norm)
    pixels = x.double().numpy()
    normal = pixels - pixels.mean(1, keepdims=True)
    normal /= np.sqrt(pixels.var(1, keepdims=True) + 1e-6)
    weight, bias = (p.detach().double().numpy()[:, None, None] for p in norm.parameters())
    expected = by_loops(layer.double(), torch.from_numpy(normal * weight + bias))
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)
    assert torch.equal(x, before)


@torch.no_grad()
def test_the_executor_really_goes_in_passes(small_passes):
    layer, sizes = make_layer(), []
    layer.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[2]))
    in_passes(layer, torch.randn(1, 6, 5 * WINDOW - 1, 5 * torch.get_num_threads()).double())
    # What is left of a window stays with the windows above it.
    assert sizes == [WINDOW, WINDOW, WINDOW, 2 * WINDOW - 1]


@pytest.mark.parametrize("attn_type", ["naive", "sdpa", "Naive", "SDPA", "AUTO"])
def test_every_type_in_passes_and_whole(small_passes, attn_type):
    layer = make_layer(attn_type)
    x = torch.randn(1, 6, 11, 6, dtype=torch.float64)
    expected = by_loops(layer, x)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-12)
    with torch.no_grad():
        np.testing.assert_allclose(layer(x).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(in_passes(layer, x).numpy(), expected, atol=1e-12)


def test_public_option_files_say_Flex():
    layer = make_layer("Flex")
    assert layer.attn_type == "flex"
    x = torch.randn(1, 6, 5, 6, dtype=torch.float64)
    # With a gradient on a CPU, where flex gives way.
    np.testing.assert_allclose(layer(x).detach().numpy(), by_loops(layer, x), atol=1e-12)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_other_windows(small_passes, window):
    layer = make_layer(window=window)
    x = torch.randn(2, 6, 7, 4, dtype=torch.float64)
    expected = by_loops(layer, x)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-12)
    with torch.no_grad():
        np.testing.assert_allclose(layer(x).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(in_passes(layer, x).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("pixels", [1, 30, 10**6])
def test_size_of_a_pass_does_not_matter(small_passes, monkeypatch, pixels):
    monkeypatch.setattr(executor, "ATTENDING_PIXELS_PER_CORE", pixels)
    layer = make_layer()
    x = torch.randn(1, 6, 23, 5, dtype=torch.float64)
    np.testing.assert_allclose(in_passes(layer, x).numpy(), by_loops(layer, x), atol=1e-12)


def test_memory_format_does_not_matter(small_passes):
    layer = make_layer()
    x = torch.randn(2, 6, 11, 6, dtype=torch.float64)
    by_channel = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(by_channel), layer(x))
    with torch.no_grad():
        torch.testing.assert_close(layer(by_channel), layer(x))
    torch.testing.assert_close(in_passes(layer, by_channel), in_passes(layer, x))


@pytest.mark.parametrize("attn_type", ["naive", "sdpa"])
def test_gradients(attn_type):
    layer = make_layer(attn_type, window=2, dim=2, heads=1)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(1, 2, 3, 1, dtype=torch.float64, requires_grad=True)

    def by_arguments(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(by_arguments, (x, *parameters))


@pytest.fixture(scope="module")
def layer_and_exported():
    layer = make_layer()
    size = torch.export.Dim.AUTO
    example = torch.randn(2, 6, WINDOW + 1, 2 * WINDOW + 1, dtype=torch.float64)
    program = torch.export.export(
        layer, (example,), dynamic_shapes=({0: size, 2: size, 3: size},)
    ).module()
    return layer, program


ONE_WINDOW = pytest.mark.xfail(
    raises=AssertionError,
    strict=True,
    reason="torch.export fixes in the graph that there is more than one window along a side",
)


@pytest.mark.parametrize(
    "batch, height, width",
    [
        (2, WINDOW + 1, 2 * WINDOW + 1),
        (1, 3 * WINDOW, 2 * WINDOW),
        pytest.param(3, WINDOW, WINDOW + 1, marks=ONE_WINDOW),
        pytest.param(2, 2 * WINDOW, WINDOW - 1, marks=ONE_WINDOW),
        pytest.param(1, WINDOW, WINDOW, marks=ONE_WINDOW),
        pytest.param(1, 1, 1, marks=ONE_WINDOW),
    ],
)
def test_one_exported_graph_holds_for_many_sizes(layer_and_exported, batch, height, width):
    layer, program = layer_and_exported
    x = torch.randn(batch, 6, height, width, dtype=torch.float64)
    np.testing.assert_allclose(program(x).detach().numpy(), by_loops(layer, x), atol=1e-12)


def test_eval_and_train_are_the_same():
    layer = make_layer()
    x = torch.randn(1, 6, 5, 6, dtype=torch.float64)
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_parameters_of_the_public_release():
    shapes = {k: tuple(v.shape) for k, v in WindowAttention(64, 32, 4).state_dict().items()}
    assert shapes == {
        "relative_position_bias": (4, 3969),
        "to_qkv.weight": (192, 64, 1, 1),
        "to_qkv.bias": (192,),
        "to_out.weight": (64, 64, 1, 1),
        "to_out.bias": (64,),
    }


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((6, 4, 4), ["dim 6", "num_heads 4"]),
        ((6, 4, 0), ["num_heads 0"]),
        ((6, 0, 2), ["window_size 0"]),
        ((6, -1, 2), ["window_size -1"]),
        ((6, 4, 2, "fast"), ["'fast'", "auto", "naive", "sdpa", "flex"]),
    ],
)
def test_a_wrong_argument_is_named(arguments, words):
    with pytest.raises(ValueError) as error:
        WindowAttention(*arguments)
    assert all(word in str(error.value) for word in words)
