"""Candidates: networks with trained weights, as ``basicsr compare quality`` compares them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from esc_arch.archs import ESC, ESCFP, ESCReal, ESCRealM
from esc_arch.archs.presets import PRESETS, build_meta
from esc_arch.checkpoints.detection import detect
from esc_arch.checkpoints.loading import create, open_weights
from esc_arch.checkpoints.locations import locate
from esc_arch.checkpoints.state_dicts import read_state_dict
from esc_arch.errors import UserError

__all__ = ["Candidate", "read_candidate"]

ESC_FAMILY = (ESC, ESCFP, ESCReal, ESCRealM)


@dataclass(frozen=True)
class Candidate:
    """A network and the file of its weights.

    Attributes:
        network: a preset, or what :func:`esc_arch.checkpoints.open_weights` says of the file.
        preset: the preset, or None where the file is of another network.
        scale: upscaling factor.
        weights: path of the checkpoint, as it was given; None for bicubic.
        window: images are extended to multiples of it, as the published numbers of the ESC
            family are measured; 1 for every other network.
    """

    network: str
    preset: str | None
    scale: int
    weights: str | None
    window: int = 1

    def build(self) -> nn.Module | Callable[[Tensor], Tensor]:
        """The network with its weights, a module on the CPU, in evaluation mode."""
        if self.preset is not None:
            return create(self.preset, self.scale, locate(self.weights)).eval()
        assert self.weights is not None  # only bicubic has none, and it is not built
        return open_weights(self.weights).network


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
    if scale not in (None, opened.scale):
        raise UserError(
            f"{path}: expected a network for x{scale}, as --scale says; found {opened.name}. "
            "Leave --scale out."
        )
    if opened.channels != 3:
        raise UserError(
            f"{path}: expected a network of RGB images, as test sets hold them; found "
            f"{opened.name}, of {opened.channels} channel. Name another one."
        )
    detected = opened.detected
    if detected is not None and detected.preset is not None:
        return _of_preset(detected.preset, opened.scale, path)
    window = detected.window if detected is not None and detected.network in ESC_FAMILY else 1
    network = opened.name.replace(f" x{opened.scale}", "", 1)
    return Candidate(network, None, opened.scale, path, window)


def _of_preset(name: str, scale: int, path: str) -> Candidate:
    preset = PRESETS[name]
    window = preset.arguments["window_size"] if preset.network in ESC_FAMILY else 1
    return Candidate(name, name, scale, path, window)


def _holds(state: Mapping[str, Tensor], name: str, scale: int) -> bool:
    own = build_meta(name, scale).state_dict()
    return own.keys() == state.keys() and all(state[k].shape == own[k].shape for k in own)
