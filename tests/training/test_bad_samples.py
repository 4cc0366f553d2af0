"""Samples that cannot be made end the run with one error, or are replaced, named and counted."""

import importlib
from pathlib import Path

# Before BasicSR, in a process that is not pytest's, too.
import esc_arch  # noqa: F401

# isort: split
import cv2
import lmdb
import numpy as np
import pytest
import torch
import yaml
from basicsr.utils.registry import DATASET_REGISTRY
from tiny_run import assert_equal, iterations, models, options, train
from torch.utils.data import Dataset

from esc_arch.plugin.workarounds import sort_paths
from esc_arch.training.bad_samples import BadSample, BadSamples, get_item
from esc_arch.training.samples import Sample, SeededSamples

BAD = Path("data/LR/3.png")


def truncate() -> str:
    BAD.write_bytes(BAD.read_bytes()[:-50])
    return "no readable image"


def empty() -> str:
    BAD.write_bytes(b"")
    return "empty, no image"


def other_size() -> str:
    cv2.imwrite(str(BAD), np.zeros((9, 10, 3), np.uint8))
    return "10x9"


def remove() -> str:
    """After the options were checked: a link to what does not exist any more."""
    BAD.unlink()
    BAD.symlink_to("nothing.png")
    return "No such file or directory"


def opt_of(workers: int = 0, name: str = "tiny", total: int = 8, **data: object) -> dict:
    opt = options(name, total)
    names = "".join(f"{index}.png\n" for index in range(5))
    Path("data/meta.txt").write_text(names)
    opt["datasets"]["train"] |= {
        "num_worker_per_gpu": workers,
        "meta_info_file": "data/meta.txt",
        **data,
    }
    return opt


@pytest.fixture
def unchecked(monkeypatch):
    """Files that break after the check of the option file."""
    monkeypatch.setattr(
        importlib.import_module("esc_arch.options.option_file"), "inspect_data", lambda *_: None
    )


def error_of(capfd) -> str:
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said[said.index("basicsr: ") :]


@pytest.mark.parametrize(
    ("breaking", "workers", "data"),
    [
        (truncate, 0, {}),
        (truncate, 2, {"prefetch_mode": "cpu"}),
        (empty, 2, {}),
        (other_size, 0, {}),
        (remove, 0, {"on_error": "stop"}),
    ],
)
def test_a_bad_sample_stops_the_run_which_goes_on_after_the_mend(
    folder, unchecked, capfd, breaking, workers, data
):
    train(opt_of(name="whole"))
    good = BAD.read_bytes()
    reason = breaking()
    capfd.readouterr()
    assert train(opt_of(workers, **data)) == 2
    said = error_of(capfd)
    assert str(BAD) in said and reason in said and "on_error: skip" in said and "tiny" in said
    # What was done is not lost, and the run goes on at the very sample.
    assert iterations()
    BAD.unlink()
    BAD.write_bytes(good)
    assert train(opt_of(workers, **data), "--auto_resume") == 0
    assert_equal(models(), models("whole"))


@pytest.mark.parametrize("breaking", [truncate, other_size, remove])
def test_a_skipped_sample_is_replaced_the_same_way_by_whoever_makes_it(
    folder, unchecked, log, breaking
):
    reason = breaking()
    for name, workers in (("one", 0), ("two", 2)):
        log.clear()
        assert train(opt_of(workers, name, on_error="skip")) == 0
        named = [line for line in log if "Bad sample" in line]
        assert len(named) == 1 and str(BAD) in named[0] and reason in named[0]
        last = next(line for line in log if "iter:       8" in line)
        assert "bad_samples: 1.0000e+00" in last and " l_pix: " in last
    assert_equal(models("one"), models("two"))
    # A resumed run knows what was named.
    log.clear()
    opt = opt_of(0, "three", 3, on_error="skip")
    train(opt)
    opt["train"]["total_iter"] = 8
    train(opt, "--auto_resume")
    assert sum("Bad sample" in line for line in log) == 1
    assert_equal(models("three"), models("one"))


@pytest.mark.parametrize(("limit", "code"), [(1, 2), (2, 0), (None, 2)])
def test_too_many_bad_samples_end_the_run_with_a_list(folder, unchecked, capfd, limit, code):
    names = [BAD, Path("data/HR/1.png")]
    for path in names:
        path.write_bytes(b"no image")
    data = {} if limit is None else {"max_bad_samples": limit}
    assert train(opt_of(2, on_error="skip", **data)) == code
    if code:
        said = error_of(capfd)
        assert "max_bad_samples: expected at most 1" in said
        assert all(f"\n  {path}: no readable image" in said for path in names)


def test_no_good_sample_at_all(folder, unchecked, capfd):
    for path in Path("data/HR").iterdir():
        path.write_bytes(b"no image")
    assert train(opt_of(on_error="skip", max_bad_samples=50)) == 2
    assert "no good one after 100" in error_of(capfd)


def write_lmdb(folder: Path, contents: dict[str, bytes]) -> None:
    with lmdb.open(str(folder), map_size=2**20) as env, env.begin(write=True) as transaction:
        for key, content in contents.items():
            transaction.put(key.encode(), content)
    (folder / "meta_info.txt").write_text("".join(f"{key}.png (20,20,3) 1\n" for key in "01234"))


@pytest.mark.parametrize("content", [None, b"", b"no image"])
@pytest.mark.parametrize("kind", ["PairedImageDataset", "DownsampleImageDataset"])
def test_an_entry_of_an_lmdb(folder, unchecked, capfd, content, kind):
    for sub in ("HR", "LR"):
        entries = {p.stem: p.read_bytes() for p in Path("data", sub).iterdir()}
        if sub == "HR":
            entries |= {"2": content}
        if content is None and sub == "HR":
            del entries["2"]
        write_lmdb(Path(f"data/{sub}.lmdb"), entries)
    opt = opt_of(1, type=kind, dataroot_gt="data/HR.lmdb", io_backend={"type": "lmdb"})
    section = opt["datasets"]["train"]
    del section["meta_info_file"]
    del section["dataroot_lq"]
    if kind == "PairedImageDataset":
        section["dataroot_lq"] = "data/LR.lmdb"
    assert train(opt) == 2
    said = error_of(capfd)
    found = "no such key" if content is None else "no readable" if content else "empty, no image"
    assert f"data/HR.lmdb, key 2: {found}" in said
    section["on_error"] = "skip"
    assert train(opt) == 0


def test_real_esrgans_dataset_does_not_choose_another_file_by_itself(folder):
    path = Path(__file__).parents[2] / "options" / "train_ESC_Real_x4_mse.yml"
    section = yaml.safe_load(path.read_text())["datasets"]["train"]
    Path("data/meta.txt").write_text("0.png\n1.png\nnone.png\n")
    section |= {"dataroot_gt": "data/HR", "meta_info": "data/meta.txt", "phase": "train"}
    section |= {"io_backend": {"type": "disk"}}
    dataset = DATASET_REGISTRY.get("RealESRGANDataset")(section)
    assert get_item(dataset, 0)["gt"].shape == (3, 400, 400)
    with pytest.raises(BadSample, match=r"^data/HR/none\.png: No such file or directory$"):
        get_item(dataset, 2)
    Path("data/HR/1.png").write_bytes(b"no image")
    with pytest.raises(BadSample, match=r"^data/HR/1\.png: no readable image$"):
        get_item(dataset, 1)


class Numbers(Dataset):
    """Every third sample raises; the others draw."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> dict:
        if index % 3 == 0:
            raise self.error
        return {"index": index, "drawn": torch.rand(1)}


@pytest.mark.parametrize(
    "error",
    [
        OSError("cut off"),
        ValueError("Scale mismatches.", "GT"),
        EOFError(),
        RuntimeError("image decoding failed"),
        cv2.error("assertion"),
        lmdb.CorruptedError("page"),
    ],
    ids=repr,
)
def test_errors_of_data(error):
    sample, reasons = SeededSamples(Numbers(error), 0)[Sample(3, 0, 0)]
    assert sample is None and len(reasons) == 1 and reasons[0].startswith("sample 3: ")


@pytest.mark.parametrize(
    "error",
    [NameError("x"), TypeError("x"), AttributeError("x"), KeyError("x"), OSError(24, "Too many")],
    ids=repr,
)
def test_errors_of_code_or_machine_pass(error):
    with pytest.raises(type(error)):
        SeededSamples(Numbers(error), 0, skips=True)[Sample(3, 0, 0)]


def test_the_replacement_depends_on_the_seed_and_the_place_alone():
    def drawn(seed: int, epoch: int, position: int) -> tuple:
        samples = SeededSamples(Numbers(ValueError("bad")), seed, skips=True)
        sample, reasons = samples[Sample(3, epoch, position)]
        assert sample["index"] % 3 and reasons
        return sample["index"], sample["drawn"].item()

    first = drawn(1, 2, 3)
    torch.rand(7)
    assert drawn(1, 2, 3) == first
    places = [(1, 2, position) for position in range(40)]
    others = {drawn(*place) for place in places}
    assert len(others) == 40 and len({index for index, _ in others}) > 10
    assert drawn(2, 2, 3) != first != drawn(1, 3, 3)


def test_built_in_limits():
    opt = {"datasets": {"train": {"name": "x", "on_error": "skip"}}}
    for length, limit in ((5, 1), (3450, 34), (10**6, 100)):
        found: list[str] = []
        bad = BadSamples(opt, length, found)
        batches = [{"esc_arch_bad_samples": ([f"{i}: bad"], False)} for i in range(limit + 1)]
        errors = [bad.take(batch, torch.device("cpu")) for batch in batches]
        assert [error is None for error in errors] == [True] * limit + [False]
        assert len(found) == limit + 1


def work(rank: int, folder: str) -> None:
    """What each of two processes does; leaves what it found in the folder."""
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=2
    )
    said: list[str] = []
    opt = {"datasets": {"train": {"name": "x", "on_error": "skip", "max_bad_samples": 2}}}
    bad = BadSamples(opt, 1000, [])
    for own in ({0: ["a"]}, {}, {0: ["b"], 1: ["a"]}, {1: ["c"]}):
        batch = {"lq": 1, "esc_arch_bad_samples": (own.get(rank, []), False)}
        said.append(str(bad.take(batch, torch.device("cpu"))))
        assert batch == {"lq": 1}
    torch.save([said, bad.found], Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_processes_know_and_stop_together(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == second
    said, found = first
    assert found == ["a", "b", "c"]
    assert said[:3] == ["None"] * 3 and "at most 2 bad samples of x; found 3" in said[3]


def test_basicsrs_lists_of_a_folder_are_sorted(folder):
    section = options()["datasets"]["train"] | {"phase": "train", "scale": 2}
    for kind, name in (("PairedImageDataset", "gt_path"), ("SingleImageDataset", None)):
        dataset = DATASET_REGISTRY.get(kind)(section)
        dataset.paths.reverse()
        sort_paths(dataset, section | {"type": kind})
        paths = [path[name] if name else path for path in dataset.paths]
        sub = "HR" if name else "LR"
        assert paths == [f"data/{sub}/{index}.png" for index in range(5)]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"on_error": "ignore"}, "expected 'stop' or 'skip'"),
        ({"on_errors": "skip"}, "Did you mean 'on_error'?"),
        ({"on_error": "skip", "max_bad_samples": 0}, "max_bad_samples: expected a whole number"),
        ({"max_bad_samples": 3}, "max_bad_samples: expected `on_error: skip` beside it"),
    ],
)
def test_the_keys_are_checked(folder, capfd, keys, found):
    opt = options()
    opt["datasets"]["train"] |= keys
    assert train(opt) == 2
    assert found in capfd.readouterr().err
