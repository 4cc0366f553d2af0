"""The networks of this package as architectures of spandrel."""

from collections.abc import Mapping

from spandrel import Architecture, ImageModelDescriptor, ModelTiling
from torch import nn

from esc_arch.archs import ELAN, ESC, ESCFP, ESCReal, ESCRealM, HiT_SRF, MambaIRv2Light
from esc_arch.weights.detection import detect

__all__ = ["ARCHITECTURES", "DetectedArchitecture"]

# Of the arguments, those by which networks of one class are told apart, and their units.
_TAGS = (
    ("dim", "dim"),
    ("embed_dim", "dim"),
    ("c_elan", "dim"),
    ("n_blocks", "blocks"),
    ("window_size", "w"),
    ("upsampler", ""),
)

_NAMES = {ESCFP: "ESC-FP", ESCReal: "ESC-Real", ESCRealM: "ESC-Real-M"}
_NAMES |= {HiT_SRF: "HiT-SRF", MambaIRv2Light: "MambaIRv2-light"}


class DetectedArchitecture(Architecture[nn.Module]):
    """A network that :func:`esc_arch.weights.detect` knows.

    Every size of image from one pixel on is taken, in float32, bfloat16 and float16.

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

    def load(self, state_dict: Mapping[str, object]) -> ImageModelDescriptor[nn.Module]:
        """The network with these parameters.

        Raises:
            ValueError: when they are of another network.
        """
        found = detect(state_dict, self._network)
        if found is None:
            raise ValueError(f"these are not the parameters of {self.name}")
        network = found.build()
        # What spandrel's own networks say of themselves.
        network.hyperparameters = dict(found.arguments)
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


ARCHITECTURES = (
    # Kernels that are made of a mean over the whole image, and scans through all of it.
    *(
        DetectedArchitecture(network, ModelTiling.DISCOURAGED)
        for network in (ESC, ESCFP, ESCReal, ESCRealM, MambaIRv2Light)
    ),
    # What lies beyond the neighbouring windows has no influence, or next to none.
    *(DetectedArchitecture(network, ModelTiling.SUPPORTED) for network in (HiT_SRF, ELAN)),
)
