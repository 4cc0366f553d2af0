"""What networks cost: parameters, multiply-adds, latency, peak memory."""

from collections.abc import Callable, Sequence

from esc_arch.archs import PRESETS
from esc_arch.compare.measuring import Request, measure
from esc_arch.compare.results import Row, machine
from esc_arch.errors import UserError

__all__ = ["OUTPUT_SIZES", "costs", "output_size"]

# Names of output sizes (width, height) in pixels; the published numbers are of HD.
OUTPUT_SIZES = {"HD": (1280, 720), "FHD": (1920, 1080), "4K": (3840, 2160)}


def output_size(text: str) -> tuple[int, int]:
    """Width and height of an output: one of OUTPUT_SIZES, or such as ``640x360``.

    Raises:
        UserError: for another text.
    """
    if text.upper() in OUTPUT_SIZES:
        return OUTPUT_SIZES[text.upper()]
    width, _, height = text.lower().partition("x")
    if width.isdecimal() and height.isdecimal() and int(width) and int(height):
        return int(width), int(height)
    raise UserError(
        f"--output-size: expected {', '.join(OUTPUT_SIZES)} or a size such as 640x360; found {text}"
    )


def costs(
    networks: Sequence[str],
    scales: Sequence[int],
    output: tuple[int, int],
    device: str,
    dtype: str,
    warm_up: int,
    runs: int,
    timeout_s: float,
    done: Callable[[Row], None],
) -> list[Row]:
    """Measure one network after another, each in a process of its own.

    The LR image is as large as fits in the output: floor(width / scale) and so on.

    Args:
        networks: presets.
        output: width and height of the output in pixels.
        device, dtype, warm_up, runs: as :class:`Request` has them.
        timeout_s: after which a network is given up.
        done: called with each row as it comes.

    Returns:
        Rows of ``results.json``; ``error`` in a row says what could not be measured.

    Raises:
        UserError: for an unknown preset, or a scale that none of the networks has.
    """
    for name in networks:
        if name not in PRESETS:
            raise UserError(
                f"--networks: expected presets ({', '.join(PRESETS)}); found {name}. "
                "`basicsr nets` lists them."
            )
    pairs = [(n, s) for s in scales for n in networks if s in PRESETS[n].scales]
    if not pairs:
        raise UserError(f"--scales: expected a scale of these networks; found {list(scales)}.")
    rows = []
    for network, scale in pairs:
        width, height = (side // scale for side in output)
        request = Request(network, scale, width, height, device, dtype, warm_up, runs)
        row: Row = {
            "network": network,
            "scale": scale,
            "width": width,
            "height": height,
            # Counts alone do not take the place of what was measured.
            "device": device if runs else "none",
            "dtype": dtype,
            "machine": machine(),
            "runs": runs,
            **measure(request, timeout_s),
        }
        rows.append(row)
        done(row)
    return rows
