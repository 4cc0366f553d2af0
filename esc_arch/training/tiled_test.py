"""``val.tile``: images that are too large for the memory are validated in tiles."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from basicsr.models.base_model import BaseModel

__all__ = ["MARGIN", "tiled_test"]

# LR pixels around a tile that the network sees, too.
MARGIN = 32


@contextmanager
def tiled_test(model: BaseModel, tile: int | None) -> Iterator[None]:
    """Inside the block, ``model.test`` takes images of more than a tile in tiles.

    What a network looks at beyond the margin is lost, so results differ from the whole image's
    where it looks far.

    Args:
        model: of BasicSR, whose ``test`` makes ``output``, (1, C, rH, rW), from ``lq``,
            (1, C, H, W).
        tile: side in LR pixels; None for whole images.
    """
    if tile is None or not hasattr(model, "test"):
        yield
        return
    whole_test, own = model.test, vars(model)

    def test() -> None:
        lq = own.get("lq")
        if lq is None or lq.ndim != 4 or max(lq.shape[-2:]) <= tile:
            whole_test()
            return
        height, width = lq.shape[-2:]
        output: Any = None
        try:
            for top, y in _spans(height, tile):
                for left, x in _spans(width, tile):
                    own["lq"] = lq[..., y, x]
                    whole_test()
                    part = own["output"].cpu()
                    scale = part.shape[-1] // own["lq"].shape[-1]
                    if output is None:
                        output = part.new_empty(*part.shape[:2], scale * height, scale * width)
                    inner_y, inner_x = _inner(top, y, scale), _inner(left, x, scale)
                    to_y, to_x = _scaled(top, scale), _scaled(left, scale)
                    output[..., to_y, to_x] = part[..., inner_y, inner_x]
        finally:
            own["lq"] = lq
        own["output"] = output

    model.test = test
    try:
        yield
    finally:
        del model.test


def _spans(length: int, tile: int) -> list[tuple[slice, slice]]:
    """Tiles along a side, each without and with its margins."""
    return [
        (
            slice(start, min(start + tile, length)),
            slice(max(start - MARGIN, 0), min(start + tile + MARGIN, length)),
        )
        for start in range(0, length, tile)
    ]


def _inner(inside: slice, around: slice, scale: int) -> slice:
    return slice(scale * (inside.start - around.start), scale * (inside.stop - around.start))


def _scaled(span: slice, scale: int) -> slice:
    return slice(scale * span.start, scale * span.stop)
