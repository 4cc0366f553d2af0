"""From a checkpoint to a network: detected and built, or into a network that is there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esc_arch.archs.atd_arch import ATD
from esc_arch.archs.basicsr_networks import RRDBNet, SwinIR
from esc_arch.archs.presets import build
from esc_arch.archs.srformer_arch import SRFormer
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.checkpoints.detection import Detected, detect, mismatch, nearest
from esc_arch.checkpoints.file_kinds import ONNX, kind_of
from esc_arch.checkpoints.locations import locate
from esc_arch.checkpoints.provenance import metadata_of, require_label, with_metadata
from esc_arch.checkpoints.spandrel_networks import (
    SpandrelNetwork,
    load_by_spandrel,
    name_by_spandrel,
)
from esc_arch.checkpoints.state_dicts import (
    CheckpointError,
    read_checkpoint,
    require_finite,
    require_floats,
    require_known,
    sets_of,
)
from esc_arch.checkpoints.wrappers import Found
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
        choice: which of several sets of parameters was taken, such as ``params_ema, not params``.
    """

    network: nn.Module | Callable[[Tensor], Tensor]
    scale: int
    name: str
    channels: int
    metadata: Mapping[str, str]
    path: Path
    dtypes: frozenset[torch.dtype]
    detected: Detected | None = None
    choice: str = ""

    @property
    def any_scale(self) -> bool:
        """Whether the network enlarges to any size; ``scale`` is where none is asked for."""
        return self.detected is not None and self.detected.any_scale


@dataclass(frozen=True)
class Inspected:
    """A checkpoint file, read, its network detected and compared with its metadata.

    Attributes:
        state: its parameters by key.
        place: the key under which they lie in the file, None for the top.
        network: as it was detected, or as spandrel loaded it.
        metadata: empty for a file that was not written here.
        others: the places of the other sets of such parameters in the file, which are not taken.
    """

    state: Mapping[str, Tensor]
    place: str | None
    network: "Detected | ImageModelDescriptor"
    metadata: Mapping[str, str]
    others: tuple[str, ...] = ()

    @property
    def detected(self) -> Detected | None:
        """None for a network that only spandrel knows."""
        return self.network if isinstance(self.network, Detected) else None

    @property
    def scale(self) -> int:
        """The upscaling factor."""
        return self.network.scale

    @property
    def channels(self) -> int:
        """Of the image."""
        if isinstance(self.network, Detected):
            return self.network.channels
        return self.network.input_channels

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
        parameters: the key under which they lie; None for the first set, in the order of
            :func:`esc_arch.checkpoints.wrappers.find_sets`, that is a network's.

    Raises:
        UserError: when it cannot be read, is of an unknown network (naming the nearest), or of
            another one than its metadata say.
    """
    content = read_checkpoint(path)
    metadata = metadata_of(content, path)
    sets = sets_of(content, path, parameters)
    for one in sets:
        require_known(one.state, path)
        detected = detect(one.state)
        if detected is not None:
            require_floats(detected.build_meta().state_dict(), one.state, path)
            require_finite(one.state, path)
            network = with_metadata(detected, metadata, path)
            return Inspected(one.state, one.place, network, metadata, _others(one, sets))
    descriptor, one = _by_spandrel(sets, path)
    require_floats(descriptor.model.state_dict(), one.state, path)
    require_finite(one.state, path)
    found = Inspected(one.state, one.place, descriptor, metadata, _others(one, sets))
    require_label(descriptor.architecture.name, found.scale, found.name, metadata, path)
    return found


def _others(taken: Found, sets: list[Found]) -> tuple[str, ...]:
    """The places of the other sets with the same names."""
    places = [s.place or "the top" for s in sets if s.state.keys() == taken.state.keys()]
    return tuple(place for place in dict.fromkeys(places) if place != (taken.place or "the top"))


def _by_spandrel(sets: list[Found], path: str | Path) -> "tuple[ImageModelDescriptor, Found]":
    """The first set that spandrel loads, and its network.

    Raises:
        UserError: when it loads none: which network is nearest.
    """
    refusal: UserError | None = None
    for one in sets:
        try:
            descriptor = load_by_spandrel(one.state, path)
        except UserError as error:
            refusal = refusal or error
            continue
        if descriptor is not None:
            return descriptor, one
    near = next(filter(None, (nearest(one.state) for one in sets)), None)
    if near is not None:
        raise UserError(
            f"{path}: expected all the parameters of {near.network}, the nearest network; found "
            f"{near.difference}. Use the whole file: download or save it again."
        )
    first = sets[0].state
    raise refusal or UserError(
        f"{path}: expected the parameters of the ESC family, of a preset, of a network of "
        f"BasicSR's or of one that spandrel knows; found {len(first)} tensors of another "
        f"({listed((key[:80] for key in first), 3)}). Name another file; `basicsr nets` lists "
        "the presets."
    )


def open_weights(source: str | Path | None) -> LoadedModel:
    """Find a checkpoint, detect its network, and build it.

    Args:
        source: path of a checkpoint or an ONNX file, which differ in their first bytes;
            its address on the web; the name of a shipped model; None for the default one; see
            :func:`esc_arch.checkpoints.locations.locate`.

    Raises:
        UserError: when it is none of these, or of an unknown network, or not what its metadata
            say; for an .onnx file see :class:`esc_arch.checkpoints.onnx_network.OnnxNetwork`.
    """
    path = locate(source)
    if is_onnx(path):
        return _open_onnx(path)
    found = inspect(path)
    dtypes = {torch.float32}
    if isinstance(found.network, Detected):
        network = _built(found.network, found.state, path)
        half, bfloat16 = not issubclass(found.network.network, _NO_HALF), True
    else:
        network = SpandrelNetwork(found.network)
        half, bfloat16 = found.network.supports_half, found.network.supports_bfloat16
    dtypes |= {torch.float16} if half else set()
    dtypes |= {torch.bfloat16} if bfloat16 else set()
    network.eval().requires_grad_(False)
    return LoadedModel(
        network,
        found.scale,
        found.name,
        found.channels,
        found.metadata,
        path,
        frozenset(dtypes),
        found.detected,
        f"{found.place or 'the top'}, not {' or '.join(found.others)}" if found.others else "",
    )


def is_onnx(path: Path) -> bool:
    """Whether a file is ONNX, as far as its first bytes tell.

    Raises:
        UserError: when it is called so and is something else, which no reader takes.
    """
    try:
        kind = kind_of(path)
    except OSError:
        return False  # the reader says why
    if path.suffix.lower() != ".onnx" or kind.form:
        return kind.form == ONNX
    raise CheckpointError(path, "an ONNX file", kind.words, kind.advice)


def _built(detected: Detected, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    if detected.arguments.get("ape"):
        raise UserError(
            f"{path}: expected a network for images of any size; found {detected} with an "
            f"embedding of each position (ape), which is for {detected.arguments['img_size']} "
            "pixels alone. Name a network without one."
        )
    network = detected.build()
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise UserError(
            f"{path}: expected the parameters of {detected}; found that they do not load: "
            f"{last_line(error)}. Download it again."
        ) from error
    return WholeWindows(network) if isinstance(network, (SwinIR, RRDBNet)) else network


def _open_onnx(path: Path) -> LoadedModel:
    # onnxruntime need not be installed for anything else.
    from esc_arch.checkpoints.onnx_network import OnnxNetwork

    network = OnnxNetwork.from_file(path)
    scale = network.probe_scale()
    name = network.metadata.get("name") or f"{path.name} x{scale}"
    dtypes = frozenset({torch.float32})
    return LoadedModel(network, scale, name, network.channels, network.metadata, path, dtypes)


def create(
    name: str, scale: int | None = None, weights: str | Path | None = None, **arguments: object
) -> nn.Module:
    """Build a preset, with trained weights when a checkpoint is named.

    Args:
        name: key of :data:`esc_arch.PRESETS`.
        scale: upscaling factor; None for the only one that it is published for.
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
    own = network.state_dict()
    state = set_for(own, sets_of(read_checkpoint(path), path, others=True)).state
    require_known(state, path)
    require_finite(state, path)
    difference = mismatch(own, state)
    if not difference:
        require_floats(own, state, path)
        try:
            network.load_state_dict(dict(state))
            return
        except RuntimeError as error:
            difference = last_line(error)
    found = detect(state) or name_by_spandrel(state)
    raise UserError(
        f"{path}: expected the parameters of {detect(own) or type(network).__name__}; found those "
        f"of {found or 'a network that is neither of the ESC family nor a preset'}: {difference}. "
        "Name its own checkpoint, or build the network that the checkpoint is of."
    )


def set_for(own: Mapping[str, Tensor], sets: Sequence[Found]) -> Found:
    """The first set of parameters with the keys of a network, or else the first of all.

    Args:
        own: the network's state dict.
        sets: one at least.
    """
    return next((one for one in sets if one.state.keys() == own.keys()), sets[0])
