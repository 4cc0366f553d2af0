"""``basicsr nets``: the networks that an option file can name.

Building them takes many seconds, and importing PyTorch some: they are listed from a table, which
a test compares with the networks.
"""

import argparse
import importlib.util
import re
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from rich.table import Column, Table

from esc_arch import terminal


class Listed(NamedTuple):
    """A preset of :data:`esc_arch.PRESETS`.

    Attributes:
        network: its class.
        parameters: how many, by scale.
        package: of another author, that implements it; empty for none.
    """

    network: str
    parameters: dict[int, int]
    package: str = ""


PRESETS = {
    "esc": Listed("ESC", {2: 946_728, 3: 955_383, 4: 967_500}),
    "esc_light": Listed("ESC", {2: 603_600, 3: 612_255, 4: 624_372}),
    "esc_fp": Listed("ESCFP", {2: 523_675, 3: 530_170, 4: 539_263}),
    "esc_xl": Listed("ESC", {2: 12_455_916, 3: 12_481_851, 4: 12_518_160}),
    "esc_real": Listed("ESCReal", {4: 2_265_307}),
    "esc_real_dysample": Listed("ESCReal", {4: 2_169_499}),
    "esc_real_m": Listed("ESCRealM", {1: 2_296_987, 2: 2_271_643, 3: 2_228_379, 4: 2_265_307}),
    "esc_lte": Listed("ESCLTE", {4: 1_433_631}),
    "swinir_light": Listed("SwinIR", {2: 910_152, 3: 918_267, 4: 929_628}),
    "elan_light": Listed("ELAN", {2: 620_916, 3: 629_031, 4: 640_392}),
    "omnisr": Listed("OmniSR", {2: 784_604, 3: 793_259, 4: 805_376}, "spandrel"),
    "srformer_light": Listed(
        "SRFormer", {2: 853_272, 3: 861_387, 4: 872_748}, "spandrel_extra_arches"
    ),
    "atd_light": Listed("ATD", {2: 753_204, 3: 759_699, 4: 768_792}, "spandrel"),
    "hit_srf": Listed("HiT_SRF", {2: 846_944, 3: 855_059, 4: 866_420}),
    "mambairv2_light": Listed("MambaIRv2Light", {2: 774_092, 3: 780_587, 4: 789_680}),
    "rcan": Listed("RCAN", {2: 15_444_643, 3: 15_629_283, 4: 15_592_355}),
}
INSTALL = "pip install 'spandrel<0.5' 'spandrel_extra_arches<0.3'"

_REGISTERED = re.compile(r"^@ARCH_REGISTRY\.register\([^)]*\)\s*class (\w+)", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> None:
    console = terminal.console()
    title = "Presets: published networks, built by esc_arch.create(PRESET, scale)"
    right = [Column(name, justify="right") for name in ("scale", "parameters")]
    table = Table("preset", "network_g: type", *right, title=title)
    is_missing = False
    for name, preset in PRESETS.items():
        is_there = not preset.package or importlib.util.find_spec(preset.package) is not None
        is_missing |= not is_there
        for scale, number in preset.parameters.items():
            parameters = f"{number:,}" if is_there else "not installed"
            scales = "any" if preset.network == "ESCLTE" else f"x{scale}"
            table.add_row(name, preset.network, scales, parameters)
    console.print(table)
    if is_missing:
        console.print(f"Not installed: {INSTALL}")
    ours = {preset.network for preset in PRESETS.values()}
    others = sorted(basicsr_networks() - ours)
    console.print(f"Registered by BasicSR: {', '.join(others)}")


def basicsr_networks() -> set[str]:
    """The networks of BasicSR by its files, which are not imported."""
    # Not by all finders: this package's own prepares for an import.
    found = PathFinder.find_spec("basicsr")
    folders = (found.submodule_search_locations if found else None) or ()
    return {
        name
        for folder in folders
        for file in Path(folder, "archs").glob("*_arch.py")
        for name in _REGISTERED.findall(file.read_text(encoding="utf-8"))
    }
