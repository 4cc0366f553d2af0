"""From a file, an address or a name to a network that enlarges images."""

from collections.abc import Mapping
from pathlib import Path

import torch
from basicsr.archs.swinir_arch import SwinIR
from torch import Tensor

from esc_arch.archs.atd_arch import ATD
from esc_arch.archs.srformer_arch import SRFormer
from esc_arch.archs.whole_windows import WholeWindows
from esc_arch.errors import UserError, listed
from esc_arch.weights.checkpoint_files import parameters_of, read_checkpoint, require_finite
from esc_arch.weights.conversion import unknown
from esc_arch.weights.detection import Detected, detect
from esc_arch.weights.foreign import SpandrelNetwork, known_networks, load_by_spandrel
from esc_arch.weights.metadata import agreed, agreed_by_name, metadata_of
from esc_arch.weights.opened import Opened
from esc_arch.weights.remote import cached, is_url
from esc_arch.weights.shipped import names, shipped

__all__ = ["open_weights"]

# Whose values or buffers do not fit into float16.
_NO_HALF = (ATD, SRFormer)


def open_weights(source: str | Path | None) -> Opened:
    """Find a checkpoint, know its network by its keys, and build it.

    Args:
        source: path of a .safetensors, .pth, .ckpt or .onnx file; its address on the web, see
            :func:`esc_arch.weights.remote.cached`; the name of a shipped model; None for the
            shipped one that is the default.

    Raises:
        UserError: when it is none of these, or of a network that is not known, or is not what
            it says.
    """
    path = _locate(source)
    if path.suffix == ".onnx":
        # onnxruntime need not be installed for anything else.
        from esc_arch.weights.onnx_network import open_onnx

        return open_onnx(path)
    content = read_checkpoint(path)
    metadata = metadata_of(content, path)
    try:
        state, _ = parameters_of(content, path)
    except UserError:
        # spandrel knows a few more places of parameters.
        opened = _by_spandrel(content, metadata, path) if known_networks() else None
        if opened is None:
            raise
        return opened
    detected = detect(state)
    if detected is not None:
        return _own(agreed(detected, metadata, path), state, metadata, path)
    opened = _by_spandrel(content, metadata, path)
    if opened is None:
        raise unknown(state, path)
    return opened


def _locate(source: str | Path | None) -> Path:
    if source is None:
        return shipped()
    if is_url(source):
        return cached(source)
    path = Path(source)
    if path.exists():
        return path
    if str(source) in names():
        return shipped(str(source))
    raise UserError(
        f"{source}: expected a checkpoint file, its address, or the name of a shipped model "
        f"({listed(names()) or 'there is none'}); found no such file. Check the path: the current "
        f"folder is {Path.cwd()}."
    )


def _own(
    detected: Detected, state: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
) -> Opened:
    network = detected.build()
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{path}: expected the parameters of {detected}; found that they do not load: {reason}"
        ) from error
    dtypes = {torch.float32, torch.bfloat16}
    if not issubclass(detected.network, _NO_HALF):
        dtypes.add(torch.float16)
    if isinstance(network, SwinIR):
        network = WholeWindows(network)
    return Opened(
        network.eval().requires_grad_(False),
        detected.scale,
        str(detected),
        detected.channels,
        metadata,
        path,
        frozenset(dtypes),
    )


def _by_spandrel(content: object, metadata: Mapping[str, str], path: Path) -> Opened | None:
    descriptor = load_by_spandrel(content, path)
    if descriptor is None:
        return None
    # Of a place that only spandrel looks in.
    require_finite(descriptor.model.state_dict(), path)
    name = descriptor.architecture.name
    agreed_by_name(name, descriptor.scale, metadata, path)
    dtypes = {torch.float32}
    if descriptor.supports_half:
        dtypes.add(torch.float16)
    if descriptor.supports_bfloat16:
        dtypes.add(torch.bfloat16)
    return Opened(
        SpandrelNetwork(descriptor).eval().requires_grad_(False),
        descriptor.scale,
        f"{name} x{descriptor.scale}",
        descriptor.input_channels,
        metadata,
        path,
        frozenset(dtypes),
    )
