"""``basicsr nets``: the networks that an option file can name."""

import argparse

from basicsr.utils.registry import ARCH_REGISTRY
from rich.table import Column, Table

from esc_arch import terminal
from esc_arch.archs.presets import PRESETS, build_meta
from esc_arch.archs.public_network import INSTALL
from esc_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> None:
    console = terminal.console()
    title = "Presets: published networks, built by esc_arch.create(PRESET, scale)"
    right = [Column(name, justify="right") for name in ("scale", "parameters")]
    table = Table("preset", "network_g: type", *right, title=title)
    missing = set()
    for name, preset in PRESETS.items():
        for scale in preset.scales:
            try:
                parameters = f"{sum(p.numel() for p in build_meta(name, scale).parameters()):,}"
            except UserError:
                parameters = "not installed"
                missing.add(name)
            table.add_row(name, preset.network.__name__, f"x{scale}", parameters)
    console.print(table)
    if missing:
        console.print(f"Not installed: {INSTALL}")
    ours = {preset.network.__name__ for preset in PRESETS.values()}
    others = sorted({name.removesuffix("_basicsr") for name in ARCH_REGISTRY.keys()} - ours)  # noqa: SIM118
    console.print(f"Registered by BasicSR and other plug-ins: {', '.join(others)}")
