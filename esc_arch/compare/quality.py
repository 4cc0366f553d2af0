"""PSNR and SSIM of networks and of bicubic interpolation, with BasicSR's datasets and metrics.

An image goes the way of BasicSR's validation: the output is rounded to 8 bits, ``scale``
pixels of each border are left out, and the Y channel is compared.  A greyscale file counts
as an image of three equal channels, as BasicSR reads it.  Networks of the ESC family get the
image extended by reflection to whole windows, as ESRModel does and as their published numbers
are measured; every other network gets the image itself.

Shapes: images are (H, W, 3), BGR, uint8.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import tensor2img
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.compare import results
from esc_arch.compare.contenders import Contender
from esc_arch.compare.results import Row
from esc_arch.errors import UserError
from esc_arch.imaging.codecs import encode_png
from esc_arch.imaging.imresize import imresize
from esc_arch.ops.padding import pad_to_windows
from esc_arch.options.constructors import registered
from esc_arch.options.data_files import inspect_data
from esc_arch.options.problems import Problems
from esc_arch.options.run import Run
from esc_arch.progress import progress

__all__ = [
    "BICUBIC",
    "TestSet",
    "Tested",
    "by_set",
    "compare",
    "means",
    "open_benchmark",
    "open_validation_sets",
    "output_folder",
    "without_greyscale",
]

BICUBIC = "bicubic"
SSIM_WINDOW = 11  # pixels


@dataclass(frozen=True)
class TestSet:
    """Images to test on.

    Attributes:
        name: of the set.
        scale: upscaling factor.
        pairs: gives ``lq`` and ``gt``, (3, h, w) and (3, h * scale, w * scale) in [0, 1],
            and ``gt_path``.
        is_made: whether the LR images are made from the HR ones, as there are none.
    """

    name: str
    scale: int
    pairs: Dataset
    is_made: bool = False


class Tested(NamedTuple):
    """What a comparison found.

    Attributes:
        rows: of ``results.json``; only of sets that a network went through.
        errors: one message for each network, or network and set, that failed.
    """

    rows: list[Row]
    errors: list[str]


def open_benchmark(data: Path, name: str, scale: int) -> TestSet:
    """A benchmark: HR/IMAGE.png and LR_bicubic/X{scale}/IMAGEx{scale}.png below DATA/NAME.

    Without a folder LR_bicubic/X{scale} the LR images are made by MATLAB's rule.

    Raises:
        UserError: when the folder is missing, or an image of a pair.
    """
    lr = data / name / "LR_bicubic" / f"X{scale}"
    is_made = not lr.is_dir()
    section = {
        "name": name,
        "type": "DownsampleImageDataset" if is_made else "PairedImageDataset",
        "dataroot_gt": str(data / name / "HR"),
        "io_backend": {"type": "disk"},
    }
    if is_made:
        section["downsampling"] = "matlab_bicubic"
    else:
        section |= {"dataroot_lq": str(lr), "filename_tmpl": f"{{}}x{scale}"}
    problems = Problems(str(data / name))
    opt = {"scale": scale, "datasets": {name: section}}
    inspect_data(problems, opt, Run(is_train=False))
    problems.raise_if_any()
    return TestSet(name, scale, _pairs(section, scale), is_made)


def open_validation_sets(opt: Mapping[str, object]) -> list[TestSet]:
    """The validation sets of a checked option file that have HR images."""
    return [
        TestSet(section["name"], opt["scale"], _pairs(section, opt["scale"]))
        for phase, section in opt["datasets"].items()
        if phase.split("_")[0] == "val" and "dataroot_gt" in section
    ]


def _pairs(section: Mapping[str, object], scale: int) -> Dataset:
    backend = dict(section["io_backend"])  # the datasets take keys out of it
    dataset = registered(DATASET_REGISTRY, section["type"])
    return dataset({**section, "io_backend": backend, "phase": "val", "scale": scale})


def compare(
    contenders: Sequence[Contender],
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
        UserError: when the results of an earlier run cannot be read, or none written.
    """
    found = results.read(folder)
    scales = sorted({test_set.scale for test_set in test_sets})
    entered = [Contender(BICUBIC, None, scale, None) for scale in scales] + list(contenders)
    pairs = [(c, [t for t in test_sets if t.scale == c.scale]) for c in entered]
    tested = Tested([], [])
    count = sum(len(t.pairs) for _, own_sets in pairs for t in own_sets)
    with progress("testing", count) as advance:
        for contender, own_sets in pairs:
            images = output_folder(contender, found["quality"])
            try:
                enlarge = _enlarger(contender, device)
            except Exception as error:  # of any kind: the others are to be tested
                tested.errors.append(_described(contender, error))
                advance(sum(len(t.pairs) for t in own_sets))
                continue
            for test_set in own_sets:
                done = 0
                try:
                    rows = []
                    for row in _rows(contender, enlarge, test_set, folder, images):
                        rows.append(row)
                        done += 1
                        advance(1)
                except Exception as error:
                    tested.errors.append(_described(contender, error, test_set))
                    advance(len(test_set.pairs) - done)
                    continue
                rows.sort(key=lambda row: row["image"])  # folders are read in any order
                results.add(found, "quality", rows, run)
                results.write(folder, found)
                tested.rows.extend(rows)
    return tested


def _described(contender: Contender, error: Exception, test_set: TestSet | None = None) -> str:
    reason = str(error).strip() or type(error).__name__
    # PyTorch adds pages to some messages.
    reason = reason if isinstance(error, UserError) else reason.splitlines()[0]
    where = f" on {test_set.name}" if test_set else ""
    weights = f" ({contender.weights})" if contender.weights else ""
    return f"{contender.network} x{contender.scale}{weights}{where} failed: {reason}"


def _enlarger(contender: Contender, device: str) -> Callable[[Tensor], np.ndarray]:
    """What makes an 8-bit image of ``lq``, (3, h, w) in [0, 1]."""
    if contender.network == BICUBIC:
        return lambda lq: imresize(tensor2img(lq), contender.scale)
    network = WholeWindows(contender.build()).to(device)

    def enlarge(lq: Tensor) -> np.ndarray:
        height, width = (side * contender.scale for side in lq.shape[1:])
        extended = pad_to_windows(lq[None], (contender.window,) * 2)
        with torch.inference_mode():
            output = network(extended.contiguous().to(device))
        return tensor2img(output[..., :height, :width])

    return enlarge


def _rows(
    contender: Contender,
    enlarge: Callable[[Tensor], np.ndarray],
    test_set: TestSet,
    folder: Path,
    images: str,
) -> Iterator[Row]:
    scale = test_set.scale
    least = 2 * scale + SSIM_WINDOW
    for index in range(len(test_set.pairs)):
        pair = test_set.pairs[index]
        path = Path(pair["gt_path"])
        hr = tensor2img(pair["gt"])
        if min(hr.shape[:2]) < least:
            raise UserError(
                f"{path}: expected sides of at least {least} pixels, which SSIM at x{scale} "
                f"needs; found {hr.shape[1]}x{hr.shape[0]}. Remove this image."
            )
        output = enlarge(pair["lq"])
        name = f"{images}/{test_set.name}/{path.stem}x{scale}.png"
        results.write_file(folder / name, encode_png(output))
        metric = {"crop_border": scale, "test_y_channel": True}
        yield {
            "network": contender.network,
            "scale": scale,
            "weights": contender.weights,
            "set": test_set.name,
            "image": path.stem,
            "psnr": float(calculate_psnr(output, hr, **metric)),
            "ssim": float(calculate_ssim(output, hr, **metric)),
            "hr": str(path),
            "output": name,
        }


def output_folder(contender: Contender, earlier: Iterable[Row]) -> str:
    """Where a network's outputs go, relative to the comparison's folder: images/NETWORK.

    Other weights of the same network and scale have theirs in images/NETWORK_2 and so on.

    Args:
        earlier: rows of the comparison.
    """
    name = re.sub(r"[^\w.-]+", "_", contender.network).strip("_")
    taken = set()
    for row in earlier:
        if not row["output"].startswith("images/"):
            continue  # merged in from another comparison, where its images stay
        place = "/".join(row["output"].split("/")[:2])
        if (row["network"], row["scale"], row["weights"]) == (
            contender.network,
            contender.scale,
            contender.weights,
        ):
            return place
        if row["scale"] == contender.scale:
            taken.add(place)
    number = 1
    while (place := f"images/{name}" + (f"_{number}" if number > 1 else "")) in taken:
        number += 1
    return place


def means(rows: Sequence[Row]) -> tuple[float, float]:
    """Mean PSNR in dB and mean SSIM."""
    return tuple(float(np.mean([row[name] for row in rows])) for name in ("psnr", "ssim"))


def by_set(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each set, scale, network and checkpoint, in the order of the first ones."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("set", "scale", "network", "weights"))
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def without_greyscale(rows: Iterable[Row]) -> list[Row]:
    """The rows of images whose HR file has more than one channel.

    Set14 has one, ``bridge``.  An LMDB has no such files: all its rows are given.
    """
    return [row for row in rows if not _is_greyscale(row["hr"])]


def _is_greyscale(path: str) -> bool:
    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    return image is not None and image.ndim == 2
