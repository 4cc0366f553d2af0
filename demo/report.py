"""Shows what the demo's network learned: two pictures and a table in results/demo.

Reads the held-out photos, the images that ``basicsr test`` wrote for them and the logs of
``basicsr train``.  Fails when ESC is not better than bicubic by the margins below, so that
``make demo`` cannot pass with a network that learned nothing.
"""

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image, ImageDraw, ImageFont

import esc_arch  # noqa: F401  (repairs the import of basicsr, so it comes first)

# isort: split
from basicsr.metrics import calculate_psnr, calculate_ssim

from esc_arch.files import whole_file
from esc_arch.imaging.imresize import imresize
from esc_arch.training.log_reader import History, log_files, read_logs

SCALE = 2
TEST_SET = Path("datasets/demo/test")
ESC_IMAGES = Path("results/ESC_demo_x2/visualization/demo")
TRAIN_LOGS = Path("experiments/ESC_demo_x2")
OUTPUT = Path("results/demo")

LEAST_GAIN_DB = 0.0  # of each photo, exclusive
LEAST_MEAN_GAIN_DB = 0.5

# Left and top of the part that the picture shows, in HR pixels: fine lines, where the
# interpolations differ most.  The middle is shown of a photo that is not named.
CROPS = {"astronaut": (196, 66), "chelsea": (128, 64), "coffee": (330, 190)}
CROP = 96
ZOOM = 3

SMOOTHING = 10  # losses in the smooth curve; BasicSR logs that of every print_freq-th batch


@dataclass(frozen=True)
class Score:
    """Of a whole image against HR: 8-bit, Y channel, SCALE border pixels left out."""

    psnr: float  # dB
    ssim: float


@dataclass(frozen=True)
class Photo:
    """A held-out photo, its enlargements and their scores.  Images are RGB."""

    name: str
    lr: Image.Image
    hr: Image.Image
    bicubic: Image.Image
    esc: Image.Image
    bicubic_score: Score
    esc_score: Score

    @property
    def gain(self) -> float:
        """How much better ESC is than bicubic, in dB of PSNR."""
        return self.esc_score.psnr - self.bicubic_score.psnr


def main() -> int:
    """Write the report; returns the exit code, 1 when ESC is not good enough."""
    photos = read_photos(TEST_SET, ESC_IMAGES)
    history = read_logs(log_files(TRAIN_LOGS) if TRAIN_LOGS.is_dir() else ())
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write(OUTPUT / "comparison.png", png(comparison(photos)))
    write(OUTPUT / "curves.png", curves(history, _mean([p.bicubic_score for p in photos]).psnr))
    write(OUTPUT / "results.md", table(photos).encode())
    write(OUTPUT / "results.json", (json.dumps(numbers(photos), indent=2) + "\n").encode())
    shortfall = check({photo.name: photo.gain for photo in photos})
    if shortfall:
        print(f"report: {shortfall}", file=sys.stderr)
        return 1
    return 0


def read_photos(test_set: Path, esc_images: Path) -> list[Photo]:
    """The held-out photos with their scores.

    Args:
        test_set: folder with ``HR/NAME.png`` and ``LR_bicubic/X2/NAMEx2.png``.
        esc_images: folder with ``NAMEx2_ESC.png``, as ``basicsr test`` saves them.

    Raises:
        SystemExit: when there is no photo, or one lacks its LR or ESC image.
    """
    photos = []
    for path in sorted((test_set / "HR").glob("*.png")):
        lr = _read(test_set / "LR_bicubic" / f"X{SCALE}" / f"{path.stem}x{SCALE}.png")
        # What the LR image was made from: HR images are not cropped.
        hr = _read(path).crop((0, 0, lr.width * SCALE, lr.height * SCALE))
        bicubic = Image.fromarray(imresize(np.asarray(lr), SCALE))
        esc = _read(esc_images / f"{path.stem}x{SCALE}_ESC.png")
        photos.append(
            Photo(path.stem, lr, hr, bicubic, esc, score(bicubic, hr), score(esc, hr)),
        )
    if not photos:
        sys.exit(f"report: no photos in {test_set / 'HR'}: run `make demo`")
    return photos


def score(image: Image.Image, hr: Image.Image) -> Score:
    """PSNR and SSIM by BasicSR's functions, which take BGR arrays."""
    pair = [np.asarray(i)[..., ::-1] for i in (image, hr)]
    arguments = {"crop_border": SCALE, "test_y_channel": True}
    return Score(calculate_psnr(*pair, **arguments), float(calculate_ssim(*pair, **arguments)))


def check(gains: dict[str, float]) -> str | None:
    """The bound that the gains over bicubic (dB, by photo) do not reach, or None."""
    text = ", ".join(f"{name} {gain:+.2f}" for name, gain in gains.items())
    mean = _average(list(gains.values()))
    if min(gains.values()) <= LEAST_GAIN_DB:
        return f"ESC must beat bicubic on each photo; dB gained: {text}, mean {mean:+.2f}"
    if mean < LEAST_MEAN_GAIN_DB:
        return (
            f"ESC must beat bicubic by {LEAST_MEAN_GAIN_DB} dB on average; "
            f"dB gained: {text}, mean {mean:+.2f}"
        )
    return None


def table(photos: list[Photo]) -> str:
    """The scores as Markdown."""
    rows = [(p.name, p.bicubic_score, p.esc_score) for p in photos]
    rows.append(
        ("mean", _mean([p.bicubic_score for p in photos]), _mean([p.esc_score for p in photos]))
    )
    lines = [
        f"# A small ESC x{SCALE}, trained by `make demo`",
        "",
        "Photos that training never saw, PSNR in dB / SSIM. 8-bit images, Y channel,",
        f"{SCALE} border pixels left out; bicubic is MATLAB's.",
        "",
        "| photo | bicubic | ESC | gain in dB |",
        "|---|---|---|---|",
    ]
    for name, bicubic, esc in rows:
        lines.append(
            f"| {name} | {bicubic.psnr:.2f} / {bicubic.ssim:.4f} "
            f"| {esc.psnr:.2f} / {esc.ssim:.4f} | {esc.psnr - bicubic.psnr:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def numbers(photos: list[Photo]) -> dict:
    """The scores for programs to read."""

    def entry(bicubic: Score, esc: Score) -> dict:
        scores = {"bicubic": bicubic, "esc": esc}
        return {k: {"psnr": round(s.psnr, 4), "ssim": round(s.ssim, 6)} for k, s in scores.items()}

    mean = entry(_mean([p.bicubic_score for p in photos]), _mean([p.esc_score for p in photos]))
    return {
        "scale": SCALE,
        "photos": {p.name: entry(p.bicubic_score, p.esc_score) for p in photos},
        "mean": mean,
    }


def comparison(photos: list[Photo]) -> Image.Image:
    """One row for each photo: the whole, then a part of it as LR, bicubic, ESC and HR."""
    tile, gap, line = CROP * ZOOM, 14, 26
    headings = ("photo", f"LR x{SCALE}, nearest", "bicubic", "ESC", "HR")
    width = gap + len(headings) * (tile + gap)
    row_height = tile + line + gap
    picture = Image.new("RGB", (width, gap + line + len(photos) * row_height + line), "white")
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(20), ImageFont.load_default(18)

    def write_centred(column: int, y: int, text: str, font: ImageFont.FreeTypeFont) -> None:
        draw.text((gap + column * (tile + gap) + tile // 2, y), text, "black", font, anchor="ma")

    for column, heading in enumerate(headings):
        write_centred(column, gap // 2, heading, font)
    for row, photo in enumerate(photos):
        top = gap + line + row * row_height
        box = _crop_box(photo)
        lr_box = tuple(edge // SCALE for edge in box)
        parts = [photo.lr.crop(lr_box)] + [
            i.crop(box) for i in (photo.bicubic, photo.esc, photo.hr)
        ]
        tiles = [_marked(photo.hr, box, tile)]
        tiles += [part.resize((tile, tile), Image.Resampling.NEAREST) for part in parts]
        for column, image in enumerate(tiles):
            left = gap + column * (tile + gap)
            picture.paste(image, (left + (tile - image.width) // 2, top + tile - image.height))
        captions = (
            f"{photo.name}, {photo.hr.width} x {photo.hr.height}",
            f"{photo.lr.width} x {photo.lr.height}",
            f"{photo.bicubic_score.psnr:.2f} dB",
            f"{photo.esc_score.psnr:.2f} dB ({photo.gain:+.2f})",
            "",
        )
        for column, caption in enumerate(captions):
            write_centred(column, top + tile + 3, caption, small)
    note = f"PSNR of the whole photo, Y channel, {SCALE} border pixels left out"
    draw.text((width - gap, picture.height - 8), note, "dimgray", small, anchor="rs")
    return picture


def _crop_box(photo: Photo) -> tuple[int, int, int, int]:
    middle = tuple((side - CROP) // 2 // SCALE * SCALE for side in photo.hr.size)
    left, top = CROPS.get(photo.name, middle)
    return left, top, left + CROP, top + CROP


def _marked(photo: Image.Image, box: tuple[int, int, int, int], side: int) -> Image.Image:
    """The whole photo within a square of that side, with a frame around the box."""
    small = photo.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    factor = small.width / photo.width
    frame = [round(edge * factor) for edge in box]
    ImageDraw.Draw(small).rectangle(frame, outline="yellow", width=2)
    return small


def curves(history: History, bicubic_psnr: float) -> bytes:
    """Loss and validation PSNR over the iterations, as a PNG file."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    iterations, losses = list(history.loss), list(history.loss.values())
    left.plot(iterations, losses, color="tab:blue", alpha=0.35, linewidth=1, label="a batch")
    means = [_average(losses[max(0, i + 1 - SMOOTHING) : i + 1]) for i in range(len(losses))]
    left.plot(iterations, means, color="tab:blue", label=f"mean of the last {SMOOTHING}")
    left.set(xlabel="iteration", ylabel="L1 loss", title="Training", yscale="log")
    left.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    left.legend(loc="upper right")
    right.plot(list(history.psnr), list(history.psnr.values()), "o-", color="tab:red", label="ESC")
    right.axhline(bicubic_psnr, color="gray", linestyle="--", label="bicubic")
    right.set(xlabel="iteration", ylabel="PSNR in dB", title="Held-out photos, mean")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3, which="both")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file that is complete or absent."""
    with whole_file(path) as part:
        part.write_bytes(content)


def _read(path: Path) -> Image.Image:
    if not path.is_file():
        sys.exit(f"report: {path} is missing: run `make demo`")
    with Image.open(path) as image:
        return image.convert("RGB")


def _mean(scores: list[Score]) -> Score:
    return Score(_average([s.psnr for s in scores]), _average([s.ssim for s in scores]))


def _average(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
