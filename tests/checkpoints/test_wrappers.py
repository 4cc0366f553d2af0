"""Parameters are found under every usual key and behind every usual prefix, or refused in words."""

import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from esc_arch import UserError
from esc_arch.archs import ESC
from esc_arch.checkpoints import detect, load, open_weights
from esc_arch.checkpoints.loading import inspect
from esc_arch.checkpoints.wrappers import find_sets
from tests.reference_cases import fill_parameters
from tests.tiny import SIZES

NETWORK = fill_parameters(ESC(**SIZES, upscaling_factor=2))
STATE = NETWORK.state_dict()
OTHER = {key: tensor + 1 for key, tensor in STATE.items()}
DISCRIMINATOR = torch.nn.Conv2d(3, 8, 3).state_dict()

_KEYS = (
    "params params_ema params-ema model model_state_dict state_dict generator net net_g netG G "
    "g_ema ema ema_model model_ema weights module network my_network"
)
_PREFIXES = (
    "module. model. net_g. netG. generator. _orig_mod. ema_model. net. module._orig_mod. "
    "_forward_module. sr_model. netG_A."
)
KEYS, PREFIXES = _KEYS.split(), _PREFIXES.split()


def behind(prefix, state=STATE):
    return {prefix + key: tensor for key, tensor in state.items()}


def found_in(content, path):
    torch.save(content, path)
    return inspect(path)


def agrees(state, expected=STATE):
    return state.keys() == expected.keys() and all(
        torch.equal(state[key].double(), expected[key].double()) for key in expected
    )


@pytest.mark.parametrize("key", KEYS)
def test_usual_keys(key):
    found = find_sets({"epoch": 3, "netD": DISCRIMINATOR, key: STATE})[0]
    assert found.place == key and agrees(found.state)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_usual_prefixes(tmp_path, prefix):
    assert agrees(found_in({"state_dict": behind(prefix)}, tmp_path / "net.pth").state)
    save_file(behind(prefix), tmp_path / "net.safetensors")
    assert agrees(inspect(tmp_path / "net.safetensors").state)


@pytest.mark.parametrize(
    "counters",
    [
        {"total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
        {"last.total_ops": torch.zeros(1), "blocks.0.total_params": torch.zeros(())},
        {"n_averaged": torch.tensor(3)},
        {"num_batches_tracked": torch.tensor(3), "last.num_batches_tracked": torch.tensor(3)},
        {"blocks.0._extra_state": torch.zeros(3)},
    ],
)
def test_counters_of_other_programs_are_left_out(tmp_path, counters):
    assert agrees(found_in({"params": STATE | counters}, tmp_path / "net.pth").state)
    assert agrees(found_in(behind("module.", STATE | counters), tmp_path / "net.pth").state)


def test_counters_of_batch_normalisation_stay():
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)).state_dict()
    assert find_sets(state)[0].state.keys() == state.keys()


def test_nested_and_with_other_things_beside(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(NETWORK).state_dict()
    optimizer = torch.optim.Adam(NETWORK.parameters())
    NETWORK(torch.rand(1, 3, 8, 8)).mean().backward()
    optimizer.step()
    own = {key: tensor.clone() for key, tensor in NETWORK.state_dict().items()}
    ours = behind("net_g.", own) | behind("net_d.", DISCRIMINATOR)
    for content, expected, place in (
        ({"model": {"state_dict": own}}, own, "model.state_dict"),
        ({"model": {"name": "lte", "args": {"n": 1}, "sd": own}}, own, "model.sd"),
        (averaged, {k[7:]: v for k, v in averaged.items() if k != "n_averaged"}, None),
        (own | {"epoch": 3, "name": "mine"}, own, None),
        (
            {
                "epoch": 1,
                "optimizer_states": [optimizer.state_dict()],
                "state_dict": ours | {"loss.vgg.weight": torch.ones(3, 3)},
            },
            own,
            "state_dict:net_g.",
        ),
        (
            {"netD": DISCRIMINATOR, "optimizer": optimizer.state_dict(), "netG": own},
            own,
            "netG",
        ),
    ):
        found = found_in(content, tmp_path / "net.pth")
        assert found.place == place and agrees(found.state, expected)


@pytest.mark.parametrize(
    ("content", "taken", "left"),
    [
        ({"params": OTHER, "params_ema": STATE}, "params_ema", ("params",)),
        ({"model": OTHER, "ema": STATE}, "ema", ("model",)),
        ({"generator": OTHER, "model": {"g_ema": STATE}}, "model.g_ema", ("generator",)),
        ({"state_dict": OTHER, "params": STATE}, "params", ("state_dict",)),
        (behind("online_model.", OTHER) | behind("ema_model."), "ema_model.", ("online_model.",)),
    ],
)
def test_of_several_sets_the_averaged_one_is_taken_and_the_others_named(
    tmp_path, content, taken, left
):
    found = found_in(content, tmp_path / "net.pth")
    assert (found.place, found.others) == (taken, left) and agrees(found.state)
    torch.save(content, tmp_path / "net.pth")
    assert agrees(inspect(tmp_path / "net.pth", left[0]).state, OTHER)
    with pytest.raises(UserError, match=f"net.pth: .*'nothing'.*{taken}"):
        inspect(tmp_path / "net.pth", "nothing")


def test_a_mapping_that_holds_itself(tmp_path):
    content = {"model": STATE}
    for _ in range(40):
        # As many paths through it as 2 ** 40.
        content = {"a": content, "b": content}
    content = {"x": content, "params": STATE}
    content["x"]["again"] = content
    start = time.monotonic()
    assert agrees(found_in(content, tmp_path / "net.pth").state)
    assert time.monotonic() - start < 10


def test_a_network_takes_the_set_with_its_keys(tmp_path):
    torch.save({"params": DISCRIMINATOR, "other": STATE}, tmp_path / "net.pth")
    network = ESC(**SIZES, upscaling_factor=2)
    load(network, tmp_path / "net.pth")
    assert agrees(network.state_dict())


def shared(state):
    """All tensors as parts of one storage."""
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = flat.split([tensor.numel() for tensor in state.values()])
    return {key: part.view(state[key].shape) for key, part in zip(state, parts, strict=True)}


STORAGES = {
    "own": lambda state: state,
    "shared": shared,
    "sliced": lambda s: {k: torch.stack([t, t + 1, t], -1)[..., 0] for k, t in s.items()},
    "reversed": lambda s: {
        k: t.permute(*range(t.dim())[::-1]).contiguous().permute(*range(t.dim())[::-1])
        for k, t in s.items()
    },
    "parameters": lambda s: {k: torch.nn.Parameter(t) for k, t in s.items()},
    "expanded": lambda s: {k: t.flatten()[:1].clone().expand(t.shape) for k, t in s.items()},
}
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
OTHERS = (torch.int8, torch.bool, torch.int64, torch.complex64, torch.float8_e4m3fn, torch.uint16)


BESIDE = (
    {},
    {"epoch": 3, "net_d": DISCRIMINATOR},
    {"step": torch.tensor(3), 7: torch.ones(2)},
    {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
)
WRAPS = st.one_of(
    st.sampled_from(PREFIXES), st.tuples(st.sampled_from(KEYS), st.sampled_from(range(len(BESIDE))))
)
CASES = {
    "dtype": st.sampled_from(FLOATS + OTHERS),
    "changed": st.sampled_from(["all", *list(STATE)[:5]]),
    "storage": st.sampled_from(list(STORAGES)),
    "wraps": st.lists(WRAPS, max_size=3),
    "is_old": st.booleans(),
}


def check(path, dtype, changed, storage, wraps, is_old):
    """Save the parameters so, and read them: either they agree, or they are refused in words."""
    state = {k: t.to(dtype) if changed in ("all", k) else t for k, t in STATE.items()}
    if dtype in FLOATS and (storage != "shared" or changed == "all"):
        state = STORAGES[storage](state)
    content = state
    for wrap in wraps:
        if not isinstance(wrap, str):
            content = {wrap[0]: content, **BESIDE[wrap[1]]}
        elif all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
            content = behind(wrap, content)
    torch.save(content, path, _use_new_zipfile_serialization=not is_old)
    loads = dtype in FLOATS and storage != "expanded"
    start = time.monotonic()
    try:
        found = inspect(path)
    except UserError as error:
        assert not loads and "net.pth" in str(error)
    else:
        assert loads and agrees(found.state, state)
        opened = open_weights(path).network.state_dict()
        assert agrees(opened, {key: tensor.detach().float() for key, tensor in state.items()})
    assert time.monotonic() - start < 10


PROPERTY = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=12, **PROPERTY)
@given(**CASES)
def test_whatever_is_wrapped_loads_or_is_refused(tmp_path, **case):
    check(tmp_path / "net.pth", **case)


@pytest.mark.slow
@settings(max_examples=400, **PROPERTY)
@given(**CASES)
def test_much_of_what_is_wrapped_loads_or_is_refused(tmp_path, **case):
    check(tmp_path / "net.pth", **case)


def test_detection_needs_no_values():
    assert str(detect({key: tensor.to("meta") for key, tensor in STATE.items()})).startswith("ESC")
