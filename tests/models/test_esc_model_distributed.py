"""ESCModel in two processes that train together."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from tiny_training import SGD, batch, broken_batch, build, gradients, norm, step
from torch import distributed


def work(rank: int, folder: str) -> None:
    """What each process does; leaves what it found in the folder."""
    torch.set_num_threads(1)
    # Tracing alone, without a compiler.
    torch.compile = functools.partial(torch.compile, backend="eager")
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for name, keys in {
        "whole": {},
        "parts": {"accumulate": 2, "checkpoint_activations": True, "channels_last": True},
        "compiled": {"compile": True, "accumulate": 2},
        "clipped": {"accumulate": 4, "grad_clip": 0.01},
    }.items():
        model = build(**SGD, **keys)
        step(model, 1, batch(rank))
        found[name] = gradients(model)
        found[f"{name} log"] = model.log_dict
    before = copy.deepcopy(model.net_g.state_dict())
    # One process alone meets what is not finite.
    step(model, 2, broken_batch() if rank else batch())
    infinite = batch()
    infinite["gt"][0, 0, 0, 0] = torch.inf
    step(model, 3, infinite if rank else batch())
    found["skipped"] = model.log_dict["skipped"]
    after = model.net_g.state_dict()
    found["unchanged"] = all(torch.equal(after[name], value) for name, value in before.items())
    torch.save(found, Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = build("SRModel", **SGD)
    both = {key: torch.cat([batch(0)[key], batch(1)[key]]) for key in ("lq", "gt")}
    step(alone, 1, both)
    for found in (first, second):
        for name in ("whole", "parts", "compiled"):
            for own, expected in zip(found[name], gradients(alone), strict=True):
                torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-7)
        assert norm(found["clipped"]) == pytest.approx(0.01, rel=1e-3)
        assert found["clipped log"]["grad_norm"] == pytest.approx(norm(gradients(alone)), rel=1e-4)
        assert (found["skipped"], found["unchanged"]) == (2, True)
    for name in ("whole", "parts", "clipped"):
        assert first[f"{name} log"]["l_pix"] == pytest.approx(alone.log_dict["l_pix"], rel=1e-5)
