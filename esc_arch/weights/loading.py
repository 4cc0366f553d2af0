"""Building a network with the parameters of a checkpoint."""

from pathlib import Path

from torch import nn

from esc_arch.archs.presets import build
from esc_arch.errors import UserError
from esc_arch.weights.checkpoint_files import parameters_of, read_checkpoint
from esc_arch.weights.detection import detect

__all__ = ["create", "load"]


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
    upsampler would have to be trained anew.

    Args:
        network: of any kind.
        path: see :func:`esc_arch.weights.read_state_dict`.

    Raises:
        UserError: when the checkpoint is of another network or scale, naming it.
    """
    content = read_checkpoint(path)
    state, _ = parameters_of(content, path)
    own = network.state_dict()
    unlike = [key for key in own if key not in state or state[key].shape != own[key].shape]
    unlike += [key for key in state if key not in own]
    if not unlike:
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
            raise UserError(
                f"{path}: expected the parameters of this {type(network).__name__}; found those "
                f"of another: {reason}. Name its own checkpoint, or build the network that the "
                "checkpoint is of."
            ) from error
        return
    expected = detect(own) or type(network).__name__
    more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
    raise UserError(
        f"{path}: expected the parameters of {expected}; found those of "
        f"{name_of(content, state)}; they differ in {', '.join(unlike[:3])}{more}. Name its own "
        "checkpoint, or build the network that the checkpoint is of."
    )


def name_of(content: object, state: dict) -> str:
    """What a checkpoint is of, for messages.

    Args:
        content: of the file; spandrel looks into it for its parameters by itself.
        state: its parameters.
    """
    # Importing spandrel takes a second.
    from esc_arch.weights.foreign import name_by_spandrel

    found = detect(state) or name_by_spandrel(content)
    return str(found or "a network that is neither of the ESC family nor a preset")
