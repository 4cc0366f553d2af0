"""How a job starts: names of hosts, ports, and what is missing."""

import argparse
import socket

import pytest
from torch.distributed import PrefixStore, TCPStore

from esc_arch.cli.train import add_arguments
from esc_arch.errors import UserError
from esc_arch.plugin import process_group


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node7,node9", "node7"),
        ("gpu[003-005,9],other", "gpu003"),
        ("gpu[9,003-005]", "gpu9"),
        ("rack[2-3]-node[10-12]-ib,rack4", "rack2-node10-ib"),
        ("a.b-c,d[1-2]", "a.b-c"),
    ],
)
def test_the_first_host_of_a_slurm_list(nodes, first):
    assert process_group.first_host(nodes) == first


@pytest.fixture
def slurm(monkeypatch):
    """Two tasks of a SLURM job; what the start would be given."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        # Both, so that what the start sets is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in {
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_NODELIST": "gpu[03-06]",
        "SLURM_JOB_ID": "1234567",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    started = []
    monkeypatch.setattr(process_group, "start_pytorch", lambda backend: started.append(backend))
    return started


def test_slurms_variables_become_those_of_torchrun(slurm, monkeypatch):
    process_group.start_slurm("nccl")
    assert slurm == ["nccl"]
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    found = [process_group.os.environ[name] for name in names]
    assert found == ["5", "8", "1", "gpu03", "24567"]
    process_group.start_slurm("nccl", port=29500)
    assert process_group.os.environ["MASTER_PORT"] == "29500"


def test_a_job_that_lacks_a_process_ends_with_the_number_of_those_that_came(monkeypatch):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(found.getsockname()[1]))
    monkeypatch.setattr(process_group, "RENDEZVOUS_S", 1)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"--launcher: expected the 3 processes.* 1/3 clients"):
        process_group.start_pytorch("gloo")


@pytest.fixture
def torchruns_store(monkeypatch):
    """A store such as torchrun keeps over restarts; this is one process of two."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(server.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return server


def test_a_restarted_job_does_not_see_what_the_processes_before_wrote(torchruns_store, monkeypatch):
    """gloo would connect to the addresses of processes that are gone."""
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        PrefixStore(f"attempt_{attempt}", torchruns_store).set("here/1", "1")
        store = process_group.job_store()
        assert not store.check(["address"])
        store.set("address", "of an earlier process")


def test_a_process_that_does_not_come_is_named(torchruns_store, monkeypatch):
    monkeypatch.setattr(process_group, "RENDEZVOUS_S", 1)
    with pytest.raises(UserError, match=r"--launcher: expected the 2 processes.* none of rank 1\."):
        process_group.job_store()


@pytest.mark.parametrize("spelling", ["--local_rank=3", "--local-rank=3"])
def test_both_spellings_of_the_local_rank(spelling):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(["-opt", "x", spelling]).local_rank == 3
    assert parser.parse_args(["-opt", "x"]).local_rank is None
