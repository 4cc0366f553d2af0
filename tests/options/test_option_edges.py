"""Values at the edges of their ranges, for every key of option files: each is right, or a mistake
that is named, and the check writes nothing."""

import copy
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from option_cases import COSINE, TRAIN, mutated
from test_esc_lte_options import LTE
from test_real_esrgan_options import GAN

from esc_arch import options
from esc_arch.errors import UserError
from tests import tiny

EDGES = [
    *(-(2**62), -1, 0, 1, 2, 3, 7, 2**15, 2**16, 2**31, 2**31 + 1, 2**32, 2**53 + 1, 2**62),
    *(10**6, 10**6 + 1, 10**12, 0.0, -0.0, 1e-300, 0.5, 1.0, 1.5, 2.0**63, 1e18, 1e300),
    *(float("nan"), float("inf"), -float("inf"), None, True, "", "1", [], {}),
    *([-1], [0], [2**62], [1e300], [float("nan")]),
]
BASES = {
    "SRModel": TRAIN,
    "ESCModel": mutated(TRAIN, "model_type", "ESCModel")
    | {
        "train": TRAIN["train"]
        | {"accumulate": 1, "grad_clip": 0.5, "scheduler": COSINE, "ema_decay": 0.5},
        "val": TRAIN["val"] | {"whole_windows": True},
    },
    "ESCLTEModel": LTE | {"network_g": LTE["network_g"] | {"upscaling_factor": 4}},
    "RealESRGANModel": tiny.changed(
        GAN,
        num_gpu=0,
        gt_size=32,
        datasets__train__dataroot_gt="data/HR",
        datasets__train__meta_info="names.txt",
        datasets__train__batch_size_per_gpu=3,
        network_g=tiny.network(upscaling_factor=4),
        network_d__num_feat=8,
        path__pretrain_network_g=None,
        train__perceptual_opt=None,
        logger__use_tb_logger=False,
    ),
}


def leaves(opt: dict, place: str = "") -> list[str]:
    """Dotted keys of all values that are no sections."""
    found = []
    for key, value in opt.items():
        inner = f"{place}.{key}" if place else key
        found += leaves(value, inner) if isinstance(value, dict) else [inner]
    return found


CASES = [(base, key) for base, opt in BASES.items() for key in leaves(opt)]


def check_an_edge(base: str, key: str, value: object) -> None:
    opt = mutated(BASES[base], key, value)
    before, files = copy.deepcopy(opt), sorted(os.walk("."))
    try:
        options.check(opt, "edge.yml", options.Run(is_train=True))
    except UserError as error:
        text = str(error)
        assert text.startswith("edge.yml: ")
        # A value that does not fit another one may be said at either of them.
        name = key.rpartition(".")[2]
        assert name in text or key.rpartition(".")[0] in text, text
    assert sorted(os.walk(".")) == files
    assert repr(opt) == repr(before), "a check must not change the options"


@pytest.fixture
def pairs(workplace):
    (workplace / "names.txt").write_text("a.png\nb.png\nc.png\n")
    return workplace


def test_the_bases_are_right(pairs):
    for base, opt in BASES.items():
        options.check(opt, base, options.Run(is_train=True))


PROFILE = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


def is_slow(case: tuple[str, str], value: object) -> bool:
    """Whether 10,000 layers are built before it is refused, which takes seconds."""
    return case[1].startswith("network_") and isinstance(value, int) and 9 < value <= 10**6


@settings(max_examples=25, **PROFILE)
@given(case=st.sampled_from(CASES), value=st.sampled_from(EDGES))
def test_edges(pairs, case, value):
    if not is_slow(case, value):
        check_an_edge(*case, value)


@pytest.mark.slow
@settings(max_examples=300, **PROFILE)
@given(
    case=st.sampled_from(CASES),
    value=st.sampled_from(EDGES)
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.lists(st.integers(-3, 2**62) | st.floats(), max_size=3),
)
def test_many_edges(pairs, case, value):
    check_an_edge(*case, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("datasets.train.dataset_enlarge_ratio", 10**12),
        ("datasets.train.dataset_enlarge_ratio", 10**9),
        ("datasets.train.num_worker_per_gpu", 100_000),
        ("datasets.train.num_prefetch_queue", 10**9),
        ("manual_seed", 2**32),
        ("train.total_iter", 1e18),
        ("train.optim_g.weight_decay", float("inf")),
        ("train.pixel_opt.loss_weight", float("nan")),
        ("train.scheduler.gamma", float("inf")),
        ("dist_params.port", 99_999),
        ("network_g.exp_ratio", float("inf")),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(pairs, key, value):
    opt = mutated(TRAIN | {"dist_params": {"backend": "nccl", "port": 29500}}, key, value)
    with pytest.raises(UserError, match=rf"edge\.yml: {key}: expected .*; found "):
        options.check(opt, "edge.yml", options.Run(is_train=True))
    assert sorted(os.listdir()) == ["data", "names.txt"]


def test_samples_of_an_epoch_that_fit_no_memory(pairs, monkeypatch):
    """The order of an epoch is a list: 3 images of which each comes 10**6 times."""
    opt = mutated(TRAIN, "datasets.train.dataset_enlarge_ratio", 10**6)
    options.check(opt, "edge.yml", options.Run(is_train=True))
    monkeypatch.setattr("esc_arch.options.data_files.memory_bytes", lambda: 10**8)
    with pytest.raises(UserError, match=r"dataset_enlarge_ratio: expected at most 333,333 "):
        options.check(opt, "edge.yml", options.Run(is_train=True))


def test_patches_that_fit_no_memory(pairs, monkeypatch):
    """A pair of patches of 16x16 and 8x8 has 3,840 bytes in float32."""
    opt = mutated(TRAIN, "datasets.train.batch_size_per_gpu", 30)
    options.check(opt, "edge.yml", options.Run(is_train=True))
    monkeypatch.setattr("esc_arch.options.data_files.memory_bytes", lambda: 30 * 3840 - 1)
    with pytest.raises(UserError, match=r"batch_size_per_gpu: expected at most 29,"):
        options.check(opt, "edge.yml", options.Run(is_train=True))
    opt = tiny.changed(
        opt,
        datasets__train__batch_size_per_gpu=5,
        datasets__train__prefetch_mode="cpu",
        datasets__train__num_prefetch_queue=6,
    )
    with pytest.raises(UserError, match=r"num_prefetch_queue: expected at most 5 "):
        options.check(opt, "edge.yml", options.Run(is_train=True))


def test_processes_that_fit_no_memory(pairs, monkeypatch):
    opt = mutated(TRAIN, "datasets.train.num_worker_per_gpu", 500)
    monkeypatch.setattr("esc_arch.options.data_files.memory_bytes", lambda: 8 * 10**9)
    with pytest.raises(UserError, match=r"num_worker_per_gpu: expected at most 80,"):
        options.check(opt, "edge.yml", options.Run(is_train=True))


@pytest.mark.parametrize(
    "network",
    [
        {"type": "SwinIR", "img_size": 10**5, "window_size": 8, "depths": [2], "num_heads": [2]}
        | {"embed_dim": 12, "upsampler": "pixelshuffledirect", "upscale": 2},
        {"type": "SwinIR", "img_size": 16, "window_size": 8, "depths": [10**9], "num_heads": [2]}
        | {"embed_dim": 12, "upsampler": "pixelshuffledirect", "upscale": 2},
        {"type": "MSRResNet", "num_block": 10**9, "upscale": 2},
    ],
    ids=["img_size", "depths", "num_block"],
)
def test_a_network_that_fits_no_memory(network):
    """Of which PyTorch's own allocator, or a loop without end, would say it otherwise."""
    with pytest.raises(UserError, match="network_g: expected a network that this machine can"):
        options.check_structure(mutated(TRAIN, "network_g", network), "edge.yml", True)
