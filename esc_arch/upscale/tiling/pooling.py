"""Means over a whole image, taken while the image goes through a network by tiles.

Every tile goes through the network in a thread of its own; they take turns, always in the same
order.  At a mean a tile hands the turn on, and gets it back when all have come to that mean, with
the mean of all.  A waiting tile holds the maps that the
network keeps at that place, which is less than the network takes at its peak (in RCAN a few maps at
the image's own resolution).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["SharedMeans", "shared_means"]

_Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


def shared_means(network: Callable[[Tensor], Tensor]) -> "SharedMeans | None":
    """The means over the image that a network takes; None for a network without any."""
    if not isinstance(network, nn.Module):
        return None
    pools = [
        module
        for module in network.modules()
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
    ]
    return SharedMeans(pools) if pools else None


class _Stopped(BaseException):
    """Ends a tile when another one failed."""


class SharedMeans:
    """Replaces the means of a network by those over several tiles.

    Args:
        pools: the modules that take them.
    """

    def __init__(self, pools: Sequence[nn.Module]) -> None:
        self._pools = pools

    def run(
        self,
        tiles: Sequence[int],
        inner: Sequence[Callable[[Tensor], Tensor]],
        compute: Callable[[int], Tensor],
        deliver: Callable[[int, Tensor], None],
    ) -> list[Tensor]:
        """Run some tiles together.

        Args:
            tiles: their numbers.
            inner: of each tile by its number: cuts the overlap off its map, (1, C, h, w).
            compute: the network's result of a tile.
            deliver: takes it.

        Returns:
            The means, (1, C, 1, 1) each, in the order in which the network takes them.
        """
        means: list[Tensor] = []
        sums: list[tuple[Tensor, int]] = []
        own = threading.local()
        turns = [threading.Semaphore(0) for _ in tiles]  # handed on from tile to tile
        stopped = threading.Event()

        def pool(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            part = inner[tiles[own.place]](args[0])
            sums.append((part.sum((2, 3), keepdim=True, dtype=torch.float64), part[0, 0].numel()))
            if len(sums) == len(tiles):
                total = torch.stack([total for total, _ in sums]).sum(0)
                means.append(total / sum(count for _, count in sums))
                sums.clear()
            turns[(own.place + 1) % len(tiles)].release()
            turns[own.place].acquire()
            if stopped.is_set():
                raise _Stopped
            return means[-1].to(output.dtype).expand_as(output)

        def one(place: int) -> None:
            own.place = place
            turns[place].acquire()
            try:
                if not stopped.is_set():
                    with torch.no_grad():  # which holds for a thread
                        deliver(tiles[place], compute(tiles[place]))
            except BaseException:
                stopped.set()
                raise
            finally:
                turns[(place + 1) % len(tiles)].release()

        with self._hooked(pool), ThreadPoolExecutor(len(tiles)) as threads:
            try:
                futures = [threads.submit(one, place) for place in range(len(tiles))]
                turns[0].release()
                errors = [error for future in futures if (error := future.exception())]
            except BaseException:  # Ctrl-C
                stopped.set()
                # Nobody may have had the first turn yet.
                for turn in turns:
                    turn.release()
                raise
        for error in errors:
            if not isinstance(error, _Stopped):
                raise error
        return means

    def replay(self, means: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """The result of a tile with means that were taken before."""
        remaining = iter(means)

        def pool(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return next(remaining).to(output.dtype).expand_as(output)

        with self._hooked(pool):
            return compute()

    @contextmanager
    def _hooked(self, hook: _Hook) -> Iterator[None]:
        handles = [module.register_forward_hook(hook) for module in self._pools]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
