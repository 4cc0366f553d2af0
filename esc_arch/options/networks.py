"""Checks ``network_*`` sections: type, arguments, the constructor's own rules, scale."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

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

# The largest published networks have some two thousand.
_MOST_MODULES = 10_000
_FLOAT_BYTES = 4


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


class TooLarge(ValueError):
    """A network that could not be trained here, and whose building might not end."""


def build(section: Mapping[str, object]) -> torch.nn.Module:
    """The network of a checked ``network_*`` section, as BasicSR's build_network makes it.

    Raises:
        TooLarge: before much time or memory is spent.
    """
    arguments = {name: value for name, value in section.items() if name != "type"}
    with warnings.catch_warnings(), _bounded():
        warnings.simplefilter("ignore")
        return registered(ARCH_REGISTRY, section["type"])(**arguments)


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop a constructor in the block that makes too much, whoever's it is."""
    modules, numbers = 0, 0
    most_numbers = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _FLOAT_BYTES

    def count_module(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > _MOST_MODULES:
            raise TooLarge(f"more than {_MOST_MODULES} layers")

    def count_parameter(module: object, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal numbers
        numbers += 0 if parameter is None else parameter.numel()
        if numbers > most_numbers:
            raise TooLarge(f"more parameters than the {most_numbers:,} that the memory holds")

    hooks = (
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_parameter),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_constructor(problems: Problems, key: str, section: Mapping[str, object]) -> None:
    """Build the network without memory; in memory when that fails, to be sure why."""
    try:
        with torch.device("meta"):
            build(section)
        return
    except UserError:
        # Its package is missing: no argument mends that.
        raise
    except TooLarge as error:
        problems.add(
            key,
            "a network that this machine can build",
            str(error),
            "Lower its sizes.",
        )
        return
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
