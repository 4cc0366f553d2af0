"""From a checkpoint to a network: detected and built, or into a network that is there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from basicsr.archs.swinir_arch import SwinIR
from torch import Tensor, nn

from esc_arch.archs.atd_arch import ATD
from esc_arch.archs.presets import build
from esc_arch.archs.srformer_arch import SRFormer
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.checkpoints.detection import Detected, detect
from esc_arch.checkpoints.locations import locate
from esc_arch.checkpoints.provenance import metadata_of, require_label, with_metadata
from esc_arch.checkpoints.spandrel_networks import (
    SpandrelNetwork,
    known_networks,
    load_by_spandrel,
    name_by_spandrel,
)
from esc_arch.checkpoints.state_dicts import parameters_of, read_checkpoint, require_finite
from esc_arch.errors import UserError, last_line, listed

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

__all__ = ["Inspected", "LoadedModel", "create", "inspect", "load", "mismatch", "open_weights"]

# Networks with values or buffers that do not fit into float16.
_NO_HALF = (ATD, SRFormer)


@dataclass(frozen=True)
class LoadedModel:
    """A trained network.

    Attributes:
        network: (B, C, H, W) in [0, 1], any H and W from 1 -> (B, C, rH, rW); a module is on
            the CPU in float32, in evaluation mode, without gradients.
        scale: r.
        name: such as ``esc_light x2``, or spandrel's ``ESRGAN x4``.
        channels: C: 3, or 1 for a network of grey images.
        metadata: of the file, see :mod:`esc_arch.checkpoints.provenance`.
        path: of the file.
        dtypes: in which it can compute.
        detected: its class and arguments, those of the metadata included; None for an ONNX file
            and for a network that only spandrel knows.
    """

    network: nn.Module | Callable[[Tensor], Tensor]
    scale: int
    name: str
    channels: int
    metadata: Mapping[str, str]
    path: Path
    dtypes: frozenset[torch.dtype]
    detected: Detected | None = None


@dataclass(frozen=True)
class Inspected:
    """A checkpoint file, read, its network detected and compared with its metadata.

    Attributes:
        state: its parameters by key.
        place: the key under which they lie in the file, None for the top.
        network: as it was detected, or as spandrel loaded it.
        metadata: empty for a file that was not written here.
    """

    state: Mapping[str, Tensor]
    place: str | None
    network: "Detected | ImageModelDescriptor"
    metadata: Mapping[str, str]

    @property
    def detected(self) -> Detected | None:
        """None for a network that only spandrel knows."""
        return self.network if isinstance(self.network, Detected) else None

    @property
    def scale(self) -> int:
        """The upscaling factor."""
        return self.network.scale

    @property
    def name(self) -> str:
        """Such as ``esc_light x2``."""
        if isinstance(self.network, Detected):
            return str(self.network)
        return f"{self.network.architecture.name} x{self.scale}"

    @property
    def parameters(self) -> int:
        """How many numbers the tensors of floating dtype hold, frozen ones included."""
        return sum(t.numel() for t in self.state.values() if t.is_floating_point())

    @property
    def dtypes(self) -> str:
        """Of the floating tensors."""
        names = {str(t.dtype) for t in self.state.values() if t.is_floating_point()}
        return ", ".join(sorted(name.removeprefix("torch.") for name in names))


def inspect(path: str | Path, parameters: str | None = None) -> Inspected:
    """Read a checkpoint file and detect its network.

    Args:
        path: .pth or .safetensors.
        parameters: the key under which they lie; None for the first of
            :data:`esc_arch.checkpoints.state_dicts.PARAMETER_KEYS`.

    Raises:
        UserError: when it cannot be read, is of an unknown network, or of another one than its
            metadata say.
    """
    content = read_checkpoint(path)
    metadata = metadata_of(content, path)
    try:
        state, place = parameters_of(content, path, parameters)
    except UserError:
        # spandrel knows a few more places of parameters.
        descriptor = None
        if parameters is None and known_networks() is not None:
            descriptor = load_by_spandrel(content, path)
        if descriptor is None:
            raise
        state, place = descriptor.model.state_dict(), None
        require_finite(state, path)
    else:
        detected = detect(state)
        if detected is not None:
            return Inspected(state, place, with_metadata(detected, metadata, path), metadata)
        descriptor = load_by_spandrel(state, path)
        if descriptor is None:
            raise UserError(
                f"{path}: expected the parameters of the ESC family, of a preset or of a network "
                f"that spandrel knows; found {len(state)} tensors of another "
                f"({', '.join(list(state)[:3])}, ...). Name another file; `basicsr nets` lists the "
                "presets."
            )
    found = Inspected(state, place, descriptor, metadata)
    require_label(descriptor.architecture.name, found.scale, found.name, metadata, path)
    return found


def open_weights(source: str | Path | None) -> LoadedModel:
    """Find a checkpoint, detect its network, and build it.

    Args:
        source: path of a .safetensors, .pth, .ckpt or .onnx file; its address on the web; the
            name of a shipped model; None for the default one; see
            :func:`esc_arch.checkpoints.locations.locate`.

    Raises:
        UserError: when it is none of these, or of an unknown network, or not what its metadata
            say; for an .onnx file see :class:`esc_arch.checkpoints.onnx_network.OnnxNetwork`.
    """
    path = locate(source)
    if path.suffix == ".onnx":
        return _open_onnx(path)
    found = inspect(path)
    dtypes = {torch.float32}
    if isinstance(found.network, Detected):
        channels = found.network.channels
        network = _built(found.network, found.state, path)
        half, bfloat16 = not issubclass(found.network.network, _NO_HALF), True
    else:
        channels = found.network.input_channels
        network = SpandrelNetwork(found.network)
        half, bfloat16 = found.network.supports_half, found.network.supports_bfloat16
    dtypes |= {torch.float16} if half else set()
    dtypes |= {torch.bfloat16} if bfloat16 else set()
    network.eval().requires_grad_(False)
    return LoadedModel(
        network,
        found.scale,
        found.name,
        channels,
        found.metadata,
        path,
        frozenset(dtypes),
        found.detected,
    )


def _built(detected: Detected, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    network = detected.build()
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise UserError(
            f"{path}: expected the parameters of {detected}; found that they do not load: "
            f"{last_line(error)}. Download it again."
        ) from error
    return WholeWindows(network) if isinstance(network, SwinIR) else network


def _open_onnx(path: Path) -> LoadedModel:
    # onnxruntime need not be installed for anything else.
    from esc_arch.checkpoints.onnx_network import OnnxNetwork

    network = OnnxNetwork.from_file(path)
    scale = network.probe_scale()
    name = network.metadata.get("name") or f"{path.name} x{scale}"
    dtypes = frozenset({torch.float32})
    return LoadedModel(network, scale, name, network.channels, network.metadata, path, dtypes)


def create(
    name: str, scale: int, weights: str | Path | None = None, **arguments: object
) -> nn.Module:
    """Build a preset, with trained weights when a checkpoint is named.

    Args:
        name: key of :data:`esc_arch.PRESETS`.
        scale: upscaling factor.
        weights: a .pth or .safetensors file of this network and scale; initial weights
            when None.
        arguments: replace or add constructor arguments, e.g. ``attn_type="naive"``.

    Returns:
        The network on the CPU, in training mode as PyTorch builds it.

    Raises:
        UserError: when there is no preset of this name, or the checkpoint is missing,
            broken, or of another network or scale.
        ValueError: when the arguments do not fit each other.
    """
    network = build(name, scale, **arguments)
    if weights is not None:
        load(network, weights)
    return network


def load(network: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into the network that it was saved from.

    Unlike ``load_state_dict`` in training, a checkpoint of another scale is refused: its
    upsampler would have to be trained again.

    Args:
        network: of any kind.
        path: see :func:`esc_arch.checkpoints.read_state_dict`.

    Raises:
        UserError: when the checkpoint is of another network or scale, naming it.
    """
    content = read_checkpoint(path)
    state, _ = parameters_of(content, path)
    own = network.state_dict()
    difference = mismatch(own, state)
    if not difference:
        try:
            network.load_state_dict(state)
            return
        except RuntimeError as error:
            difference = last_line(error)
    found = detect(state) or name_by_spandrel(content)
    raise UserError(
        f"{path}: expected the parameters of {detect(own) or type(network).__name__}; found those "
        f"of {found or 'a network that is neither of the ESC family nor a preset'}: {difference}. "
        "Name its own checkpoint, or build the network that the checkpoint is of."
    )


def mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How parameters differ from those of a network in their keys and shapes; empty when equal.

    Args:
        own: the network's state dict.
        state: tensors by key.
    """
    common = own.keys() & state.keys()
    unequal = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in common and own[name].shape != state[name].shape
    ]
    kinds = (
        ("missing", [name for name in own if name not in common]),
        ("not of this network", [name for name in state if name not in common]),
        ("of other size", unequal),
    )
    return "; ".join(f"{len(names)} {kind} ({listed(names, 3)})" for kind, names in kinds if names)
