"""Makes the demo's data from the photographs inside the scikit-image wheel.

Nothing is downloaded: the wheel carries these files, and they are read as files.
The layout is the one that BasicSR's PairedImageDataset reads:

    datasets/demo/
      train/HR.lmdb, train/LR_bicubic_X2.lmdb    sub-images of the training photos
      test/HR/NAME.png                           held-out photos
      test/LR_bicubic/X2/NAMEx2.png
      photos.json                                what is in it; written last
"""

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.resources import files
from pathlib import Path

from PIL import Image

import esc_arch  # noqa: F401  (mends the import of basicsr, so it comes first)

# isort: split
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

FOLDER = Path("datasets/demo")
SCALE = 2

# Scene: its photos.  A scene is on one side only, so nothing held out is ever trained on.
# Left out are drawings, silhouettes, charts, and the photos of almost no detail
# (cell, clock_motion, retina); moon is a nearest-neighbour enlargement of a smaller file.
TRAINING = {
    "brick": ("brick.png",),
    "camera": ("camera.png",),
    "coins": ("coins.png",),
    "grass": ("grass.png",),
    "gravel": ("gravel.png",),
    "hubble": ("hubble_deep_field.jpg",),
    "ihc": ("ihc.png",),
    "motorcycle": ("motorcycle_left.png", "motorcycle_right.png"),  # a stereo pair
    "page": ("page.png",),
    "rocket": ("rocket.jpg",),
    "text": ("text.png",),
}
HELD_OUT = {
    "astronaut": ("astronaut.png",),
    "chelsea": ("chelsea.png",),
    "coffee": ("coffee.png",),
}

# Sub-images keep the reading of a training patch cheap: a whole photo would have to be
# decoded for each.  Sizes are of HR, in pixels, and multiples of SCALE.
SUB_IMAGE = 128
SUB_IMAGE_STEP = 64


def main() -> None:
    prepare(FOLDER)


def prepare(folder: Path) -> None:
    """Build the whole data folder, replacing an older one.

    Everything is written into a temporary folder beside it, which gets its name only
    when it is complete: a run that is killed leaves nothing that looks finished.

    Args:
        folder: the data folder to make, e.g. ``datasets/demo``.

    Raises:
        SystemExit: when the installed scikit-image lacks a photograph.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for rest in folder.parent.glob(f".{folder.name}.*"):  # of a killed run
        shutil.rmtree(rest)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    work.chmod(0o755)  # mkdtemp gives its folder to this user alone
    try:
        report = {
            "source": "scikit-image",
            "scale": SCALE,
            "training": _training_set(work / "train"),
            "held_out": _held_out_set(work / "test"),
        }
        (work / "photos.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        _flush(work)
        if folder.exists():
            folder.rename(work.with_name(work.name + ".old"))
        work.rename(folder)
    finally:
        for rest in folder.parent.glob(f"{work.name}*"):
            shutil.rmtree(rest)


def read_photo(name: str) -> Image.Image:
    """One photograph of scikit-image as RGB, cropped to a multiple of the scale.

    Greyscale photos get three equal channels, as BasicSR would read them.
    """
    path = files("skimage") / "data" / name
    if not path.is_file():
        sys.exit(
            f"prepare_data: {path} is missing. The demo needs the photographs that come with "
            "scikit-image 0.25 and 0.26: reinstall it (constraints.txt names the version)."
        )
    with path.open("rb") as file:
        photo = Image.open(file).convert("RGB")
    photo.info.clear()  # some colour profiles here are ones that libpng warns about
    return photo.crop((0, 0, photo.width // SCALE * SCALE, photo.height // SCALE * SCALE))


def shrink(photo: Image.Image) -> Image.Image:
    """The LR image: antialiased bicubic on 8-bit values."""
    size = (photo.width // SCALE, photo.height // SCALE)
    return photo.resize(size, Image.Resampling.BICUBIC)


def sub_image_boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) that cover an image, the last ones flush with its edge."""
    for top in _starts(height):
        for left in _starts(width):
            yield left, top, left + SUB_IMAGE, top + SUB_IMAGE


def _starts(length: int) -> list[int]:
    starts = list(range(0, length - SUB_IMAGE + 1, SUB_IMAGE_STEP))
    last = length - SUB_IMAGE
    return starts if starts[-1] == last else [*starts, last]


def _training_set(folder: Path) -> dict[str, int]:
    """Write both LMDBs; returns the number of sub-images of each photo."""
    cut = {"HR": folder / "HR", "LR_bicubic_X2": folder / "LR_bicubic_X2"}
    for path in cut.values():
        path.mkdir(parents=True)
    names: list[str] = []
    counts: dict[str, int] = {}
    for photo_name in [name for scene in TRAINING.values() for name in scene]:
        hr = read_photo(photo_name)
        # Shrunk whole and then cut, so that sub-images have no edges of their own.
        lr = shrink(hr)
        boxes = list(sub_image_boxes(hr.width, hr.height))
        for index, box in enumerate(boxes, start=1):
            name = f"{Path(photo_name).stem}_s{index:03d}.png"
            hr.crop(box).save(cut["HR"] / name, compress_level=1)
            lr_box = tuple(edge // SCALE for edge in box)
            lr.crop(lr_box).save(cut["LR_bicubic_X2"] / name, compress_level=1)
            names.append(name)
        counts[photo_name] = len(boxes)
    for path in cut.values():
        _pack(path, names)
        shutil.rmtree(path)
    return counts


def _pack(folder: Path, names: list[str]) -> None:
    """Pack the images of a folder into FOLDER.lmdb with BasicSR's tool."""
    print(f"{len(names)} sub-images into {folder.name}.lmdb", flush=True)
    output = io.StringIO()  # its bar moves for each image, and would fill a log file
    with redirect_stdout(output), redirect_stderr(output):
        make_lmdb_from_imgs(
            str(folder),
            f"{folder}.lmdb",
            names,
            [Path(name).stem for name in names],
            # Room to grow into, not space taken. BasicSR's own estimate is ten times the
            # first image for each, too little where that one happens to be smooth.
            map_size=2**30,
        )


def _held_out_set(folder: Path) -> dict[str, list[int]]:
    """Write the held-out pairs; returns the size (width, height) of each HR photo."""
    hr_folder, lr_folder = folder / "HR", folder / "LR_bicubic" / f"X{SCALE}"
    for path in (hr_folder, lr_folder):
        path.mkdir(parents=True)
    sizes = {}
    for photo_name in [name for scene in HELD_OUT.values() for name in scene]:
        hr = read_photo(photo_name)
        stem = Path(photo_name).stem
        hr.save(hr_folder / f"{stem}.png")
        shrink(hr).save(lr_folder / f"{stem}x{SCALE}.png")
        sizes[photo_name] = [hr.width, hr.height]
    print(f"{len(sizes)} held-out photos into {hr_folder.parent.name}/", flush=True)
    return sizes


def _flush(folder: Path) -> None:
    """Wait until every file of a folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


if __name__ == "__main__":
    main()
