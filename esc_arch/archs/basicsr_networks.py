"""The networks of BasicSR that are used here, for one place that can do without them.

Repositories of other networks bring a BasicSR without these.  Then a substitute says so when it
is built.
"""

import importlib

from torch import nn

from esc_arch.errors import UserError

__all__ = ["ECBSR", "EDSR", "RCAN", "MSRResNet", "RRDBNet", "SwinIR"]


class _Lacking(nn.Module):
    def __init__(self, **arguments: object) -> None:
        name = type(self).__name__
        raise UserError(
            f"network {name}: expected BasicSR 1.4.2, which implements it; found a BasicSR without "
            f"{name}. Start outside the repository that brings it, or install basicsr==1.4.2."
        )


def _network(module: str, name: str) -> type[nn.Module]:
    try:
        return getattr(importlib.import_module(f"basicsr.archs.{module}"), name)
    except (ImportError, AttributeError):
        return type(name, (_Lacking,), {})


ECBSR = _network("ecbsr_arch", "ECBSR")
EDSR = _network("edsr_arch", "EDSR")
MSRResNet = _network("srresnet_arch", "MSRResNet")
RCAN = _network("rcan_arch", "RCAN")
RRDBNet = _network("rrdbnet_arch", "RRDBNet")
SwinIR = _network("swinir_arch", "SwinIR")
