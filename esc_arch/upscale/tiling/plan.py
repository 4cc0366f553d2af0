"""How large the tiles are."""

from math import inf

from esc_arch.fast.maps import cut

__all__ = ["side_of_tiles"]


def side_of_tiles(size: tuple[int, int], multiple: int, halo: int, pixels: int) -> tuple[int, int]:
    """The tiles of at most so many pixels for which the least is computed twice.

    Args:
        size: height and width of the image.
        multiple: of which the tiles' sides are multiples.
        halo: pixels around a tile that are computed, too; they count for its size.
        pixels: a tile of ``multiple`` on each side is taken even if it has more.

    Returns:
        Height and width of a tile without its halo.
    """
    best, least = (multiple, multiple), inf
    for columns in range(1, max(size[1] // multiple, 1) + 1):
        width, across = _largest(size[1], columns, multiple, halo)
        room = pixels // width
        if room < min(size[0], multiple):
            continue
        if room >= size[0]:
            height = size[0]
        else:
            # The last tile has up to a multiple less one pixel more than the others.
            height = (room - 2 * halo - multiple + 1) // multiple * multiple
            if height < multiple:
                continue
        down = sum(
            min(end + halo, size[0]) - max(start - halo, 0)
            for start, end in cut(size[0], height, multiple)
        )
        if down * across < least:
            best, least = (height, -(-size[1] // columns)), down * across
    return best


def _largest(size: int, count: int, multiple: int, halo: int) -> tuple[int, int]:
    """The widest of so many tiles with its halo, and all of them together."""
    side = -(-size // count)
    widths = [
        min(end + halo, size) - max(start - halo, 0) for start, end in cut(size, side, multiple)
    ]
    return max(widths), sum(widths)
