"""Checks ``network_*`` sections: type, arguments, the constructor's own rules, scale."""

import warnings
from collections.abc import Mapping

import torch
from basicsr.utils.registry import ARCH_REGISTRY

from esc_arch.errors import UserError
from esc_arch.options.constructors import (
    check_arguments,
    complaint,
    default_of,
    has_parameter,
    registered,
    resolve_type,
)
from esc_arch.options.kinds import is_number
from esc_arch.options.problems import Problems, describe

# The names that networks give to their upscaling factor.
SCALE_ARGUMENTS = ("upscaling_factor", "upscale", "upsampling", "scale")


def check_networks(problems: Problems, opt: Mapping[str, object]) -> None:
    """Check every ``network_*`` section that is a mapping."""
    for key, section in opt.items():
        if not key.startswith("network_") or not isinstance(section, dict):
            continue
        network = resolve_type(problems, key, section, ARCH_REGISTRY, "ESC")
        if network is None:
            continue
        check_arguments(problems, key, network, section)
        if not problems.under(key):
            _check_constructor(problems, key, section)
    if isinstance(opt.get("network_g"), dict) and not problems.under("network_g"):
        _check_scale(problems, opt)


def build(section: Mapping[str, object]) -> torch.nn.Module:
    """The network of a checked ``network_*`` section, as BasicSR's build_network makes it."""
    arguments = {name: value for name, value in section.items() if name != "type"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return registered(ARCH_REGISTRY, section["type"])(**arguments)


def _check_constructor(problems: Problems, key: str, section: Mapping[str, object]) -> None:
    """Build the network without memory; in memory when that fails, to be sure why."""
    try:
        with torch.device("meta"):
            build(section)
        return
    except UserError:
        # Its package is missing: no argument mends that.
        raise
    except Exception:
        # Constructors that read a value back from a tensor fail here though they are right.
        pass
    try:
        build(section)
    except Exception as error:
        problems.add(
            key,
            f"arguments that {section['type']} accepts",
            complaint(error),
            "Change the arguments that it names.",
        )


def _check_scale(problems: Problems, opt: Mapping[str, object]) -> None:
    section = opt["network_g"]
    network = registered(ARCH_REGISTRY, section["type"])
    argument = next((a for a in SCALE_ARGUMENTS if has_parameter(network, a)), None)
    if argument is None or not is_number(opt.get("scale")) or problems.under("scale"):
        return
    own = section.get(argument, default_of(network, argument))
    if is_number(own) and own != opt["scale"]:
        found = describe(own) if argument in section else f"its default, {describe(own)}"
        problems.add(
            f"network_g.{argument}",
            f"{opt['scale']}, the `scale` at the top of the file",
            found,
            "Make the two equal.",
        )
