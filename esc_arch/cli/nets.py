"""``basicsr nets``: the networks that an option file can name."""

import argparse

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from rich.console import Console
from rich.table import Table

from esc_arch.archs import PRESETS, build


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> None:
    console = Console()
    table = Table(title="Presets: published networks, built by esc_arch.create(PRESET, scale)")
    table.add_column("preset")
    table.add_column("network_g: type")
    table.add_column("scale", justify="right")
    table.add_column("parameters", justify="right")
    for name, preset in PRESETS.items():
        for scale in preset.scales:
            with torch.device("meta"):
                network = build(name, scale)
            parameters = sum(p.numel() for p in network.parameters())
            table.add_row(name, preset.network.__name__, f"x{scale}", f"{parameters:,}")
    console.print(table)
    ours = {preset.network.__name__ for preset in PRESETS.values()}
    others = sorted({name.removesuffix("_basicsr") for name in ARCH_REGISTRY.keys()} - ours)  # noqa: SIM118
    console.print(f"Registered by BasicSR and other plug-ins: {', '.join(others)}")
