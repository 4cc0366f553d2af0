"""Tiles that meet where a network takes the mean over the whole image.

Every tile goes through the network in a thread of its own; only one of them runs at a time.  At a
mean it waits until all others have come to the same one, and goes on with the mean of all.  What
the waiting tiles hold is what the network keeps of the whole image at that place, which is less
than it takes at its peak (in RCAN a few maps at the image's own resolution).
"""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Meeting", "means_over_image"]


def means_over_image(network: Callable[[Tensor], Tensor]) -> "Meeting | None":
    """Where a network's tiles have to meet; None for one without such a place."""
    if not isinstance(network, nn.Module):
        return None
    pools = [
        module
        for module in network.modules()
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
    ]
    return Meeting(pools) if pools else None


class Meeting:
    """Replaces the means of a network by those over several tiles.

    Args:
        pools: the modules that take them.
    """

    def __init__(self, pools: Sequence[nn.Module]) -> None:
        self._pools = pools

    def run(
        self,
        members: Sequence[int],
        frames: Sequence[Callable[[Tensor], Tensor]],
        compute: Callable[[int], Tensor],
        deliver: Callable[[int, Tensor], None],
    ) -> list[Tensor]:
        """Run some tiles together.

        Args:
            members: the tiles' numbers.
            frames: of all tiles: what of a tile's map counts for the mean.
            compute: the network's result of a tile.
            deliver: takes it.

        Returns:
            The means, in the order in which the network takes them.
        """
        means: list[Tensor] = []
        tasks = [_Task(i, frames[i], compute, deliver) for i in members]
        here = threading.local()

        def pool(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return here.task.wait(args[0]).to(output.dtype).expand_as(output)

        handles = [module.register_forward_hook(pool) for module in self._pools]
        try:
            for task in tasks:
                task.start(here)
            running = tasks
            while running:
                # Each runs to its next mean or its end, one after the other.
                for task in running:
                    task.step()
                running = [task for task in running if not task.done]
                if running:
                    total = sum(task.total for task in running)
                    means.append(total / sum(task.count for task in running))
                    for task in running:
                        task.mean = means[-1]
        finally:
            for handle in handles:
                handle.remove()
            for task in tasks:
                task.cancel()
        return means

    def replay(self, means: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """The result of a tile with means that were taken before."""
        remaining = iter(means)

        def pool(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return next(remaining).to(output.dtype).expand_as(output)

        handles = [module.register_forward_hook(pool) for module in self._pools]
        try:
            return compute()
        finally:
            for handle in handles:
                handle.remove()


class _Cancelled(BaseException):
    """Ends the thread of a tile whose companions failed."""


class _Task:
    def __init__(
        self,
        number: int,
        frame: Callable[[Tensor], Tensor],
        compute: Callable[[int], Tensor],
        deliver: Callable[[int, Tensor], None],
    ) -> None:
        self._number, self._frame, self._compute, self._deliver = number, frame, compute, deliver
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._cancelled = self.done = False
        self._error: BaseException | None = None
        self.total: Tensor | float = 0.0
        self.count = 0
        self.mean: Tensor | None = None

    def start(self, here: threading.local) -> None:
        self._thread = threading.Thread(target=self._run, args=(here,), daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Let the tile run to its next mean or its end."""
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def wait(self, x: Tensor) -> Tensor:
        """In the tile's thread: hand in its part of a mean, and come back with the whole."""
        own = self._frame(x)
        self.total = own.sum((2, 3), keepdim=True, dtype=torch.float64)
        self.count = own[0, 0].numel()
        self._stopped.release()
        self._go.acquire()
        if self._cancelled:
            raise _Cancelled
        return self.mean

    def cancel(self) -> None:
        self._cancelled = True
        self._go.release()
        self._thread.join()

    def _run(self, here: threading.local) -> None:
        self._go.acquire()
        here.task = self
        try:
            if not self._cancelled:
                with torch.no_grad():  # which holds for a thread
                    self._deliver(self._number, self._compute(self._number))
        except _Cancelled:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.done = True
            self._stopped.release()
