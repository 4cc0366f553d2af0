"""The threads of the kernels: in forked processes, and called from several threads at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from esc_arch.fast import kernels
from tests.run_python import output_of, start_python

IN_A_FORK = """
import os
import threading
import torch
from torch import nn
from esc_arch.fast import kernels

torch.set_num_threads(3)
# Small maps: PyTorch's own operations must not begin threads, which do not survive a fork.
numbers = torch.Generator().manual_seed(0)
maps = [
    torch.randn(1, 28, 28, channels, generator=numbers).permute(0, 3, 1, 2)
    for channels in (16, 32)
]
layer = nn.Conv2d(32, 32, 1)

def aggregate():
    result = torch.zeros(1, 28, 28, 32).permute(0, 3, 1, 2)
    kernels.aggregate(*maps, layer, result)
    return result

expected = aggregate()
stop = threading.Event()

def call_on():
    while not stop.is_set():
        aggregate()

# The parent is in the midst of calls when it forks.
busy = [threading.Thread(target=call_on) for _ in range(2)]
for thread in busy:
    thread.start()
for _ in range(8):
    child = os.fork()
    if child == 0:
        same = all(torch.equal(aggregate(), expected) for _ in range(3))
        os._exit(0 if same else 1)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
stop.set()
for thread in busy:
    thread.join()
assert torch.equal(aggregate(), expected)
print("done")
"""


def test_forked_processes_have_threads_of_their_own():
    assert output_of(start_python(IN_A_FORK)).strip().endswith("done")


def random_map():
    return torch.randn(1, 64, 64, 32).permute(0, 3, 1, 2)


def aggregate(x, layer):
    result = torch.zeros_like(x)
    kernels.aggregate(x[:, :16], x, layer, result)
    return result


@pytest.mark.parametrize("callers", [2, 5])
def test_calls_from_several_threads_at_once(callers, with_threads):
    layer = nn.Conv2d(32, 32, 1)
    inputs = [random_map() for _ in range(callers)]
    together = threading.Barrier(callers)

    def call(x):
        together.wait()
        return [aggregate(x, layer) for _ in range(50)]

    with with_threads(3), ThreadPoolExecutor(callers) as pool:
        by_caller = list(pool.map(call, inputs))
    for x, results in zip(inputs, by_caller, strict=True):
        expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double()).float()
        for result in results:
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_more_and_fewer_threads_from_call_to_call(with_threads):
    x, layer = random_map(), nn.Conv2d(32, 32, 1)
    results = []
    for threads in (1, 8, 2, 16, 1, 3):
        with with_threads(threads):
            results.append(aggregate(x, layer))
    for result in results[1:]:
        assert torch.equal(result, results[0])
