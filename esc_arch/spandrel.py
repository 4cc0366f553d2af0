"""ESC and its peers for spandrel, and so for the programs that load networks by it.

    import esc_arch.spandrel, spandrel
    esc_arch.spandrel.install()
    descriptor = spandrel.ModelLoader().load_from_file("esc_x2.safetensors")

Source: spandrel, github.com/chaiNNer-org/spandrel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# It makes torchvision importable beside a PyTorch that it was not built for.
import esc_arch.archs  # noqa: F401
from esc_arch.archs.public_network import INSTALL
from esc_arch.errors import UserError

if TYPE_CHECKING:
    from spandrel import ArchRegistry, ArchSupport

__all__ = ["install"]


def install(registry: ArchRegistry | None = None) -> list[ArchSupport]:
    """Add ESC, ESCFP, ESCReal, ESCRealM, HiT_SRF, ELAN and MambaIRv2Light to a registry.

    They are asked before what is there already: they compare all keys and shapes, while others
    look for a few keys.

    Args:
        registry: None for spandrel's main one, which its loaders use.

    Returns:
        What was added; nothing when it had been before.

    Raises:
        UserError: when spandrel is not installed.
    """
    try:
        from spandrel import MAIN_REGISTRY, ArchSupport
    except ImportError as error:
        raise UserError(
            "esc_arch.spandrel: expected the package spandrel 0.4; found none or another version. "
            f"Install it: {INSTALL}."
        ) from error
    from esc_arch.weights.spandrel_architectures import ARCHITECTURES

    if registry is None:
        registry = MAIN_REGISTRY
    own = {architecture.id for architecture in ARCHITECTURES}
    others = tuple(s.architecture.id for s in registry if s.architecture.id not in own)
    return registry.add(
        *(ArchSupport.from_architecture(a, before=others) for a in ARCHITECTURES),
        ignore_duplicates=True,
    )
