"""Inference computes what the modules would: hooks, replaced children, wrapped weights."""

import copy
import types
import warnings
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from esc_arch import fast
from esc_arch.archs import ELAN, ESC, ESCFP, PRESETS, ESCReal, ESCRealM, HiT_SRF, MambaIRv2Light
from tests.archs import network_checks
from tests.reference_cases import deviation, fill_parameters

SIZES = {
    "dim": 16,
    "pdim": 16,
    "kernel_size": 5,
    "n_blocks": 2,
    "conv_blocks": 2,
    "window_size": 8,
    "num_heads": 2,
}
FAMILY = {
    "esc": lambda: ESC(**SIZES, upscaling_factor=2, exp_ratio=1.25),
    "esc_ln": lambda: ESC(**SIZES, upscaling_factor=2, use_ln=True),
    "esc_fp": lambda: ESCFP(**SIZES, upscaling_factor=2, exp_ratio=1.25),
    "esc_real": lambda: ESCReal(**SIZES, upscaling_factor=4),
    "esc_real_dysample": lambda: ESCReal(**SIZES, upscaling_factor=2, use_dysample=True),
    "esc_real_m": lambda: ESCRealM(**SIZES, upscaling_factor=2),
    "esc_real_m_pixelshuffle": lambda: ESCRealM(
        **SIZES, upscaling_factor=3, upsampler="pixelshuffle"
    ),
    "esc_real_m_dysample": lambda: ESCRealM(**SIZES, upscaling_factor=4, upsampler="dysample"),
}
OTHERS = {
    "elan": lambda: ELAN(scale=2, c_elan=12, m_elan=4, window_sizes=(2, 4, 8), n_share=1),
    "hit_srf": lambda: HiT_SRF(
        **{**PRESETS["hit_srf"].arguments, "embed_dim": 20, "depths": (2,), "num_heads": (2,)},
        upscale=2,
    ),
    "mambairv2_light": lambda: MambaIRv2Light(
        **{
            **PRESETS["mambairv2_light"].arguments,
            **{"embed_dim": 16, "depths": (2,), "num_heads": (2,), "window_size": 8},
        },
        upscale=2,
    ),
}
IMAGE = torch.rand(1, 3, 40, 37, generator=torch.Generator().manual_seed(0))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = {**FAMILY, **OTHERS}[name]()
    return (fill_parameters(network) if name in FAMILY else network).eval()


def by_modules(network: nn.Module, image: torch.Tensor = IMAGE) -> torch.Tensor:
    """With gradients the executor leaves everything to the modules."""
    torch.manual_seed(0)  # MambaIRv2 draws noise
    return network(image).detach()


@torch.no_grad()
def inference(network: nn.Module, image: torch.Tensor = IMAGE) -> torch.Tensor:
    torch.manual_seed(0)
    return network(image)


def assert_same(network: nn.Module) -> None:
    assert deviation(inference(network), by_modules(network)) < 1e-5


def called(network: nn.Module) -> dict[str, nn.Module]:
    """The submodules that have a forward of their own."""
    containers = (nn.ModuleList, nn.ModuleDict)
    return {name: m for name, m in network.named_modules() if not isinstance(m, containers)}


@pytest.mark.parametrize("name", [*FAMILY, *OTHERS])
def test_every_hook_fires_once(name, monkeypatch):
    network = build(name)
    plain = inference(network)
    network_checks.cut_into_bands(monkeypatch, width=37)
    counts: dict[str, Counter] = {"pre": Counter(), "hook": Counter()}
    for path, module in called(network).items():
        module.register_forward_pre_hook(
            lambda module, args, path=path: counts["pre"].update([path])
        )
        module.register_forward_hook(
            lambda module, args, result, path=path: counts["hook"].update([path])
        )
    once = Counter(called(network).keys())
    with_gradient = by_modules(network)
    assert counts == {"pre": once, "hook": once}
    for counter in counts.values():
        counter.clear()
    without = inference(network)
    assert counts == {"pre": once, "hook": once}
    for result in (with_gradient, without):
        assert deviation(result, plain) < 1e-5


@pytest.mark.parametrize("name", FAMILY)
def test_a_hook_that_changes_a_result_is_heard(name):
    network = build(name)
    before = inference(network)
    handle = network.blocks[0].convffns[1].register_forward_hook(lambda m, args, result: 2 * result)
    assert deviation(inference(network), before) > 1e-3
    assert_same(network)
    handle.remove()
    assert torch.equal(inference(network), before)


@pytest.mark.parametrize("register", ["forward_hook", "forward_pre_hook"])
def test_global_hooks(register):
    network, seen = build("esc"), []
    handle = getattr(nn.modules.module, f"register_module_{register}")(
        lambda module, *_: seen.append(module)
    )
    try:
        inference(network)
    finally:
        handle.remove()
    assert Counter(map(id, seen)) == Counter(map(id, called(network).values()))


class LowRank(nn.Module):
    """A layer and a product of two narrow ones beside it, as LoRA has them."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Conv2d(layer.in_channels, 2, 1, bias=False)
        self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class TimesTwo(nn.Module):
    def forward(self, weight):
        return 2 * weight


def replace_by_low_rank(block):
    block.attn.to_qkv = LowRank(block.attn.to_qkv)
    for ffn in block.convffns:
        ffn.proj, ffn.aggr = LowRank(ffn.proj), LowRank(ffn.aggr)


def replace_norm(block):
    block.ln_attn = nn.Identity()


def replace_a_whole_ffn(block):
    block.convffns[0] = nn.Sequential(block.convffns[0], nn.Tanh())


def replace_by_subclass(block):
    block.pconvs[0].aggr.__class__ = Doubled


def other_dilation(block):
    block.conv_out.dilation = block.conv_out.padding = (2, 2)


def other_kernel(block):
    dim = block.conv_out.in_channels
    block.convffns[0].dwc = nn.Conv2d(
        block.convffns[0].dwc.in_channels, block.convffns[0].dwc.in_channels, 5, padding=2
    )
    block.conv_out = nn.Conv2d(dim, dim, 7, padding=3)


def patch_an_instance(block):
    forward = block.proj.forward
    block.proj.forward = lambda x: 2 * forward(x)


def parametrized(block):
    parametrize.register_parametrization(block.attn.to_out, "weight", TimesTwo())


def weight_norm(block):
    parametrizations.weight_norm(block.convffns[0].proj)
    block.convffns[0].proj.parametrizations.weight.original0.data *= 1.5


def old_weight_norm(block):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(block.convffns[0].aggr)
    block.convffns[0].aggr.weight_g.data *= 1.5


def spectral_norm(block):
    parametrizations.spectral_norm(block.pconvs[1].aggr)


def pruned(block):
    prune.l1_unstructured(block.convffns[1].proj, "weight", 0.5)


def circular_by_an_instance(block):
    def conv_forward(self, x, weight, bias):
        x = nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
        return nn.functional.conv2d(x, weight, bias, groups=self.groups)

    conv = block.convffns[0].dwc
    conv._conv_forward = types.MethodType(conv_forward, conv)


def dynamic_kernel_of_the_largest(block):
    for pconv in block.pconvs:
        plk = pconv.plk
        branch = plk.dwc_proj if hasattr(plk, "dwc_proj") else plk.proj
        plk.dynamic_kernel = lambda x, branch=branch, p=plk.pdim: branch(
            x.amax((2, 3), keepdim=True)
        ).reshape(-1, p, 3, 3)


def negated_view(block):
    conv = block.convffns[0].proj
    conv.weight = nn.Parameter(torch._neg_view(conv.weight.detach().clone()))


CHANGES = [
    circular_by_an_instance,
    dynamic_kernel_of_the_largest,
    negated_view,
    replace_by_low_rank,
    replace_norm,
    replace_a_whole_ffn,
    replace_by_subclass,
    other_dilation,
    other_kernel,
    patch_an_instance,
    parametrized,
    weight_norm,
    old_weight_norm,
    spectral_norm,
    pruned,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["esc", "esc_fp", "esc_real"])
def test_a_changed_block_is_not_passed_by(name, change):
    network = build(name)
    before = inference(network)
    change(network.blocks[0])
    network.eval()
    assert_same(network)
    after = inference(network)
    assert deviation(after, before) > 1e-4
    if change in (circular_by_an_instance, dynamic_kernel_of_the_largest, patch_an_instance):
        return  # a copy keeps the method of the module that it is a copy of
    # A copy follows its own modules.
    twin = copy.deepcopy(network)
    assert deviation(inference(twin), after) < 1e-5
    twin.blocks[0].attn.relative_position_bias.data.normal_()
    assert deviation(inference(twin), after) > 1e-4
    assert_same(twin)
    assert torch.equal(inference(network), after)


def test_a_patched_class(monkeypatch):
    network = build("esc")
    kind = type(network.blocks[0].convffns[0])
    before, forward = inference(network), kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: 2 * forward(self, x))
    assert deviation(inference(network), before) > 1e-3
    assert_same(network)


def assert_same_or_both_refuse(network: nn.Module) -> None:
    try:
        expected = by_modules(network)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            inference(network)
    else:
        assert deviation(inference(network), expected) < 1e-5


@pytest.mark.parametrize("name, key", [("esc", "plk_filter"), ("esc_fp", "lk_spatial")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_large_kernels_of_other_types(name, key, dtype):
    network = build(name)
    state = network.state_dict()
    network.load_state_dict({**state, key: state[key].to(dtype)}, assign=True)
    assert_same_or_both_refuse(network)


@pytest.mark.parametrize("shape", [(16, 16, 1, 1), (16, 16, 7, 7), (16, 16, 4, 4), (8, 8, 5, 5)])
def test_large_kernels_of_other_shapes(shape):
    network = build("esc")
    network.plk_filter = nn.Parameter(torch.randn(shape) * 0.1)
    assert_same_or_both_refuse(network)


def test_a_wrapped_large_kernel():
    class Doubling(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, kinds, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                result = function(*args, **(kwargs or {}))
                return 2 * result if function is nn.functional.conv2d else result

    network = build("esc")
    kernel = network.large_kernel().detach().as_subclass(Doubling)
    network.large_kernel = lambda: kernel
    assert_same(network)


def test_a_mode_sees_every_function():
    class Relu(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, kinds, args=(), kwargs=None):
            if function is nn.functional.gelu:
                return nn.functional.relu(*args)
            return function(*args, **(kwargs or {}))

    network = build("esc")
    before = inference(network)
    with Relu():
        after = inference(network)
        assert deviation(after, by_modules(network)) < 1e-5
    assert deviation(after, before) > 1e-3


@pytest.mark.parametrize("name", ["esc", "esc_fp", "esc_real", "elan", "hit_srf"])
def test_under_another_default_device(name, monkeypatch):
    network = build(name)
    expected = inference(network)
    network_checks.cut_into_bands(monkeypatch, width=37)
    with torch.device("meta"):
        by_modules(network)
        result = inference(network)
    assert deviation(result, expected) < 1e-5


def test_tangents_are_not_lost():
    network = build("esc")
    for block in network.blocks:
        block.attn.attn_type = "naive"
    key = "blocks.0.convffns.0.proj.weight"
    weight = network.get_parameter(key).detach()
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        dual = torch.autograd.forward_ad.make_dual(weight, torch.ones_like(weight))
        y = torch.func.functional_call(network, {key: dual}, (IMAGE,))
        tangent = torch.autograd.forward_ad.unpack_dual(y).tangent
    assert tangent is not None and tangent.norm() > 0


def test_an_upsampler_that_looks_at_neighbours_stays_whole(monkeypatch):
    network = build("esc_real_dysample")
    network.to_img.offset = nn.Conv2d(16, network.to_img.offset.out_channels, 3, padding=1)
    network_checks.cut_into_bands(monkeypatch, width=37)
    assert_same(network)
    network = build("esc_real")
    network.to_img = nn.Sequential(nn.LeakyReLU(0.2, inplace=True), *network.to_img)
    assert_same(network)


def clamp(module, args, result):
    return result.clamp(0, 0.5)


def hooked(network):
    network.register_forward_hook(clamp)


def wider_stem(network):
    network.proj = nn.Conv2d(3, 16, 5, padding=2)


def reflecting_end(network):
    network.last.padding_mode = "reflect"


def patched_features(network):
    features = network.features
    network.features = lambda x: 2 * features(x)


@pytest.mark.parametrize("change", [hooked, wider_stem, reflecting_end, patched_features])
def test_tiles_of_a_changed_network_go_through_the_network(change):
    from esc_arch.upscale.tiling import enlarge
    from esc_arch.upscale.tiling.synchronous import goes_by_tiles

    network = build("esc").requires_grad_(False)
    assert goes_by_tiles(network, torch.float32)
    change(network)
    assert not goes_by_tiles(network, torch.float32)
    whole = enlarge(network, IMAGE, 2, tile="off")
    # One tile with its overlap is all of this image.
    assert deviation(enlarge(network, IMAGE, 2, tile=16), whole) < 1e-3


def test_a_parameter_of_another_type_is_refused_as_by_the_modules():
    network = build("esc")
    network.blocks[1].convffns[0].proj.double()
    with pytest.raises(RuntimeError):
        by_modules(network)
    with pytest.raises(RuntimeError):
        inference(network)


def test_the_executor_takes_what_is_as_it_was_built():
    network = build("esc")
    x = torch.rand(1, 16, 9, 9)
    with torch.no_grad():
        assert all(fast.takes(block, x, network.large_kernel()) for block in network.blocks)
        assert all(
            fast.takes(block, x, network.large_kernel()) for block in copy.deepcopy(network).blocks
        )
        assert not fast.takes(network.blocks[0], x.double(), network.large_kernel())
    assert not fast.takes(network.blocks[0], x, network.large_kernel())


def test_a_changed_network_by_tiles():
    """Tiles that the executor does not compute go through the modules, too."""
    from esc_arch.upscale.tiling import enlarge

    network = build("esc")
    replace_by_low_rank(network.blocks[0])
    network.requires_grad_(False)
    whole = enlarge(network, IMAGE, 2, tile="off")
    with torch.no_grad():
        torch.testing.assert_close(whole, by_modules(network), rtol=0, atol=1e-5)
    # Overlapping tiles with common means: what lies beyond the overlap is lost.
    tiled = enlarge(network, IMAGE, 2, tile=16)
    assert deviation(tiled, whole) < 1e-3


def test_features_by_hooks():
    network, found = build("esc"), {}
    for i, block in enumerate(network.blocks):
        for name in ("attn", "ln_out"):
            getattr(block, name).register_forward_hook(
                lambda m, args, result, key=(i, name): found.setdefault(key, result.detach())
            )
    by_modules(network)
    expected = dict(found)
    found.clear()
    inference(network)
    assert found.keys() == expected.keys() and len(found) == 4
    for key, result in found.items():
        torch.testing.assert_close(result, expected[key], rtol=0, atol=1e-5)


def test_fvcores_count_is_that_of_the_modules():
    fvcore = pytest.importorskip("fvcore.nn")
    network = build("esc")

    def count():
        analysis = fvcore.FlopCountAnalysis(network, IMAGE)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return analysis.by_module()

    with_gradient = count()
    with torch.no_grad():
        without = count()
    assert with_gradient == without
    assert without["blocks.0.attn"] > 0 and without["blocks.1.convffns.0"] > 0
