"""What every network of the ESC family must take: sizes, batches, types, layouts, modes.

The other presets have tests of their own.
"""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from esc_arch.archs import ESC, ESCFP, ESCLTE, PRESETS, ESCReal, ESCRealM
from tests.archs import network_checks
from tests.reference_cases import deviation, fill_parameters

# The presets' own structure, small: every argument that sets a size is cut down.
SMALL = {
    "dim": 16,
    "pdim": 4,
    "kernel_size": 5,
    "n_blocks": 2,
    "conv_blocks": 2,
    "window_size": 8,
    "num_heads": 2,
}


def small(name: str, scale: int | None = None, **arguments: object) -> nn.Module:
    preset = PRESETS[name]
    scale = preset.scales[0] if scale is None else scale
    values = {**preset.arguments, **SMALL, "upscaling_factor": scale, **arguments}
    values |= {"hidden_dim": 16} if "hidden_dim" in values else {}
    network = fill_parameters(preset.network(**values)).eval()
    if isinstance(network, ESCLTE):
        # Waves of twelve periods a pixel, as the rule makes them, multiply every rounding.
        network.freq.weight.data *= 0.1
    return network


def distinct_when_small() -> list[str]:
    """One preset for each network that differs from the others by more than its size."""
    by_structure = {}
    for name, preset in PRESETS.items():
        if preset.network not in (ESC, ESCFP, ESCLTE, ESCReal, ESCRealM):
            continue
        structure = (preset.network, tuple(sorted({**preset.arguments, **SMALL}.items())))
        by_structure.setdefault(structure, name)
    return list(by_structure.values())


pytestmark = pytest.mark.parametrize("name", distinct_when_small())


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (7, 8), (8, 8), (9, 17), (4, 40)])
def test_sides_from_one_pixel(name, size):
    for scale in PRESETS[name].scales:
        with torch.no_grad():
            y = small(name, scale)(torch.rand(1, 3, *size))
        assert y.shape == (1, 3, size[0] * scale, size[1] * scale)
        assert y.isfinite().all()


def test_a_batch_equals_its_images_one_by_one(name):
    network, x = small(name), torch.rand(3, 3, 11, 19)
    with torch.no_grad():
        y, single = network(x), torch.cat([network(image[None]) for image in x])
    assert deviation(y, single) < 1e-5


@pytest.mark.parametrize("batch", [1, 2])
def test_in_bands_equals_the_whole_map(name, batch, monkeypatch):
    network, x = small(name), torch.rand(batch, 3, 29, 19)
    with torch.no_grad():
        whole = network(x)
        network_checks.cut_into_bands(monkeypatch, width=19)
        monkeypatch.setattr("esc_arch.fast.executor.ATTENDING_PIXELS_PER_CORE", 1)
        cut = network(x)
    assert deviation(cut, whole) < 1e-5


def test_train_and_eval_mode_compute_the_same(name):
    network, x = small(name), torch.rand(2, 3, 11, 19)
    with torch.no_grad():
        evaluated = network(x)
    assert deviation(network.train()(x), evaluated) < 1e-5


def test_gradients_in_eval_mode(name):
    network_checks.check_gradient_by_differences(small(name).double())


def test_the_input_is_not_written_to(name, monkeypatch):
    network, x = small(name), torch.rand(1, 3, 29, 19)
    before = x.clone()
    network_checks.cut_into_bands(monkeypatch, width=19)
    with torch.no_grad():
        network(x)
    network(x).sum().backward()
    assert torch.equal(x, before)


def test_the_second_call_gives_the_same(name):
    network, x = small(name), torch.rand(1, 3, 9, 10)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))


def test_channels_last_in_and_out(name):
    network, x = small(name), torch.rand(2, 3, 11, 19)
    with torch.no_grad():
        y = network(x)
        y_last = network(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous()
    assert y_last.is_contiguous(memory_format=torch.channels_last)
    assert deviation(y_last, y) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 2e-1)]
)
def test_other_floating_types(name, dtype, bound):
    network, x = small(name), torch.rand(2, 3, 11, 19)
    with torch.no_grad():
        expected = network(x)
        y = network.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert deviation(y, expected) < bound
    network.train()(x.to(dtype)).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("batch", [1, 2])
def test_autocast(name, batch):
    network, x = small(name), torch.rand(batch, 3, 11, 19)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = network(x)
    assert 0 < deviation(y, expected) < 2e-1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network.train()(x).float().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("attn_type", ["naive", "sdpa"])
def test_copies_and_assigned_tables_are_followed(name, attn_type):
    network, x = small(name, attn_type=attn_type), torch.rand(1, 3, 11, 19)
    with torch.no_grad():
        before = network(x)
        twin = copy.deepcopy(network)
        for block in getattr(twin, "encoder", twin).blocks:
            block.attn.relative_position_bias.copy_(
                torch.randn_like(block.attn.relative_position_bias)
            )
        changed = twin(x)
        assert torch.equal(network(x), before)
        network.load_state_dict(twin.state_dict(), assign=True)
        assert torch.equal(network(x), changed)
    assert deviation(changed, before) > 1e-3


def test_data_parallel_on_a_cpu(name):
    network, x = small(name), torch.rand(2, 3, 11, 19)
    with torch.no_grad():
        assert torch.equal(nn.DataParallel(network)(x), network(x))


@pytest.mark.slow
def test_export_with_dynamic_sizes(name):
    network = small(name).double()
    size, example = torch.export.Dim.AUTO, torch.rand(2, 3, 53, 57, dtype=torch.float64)
    shapes = ({0: size, 2: size, 3: size},)
    program = torch.export.export(network, (example,), dynamic_shapes=shapes).module()
    # Of more than one window along each side, with 4 x 4 pixels folded into one.
    for shape in [(2, 3, 53, 57), (1, 3, 64, 64), (3, 3, 36, 90)]:
        x = torch.rand(shape, dtype=torch.float64)
        with torch.no_grad():
            assert deviation(program(x), network(x)) < 1e-10


@pytest.mark.slow
def test_compiled(name):
    if name != "esc":
        pytest.skip("compiling takes half a minute: one preset stands for all")
    network = small(name, n_blocks=1, conv_blocks=1)
    compiled = torch.compile(network, fullgraph=True)
    with torch.no_grad():
        for shape in [(2, 3, 13, 17), (1, 3, 16, 16)]:
            x = torch.rand(shape)
            assert deviation(compiled(x), network(x)) < 1e-5


class Elements(TorchDispatchMode):
    """Counts the elements of all results of PyTorch's operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += result.numel() if torch.is_tensor(result) else 0
        return result


def test_built_in_few_operations_and_without_index_tables(name):
    preset = PRESETS[name]
    with Elements() as elements:
        network = preset.network(**preset.arguments, upscaling_factor=preset.scales[-1])
    assert elements.count < 4 * sum(p.numel() for p in network.parameters())
    assert sum(buffer.nbytes for buffer in network.buffers()) < 1000
    tensors = [v for m in network.modules() for v in vars(m).values() if torch.is_tensor(v)]
    assert tensors == []
