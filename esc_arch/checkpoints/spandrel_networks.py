"""Checkpoints of the networks that spandrel knows, detected and loaded by it where installed."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

# It makes torchvision importable beside a PyTorch that it was not built for.
import esc_arch.archs  # noqa: F401
from esc_arch.archs.public_network import INSTALL
from esc_arch.errors import UserError

if TYPE_CHECKING:
    from spandrel import ArchRegistry, ImageModelDescriptor, ModelDescriptor

__all__ = ["INSTALL_EXTRA", "SpandrelNetwork", "hyperparameters", "known_networks"]
__all__ += ["load_by_spandrel", "name_by_spandrel"]

INSTALL_EXTRA = f"Install the extra `compare`: {INSTALL}."

_NUMBER = re.compile(r"\d+")


class SpandrelNetwork(nn.Module):
    """A network of spandrel's as a module, with the padding that it needs.

    Args:
        descriptor: a network that spandrel loaded.

    Shape: (B, C, H, W) in [0, 1] -> (B, C, rH, rW), clamped to [0, 1], with gradients.
    """

    def __init__(self, descriptor: ImageModelDescriptor) -> None:
        super().__init__()
        self.model = descriptor.model
        self.descriptor = descriptor

    def forward(self, x: Tensor) -> Tensor:
        # Its own call is in inference mode, whose tensors have no gradients, and cannot be changed
        # in place outside of it.
        y: Tensor = inspect.unwrap(type(self.descriptor).__call__)(self.descriptor, x)
        return y


def known_networks() -> ArchRegistry | None:
    """All that spandrel and, if installed, spandrel_extra_arches know; None without spandrel."""
    try:
        from spandrel import MAIN_REGISTRY
    except ImportError:
        return None
    registry = MAIN_REGISTRY.copy()
    with suppress(ImportError):
        from spandrel_extra_arches import EXTRA_REGISTRY

        registry.add(*EXTRA_REGISTRY, ignore_duplicates=True)
    return registry


def hyperparameters(name: str, state: Mapping[str, Tensor]) -> dict[str, object]:
    """The constructor arguments that spandrel reads off a state dict, which has all the keys and
    shapes of the network that they make.

    Args:
        name: spandrel's identifier of the architecture.
        state: tensors by key.

    Raises:
        UserError: when spandrel is not installed or does not know the architecture.
        Exception: of any kind, when the state dict is of another network.
    """
    registry = known_networks()
    support = registry.get(name) if registry is not None else None
    if support is None:
        raise UserError(
            f"network {name}: expected the packages spandrel 0.4 and spandrel_extra_arches 0.2, "
            f"which implement it; found no such package or another version. {INSTALL_EXTRA}"
        )
    _require_plausible(state)
    with warnings.catch_warnings():
        # Parameters without values are not copied, which is intended.
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                model = support.architecture.load(dict(state)).model
        except RuntimeError:
            # The constructor reads values back from a tensor.
            model = support.architecture.load(dict(state)).model
    if model.state_dict().keys() != state.keys():
        raise ValueError(f"these are not the parameters of {name} alone")
    return dict(model.hyperparameters)


def name_by_spandrel(content: object) -> str | None:
    """Spandrel's name of a checkpoint's network, such as "ESRGAN x4".

    Args:
        content: of the file, see :func:`esc_arch.checkpoints.state_dicts.read_checkpoint`.

    Returns:
        None when spandrel is not installed or does not know it.
    """
    descriptor, _ = _load(content)
    return None if descriptor is None else _name(descriptor)


def load_by_spandrel(content: object, path: object) -> ImageModelDescriptor | None:
    """The network of a checkpoint, from one image to one of as many channels.

    Args:
        content: see :func:`name_by_spandrel`.
        path: of the file, for messages.

    Returns:
        The network in evaluation mode; None when spandrel does not know it.

    Raises:
        UserError: when spandrel is not installed, knows the network and cannot build it, or
            the network is for something else.
    """
    if known_networks() is None:
        raise UserError(
            f"{path}: expected a checkpoint of the ESC family or of a preset; found another "
            f"network's, which spandrel may know. {INSTALL_EXTRA}"
        )
    descriptor, similar = _load(content)
    if descriptor is not None:
        return _image_model(descriptor, path)
    if similar:
        raise UserError(
            f"{path}: expected a checkpoint that spandrel can load; found one with the keys of "
            f"{' and '.join(similar)}, but with tensors that do not fit it. Use the whole file: "
            "download or save it again."
        )
    return None


def _image_model(descriptor: ModelDescriptor, path: object) -> ImageModelDescriptor:
    from spandrel import ImageModelDescriptor

    name = _name(descriptor)
    if not isinstance(descriptor, ImageModelDescriptor):
        raise UserError(
            f"{path}: expected a network from image to image; found {name}, which needs a mask "
            "too. Name another file."
        )
    channels = (descriptor.input_channels, descriptor.output_channels)
    if channels not in ((1, 1), (3, 3)):
        raise UserError(
            f"{path}: expected a network from grey to grey or from RGB to RGB; found {name} with "
            f"{channels[0]} channels in and {channels[1]} out. Name another file."
        )
    return descriptor.eval()


def _name(descriptor: ModelDescriptor) -> str:
    return f"{descriptor.architecture.name} x{descriptor.scale}"


def _load(content: object) -> tuple[ModelDescriptor | None, list[str]]:
    """The network of the first architecture that loads; the names of those that only look like
    it."""
    similar: list[str] = []
    registry = known_networks()
    if registry is None or not isinstance(content, Mapping):
        return None, similar
    from spandrel import canonicalize_state_dict

    state = canonicalize_state_dict(dict(content))
    if not isinstance(state, dict) or not any(map(torch.is_tensor, state.values())):
        return None, similar
    for support in registry.architectures("detection"):
        # A rule may meet a tensor of another shape, and a network that only looks like it fail.
        try:
            if not support.detect(state):
                continue
            similar.append(support.architecture.name)
            return support.architecture.load(dict(state)), similar
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines()[1:]]
            if similar and similar[-1] == support.architecture.name and lines:
                # PyTorch names the keys that are missing or left over, and the other sizes.
                similar[-1] += f" ({' '.join(lines)[:300]})"
    return None, similar


def _require_plausible(state: Mapping[str, Tensor]) -> None:
    """Refuse forged keys, by whose numbers spandrel would build more blocks than fit in memory.

    Raises:
        ValueError: when a key has a larger number than there are keys.
    """
    for key in state:
        if any(int(number) > len(state) for number in _NUMBER.findall(key)):
            raise ValueError(f"the number in {key} is larger than the number of keys")
