"""The threads of the kernels: in forked processes, and called from several threads at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from esc_arch import native
from tests.run_python import output_of, start_python

IN_A_FORK = """
import os
import threading
import torch
from esc_arch import native

torch.set_num_threads(3)
# Small maps: PyTorch's own operations must not begin threads, which do not survive a fork.
numbers = torch.Generator().manual_seed(0)
maps = [torch.randn(1, 28, 28, channels, generator=numbers) for channels in (16, 32)]
weight, bias = torch.randn(32, 32, 1, 1, generator=numbers), torch.randn(32, generator=numbers)

def aggregate():
    result = torch.zeros(1, 28, 28, 32)
    native.aggregate(*maps, weight, bias, result)
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


@pytest.mark.parametrize("callers", [2, 5])
def test_calls_from_several_threads_at_once(callers, with_threads):
    numbers = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 32, 1, 1, generator=numbers)
    bias = torch.randn(32, generator=numbers)
    inputs = [torch.randn(1, 40, 40, 32, generator=numbers) for _ in range(callers)]
    together = threading.Barrier(callers)

    def call(x):
        together.wait()
        results = []
        for _ in range(50):
            y = torch.zeros(1, 40, 40, 32)
            native.aggregate(x[..., :16].contiguous(), x, weight, bias, y)
            results.append(y)
        return results

    with with_threads(3), ThreadPoolExecutor(callers) as pool:
        by_caller = list(pool.map(call, inputs))
    for x, results in zip(inputs, by_caller, strict=True):
        expected = (x.double() @ weight.double().squeeze().T + bias).float()
        for result in results:
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_more_and_fewer_threads_from_call_to_call(with_threads):
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 64, 32, generator=numbers)
    weight, bias = torch.randn(32, 32, 1, 1, generator=numbers), torch.zeros(32)
    results = []
    for threads in (1, 8, 2, 16, 1, 3):
        with with_threads(threads):
            results.append(torch.zeros(1, 64, 64, 32))
            native.aggregate(x[..., :16].contiguous(), x, weight, bias, results[-1])
    for result in results[1:]:
        assert torch.equal(result, results[0])
