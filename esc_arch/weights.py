"""The name of :mod:`esc_arch.checkpoints` in earlier versions: deprecated, with the same names."""

import warnings

from esc_arch import checkpoints
from esc_arch.checkpoints import __all__ as __all__  # the same public names


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"Use esc_arch.checkpoints.{name} instead of esc_arch.weights.{name}.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(checkpoints, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
