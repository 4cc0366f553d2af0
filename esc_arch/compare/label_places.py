"""Places for labels beside bubbles, so that none covers another.

Coordinates: pixels; a box is (left, bottom, right, top).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Box", "Bubble", "place_labels"]

Box = tuple[float, float, float, float]
Point = tuple[float, float]

_GAP = 5.0
_ANGLES = 24


class Bubble(NamedTuple):
    """A circle and the size of its label."""

    x: float
    y: float
    radius: float
    label_width: float
    label_height: float


def place_labels(bubbles: Sequence[Bubble], area: Box) -> list[Box]:
    """A box for each bubble's label, as near to it as there is room.

    A label covers no label and, while there is room, no bubble and no line that joins another
    label to its bubble.

    Args:
        bubbles: in the order of the result.
        area: what the boxes stay inside of.

    Returns:
        A box for each bubble.
    """
    placed: dict[int, Box] = {}
    # Those with the most neighbours first, while there is still a choice.
    for index in sorted(range(len(bubbles)), key=lambda i: -_crowd(bubbles, i)):
        boxes = [box for box in _candidates(bubbles[index], area) if _contains(area, box)]
        placed[index] = _best(boxes or [_clamped(bubbles[index], area)], index, bubbles, placed)
    return [placed[index] for index in range(len(bubbles))]


def _best(boxes: list[Box], own: int, bubbles: Sequence[Bubble], placed: dict[int, Box]) -> Box:
    """The first box without a fault, or the first of those with the fewest."""
    found = []
    for box in boxes:
        faults = _faults(box, own, bubbles, placed)
        if faults == (0, 0):
            return box
        found.append((faults, box))
    return min(found, key=lambda pair: pair[0])[1]


def _crowd(bubbles: Sequence[Bubble], index: int) -> float:
    own = bubbles[index]
    return sum(1 / (1 + math.hypot(b.x - own.x, b.y - own.y)) for b in bubbles)


def _candidates(bubble: Bubble, area: Box) -> list[Box]:
    """Boxes around the bubble, the nearest first, right and left before above and below."""
    width, height = bubble.label_width, bubble.label_height
    angles = sorted(
        (2 * math.pi * i / _ANGLES for i in range(_ANGLES)),
        key=lambda a: (round(abs(math.sin(a)), 6), -math.cos(a), -math.sin(a)),
    )
    farthest = max(area[2] - area[0], area[3] - area[1])
    step = height / 2
    out = []
    for ring in range(int(farthest / step)):
        reach = bubble.radius + _GAP + ring * step
        for angle in angles:
            # The point of the box that is nearest to the bubble lies on the ring.
            x, y = bubble.x + reach * math.cos(angle), bubble.y + reach * math.sin(angle)
            left = x - width * (1 - math.cos(angle)) / 2
            bottom = y - height * (1 - math.sin(angle)) / 2
            out.append((left, bottom, left + width, bottom + height))
    return out


def _clamped(bubble: Bubble, area: Box) -> Box:
    """For a label that is wider than the area."""
    left = max(area[0], min(bubble.x, area[2] - bubble.label_width))
    bottom = max(area[1], min(bubble.y, area[3] - bubble.label_height))
    return left, bottom, left + bubble.label_width, bottom + bubble.label_height


def _contains(outer: Box, inner: Box) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )


def _faults(
    box: Box, own: int, bubbles: Sequence[Bubble], placed: dict[int, Box]
) -> tuple[int, int]:
    """Labels covered; bubbles covered and lines crossed.  The first best box is the nearest."""
    wide = (box[0] - _GAP, box[1] - _GAP, box[2] + _GAP, box[3] + _GAP)
    labels = sum(_overlap(wide, other) for other in placed.values())
    circles = sum(_covers(box, bubble) for bubble in bubbles)
    centre = bubbles[own].x, bubbles[own].y
    lines = sum(_cuts(centre, _middle(box), other) for other in placed.values())
    lines += sum(_cuts((bubbles[i].x, bubbles[i].y), _middle(o), wide) for i, o in placed.items())
    return labels, circles + lines


def _middle(box: Box) -> Point:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _covers(box: Box, bubble: Bubble) -> bool:
    x = min(max(bubble.x, box[0]), box[2])
    y = min(max(bubble.y, box[1]), box[3])
    return math.hypot(bubble.x - x, bubble.y - y) < bubble.radius + 1


def _cuts(start: Point, end: Point, box: Box) -> bool:
    """Whether a straight line passes through a box: what is left after clipping by its sides."""
    first, last = 0.0, 1.0
    for axis in (0, 1):
        length = end[axis] - start[axis]
        low, high = box[axis] - start[axis], box[axis + 2] - start[axis]
        if length == 0:
            if not low < 0 < high:
                return False
            continue
        enter, leave = sorted((low / length, high / length))
        first, last = max(first, enter), min(last, leave)
    return first < last
