"""Series: a network with its weights, a line of a table or a figure; and the means of its rows."""

import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import NamedTuple, TypeGuard

from esc_arch.compare.published import PUBLISHED
from esc_arch.compare.results import KINDS, Results, Row
from esc_arch.errors import escaped

__all__ = [
    "BICUBIC",
    "Series",
    "SetMean",
    "by_setting",
    "describe_setting",
    "in_order",
    "is_finite",
    "labels",
    "place",
    "scales",
    "series_of",
    "set_means",
    "short_weights",
    "trained_here",
]

BICUBIC = "bicubic"
_SETTING = ("width", "height", "device", "dtype", "machine")


class Series(NamedTuple):
    """A network with its weights: its checkpoint's path, or None for none."""

    network: str
    weights: str | None


class SetMean(NamedTuple):
    """Mean PSNR in dB and SSIM over the images of a set, as BasicSR takes it.

    Attributes:
        psnr, ssim: None where no image has one.
        images: how many have a PSNR.
    """

    psnr: float | None
    ssim: float | None
    images: int


def series_of(row: Row) -> Series:
    """The series that a row of any kind belongs to; that of a cost has no weights."""
    return Series(row["network"], row.get("weights"))


def place(network: str) -> int:
    """The rank of a network in the published tables; behind them when it is not there."""
    names = list(dict.fromkeys(name for name, _ in PUBLISHED))
    return names.index(network) if network in names else len(names)


def in_order(series: Iterable[Series]) -> list[Series]:
    """Each series once: bicubic, then as the published tables have them, then the others."""

    def key(one: Series) -> tuple[bool, int, str, str]:
        return one.network != BICUBIC, place(one.network), one.network, one.weights or ""

    return sorted(set(series), key=key)


def labels(series: Iterable[Series]) -> dict[Series, str]:
    """Short names, each of one series.

    The network, and where it has several checkpoints what differs: the file's name, or the
    folders in which their paths differ.
    """
    series = in_order(series)
    out = {}
    for one in series:
        own = [other.weights for other in series if other.network == one.network and other.weights]
        if one.weights is None:
            suffix = "" if one.network == BICUBIC else ", initial weights"
        else:
            suffix = f", {_differences(own)[own.index(one.weights)]}" if len(own) > 1 else ""
        out[one] = escaped(one.network + suffix)
    return out


def short_weights(series: Iterable[Series]) -> dict[Series, str]:
    """For each series that has weights the parts of their path by which it differs from others."""
    own = [one for one in in_order(series) if one.weights]
    paths = list(dict.fromkeys(one.weights or "" for one in own))
    short = dict(zip(paths, _differences(paths), strict=True))
    return {one: short[one.weights or ""] for one in own}


def _differences(paths: list[str]) -> list[str]:
    """Each path without the parts common to all, if the rest is unique."""
    stems = [PurePath(path).stem for path in paths]
    if len(set(stems)) == len(paths):
        return stems
    parts = [PurePath(path).with_suffix("").parts for path in paths]
    for end in (0, -1):
        while all(len(own) > 1 for own in parts) and len({own[end] for own in parts}) == 1:
            parts = [own[1:] if end == 0 else own[:-1] for own in parts]
    short = ["/".join(own) for own in parts]
    return short if len(set(short)) == len(paths) else paths


def scales(results: Results) -> list[int]:
    """All upscaling factors of any row."""
    return sorted({row["scale"] for kind in KINDS for row in results[kind]})


def by_setting(costs: Iterable[Row], scale: int) -> dict[tuple[object, ...], list[Row]]:
    """The cost rows of a scale, by what must be equal for latencies to be compared."""
    out: dict[tuple[object, ...], list[Row]] = {}
    for row in costs:
        if row["scale"] == scale:
            out.setdefault(tuple(row.get(key) for key in _SETTING), []).append(row)
    return out


def describe_setting(setting: tuple[object, ...]) -> str:
    """A key of :func:`by_setting` in words."""
    width, height, *others = setting
    return f"LR image {width} x {height}, {', '.join(map(str, others))}"


def set_means(rows: Iterable[Row]) -> dict[Series, dict[str, SetMean]]:
    """The means of quality rows of one scale, by series and set."""
    groups: dict[tuple[Series, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((series_of(row), row["set"]), []).append(row)
    out: dict[Series, dict[str, SetMean]] = {}
    for (series, name), several in groups.items():
        psnr, ssim = (
            [row[key] for row in several if row.get(key) is not None] for key in ("psnr", "ssim")
        )
        out.setdefault(series, {})[name] = SetMean(_mean(psnr), _mean(ssim), len(psnr))
    return out


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a row's value is there and can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def trained_here(results: Results) -> Mapping[tuple[Series, int], Row]:
    """The training row of each series and scale that this comparison trained."""
    return {(series_of(row), row["scale"]): row for row in results["training"]}
