"""Checkpoints: finding, reading, detecting, loading and converting them.

The modules are imported when one of their names is used: reading a checkpoint file needs none of
the networks.
"""

import importlib

# Public names, and where they are.
_MODULES = {
    "CheckpointError": "esc_arch.checkpoints.state_dicts",
    "Detected": "esc_arch.checkpoints.detection",
    "LoadedModel": "esc_arch.checkpoints.loading",
    "convert": "esc_arch.checkpoints.conversion",
    "create": "esc_arch.checkpoints.loading",
    "detect": "esc_arch.checkpoints.detection",
    "load": "esc_arch.checkpoints.loading",
    "open_weights": "esc_arch.checkpoints.loading",
    "read_state_dict": "esc_arch.checkpoints.state_dicts",
    "write_safetensors": "esc_arch.checkpoints.conversion",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
