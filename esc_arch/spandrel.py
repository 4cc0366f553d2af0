"""The networks of this package for spandrel, and so for the programs that load networks by it.

    import esc_arch.spandrel, spandrel
    esc_arch.spandrel.install()
    descriptor = spandrel.ModelLoader().load_from_file("esc_x2.safetensors")

Source: spandrel, github.com/chaiNNer-org/spandrel.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

# It makes torchvision importable beside a PyTorch that it was not built for.
from esc_arch.archs import ELAN, ESC, ESCFP, ESCLTE, ESCReal, ESCRealM, HiT_SRF, MambaIRv2Light
from esc_arch.checkpoints.detection import detect
from esc_arch.checkpoints.spandrel_networks import INSTALL_EXTRA
from esc_arch.errors import UserError

# isort: split
try:
    from spandrel import (
        MAIN_REGISTRY,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
        ModelTiling,
    )
except ImportError as error:
    raise UserError(
        "esc_arch.spandrel: expected the package spandrel 0.4; found none or another version. "
        f"{INSTALL_EXTRA}"
    ) from error

__all__ = ["DetectedArchitecture", "install"]

# The arguments by which networks of one class differ, and their units.
_TAGS = (
    ("dim", "dim"),
    ("embed_dim", "dim"),
    ("c_elan", "dim"),
    ("n_blocks", "blocks"),
    ("window_size", "w"),
    ("upsampler", ""),
)

_NAMES: dict[type[nn.Module], str] = {
    ESCFP: "ESC-FP",
    ESCLTE: "ESC+LTE",
    ESCReal: "ESC-Real",
    ESCRealM: "ESC-Real-M",
    HiT_SRF: "HiT-SRF",
    MambaIRv2Light: "MambaIRv2-light",
}

# Of HiT-SRF and ELAN only the neighbouring windows have an influence, or nearly so.  The others
# have kernels made of a mean over the whole image, or scan through all of it.
_TILING = {
    **dict.fromkeys(
        (ESC, ESCFP, ESCLTE, ESCReal, ESCRealM, MambaIRv2Light), ModelTiling.DISCOURAGED
    ),
    **dict.fromkeys((HiT_SRF, ELAN), ModelTiling.SUPPORTED),
}


class DetectedArchitecture(Architecture[nn.Module]):
    """An architecture that :func:`esc_arch.checkpoints.detect` knows.

    Every size of image from one pixel on is accepted, in float32, bfloat16 and float16.

    Args:
        network: its class.
        tiling: whether an image may be cut into tiles.
    """

    def __init__(self, network: type[nn.Module], tiling: ModelTiling) -> None:
        super().__init__(
            id=network.__name__,
            name=_NAMES.get(network, network.__name__),
            detect=lambda state: detect(state, network) is not None,
        )
        self._network = network
        self._tiling = tiling

    def load(self, state_dict: Mapping[str, Tensor]) -> ImageModelDescriptor[nn.Module]:
        """The network with these parameters.

        Raises:
            ValueError: when they are of another network.
        """
        found = detect(state_dict, self._network)
        if found is None:
            raise ValueError(f"these are not the parameters of {self.name}")
        network = found.build()
        # As spandrel's own networks have them.
        setattr(network, "hyperparameters", dict(found.arguments))  # noqa: B010
        tags = [f"{found.arguments[name]}{unit}" for name, unit in _TAGS if name in found.arguments]
        if found.preset is not None:
            tags.insert(0, found.preset)
        return ImageModelDescriptor(
            network,
            dict(state_dict),
            architecture=self,
            purpose="Restoration" if found.scale == 1 else "SR",
            tags=tags,
            supports_half=True,
            supports_bfloat16=True,
            scale=found.scale,
            input_channels=found.channels,
            output_channels=found.channels,
            tiling=self._tiling,
        )


_ARCHITECTURES = tuple(DetectedArchitecture(*item) for item in _TILING.items())


def install(registry: ArchRegistry | None = None) -> list[ArchSupport]:
    """Add ESC, ESCFP, ESCLTE, ESCReal, ESCRealM, HiT_SRF, ELAN and MambaIRv2Light to a registry.

    They come before the architectures that are there already: they compare all keys and shapes,
    while others look for a few keys.

    Args:
        registry: None for spandrel's main one, which its loaders use.

    Returns:
        The architectures that were added; none when they had been before.
    """
    if registry is None:
        registry = MAIN_REGISTRY
    own = {architecture.id for architecture in _ARCHITECTURES}
    others = tuple(s.architecture.id for s in registry if s.architecture.id not in own)
    return registry.add(
        *(ArchSupport.from_architecture(a, before=others) for a in _ARCHITECTURES),
        ignore_duplicates=True,
    )
