"""The states of the generators that training draws from: Python, NumPy, PyTorch."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["capture", "kept", "noted", "restore", "seed_cpu"]


def capture() -> dict[str, Any]:
    """This process's states, of values that ``torch.load(weights_only=True)`` reads."""
    version, key, gauss = random.getstate()
    numpy: tuple[Any, ...] = np.random.get_state(legacy=True)  # type: ignore[assignment]
    name, keys, *rest = numpy
    state: dict[str, Any] = {
        "python": [version, torch.tensor(key), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: dict[str, Any]) -> None:
    """Go back to captured states; those of GPUs are restored as far as there are GPUs."""
    version, key, gauss = state["python"]
    random.setstate((version, tuple(key.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for device, own in enumerate(state.get("cuda", ())[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(own.cpu(), device)


@contextmanager
def kept() -> Iterator[None]:
    """Leave the CPU's generators as they were, whatever is drawn inside."""
    go_back = noted()
    try:
        yield
    finally:
        go_back()


def noted() -> Callable[[], None]:
    """A function that brings the CPU's generators back to where they are now; some 20 us."""
    python, numpy, pytorch = random.getstate(), np.random.get_state(), torch.get_rng_state()

    def go_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(pytorch)

    return go_back


def seed_cpu(*numbers: int) -> None:
    """Seed the CPU's generators by a tuple of whole numbers of at least 0."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    # torch.manual_seed would seed the GPUs, too, which the model draws from.
    torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))
