"""Training and validation read the same LMDBs, in one process and in workers."""

import gc
import importlib

import lmdb
import pytest
from basicsr.utils import FileClient
from tiny_run import assert_equal, models, options, train, validated

from esc_arch.cli.main import main


@pytest.fixture
def packed(folder):
    for side in ("HR", "LR"):
        assert main(["data", "lmdb", f"data/{side}", "-o", f"data/{side}.lmdb"]) == 0
    return folder


def same_lmdb(name: str, workers: int) -> dict:
    opt = validated(options(name, total=6))
    roots = {"dataroot_gt": "data/HR.lmdb", "dataroot_lq": "data/LR.lmdb"}
    for section in opt["datasets"].values():
        section |= roots | {"io_backend": {"type": "lmdb"}}
    opt["datasets"]["train"]["num_worker_per_gpu"] = workers
    return opt


def test_training_validates_on_its_own_lmdb_with_and_without_workers(packed):
    """Several epochs: workers start again after the validation has opened the LMDBs."""
    assert train(same_lmdb("alone", 0)) == 0
    gc.collect()  # the check of the next one opens them itself
    assert train(same_lmdb("workers", 2)) == 0
    assert_equal(models("alone"), models("workers"))


def test_one_environment_serves_all_clients_of_a_file(tmp_path):
    path = tmp_path / "x.lmdb"
    with lmdb.open(str(path)) as written, written.begin(write=True) as transaction:
        transaction.put(b"a", b"content")
    (tmp_path / "link.lmdb").symlink_to(path)
    first = FileClient("lmdb", db_paths=str(path), client_keys="gt")
    second = FileClient(
        "lmdb", db_paths=[str(path), str(tmp_path / "link.lmdb")], client_keys=["lq", "gt"]
    )
    del first
    assert (second.get("a", "lq"), second.get("a", "gt")) == (b"content", b"content")
    del second
    with lmdb.open(str(path)) as again, again.begin() as transaction:  # nothing holds it
        assert transaction.get(b"a") == b"content"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_error_of_a_dataset_is_the_one_that_is_told(packed, capfd, monkeypatch, workers):
    opt = same_lmdb("broken", workers)

    def refuse(*args, **kwargs):
        raise lmdb.Error("HR.lmdb: a reason of its own")

    monkeypatch.setattr(lmdb, "open", refuse)
    check = importlib.import_module("esc_arch.options.option_file")
    monkeypatch.setattr(check, "inspect_data", lambda *_: None)
    opt["datasets"]["train"] |= {"on_error": "skip"}
    assert train(opt) == 2
    said = capfd.readouterr().err
    assert "a reason of its own" in said and "KeyError" not in said
    assert "Traceback" not in said
