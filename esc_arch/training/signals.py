"""SIGTERM and Ctrl-C as requests to save and stop."""

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch
from torch.utils.data import DataLoader

__all__ = ["StopRequested", "StopSignals"]

_NOTED = (
    "\nbasicsr: {name}: ending this iteration and saving; another Ctrl-C stops without saving.\n"
)


class StopRequested(Exception):
    """Raised between the images of a validation when the process was asked to stop."""


class StopSignals:
    """Notes SIGTERM and SIGINT inside its block instead of ending the process.

    A second signal that is a Ctrl-C ends the process at once, with the exit code 130.

    Attributes:
        received: number of the first signal; None when there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                # A shell has its background processes ignore Ctrl-C.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # print() must not be called from within print().
        if self.received is not None and number == signal.SIGINT:
            os.write(2, b"\nbasicsr: stopped by a second Ctrl-C, without saving\n")
            os._exit(128 + number)
        if self.received is None:
            self.received = number
            os.write(2, _NOTED.format(name=signal.Signals(number).name).encode())

    def agreed(self, device: torch.device) -> int | None:
        """The signal that any process of the job has received; all must call this together.

        Args:
            device: where the job's backend reduces tensors.
        """
        if not torch.distributed.is_initialized():
            return self.received
        # BasicSR reduces the losses in each iteration anyway.
        number = torch.tensor(self.received or 0, device=device)
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return int(number) or None

    def interrupting(self, loader: DataLoader) -> "_Interrupted":
        """A loader of validation images that raises StopRequested after a signal."""
        return _Interrupted(loader, self)


class _Interrupted:
    """As much of a DataLoader as BasicSR's validation uses."""

    def __init__(self, loader: DataLoader, signals: StopSignals) -> None:
        self.dataset = loader.dataset
        self._loader = loader
        self._signals = signals

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict]:
        for batch in self._loader:
            if self._signals.received is not None:
                raise StopRequested
            yield batch
