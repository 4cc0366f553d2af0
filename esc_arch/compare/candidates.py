"""Candidates: networks with trained weights, as ``basicsr compare quality`` compares them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from esc_arch.archs import ESC, ESCFP, ESCReal, ESCRealM
from esc_arch.archs.presets import PRESETS, build_meta
from esc_arch.checkpoints.detection import detect
from esc_arch.checkpoints.loading import create, open_weights
from esc_arch.checkpoints.locations import locate
from esc_arch.checkpoints.state_dicts import read_state_dict
from esc_arch.errors import UserError

__all__ = ["Candidate", "Scale", "read_candidate", "read_candidates"]

# Whole ones are int, so that they are written without a point.
Scale = int | float

ESC_FAMILY = (ESC, ESCFP, ESCReal, ESCRealM)


@dataclass(frozen=True)
class Candidate:
    """A network and the file of its weights.

    Attributes:
        network: a preset, or what :func:`esc_arch.checkpoints.open_weights` says of the file.
        preset: the preset, or None where the file is of another network.
        scale: upscaling factor, a fraction for a network for any scale.
        weights: path of the checkpoint, as it was given; None for bicubic.
        window: images are extended to multiples of it, as the published numbers of the ESC
            family are measured; 1 for every other network.
        any_scale: whether the network takes the size of the result.
    """

    network: str
    preset: str | None
    scale: Scale
    weights: str | None
    window: int = 1
    any_scale: bool = False

    def build(self) -> nn.Module | Callable[[Tensor], Tensor]:
        """The network with its weights, a module on the CPU, in evaluation mode."""
        if self.preset is not None and not self.any_scale:
            return create(self.preset, int(self.scale), locate(self.weights)).eval()
        assert self.weights is not None  # only bicubic has none, and it is not built
        return open_weights(self.weights).network


def read_candidates(text: str, scales: Sequence[Scale] = ()) -> list[Candidate]:
    """A checkpoint, at each of the scales that it is tested at.

    Args:
        text: FILE, which is any that `basicsr upscale` takes, or PRESET=FILE.
        scales: a network for any scale is tested at each, any other at its own, which has to be
            one of these; none for the checkpoint's own.

    Raises:
        UserError: as :func:`read_candidate`, or when its scale is none of these.
    """
    candidate = read_candidate(text)
    if candidate.any_scale:
        return [replace(candidate, scale=scale) for scale in scales or [candidate.scale]]
    if scales and candidate.scale not in scales:
        raise UserError(
            f"{candidate.weights}: expected a network for "
            f"{' or '.join(f'x{scale}' for scale in scales)}, as --scales says, or for any scale; "
            f"found {candidate.network} x{candidate.scale}. Add its scale, or leave --scales out."
        )
    return [candidate]


def read_candidate(text: str, scale: int | None = None) -> Candidate:
    """Detect network and scale of a checkpoint.

    Args:
        text: FILE, which is any that `basicsr upscale` takes, or PRESET=FILE.
        scale: the scale that is required; None for the checkpoint's.

    Raises:
        UserError: when there is no such preset, the file is missing or broken, or it is of
            no network that is known, or of another scale.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).is_file():
        name, path = "", text
    elif name not in PRESETS:
        raise UserError(
            f"--weights {text}: expected PRESET=FILE with one of the presets "
            f"{', '.join(PRESETS)}; found {name!r}. `basicsr nets` lists them."
        )
    if name:
        state = read_state_dict(locate(path))
        scales = PRESETS[name].scales if scale is None else (scale,)
        found = next((s for s in scales if _holds(state, name, s)), None)
        if found is None:
            tried = ", ".join(f"x{s}" for s in scales)
            raise UserError(
                f"{path}: expected the parameters of {name} ({tried}); found those of "
                f"{detect(state) or 'a network that is no preset'}. Name the preset that it is of."
            )
        return _of_preset(name, found, path)
    opened = open_weights(path)
    if scale not in (None, opened.scale) and not opened.any_scale:
        raise UserError(
            f"{path}: expected a network for x{scale}; found {opened.name}. Name another one."
        )
    if opened.channels != 3:
        raise UserError(
            f"{path}: expected a network of RGB images, as test sets hold them; found "
            f"{opened.name}, of {opened.channels} channel. Name another one."
        )
    detected = opened.detected
    if opened.any_scale:
        preset = detected.preset if detected is not None else None
        name = preset or opened.name.replace(" of any scale", "")
        return Candidate(name, preset, scale or opened.scale, path, any_scale=True)
    if detected is not None and detected.preset is not None:
        return _of_preset(detected.preset, opened.scale, path)
    window = detected.window if detected is not None and detected.network in ESC_FAMILY else 1
    network = opened.name.replace(f" x{opened.scale}", "", 1)
    return Candidate(network, None, opened.scale, path, window)


def _of_preset(name: str, scale: int, path: str) -> Candidate:
    preset = PRESETS[name]
    window = preset.arguments["window_size"] if preset.network in ESC_FAMILY else 1
    return Candidate(name, name, scale, path, window, getattr(preset.network, "any_scale", False))


def _holds(state: Mapping[str, Tensor], name: str, scale: int) -> bool:
    own = build_meta(name, scale).state_dict()
    return own.keys() == state.keys() and all(state[k].shape == own[k].shape for k in own)
