"""Layers by their module paths, and what they put out, as maps that are handed on as they come.

Shapes: B images, C channels, H x W pixels of a map, n tokens of a window.

A pattern is a path in which ``*``, ``?`` and ``[...]`` stand for parts of a name, never for a dot:
``blocks.*.attn``.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esc_arch.analysis.subjects import Subject
from esc_arch.archs.atd_arch import ATD
from esc_arch.archs.basicsr_networks import ECBSR, EDSR, RCAN, MSRResNet, RRDBNet, SwinIR
from esc_arch.archs.elan_arch import ELAN
from esc_arch.archs.esc_arch import ESCFamily
from esc_arch.archs.hit_srf_arch import HiT_SRF
from esc_arch.archs.mambairv2_light_arch import MambaIRv2Light
from esc_arch.archs.omnisr_arch import OmniSR
from esc_arch.archs.srformer_arch import SRFormer
from esc_arch.errors import UserError, listed
from esc_arch.ops.windows import from_tokens

__all__ = [
    "ATTENTIONS",
    "BLOCKS",
    "KEPT_PIXELS",
    "default_layers",
    "hooked",
    "kind_of_layer",
    "recomputed",
    "resolve",
    "run",
]

_GROUP = "layers.*.residual_group."
# The modules that add what they attend to to the features, in each network.
ATTENTIONS: Mapping[type[nn.Module], tuple[str, ...]] = {
    ESCFamily: ("blocks.*.attn", "blocks.*.pconvs.*"),
    SwinIR: (_GROUP + "blocks.*.attn",),
    SRFormer: (_GROUP + "blocks.*.attn",),
    HiT_SRF: (_GROUP + "blocks.*.correlation",),
    ATD: (_GROUP + "layers.*.attn_win",),
    OmniSR: ("residual_layer.*.residual_layer.*.layer.[28].fn",),
    ELAN: ("body.*.modules_gmsa.*",),
    MambaIRv2Light: (_GROUP + "layers.*.win_mhsa", _GROUP + "layers.*.assm"),
}
BLOCKS: Mapping[type[nn.Module], tuple[str, ...]] = {
    ESCFamily: ("blocks.*",),
    **dict.fromkeys((SwinIR, SRFormer, HiT_SRF), (_GROUP + "blocks.*",)),
    **dict.fromkeys((ATD, MambaIRv2Light), (_GROUP + "layers.*",)),
    OmniSR: ("residual_layer.*",),
    **dict.fromkeys((ELAN, RCAN, RRDBNet, EDSR, MSRResNet), ("body.*",)),
    ECBSR: ("backbone.*",),
}

# Of an image whose results a network keeps for the gradient: some networks take 1 GB for these.
KEPT_PIXELS = 64 * 64

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


def kind_of_layer(path: str) -> str:
    """The pattern of a path whose numbers may be any: ``blocks.*.attn``."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", path)


def default_layers(subject: Subject, table: Mapping[type[nn.Module], Sequence[str]]) -> list[str]:
    """The layers of a network by :data:`ATTENTIONS` or :data:`BLOCKS`.

    Raises:
        UserError: when the network is none of theirs.
    """
    for prefix, module in subject.inner.named_modules():
        for kind, patterns in table.items():
            if isinstance(module, kind):
                start = f"{prefix}." if prefix else ""
                return _matching(subject, [start + pattern for pattern in patterns])
    kinds = dict.fromkeys(map(kind_of_layer, _paths(subject)))
    raise UserError(
        f"--layers: expected the layers of {subject.label} to be named, as they are known of "
        f"{listed(kind.__name__ for kind in table)} alone; found none. Name module paths; it has "
        f"{listed(kinds, 30)}."
    )


def resolve(subjects: Sequence[Subject], patterns: Sequence[str]) -> list[list[str]]:
    """The layers of each network that have one of the patterns, in the order of the modules.

    Raises:
        UserError: when a pattern is of no layer of any network, naming the near ones, or when a
            network has none of them.
    """
    for pattern in patterns:
        if not any(_matching(subject, [pattern]) for subject in subjects):
            known = [path for subject in subjects for path in _paths(subject)]
            near = _near(pattern, known)
            advice = (
                f"Near are: {listed(near)}."
                if near
                else f"It has {listed(dict.fromkeys(map(kind_of_layer, known)), 30)}."
            )
            labels = listed(subject.label for subject in subjects)
            raise UserError(
                f"--layers {pattern}: expected the path of a module of {labels}, or a pattern of "
                f"such; found none. {advice}"
            )
    found = [_matching(subject, patterns) for subject in subjects]
    for subject, layers in zip(subjects, found, strict=True):
        if not layers:
            raise UserError(
                f"--layers {' '.join(patterns)}: expected layers of {subject.label} too; found "
                "none. Add a pattern for it, or analyse it by itself."
            )
    return found


def _paths(subject: Subject) -> list[str]:
    return [path for path, _ in subject.inner.named_modules() if path]


def _matching(subject: Subject, patterns: Sequence[str]) -> list[str]:
    return [path for path in _paths(subject) if any(_fits(path, each) for each in patterns)]


def _fits(path: str, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _near(pattern: str, known: Sequence[str]) -> list[str]:
    """Up to five paths, or patterns where one was asked for, that look like it."""
    if re.search(r"[*?[]", pattern):
        known = [kind_of_layer(path) for path in known]
    known = list(dict.fromkeys(known))
    return difflib.get_close_matches(pattern, known, n=5, cutoff=0.7)


@contextmanager
def hooked(subject: Subject, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Hooks on the outputs of layers while the block lasts.

    The executor of :mod:`esc_arch.fast` leaves a hooked module to itself.

    Args:
        hooks: by path; each gets the module, its inputs and its output.
    """
    modules = dict(subject.inner.named_modules())
    handles = [modules[path].register_forward_hook(hook) for path, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(
    subject: Subject,
    image: Tensor,
    layers: Sequence[str],
    take: Callable[[str, Tensor], object],
    gradients: bool = False,
) -> Tensor:
    """Run a network, and hand on the output of each layer as a map.

    No map is kept here.  Networks that draw random numbers draw the same ones each time.

    Args:
        image: (1, C, H, W).
        layers: their paths.
        take: gets the path and the map, (C', H', W'), in the order in which the layers compute;
            an error that it raises ends the run.
        gradients: whether the maps and the output are part of the image's graph.

    Returns:
        The network's output.

    Raises:
        UserError: when a layer computes twice, or not at all, or puts out no map, or one that is
            not finite.
    """
    modules = dict(subject.inner.named_modules())
    seen: set[str] = set()
    size: list[int] = []

    def measure(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        size[:] = size or output.shape[-2:]

    def hook_of(path: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if path in seen:
                raise UserError(
                    f"--layers {path}: expected a layer that computes once for an image; found "
                    "that it computes again. Name the modules inside or around it."
                )
            seen.add(path)
            height, width = size or image.shape[-2:]
            found = _to_map(output, (height, width), path, modules)
            if found is None:
                first = output[0] if isinstance(output, tuple | list) and output else output
                shape = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
                raise UserError(
                    f"--layers {path}: expected a layer of {subject.label} whose output is a map "
                    f"of one image, or its tokens; found {shape}. Name a module around it."
                )
            if not found.isfinite().all():
                raise UserError(
                    f"--layers {path}: expected finite values; found others. Train or convert "
                    f"{subject.label} again."
                )
            take(path, found)

        return hook

    # One of them makes the first map; others, like those that are folded into one, are not called.
    starts = [
        path
        for path, module in modules.items()
        if isinstance(module, nn.Conv2d) and module.in_channels == subject.channels
    ]
    with (
        torch.inference_mode(not gradients),
        torch.set_grad_enabled(gradients),
        torch.random.fork_rng(devices=[]),
        hooked(subject, dict.fromkeys(starts, measure)),
        hooked(subject, {path: hook_of(path) for path in layers}),
    ):
        torch.manual_seed(0)
        result: Tensor = subject.network(image)
    if unused := [path for path in layers if path not in seen]:
        raise UserError(
            f"--layers {unused[0]}: expected a layer that computes in inference; found that "
            f"{subject.label} does not call it. Name another."
        )
    return result


def _to_map(
    output: Any, size: tuple[int, int], path: str, modules: Mapping[str, nn.Module]
) -> Tensor | None:
    """The output of a layer as a map, (C, H, W); None when it is none.

    Args:
        output: a map (1, C, H, W) or (1, H, W, C); tokens (1, H*W, C), or those of windows
            (windows, n, C) of a module that says its ``window_size`` and ``shift_size``; windows
            that einops orders; or several things, the first of which is one of these.
        size: H and W of the map behind the first convolution of the image.
    """
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.dim() == 6:
        rearrange = _rearrangement(path, modules)
        output = rearrange(output) if rearrange is not None else output
    shape = output.shape
    if output.dim() == 4 and shape[0] == 1:
        is_last = tuple(shape[1:3]) == size and tuple(shape[2:]) != size
        return output[0].permute(2, 0, 1) if is_last else output[0]
    if output.dim() != 3 or shape[0] * shape[1] != size[0] * size[1]:
        return None
    if shape[0] == 1:
        return output[0].T.unflatten(1, size)
    frame = modules.get(path.rpartition(".")[0])
    window = getattr(frame, "window_size", None)
    window = (window, window) if isinstance(window, int) else tuple(window or ())
    if len(window) != 2 or window[0] * window[1] != shape[1]:
        return None
    windows: Tensor = from_tokens(output, (window[0], window[1]), size)[0]
    shift = getattr(frame, "shift_size", 0)
    return windows.roll((shift, shift), (1, 2)) if shift else windows


def _rearrangement(path: str, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The next of the modules in a row with one around this, when it changes the order alone."""
    while path:
        path, _, name = path.rpartition(".")
        after = modules.get(f"{path}.{int(name) + 1}") if name.isdigit() else None
        if type(after).__name__ == "Rearrange":
            return after
    return None


@contextmanager
def recomputed(subject: Subject, pixels: int) -> Iterator[None]:
    """Gradients of a large image with less memory while the block lasts.

    The blocks of a known network compute their inner results twice instead of keeping them, which
    gives the same numbers; their layers cannot be hooked then.  Of another network, and for an
    image of no more than 64 x 64 pixels, nothing changes.

    Args:
        pixels: of the image that the network takes.
    """
    if pixels <= KEPT_PIXELS:
        yield
        return
    try:
        paths = default_layers(subject, BLOCKS)
    except UserError:
        paths = []
    modules = dict(subject.inner.named_modules())
    blocks = [modules[path] for path in paths]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
