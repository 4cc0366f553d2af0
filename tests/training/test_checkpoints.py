"""Which checkpoint is the newest complete one, whatever happened to the files."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from esc_arch.files import write_durably
from esc_arch.training import checkpoints


def save(path: Path, content: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_durably(path, lambda file: torch.save(content, file))


def state_of(iteration: int, **more: object) -> dict:
    schedulers = [{"milestones": Counter([5])}]
    return {"epoch": 0, "iter": iteration, "optimizers": [], "schedulers": schedulers, **more}


def write_checkpoint(root: Path, iteration: int, labels: tuple[str, ...] = ("g",)) -> None:
    files = {
        f"models/net_{label}_{iteration}.pth": {"params": {"w": torch.rand(50)}} for label in labels
    }
    files[f"training_states/{iteration}.state"] = state_of(iteration, esc_arch={"seed": 1})
    digests = {name: save(root / name, content) for name, content in files.items()}
    checkpoints.write_record(root, iteration, digests, {"iter": iteration})


@pytest.fixture
def root(tmp_path) -> Path:
    for iteration in (5, 10, 100):
        write_checkpoint(tmp_path, iteration, ("g", "d"))
    return tmp_path


def found(root: Path, networks: tuple[str, ...] = ("g",)) -> tuple[int | None, list[str]]:
    result = checkpoints.find_newest(root, networks)
    return result.checkpoint and result.checkpoint.iteration, result.skipped


def test_the_newest_is_so_by_number(root):
    assert found(root) == (100, [])
    assert checkpoints.newest_recorded(root).iteration == 100
    assert found(root / "absent") == (None, [])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, folder, Path.unlink])
@pytest.mark.parametrize(
    "name", ["training_states/100.state", "models/net_g_100.pth", "models/net_d_100.pth"]
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_taken(root, name, damage):
    damage(root / name)
    iteration, (line,) = found(root)
    assert iteration == 10
    assert "checkpoint 100 is skipped" in line and str(root / name) in line
    assert checkpoints.newest_recorded(root).iteration == 10


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink])
def test_without_a_whole_record_there_is_no_checkpoint(root, damage):
    record = root / "training_states" / "100.json"
    damage(record)
    if damage is truncate:
        truncate(record)  # the first time, the line's end
    iteration, (line,) = found(root)
    assert iteration == 10 and str(record) in line


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"files": {}},
        {"files": []},
        {"files": {"training_states/100.state": {"size": "many", "sha256": ""}}},
        {"files": {"../../etc/passwd": {"size": 1, "sha256": ""}}},
        {"files": {"models/../../x": {"size": 1, "sha256": ""}}},
        {"files": {"/etc/passwd": {"size": 1, "sha256": ""}}},
    ],
)
def test_a_record_of_something_else(root, content):
    record = root / "training_states" / "100.json"
    record.write_text(json.dumps(content))
    iteration, (line,) = found(root)
    assert iteration == 10 and str(record) in line


def test_all_damaged(root):
    for path in (root / "models").iterdir():
        flip_a_bit(path)
    iteration, lines = found(root)
    assert iteration is None
    assert [line.split()[1] for line in lines] == ["100", "10", "5"]


def test_what_basicsr_saved_counts_when_it_loads(root):
    save(root / "training_states" / "200.state", state_of(200))
    save(root / "models" / "net_g_200.pth", {"params": {}})
    assert found(root) == (200, [])
    assert not checkpoints.find_newest(root, ("g",)).checkpoint.is_recorded
    iteration, (line,) = found(root, ("g", "d"))
    assert iteration == 100 and "net_d_200.pth: no such file" in line
    truncate(root / "models" / "net_g_200.pth")
    iteration, (line,) = found(root)
    assert iteration == 100 and "net_g_200.pth" in line


def test_other_files_are_no_states(root):
    for name in ("last.state", ".300.state.part", "best.json", "³.state", "0300.state"):
        (root / "training_states" / name).touch()
    assert found(root) == (100, [])


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_older_checkpoints_are_deleted_whole(root):
    save(root / "training_states" / "3.state", state_of(3))
    save(root / "models" / "net_g_best.pth", {})
    write_checkpoint(root, 7)
    checkpoints.delete_older(root, 10, keep=2)
    assert found(root) == (100, [])
    assert names(root) == sorted(
        ["3.state", "net_g_best.pth", "7.json", "7.state", "net_g_7.pth"]
        + [name.format(n) for n in (10, 100) for name in ("{}.json", "{}.state")]
        + [f"net_{label}_{n}.pth" for n in (10, 100) for label in "gd"]
    )


def test_a_deletion_that_was_killed_is_finished(root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoints.delete_older(root, 100, keep=1)
    assert found(root) == (100, [])
    checkpoints.delete_older(root, 100, keep=1)
    assert names(root) == ["100.json", "100.state", "net_d_100.pth", "net_g_100.pth"]
