"""ESCModel: SRModel's steps, and what its keys change in them."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from basicsr.models import build_model
from basicsr.utils.registry import MODEL_REGISTRY
from tiny_training import (
    SGD,
    batch,
    broken_batch,
    build,
    gradients,
    norm,
    options,
    state,
    step,
    train,
)

from esc_arch import UserError
from esc_arch.models import ESCModel, esc_model


def assert_same(model, other, atol: float) -> None:
    for (name, value), expected in zip(state(model).items(), state(other).values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=atol, msg=lambda m, n=name: n + m)


@pytest.fixture(scope="module")
def reference():
    """SRModel after four steps of SGD."""
    return train(build("SRModel", **SGD))


def test_registered():
    assert MODEL_REGISTRY.get("ESCModel") is ESCModel


def test_without_its_keys_it_is_srmodel():
    model, reference = train(build()), train(build("SRModel"))
    assert_same(model, reference, atol=0)
    assert torch.equal(model.output, reference.output)
    assert model.log_dict["l_pix"] == reference.log_dict["l_pix"]
    assert list(model.log_dict) == ["l_pix", "skipped"]
    assert model.log_dict["skipped"] == 0


@pytest.mark.parametrize(
    "keys",
    [
        {"accumulate": 2},
        {"accumulate": 4},
        {"channels_last": True},
        {"checkpoint_activations": True},
        {"accumulate": 2, "channels_last": True, "checkpoint_activations": True},
        # Above every norm.
        {"grad_clip": 1e3},
    ],
    ids=str,
)
def test_keys_that_change_speed_and_memory_only(reference, keys):
    model = train(build(**SGD, **keys))
    assert_same(model, reference, atol=1e-6)
    torch.testing.assert_close(model.output, reference.output, rtol=0, atol=1e-6)
    assert model.log_dict["l_pix"] == pytest.approx(reference.log_dict["l_pix"], abs=1e-6)


@pytest.mark.parametrize("pixel_opt", [{"type": "MSELoss"}, {"type": "CharbonnierLoss"}])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_of_the_parts_add_up_to_the_batchs(pixel_opt, reduction):
    keys = {"pixel_opt": pixel_opt | {"reduction": reduction, "loss_weight": 0.5}}
    whole, parts = build("SRModel", **keys), build(accumulate=4, **keys)
    for model in (whole, parts):
        step(model, 1)
    for expected, own in zip(gradients(whole), gradients(parts), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())
    assert parts.log_dict["l_pix"] == pytest.approx(whole.log_dict["l_pix"], rel=1e-5)


class TwoTerms(torch.nn.Module):
    """Stands in for VGG: a distance and a style, either of which may be left out."""

    def forward(self, output: torch.Tensor, gt: torch.Tensor) -> tuple:
        distance = (output - gt).square().mean()
        style = (output.mean((2, 3)) - gt.mean((2, 3))).abs().mean()
        return distance, style


def test_perceptual_terms_are_those_of_the_batch():
    whole, parts = build("SRModel", **SGD), build(accumulate=2, **SGD)
    for model in (whole, parts):
        model.cri_perceptual = TwoTerms()
        step(model, 1)
    assert list(parts.log_dict) == ["l_pix", "l_percep", "l_style", "skipped"]
    for name, value in whole.log_dict.items():
        assert parts.log_dict[name] == pytest.approx(value, rel=1e-5)
    assert_same(parts, whole, atol=1e-6)


def test_a_batch_that_cannot_be_split():
    with pytest.raises(UserError, match=r"train\.accumulate: expected a divisor .* 4 images.*3"):
        step(build(accumulate=3), 1)


def test_accumulating_takes_the_memory_of_a_part():
    assert saved_bytes(build(accumulate=4)) < 0.3 * saved_bytes(build())


def saved_bytes(model) -> int:
    """Most bytes that the forward passes of a step keep for backward at a time."""
    kept: dict[int, int] = {}
    most = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    forward = model.run_net_g

    def measured(lq: torch.Tensor) -> torch.Tensor:
        nonlocal most
        kept.clear()
        output = forward(lq)
        most = max(most, sum(kept.values()))
        return output

    model.run_net_g = measured
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(model, 1)
    return most


def test_checkpointing_keeps_less_and_gives_the_same_gradients():
    plain, checkpointed = build(), build(checkpoint_activations=True)
    assert saved_bytes(checkpointed) < 0.4 * saved_bytes(plain)
    for expected, own in zip(gradients(plain), gradients(checkpointed), strict=True):
        assert torch.equal(own, expected)


def test_checkpointing_needs_esc_blocks():
    opt = options(checkpoint_activations=True)
    opt["network_g"] = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}
    with pytest.raises(UserError, match=r"checkpoint_activations.*MSRResNet"):
        build_model(opt)


def test_channels_last_reaches_weights_and_averages():
    model = train(build(channels_last=True), 1)
    for network in (model.net_g, model.net_g_ema):
        assert network.proj.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.output.is_contiguous(memory_format=torch.channels_last)


def losses(model, iterations: int) -> list[float]:
    """The loss at every step on one batch."""
    found = []
    for iteration in range(1, iterations + 1):
        step(model, iteration, batch())
        found.append(model.log_dict["l_pix"])
    return found


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_as_float32_does(amp):
    keys = {
        "optim_g": {"type": "Adam", "lr": 1e-2},
        "scheduler": {"type": "MultiStepLR", "milestones": [100]},
    }
    mixed = build(amp=amp, **keys)
    seen = []
    mixed.net_g.last.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    course, expected = losses(mixed, 12), losses(build(**keys), 12)
    assert set(seen) == {torch.bfloat16 if amp == "bf16" else torch.float16}
    assert course[-1] < 0.8 * course[0]
    assert course == pytest.approx(expected, rel=0.05)
    assert mixed.output.dtype == torch.float32
    assert {p.dtype for p in mixed.net_g.parameters()} == {torch.float32}
    assert mixed.scaler.is_enabled() == (amp == "fp16")


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match=r"train\.amp: expected one of bf16, fp16; found fp8"):
        build(amp="fp8")


def test_fp16_gradients_are_unscaled_before_they_are_clipped():
    plain, scaled = build(grad_clip=0.05), build(grad_clip=0.05, amp="fp16")
    for model in (plain, scaled):
        step(model, 1)
    assert scaled.scaler.get_scale() > 1000
    assert scaled.log_dict["grad_norm"] == pytest.approx(plain.log_dict["grad_norm"], rel=0.02)
    assert norm(gradients(scaled)) == pytest.approx(0.05, rel=1e-3)


def test_clipped_gradients_have_the_norm_and_the_direction():
    plain, clipped = build("SRModel"), build(grad_clip=0.01)
    for model in (plain, clipped):
        step(model, 1)
    before = norm(gradients(plain))
    assert before > 0.01
    assert clipped.log_dict["grad_norm"] == pytest.approx(before, rel=1e-5)
    assert norm(gradients(clipped)) == pytest.approx(0.01, rel=1e-3)
    for expected, own in zip(gradients(plain), gradients(clipped), strict=True):
        torch.testing.assert_close(own, expected * (0.01 / before), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("keys", [{}, {"grad_clip": 0.1}, {"amp": "fp16"}, {"accumulate": 2}])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(keys, said):
    model = train(build(**keys), 2)
    before, scale = state(model), model.scaler.get_scale()
    for iteration in (3, 4):
        step(model, iteration, broken_batch())
    after = state(model)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert model.log_dict["skipped"] == 2
    warnings = [text for level, text in said if level == "WARNING"]
    assert len(warnings) == 1 and warnings[0].startswith("Iteration 3: the loss or its gradient")
    if "amp" in keys:
        assert model.scaler.get_scale() == scale / 4
    step(model, 5)
    assert model.log_dict["skipped"] == 2
    assert not torch.equal(state(model)["net_g.proj.weight"], before["net_g.proj.weight"])


def test_an_infinite_loss_with_finite_gradients_is_skipped_too():
    model = build()
    before = state(model)
    data = batch()
    data["gt"][0, 0, 0, 0] = torch.inf
    step(model, 1, data)
    assert all(p.grad.isfinite().all() for p in model.net_g.parameters())
    assert model.log_dict["skipped"] == 1
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_skipping_can_be_switched_off():
    model = build(skip_nonfinite=False)
    step(model, 1, broken_batch())
    assert model.log_dict["skipped"] == 0
    assert not model.net_g.proj.weight.isfinite().any()


def test_too_many_skipped_steps_in_a_row_stop_the_training(monkeypatch):
    monkeypatch.setattr(esc_model, "MAX_IN_A_ROW", 3)
    model = build()
    for iteration, data in enumerate((broken_batch(), broken_batch(), batch()), 1):
        step(model, iteration, data)
    for iteration in (4, 5):
        step(model, iteration, broken_batch())
    message = r"train\.skip_nonfinite: .* the 3 iterations up to 6.*resume from an earlier state"
    with pytest.raises(UserError, match=message):
        step(model, 6, broken_batch())


def test_warnings_become_rare(said):
    count = esc_model.NonfiniteSteps()
    for iteration in range(1, 1001):
        count.note_skipped(iteration)
        count.note_taken()
    assert [text.split(":")[0] for _, text in said] == [f"Iteration {10**n}" for n in range(4)]


def saved(model, folder, iteration: int) -> dict:
    """What BasicSR reads when it resumes: the model's files are in the folder then."""
    model.opt["path"] |= {"models": str(folder), "training_states": str(folder)}
    model.save(0, iteration)
    with torch.serialization.safe_globals([Counter]):
        return torch.load(folder / f"{iteration}.state", weights_only=True)


def resumed(opt: dict, folder, training_state: dict):
    opt["path"]["pretrain_network_g"] = str(folder / f"net_g_{training_state['iter']}.pth")
    model = build_model(opt)
    model.resume_training(training_state)
    return model


@pytest.mark.parametrize("amp", [None, "fp16"])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(amp, tmp_path):
    model = train(build(amp=amp), 2)
    step(model, 3, broken_batch())
    training_state = saved(model, tmp_path, 3)
    again = resumed(options(amp=amp), tmp_path, training_state)
    assert again.scaler.get_scale() == model.scaler.get_scale() == (2**15 if amp else 1)
    for each in (model, again):
        step(each, 4)
        assert each.log_dict["skipped"] == 1
    assert_same(again, model, atol=0)


def test_states_go_from_and_to_srmodel(tmp_path):
    for first, second in (("SRModel", "ESCModel"), ("ESCModel", "SRModel")):
        keys = {"amp": "fp16"} if first == "ESCModel" else {}
        model = train(build(first, **keys), 2)
        training_state = saved(model, tmp_path, 2)
        other = resumed(options(second), tmp_path, training_state)
        assert_same(other, model, atol=0)
        step(other, 3)


@pytest.fixture
def eager_backend(monkeypatch) -> list[int]:
    """torch.compile without a compiler: its tracing alone.  Grows by each traced graph."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile_(network, backend=backend))
    torch._dynamo.reset()
    return graphs


def test_compiled_training_is_the_same_and_saves_the_same_names(reference, eager_backend, tmp_path):
    model = train(build(compile=True, **SGD))
    assert eager_backend, "nothing was compiled"
    assert_same(model, reference, atol=1e-6)
    traced = len(eager_backend)
    saved(model, tmp_path, 4)
    content = torch.load(tmp_path / "net_g_4.pth", weights_only=True)
    names = list(reference.net_g.state_dict())
    assert [list(part) for part in content.values()] == [names, names]
    model.feed_data({"lq": torch.rand(1, 3, 5, 7)})
    model.test()
    assert model.output.shape == (1, 3, 10, 14)
    assert len(eager_backend) == traced, "validation has to run the network as it is"


@pytest.mark.slow
def test_compiled_with_all_other_keys(eager_backend):
    keys = {"amp": "bf16", "channels_last": True, "accumulate": 2, "grad_clip": 0.1}
    keys |= {"checkpoint_activations": True, "ema_decay": 0}
    course = losses(build(compile=True, **keys), 5)
    assert course == pytest.approx(losses(build(**keys), 5), rel=1e-3)


def test_validation_without_average_leaves_the_network_training(eager_backend):
    model = build(compile=True, ema_decay=0)
    step(model, 1)
    model.feed_data({"lq": torch.rand(1, 3, 8, 8)})
    model.test()
    assert model.net_g.training
    traced = len(eager_backend)
    step(model, 2)
    assert len(eager_backend) == traced


def test_a_failing_compiler_is_named(monkeypatch):
    def broken(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        raise RuntimeError("no compiler here")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile_(network, backend=broken))
    torch._dynamo.reset()
    with pytest.raises(UserError, match=r"train\.compile: .*no compiler here.*compile: false"):
        step(build(compile=True), 1)


@pytest.mark.parametrize("val", [None, {"save_img": False}, {"whole_windows": False}])
def test_validation_is_srmodels(val):
    assert torch.equal(validated("ESCModel", val), validated("SRModel", None))


def test_validation_of_whole_windows_is_esrmodels():
    whole = validated("ESCModel", {"whole_windows": True})
    assert torch.equal(whole, validated("ESRModel", None))
    assert not torch.equal(whole, validated("SRModel", None))


def validated(model_type: str, val: dict | None) -> torch.Tensor:
    model = build(model_type, val, amp="bf16", channels_last=True)
    model.feed_data({"lq": batch()["lq"][:1, :, :5, :7]})
    model.test()
    return model.output


def test_testing_needs_no_train_section():
    opt = options()
    opt["is_train"] = False
    del opt["train"]
    model = build_model(opt)
    model.feed_data({"lq": torch.rand(1, 3, 5, 7)})
    model.test()
    assert model.output.shape == (1, 3, 10, 14)
