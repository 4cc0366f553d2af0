"""Tiles against the whole image: agreement, time and memory of every preset.

    python benchmarks/tiling.py [--presets esc ...] [--image FILE] [--json FILE]

A photo of 1024 x 768 pixels (without an image: smoothed noise) is enlarged whole and by tiles of
``--tile`` pixels, with all parameters random, so that the dynamic kernels are not zero; their zeros
of before training would hide what tiles do to them.  PSNR takes the range of the whole result as
its peak.  Memory is what a fresh process takes on top at its peak.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from description import description
from fresh_process import answers, peak_mb, write_json
from rich.console import Console
from rich.table import Table
from timing import seconds
from torch import Tensor, nn

import esc_arch
from esc_arch.archs.presets import PRESETS, build
from esc_arch.imaging.codecs import read_image
from esc_arch.upscale.tiling import enlarge

HEIGHT, WIDTH = 768, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--scale", type=int, default=4, help="default: 4")
    parser.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], metavar=("H", "W"))
    parser.add_argument("--tile", type=int, default=512, help="pixels (default: 512)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of one preset")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a photo (default: noise)")
    parser.add_argument("--rounds", type=int, default=1, help="default: 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file")
    args = parser.parse_args()
    rows = []
    for preset in args.presets:
        rows.append(measure(preset, args))
        print(rows[-1], file=sys.stderr, flush=True)
    report = {
        "size": args.size,
        "scale": args.scale,
        "tile": args.tile,
        "image": args.image.name if args.image else "smoothed noise",
        "weights": args.weights.name if args.weights else "random",
        **description(),
        "rows": rows,
    }
    Console(width=100).print(as_table(report))
    write_json(args.json, report)


def measure(preset: str, args: argparse.Namespace) -> dict:
    network = prepared(preset, args.scale, args.weights)
    image = photo(args.image, args.size)
    whole_s, tiled_s = [], []
    for _ in range(args.rounds):
        torch.manual_seed(0)  # MambaIRv2 draws noise
        whole, whole_time = timed(network, image, args.scale, "off")
        torch.manual_seed(0)
        tiled, tiled_time = timed(network, image, args.scale, args.tile)
        whole_s.append(whole_time)
        tiled_s.append(tiled_time)
    request = {
        "preset": preset,
        "scale": args.scale,
        "size": args.size,
        "weights": str(args.weights) if args.weights else None,
        "device": "cpu",
    }
    whole_mb, tiled_mb = (peak_mb(__file__, **request, tile=tile) for tile in ("off", args.tile))
    times = statistics.median(whole_s), statistics.median(tiled_s)
    return {
        "preset": preset,
        "psnr_db": round(psnr(tiled, whole), 1),
        "max_difference": float(f"{(tiled - whole).abs().max().item():.3g}"),
        "whole_s": round(times[0], 2),
        "tiled_s": round(times[1], 2),
        "time_ratio": round(times[1] / times[0], 2),
        "whole_mb": whole_mb and round(whole_mb),
        "tiled_mb": tiled_mb and round(tiled_mb),
    }


def prepared(preset: str, scale: int, weights: Path | None) -> nn.Module:
    torch.manual_seed(0)
    scale = scale if scale in PRESETS[preset].scales else PRESETS[preset].scales[-1]
    network = build(preset, scale)
    if weights is not None:
        state = torch.load(weights, weights_only=True)
        network.load_state_dict(state.get("params", state))
        return esc_arch.deploy(network)
    for parameter in network.parameters():
        if parameter.requires_grad and not parameter.any():
            fan = max(parameter[0].numel(), 1)
            nn.init.normal_(parameter, std=0.1 if parameter.dim() < 2 else fan**-0.5)
    return esc_arch.deploy(network)


def photo(path: Path | None, size: list[int]) -> Tensor:
    """(1, 3, H, W), mirrored and cut to the size."""
    if path is None:
        noise = torch.rand(1, 3, size[0] // 4, size[1] // 4, generator=torch.manual_seed(0))
        return nn.functional.interpolate(noise, size=tuple(size), mode="bicubic").clamp(0, 1)
    pixels = read_image(path).astype(np.float32) / 255
    for side in (0, 1):
        repeats = -(-size[side] // pixels.shape[side])
        flipped = [pixels if i % 2 == 0 else np.flip(pixels, side) for i in range(repeats)]
        pixels = np.concatenate(flipped, axis=side)
    pixels = np.ascontiguousarray(pixels[: size[0], : size[1]])
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).contiguous()


def timed(network: nn.Module, image: Tensor, scale: int, tile: str | int) -> tuple[Tensor, float]:
    results: list[Tensor] = []
    spent = seconds(lambda: results.append(run(network, image, scale, tile)))
    return results[0], spent


def run(network: nn.Module, image: Tensor, scale: int, tile: str | int) -> Tensor:
    return enlarge(network, image, scale, tile=tile)


def psnr(a: Tensor, b: Tensor) -> float:
    peak = (b.max() - b.min()).double()
    error = (a.double() - b.double()).square().mean()
    return float(10 * torch.log10(peak**2 / error)) if error else float("inf")


def memory(preset, scale, size, weights, device, tile):
    network = prepared(preset, scale, weights and Path(weights))
    image = photo(None, size)
    network(image[..., :16, :16])
    return lambda: run(network, image, scale, tile)


def as_table(report: dict) -> Table:
    height, width = report["size"]
    table = Table(
        title=f"{width}x{height} x{report['scale']}, tiles of {report['tile']}; {report['cpu']}"
    )
    table.add_column("preset")
    for column in (
        "PSNR dB",
        "largest diff",
        "whole s",
        "tiled s",
        "ratio",
        "whole MB",
        "tiled MB",
    ):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        table.add_row(*(str(value) for value in row.values()))
    return table


if __name__ == "__main__":
    if not answers(memory):
        main()
