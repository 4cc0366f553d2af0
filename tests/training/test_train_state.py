"""Checkpoints that cannot be written stop the run; the best and the last are kept."""

import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import PAIR, assert_equal, iterations, models, options, train, validated

from esc_arch.files import write_durably
from esc_arch.training import checkpoints

SAVED = Path("experiments/tiny")


class Full(io.FileIO):
    """A file on a disk that has room for 1000 bytes, or for none of a small one."""

    def __init__(self, path: Path, code: int) -> None:
        super().__init__(str(path), "w")
        self.code = code
        self.room = 0 if path.name.endswith((".json.part", ".writable.part")) else 1000

    def write(self, data) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(self.code, os.strerror(self.code))
        return super().write(data)


def refuse_writes(monkeypatch, code: int, name: str) -> None:
    """Let the file system refuse to write files of which the name begins so."""
    open_path = Path.open

    def opened(self, mode="r", *args, **kwargs):
        is_part = mode == "wb" and self.name.endswith(".part")
        if is_part and self.name.split("-", 2)[2].startswith(name):
            return Full(self, code)
        return open_path(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)


def leftovers() -> list[str]:
    return [path.name for path in SAVED.rglob("*.part")]


def test_no_room_for_the_images_of_a_validation_ends_the_run(folder, capfd, monkeypatch):
    refuse_writes(monkeypatch, errno.ENOSPC, "3_6.png")
    opt = validated(options(total=7))
    opt["val"]["save_img"] = True
    assert train(opt) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "3_6.png: expected to write what the validation gives" in said
    assert "No space left" in said and "Safe on disk is checkpoint 6," in said
    assert "Traceback" not in said
    images = {path.name for path in SAVED.glob("visualization/**/*_6*")}
    assert images == {"0_6.png", "1_6.png", "2_6.png"}
    assert leftovers() == []


def test_no_room_for_tensorboard_ends_the_run(folder, capfd, monkeypatch):
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    append = LocalFileSystem.append

    def refuse(*args) -> None:
        if iterations():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(*args)

    monkeypatch.setattr(LocalFileSystem, "append", refuse)
    opt = options(total=40)
    opt["logger"]["use_tb_logger"] = True
    assert train(opt) == 2
    said = capfd.readouterr().err
    (line,) = (line for line in said.splitlines() if line.startswith("basicsr: "))
    assert "tb_logger/tiny: expected to write TensorBoard's curves" in line
    assert "No space left" in line and f"Safe on disk is checkpoint {iterations()[-1]}," in line
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (errno.ENOSPC, "net_g_6.pth"),
        (errno.EROFS, "6.state"),
        (errno.EDQUOT, "6.json"),
        (errno.EACCES, "net_g_latest.pth"),
    ],
)
def test_a_failed_write_ends_the_run_and_tells_what_is_safe(folder, capfd, monkeypatch, code, name):
    refuse_writes(monkeypatch, code, name)
    assert train(options(total=7)) == 2
    said = capfd.readouterr().err
    (line,) = (line for line in said.splitlines() if line.startswith("basicsr: "))
    newest = 4 if "6" in name else 7
    assert f"Safe on disk is checkpoint {newest}," in line and os.strerror(code) in line
    assert name in line and "--auto_resume" in line and "Traceback" not in said
    assert not leftovers()
    assert not list(SAVED.rglob(name))
    if "6" in name:
        assert iterations() == [2, 4]
        assert not list(SAVED.rglob("*_6.pth"))


def test_the_run_goes_on_when_there_is_room_again(folder, monkeypatch):
    def refuse(folder, iteration, *_):
        if iteration == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return record(folder, iteration, *_)

    record = checkpoints.write_record
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_record", refuse)
        assert train(options()) == 2
    assert train(options(), "--auto_resume") == 0
    train(options("whole"))
    assert_equal(models(), models("whole"))


def test_a_folder_that_cannot_be_written_is_found_before_training(folder, capfd, monkeypatch):
    refuse_writes(monkeypatch, errno.EROFS, "")
    assert train(options()) == 2
    said = capfd.readouterr().err
    assert "No checkpoint of this run is on disk" in said and os.strerror(errno.EROFS) in said
    assert "iter:       1" not in said


def test_a_file_in_the_place_of_a_folder(folder, capfd):
    """Nobody may write there, whoever runs it."""
    Path("experiments").touch()
    assert train(options()) == 2
    assert "expected to write into" in capfd.readouterr().err


def free_space(monkeypatch, free: int) -> None:
    usage = shutil._ntuple_diskusage(10**12, 10**12 - free, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_too_little_space_is_found_before_training(folder, capfd, log, monkeypatch):
    free_space(monkeypatch, 100_000)
    assert train(options()) == 2
    assert "expected 1.1 MB of free space for a checkpoint; found 100.0 kB" in (
        capfd.readouterr().err
    )
    assert "iter:       1" not in "\n".join(log)


def test_space_for_some_checkpoints_only_is_a_warning(folder, log, monkeypatch):
    free_space(monkeypatch, 3_500_000)
    opt = options(total=2)
    opt["logger"]["save_checkpoint_freq"] = 1
    train(opt)
    assert not any("keep_last" in line for line in log if "\n" not in line)
    opt["train"]["total_iter"] = 4
    train(opt)
    assert any("the 4 checkpoints of this run need about" in line for line in log)
    log.clear()
    opt["logger"]["keep_last"] = 1
    train(opt)
    assert not any("checkpoints of this run need" in line for line in log)


def test_keep_last(folder):
    opt = options(total=7)
    opt["logger"]["keep_last"] = 2
    train(opt)
    assert iterations() == [6, 7]
    assert sorted(path.name for path in (SAVED / "models").iterdir()) == [
        "net_g_6.pth",
        "net_g_7.pth",
        "net_g_latest.pth",
    ]
    records = sorted(path.name for path in (SAVED / "training_states").glob("*.json"))
    assert records == ["6.json", "7.json"]


def values(log: list[str]) -> list[list[float]]:
    """PSNR of each validation by set."""
    lines = [line for line in log if line.startswith("Validation ")]
    numbers = [float(line.split("# psnr: ")[1].split()[0]) for line in lines]
    sets = len({line.split()[1] for line in lines})
    return [numbers[i : i + sets] for i in range(0, len(numbers), sets)]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_keep_best_of_the_mean_over_the_sets(folder, log, better):
    for sub in ("HR", "LR"):
        (folder / "few" / sub).mkdir(parents=True)
        shutil.copy(folder / "data" / sub / "0.png", folder / "few" / sub)
    opt = validated(options(total=8), better=better)
    few = {"name": "few", **PAIR, "dataroot_gt": "few/HR", "dataroot_lq": "few/LR"}
    opt["datasets"]["val_few"] = few
    opt["logger"]["keep_best"] = "psnr"
    # Large steps, so that it does not only get better.
    opt["train"]["optim_g"]["lr"] = 0.3
    opt["train"]["scheduler"]["milestones"] = [100]
    train(opt)
    means = [sum(row) / 2 for row in values(log)]
    assert len(means) == 5 and len(set(map(tuple, values(log)))) > 2
    index = means.index((max if better == "higher" else min)(means))
    record = json.loads((SAVED / "training_states" / "best.json").read_text())
    assert record["iteration"] == 2 * (index + 1)
    assert record["value"] == pytest.approx(means[index], abs=1e-3)
    assert_equal(models(iteration="best"), models(iteration=2 * (index + 1)))


def test_the_best_value_is_resumed(folder, log):
    """What comes after it is worse, as the steps are far too large."""
    opt = validated(options(total=4))
    opt["logger"]["keep_best"] = "psnr"
    train(opt)
    best = models(iteration="best")
    opt["train"] |= {"total_iter": 6, "optim_g": {"type": "AdamW", "lr": 1e-3}}
    state = SAVED / "training_states" / "4.state"
    content = torch.load(state, weights_only=False)
    for group in content["optimizers"][0]["param_groups"]:
        group["lr"] = 100.0
    digest = write_durably(state, lambda file: torch.save(content, file))
    record = json.loads((SAVED / "training_states" / "4.json").read_text())
    record["files"]["training_states/4.state"] = digest._asdict()
    (SAVED / "training_states" / "4.json").write_text(json.dumps(record))
    log.clear()
    train(opt, "--auto_resume")
    assert min(row[0] for row in values(log)) < 8
    assert_equal(models(iteration="best"), best)
    assert any("Best: " in line and "@ 4 iter" in line for line in log)
