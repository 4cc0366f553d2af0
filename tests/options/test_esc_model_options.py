"""The keys of ESCModel in option files: each mistake gives a message that says what to do."""

import pytest
import torch
from option_cases import DELETE, TEST, TRAIN, Case, mutated

from esc_arch import UserError, options
from esc_arch.options.types import is_number

ESC = mutated(TRAIN, "model_type", "ESCModel")
ALL = {
    "amp": "bf16",
    "compile": True,
    "channels_last": True,
    "accumulate": 2,
    "grad_clip": 0.5,
    "skip_nonfinite": True,
    "checkpoint_activations": True,
}
RESNET = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}
FROBENIUS = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1.0}, "criterion": "fro"}


def with_keys(opt: dict, **train: object) -> dict:
    return opt | {"train": opt["train"] | train}


def message(opt: dict, is_train: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        options.check_structure(opt, "tiny.yml", is_train)
    return str(caught.value)


def machine_message(opt: dict, launcher: str = "none") -> str:
    with pytest.raises(UserError) as caught:
        options.check_machine(opt, "tiny.yml", options.Run(True, launcher=launcher))
    return str(caught.value)


def test_all_keys_together_are_right():
    opt = mutated(with_keys(ESC, **ALL), "val.whole_windows", True)
    options.check_structure(opt, "tiny.yml", True)


@pytest.mark.parametrize("key", ["amp", "grad_clip"])
def test_nothing_means_off(key):
    options.check_structure(with_keys(ESC, **{key: None}), "tiny.yml", True)


CASES = [
    Case("train.amp", "fp8", ("train.amp: expected 'bf16' or 'fp16'", "'fp8' (text)")),
    Case("train.amp", "BF16", ("train.amp:", "Did you mean 'bf16'?")),
    Case("train.amp", True, ("train.amp:", "true (true or false)", "`amp: bf16`")),
    Case("train.compile", "yes", ("train.compile: expected true or false", "'yes' (text)")),
    Case("train.channels_last", 1, ("train.channels_last: expected true or false",)),
    Case("train.accumulate", 0, ("train.accumulate:", "at least 1", "0 (whole number)")),
    Case("train.accumulate", 1.0, ("train.accumulate:", "a whole number", "1.0 (number)")),
    Case("train.accumulate", None, ("train.accumulate:", "a whole number", "nothing (~)")),
    Case(
        "train.accumulate",
        3,
        ("train.accumulate: expected a divisor of datasets.train.batch_size_per_gpu, 2",),
    ),
    Case("train.grad_clip", 0, ("train.grad_clip: expected a number above 0",)),
    Case("train.grad_clip", float("inf"), ("train.grad_clip: expected a finite number",)),
    Case("train.skip_nonfinite", "on", ("train.skip_nonfinite: expected true or false",)),
    Case("train.checkpoint_activations", 2, ("train.checkpoint_activations: expected true",)),
    Case("train.acumulate", 2, ("train.acumulate:", "an unknown key", "'accumulate'?")),
    Case("train.grad_clip_norm", 2, ("train.grad_clip_norm:", "an unknown key", "'grad_clip'?")),
    Case("val.whole_windows", 8, ("val.whole_windows: expected true or false",)),
    Case("val.whole_window", True, ("val.whole_window:", "'whole_windows'?")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.key}={case.value}")
def test_mistakes(case):
    text = message(mutated(ESC, case.key, case.value))
    assert all(fragment in text for fragment in case.fragments), text
    assert "problems" not in text


@pytest.mark.parametrize("model", ["SRModel", "ESRModel", "SwinIRModel"])
@pytest.mark.parametrize("key", ALL)
def test_other_models_refuse_the_keys(model, key):
    opt = with_keys(mutated(TRAIN, "model_type", model), **{key: ALL[key]})
    assert message(opt) == (
        f"tiny.yml: train.{key}: expected a key that {model} reads; found one of ESCModel. "
        "Write `model_type: ESCModel`, or remove the key."
    )


def test_other_models_refuse_the_key_of_validation():
    opt = mutated(TRAIN, "val.whole_windows", True)
    assert "val.whole_windows: expected a key that SRModel reads" in message(opt)
    opt = mutated(TEST, "val.whole_windows", True)
    assert "val.whole_windows: expected a key that SRModel reads" in message(opt, False)


def test_whole_windows_need_their_size():
    opt = mutated(ESC, "network_g", RESNET)
    options.check_structure(opt, "tiny.yml", True)
    text = message(mutated(opt, "val.whole_windows", True))
    assert "network_g.window_size: expected" in text


def test_checkpointing_needs_esc_blocks():
    opt = with_keys(mutated(ESC, "network_g", RESNET), checkpoint_activations=True)
    text = message(opt)
    assert "train.checkpoint_activations: expected a network of ESC blocks" in text
    assert "'MSRResNet'" in text
    opt["train"]["checkpoint_activations"] = False
    options.check_structure(opt, "tiny.yml", True)


@pytest.mark.parametrize("value", [DELETE, None, 5, {}, {"type": "ESCC"}])
def test_a_wrong_network_is_told_once(value):
    opt = with_keys(mutated(ESC, "network_g", value), checkpoint_activations=True)
    assert "checkpoint_activations" not in message(opt)


def test_frobenius_norm_cannot_be_accumulated():
    opt = with_keys(ESC, perceptual_opt=FROBENIUS, accumulate=2)
    assert "train.accumulate: expected 1 with the criterion 'fro'" in message(opt)
    opt["train"]["accumulate"] = 1
    options.check_structure(opt, "tiny.yml", True)


@pytest.mark.parametrize("gpus", [0, "auto"])
def test_fp16_needs_a_gpu(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    opt = with_keys(mutated(ESC, "num_gpu", gpus), amp="fp16")
    assert machine_message(opt).startswith("tiny.yml: train.amp: expected bf16 or nothing")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    if not is_number(gpus):
        options.check_machine(opt, "tiny.yml", options.Run(True))


def test_compiling_for_a_cpu_needs_a_compiler(monkeypatch):
    opt = with_keys(mutated(ESC, "num_gpu", 0), compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    text = machine_message(opt)
    assert "train.compile: expected a C++ compiler, no-such-compiler" in text
    opt["train"]["compile"] = False
    options.check_machine(opt, "tiny.yml", options.Run(True))


def test_compiling_for_many_gpus_needs_a_process_for_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    opt = with_keys(ESC, compile=True)
    text = machine_message(opt)
    assert "train.compile: expected one process for each GPU" in text
    assert "--nproc_per_node=4" in text
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    options.check_machine(opt, "tiny.yml", options.Run(True, launcher="pytorch"))


def test_testing_looks_at_no_training_keys(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    opt = mutated(TEST, "model_type", "ESCModel") | {"train": {"amp": "fp16"}}
    options.check_structure(opt, "tiny.yml", False)
    options.check_machine(opt, "tiny.yml", options.Run(False))
