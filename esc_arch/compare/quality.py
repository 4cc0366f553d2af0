"""PSNR and SSIM of networks and of bicubic interpolation, with BasicSR's datasets and metrics.

As in BasicSR's validation, the output is rounded to 8 bits, ``scale``
pixels of each border are left out, and the Y channel is compared.  A greyscale file counts
as an image of three equal channels, as BasicSR reads it.  Networks of the ESC family get the
image extended by reflection to whole windows, as ESRModel does and as their published numbers
are measured; every other network gets the image itself.

Shapes: images are (H, W, 3), BGR, uint8.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import tensor2img
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor, nn

from esc_arch.archs.esc_lte_arch import times
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.compare import results
from esc_arch.compare.candidates import Candidate, Scale
from esc_arch.compare.results import Row
from esc_arch.compare.series import BICUBIC
from esc_arch.data.names import require_one_each
from esc_arch.errors import UserError, first_line
from esc_arch.imaging.codecs import ImageError, encode_png, read_header
from esc_arch.imaging.imresize import imresize
from esc_arch.ops.padding import pad_to_windows
from esc_arch.options.constructors import registered
from esc_arch.options.data_files import inspect_data
from esc_arch.options.invocation import Run
from esc_arch.options.problems import Problems
from esc_arch.progress import progress
from esc_arch.upscale.tiling import enlarge as enlarge_at

__all__ = [
    "TestSet",
    "Tested",
    "compare",
    "open_benchmark",
    "open_validation_sets",
    "output_folder",
    "without_greyscale",
]

SSIM_WINDOW = 11  # pixels


class Pairs(Protocol):
    """A BasicSR dataset of LR and HR images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class TestSet:
    """Images to test on.

    Attributes:
        name: of the set.
        scale: upscaling factor.
        pairs: gives ``lq`` and ``gt``, (3, h, w) and (3, h * scale, w * scale) in [0, 1], sides
            rounded, and ``gt_path``.
        rule: by which the LR images are made from the HR ones, where there are none.
    """

    name: str
    scale: Scale
    pairs: Pairs
    rule: str | None = None


class Tested(NamedTuple):
    """Results of a test.

    Attributes:
        rows: of ``results.json``; only of sets that a network completed.
        errors: one message for each network, or network and set, that failed.
    """

    rows: list[Row]
    errors: list[str]


def open_benchmark(data: Path, name: str, scale: Scale) -> TestSet:
    """A benchmark: HR/IMAGE.png and LR_bicubic/X{scale}/IMAGEx{scale}.png below DATA/NAME.

    Without a folder LR_bicubic/X{scale} the LR images are made: at x2, x3 and x4 by MATLAB's rule,
    as those of benchmarks are, at other scales by Pillow's bicubic, as those of LTE's tests are.

    Raises:
        UserError: when the folder is missing or not below DATA, or an image of a pair is
            missing, or there twice.
    """
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise UserError(f"--sets: expected folders of {data}; found {name}. Name another --data.")
    lr = data / name / "LR_bicubic" / f"X{scale}"
    rule = None
    section: dict[str, Any] = {
        "name": name,
        "type": "PairedImageDataset",
        "dataroot_gt": str(data / name / "HR"),
        "io_backend": {"type": "disk"},
    }
    if not lr.is_dir() and scale not in (2, 3, 4):
        rule = "Pillow's bicubic"
        section |= {"type": "RandomScaleImageDataset", "scale": scale}
    elif not lr.is_dir():
        rule = "MATLAB's bicubic rule"
        section |= {"type": "DownsampleImageDataset", "downsampling": "matlab_bicubic"}
    else:
        section |= {"dataroot_lq": str(lr), "filename_tmpl": f"{{}}x{scale}"}
    problems = Problems(str(data / name))
    opt = {"scale": scale, "datasets": {name: section}}
    inspect_data(problems, opt, Run(is_train=False))
    problems.raise_if_any()
    images: dict[str, list[str]] = {}
    for file in sorted(os.listdir(data / name / "HR")):
        images.setdefault(Path(file).stem, []).append(file)
    require_one_each(images, f"HR image of each name in {data / name}")
    return TestSet(name, scale, _pairs(section, scale), rule)


def open_validation_sets(opt: Mapping[str, Any]) -> list[TestSet]:
    """The validation sets of a checked option file that have HR images."""
    sections = {
        phase: section
        for phase, section in opt["datasets"].items()
        if phase.split("_")[0] == "val" and "dataroot_gt" in section
    }
    names = Counter(section["name"] for section in sections.values())
    return [
        TestSet(
            # Rows and images of two sets of one name would take each other's place.
            section["name"] if names[section["name"]] == 1 else f"{section['name']} ({phase})",
            opt["scale"],
            _pairs(section, opt["scale"]),
        )
        for phase, section in sections.items()
    ]


def _pairs(section: Mapping[str, Any], scale: Scale) -> Pairs:
    backend = dict(section["io_backend"])  # the datasets take keys out of it
    dataset = registered(DATASET_REGISTRY, section["type"])
    assert dataset is not None  # the options were checked
    return dataset({**section, "io_backend": backend, "phase": "val", "scale": scale})


def compare(
    candidates: Sequence[Candidate],
    test_sets: Sequence[TestSet],
    folder: Path,
    device: str,
    run: Row,
) -> Tested:
    """Test networks, and bicubic, on the sets of their scales, one image at a time.

    The rows of each network and set go into ``results.json`` as soon as they are complete,
    and the outputs below ``images``.  What fails is left out, and the rest goes on.

    Args:
        folder: of the comparison.
        device: ``cpu`` or ``cuda``.
        run: see :func:`esc_arch.compare.results.describe_run`.

    Raises:
        UserError: when the results of an earlier run cannot be read.
        Unwritten: when a file cannot be written.
    """
    found = results.read(folder)
    scales = sorted({test_set.scale for test_set in test_sets})
    entered = [Candidate(BICUBIC, None, scale, None) for scale in scales] + list(candidates)
    pairs = [(c, [t for t in test_sets if t.scale == c.scale]) for c in entered]
    tested = Tested([], [])
    count = sum(len(t.pairs) for _, own_sets in pairs for t in own_sets)
    with progress("testing", count) as advance:
        for candidate, own_sets in pairs:
            images = output_folder(candidate, found["quality"])
            try:
                enlarge = _enlarger(candidate, device)
            except Exception as error:  # of any kind: the others are to be tested
                tested.errors.append(_described(candidate, error))
                advance(sum(len(t.pairs) for t in own_sets))
                continue
            for test_set in own_sets:
                done = 0
                try:
                    rows = []
                    for row in _rows(candidate, enlarge, test_set, folder, images):
                        rows.append(row)
                        done += 1
                        advance(1)
                except results.Unwritten:
                    raise  # nothing of the others could be kept either
                except Exception as error:
                    tested.errors.append(_described(candidate, error, test_set))
                    advance(len(test_set.pairs) - done)
                    continue
                rows.sort(key=lambda row: row["image"])  # folders are read in any order
                results.add(found, "quality", rows, run)
                results.write(folder, found)
                tested.rows.extend(rows)
    return tested


def _described(candidate: Candidate, error: Exception, test_set: TestSet | None = None) -> str:
    reason = str(error) if isinstance(error, UserError) else first_line(error)
    where = f" on {test_set.name}" if test_set else ""
    weights = f" ({candidate.weights})" if candidate.weights else ""
    return f"{candidate.network} x{candidate.scale}{weights}{where} failed: {reason}"


def _enlarger(candidate: Candidate, device: str) -> Callable[[Tensor], np.ndarray]:
    """A function that makes an 8-bit image of ``lq``, (3, h, w) in [0, 1]."""
    if candidate.network == BICUBIC:
        return lambda lq: imresize(tensor2img(lq), size=_size(lq, candidate.scale))
    network = candidate.build()
    if isinstance(network, nn.Module):
        network = network if candidate.any_scale else WholeWindows(network)
        network = network.to(device)

    def enlarge(lq: Tensor) -> np.ndarray:
        height, width = _size(lq, candidate.scale)
        if candidate.any_scale:
            output = enlarge_at(network, lq[None], candidate.scale, tile="off")
            assert output is not None  # as nothing else takes it
        else:
            extended = pad_to_windows(lq[None], (candidate.window,) * 2)
            with torch.inference_mode():
                output = network(extended.contiguous().to(device))
        if not output.isfinite().all():  # rounded to 8 bits they would look like numbers
            raise UserError(
                "expected finite values from the network; found others. Train or convert it again."
            )
        return tensor2img(output[..., :height, :width])

    return enlarge


def _size(lq: Tensor, scale: Scale) -> tuple[int, int]:
    """Of the result of an image (3, h, w)."""
    return times(lq.shape[1], scale), times(lq.shape[2], scale)


def _rows(
    candidate: Candidate,
    enlarge: Callable[[Tensor], np.ndarray],
    test_set: TestSet,
    folder: Path,
    images: str,
) -> Iterator[Row]:
    scale = test_set.scale
    border = ceil(scale)
    least = 2 * border + SSIM_WINDOW
    for index in range(len(test_set.pairs)):
        pair = test_set.pairs[index]
        path = Path(pair["gt_path"])
        hr = tensor2img(pair["gt"])
        if min(hr.shape[:2]) < least:
            raise UserError(
                f"{path}: expected sides of at least {least} pixels, which SSIM at x{scale} "
                f"needs; found {hr.shape[1]}x{hr.shape[0]}. Remove this image."
            )
        try:
            output = enlarge(pair["lq"])
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        name = f"{images}/{test_set.name}/{path.stem}x{scale}.png"
        results.write_file(folder / name, encode_png(output))
        metric = {"crop_border": border, "test_y_channel": True}
        yield {
            "network": candidate.network,
            "scale": scale,
            "weights": candidate.weights,
            "set": test_set.name,
            "image": path.stem,
            "psnr": float(calculate_psnr(output, hr, **metric)),
            "ssim": float(calculate_ssim(output, hr, **metric)),
            "hr": str(path),
            "output": name,
            # By which the LR images were made, where there were none.
            **({"lr_rule": test_set.rule} if test_set.rule else {}),
        }


def output_folder(candidate: Candidate, earlier: Iterable[Row]) -> str:
    """Where a network's outputs go, relative to the comparison's folder: images/NETWORK.

    Other weights of the same network and scale have theirs in images/NETWORK_2 and so on.

    Args:
        earlier: rows of the comparison.
    """
    name = re.sub(r"[^\w.-]+", "_", candidate.network).strip("_")
    taken = set()
    for row in earlier:
        if not row["output"].startswith("images/"):
            continue  # merged in from another comparison, where its images stay
        place = "/".join(row["output"].split("/")[:2])
        if (row["network"], row["scale"], row["weights"]) == (
            candidate.network,
            candidate.scale,
            candidate.weights,
        ):
            return place
        if row["scale"] == candidate.scale:
            taken.add(place)
    number = 1
    while (place := f"images/{name}" + (f"_{number}" if number > 1 else "")) in taken:
        number += 1
    return place


def without_greyscale(rows: Iterable[Row]) -> list[Row]:
    """The rows of images whose HR file has more than one channel.

    Set14 has one, ``bridge``.  An LMDB has no such files: all its rows are given.
    """
    return [row for row in rows if not _is_greyscale(row["hr"])]


def _is_greyscale(path: str) -> bool:
    try:
        return read_header(path).shape.channels == 1
    except ImageError:
        return False
