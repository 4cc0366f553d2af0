"""Writes out the photographs inside the scikit-image wheel, for the demo to prepare.

Nothing is downloaded: the wheel carries these files, and they are read as files.

    datasets/demo/photos/
      train/NAME.png    photos to train on
      test/NAME.png     held-out photos
      photos.json       which there are; written last
"""

import json
import os
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from PIL import Image

FOLDER = Path("datasets/demo/photos")

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


def main() -> None:
    extract(FOLDER)


def extract(folder: Path) -> None:
    """Write all photos, replacing an older folder.

    Everything is written into a temporary folder beside it, which gets its name only
    when it is complete: a run that is killed leaves nothing that looks finished.

    Args:
        folder: the folder to make, e.g. ``datasets/demo/photos``.

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
            "training": _write(TRAINING, work / "train"),
            "held_out": _write(HELD_OUT, work / "test"),
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
    """One photograph of scikit-image as RGB.

    Greyscale photos get three equal channels, as BasicSR would read them.
    """
    path = files("skimage") / "data" / name
    if not path.is_file():
        sys.exit(
            f"extract_photos: {path} is missing. The demo needs the photographs that come with "
            "scikit-image 0.25 and 0.26: reinstall it (constraints.txt names the version)."
        )
    with path.open("rb") as file:
        photo = Image.open(file).convert("RGB")
    photo.info.clear()  # some colour profiles here are ones that libpng warns about
    return photo


def _write(scenes: dict[str, tuple[str, ...]], folder: Path) -> dict[str, list[int]]:
    """Write the photos of some scenes; returns the size (width, height) of each."""
    folder.mkdir(parents=True)
    sizes = {}
    for name in (name for scene in scenes.values() for name in scene):
        photo = read_photo(name)
        photo.save(folder / f"{Path(name).stem}.png")
        sizes[name] = [photo.width, photo.height]
    print(f"{len(sizes)} photos into {folder.name}/", flush=True)
    return sizes


def _flush(folder: Path) -> None:
    """Wait until every file of a folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


if __name__ == "__main__":
    main()
