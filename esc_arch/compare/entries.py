"""What stands in a table's line or at a picture's bubble, and the mean values of sets."""

import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import NamedTuple

from esc_arch.compare.published import PUBLISHED
from esc_arch.compare.results import Results, Row

__all__ = [
    "BICUBIC",
    "Entry",
    "SetMean",
    "entry_of",
    "in_order",
    "is_finite",
    "labels",
    "place",
    "scales",
    "set_means",
    "trained_here",
]

BICUBIC = "bicubic"


class Entry(NamedTuple):
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


def entry_of(row: Row) -> Entry:
    """The entry that a row of any kind belongs to; one of costs has no weights."""
    return Entry(row["network"], row.get("weights"))


def place(network: str) -> int:
    """Where a network stands in the published tables; after them when it does not."""
    names = list(dict.fromkeys(name for name, _ in PUBLISHED))
    return names.index(network) if network in names else len(names)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Each entry once: bicubic, then as the published tables have them, then the others."""

    def key(entry: Entry) -> tuple:
        return entry.network != BICUBIC, place(entry.network), entry.network, entry.weights or ""

    return sorted(set(entries), key=key)


def labels(entries: Iterable[Entry]) -> dict[Entry, str]:
    """Short names that tell the entries apart.

    The network, and where it has several checkpoints what tells them apart: the file's name, or
    the folders in which their paths differ.
    """
    entries = in_order(entries)
    out = {}
    for entry in entries:
        own = [e.weights for e in entries if e.network == entry.network and e.weights is not None]
        if entry.weights is None:
            suffix = "" if entry.network == BICUBIC else ", initial weights"
        else:
            suffix = f", {_differences(own)[own.index(entry.weights)]}" if len(own) > 1 else ""
        out[entry] = entry.network + suffix
    return out


def _differences(paths: list[str]) -> list[str]:
    """Each path without what it has in common with all others, if that is enough."""
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
    kinds = ("cost", "quality", "training")
    return sorted({row["scale"] for kind in kinds for row in results[kind]})


def set_means(rows: Iterable[Row]) -> dict[Entry, dict[str, SetMean]]:
    """The means of quality rows of one scale, by entry and set."""
    values: dict[Entry, dict[str, list[Row]]] = {}
    for row in rows:
        values.setdefault(entry_of(row), {}).setdefault(row["set"], []).append(row)
    return {
        entry: {name: _mean_of(several) for name, several in of_sets.items()}
        for entry, of_sets in values.items()
    }


def _mean_of(rows: list[Row]) -> SetMean:
    psnr, ssim = (
        [row[key] for row in rows if row.get(key) is not None] for key in ("psnr", "ssim")
    )
    return SetMean(_mean(psnr), _mean(ssim), len(psnr))


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def is_finite(value: object) -> bool:
    """Whether a row's value is there and can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def trained_here(results: Results) -> Mapping[tuple[Entry, int], Row]:
    """The training row of each entry and scale that this comparison trained."""
    return {(entry_of(row), row["scale"]): row for row in results["training"]}
