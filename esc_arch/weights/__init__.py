"""Checkpoints: knowing a network by its keys, loading, converting and opening it.

The modules are imported when one of their names is asked for: reading a checkpoint file needs
none of the networks.
"""

import importlib

# Public names, and where they are.
_MODULES = {
    "Detected": "esc_arch.weights.detection",
    "detect": "esc_arch.weights.detection",
    "Opened": "esc_arch.weights.opening",
    "open_weights": "esc_arch.weights.opening",
    "convert": "esc_arch.weights.conversion",
    "create": "esc_arch.weights.loading",
    "load": "esc_arch.weights.loading",
    "read_state_dict": "esc_arch.weights.checkpoint_files",
    "write_safetensors": "esc_arch.weights.safetensors_files",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
