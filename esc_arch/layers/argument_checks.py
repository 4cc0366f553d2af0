"""Checks of constructor arguments, each in one place.

Every check raises ValueError with the name, what was given and what there is.
"""

from collections.abc import Collection

__all__ = ["check_attn_type", "check_least", "check_only", "check_positive"]


def check_only(network: str, **arguments: tuple[object, object]) -> None:
    """Refuse arguments that a public constructor accepts and no published network uses.

    Args:
        network: its name.
        arguments: what was given, and the one value that is supported.
    """
    for name, (value, only) in arguments.items():
        if value != only:
            raise ValueError(f"{name} {value!r} is not supported: {network} has {only!r}")


def check_least(**arguments: tuple[float, float]) -> None:
    """Refuse values that are too small.

    Args:
        arguments: what was given, and the smallest value allowed.
    """
    for name, (value, least) in arguments.items():
        if value < least:
            raise ValueError(f"{name} {value} is less than {least}")


def check_positive(**arguments: float) -> None:
    """Refuse zero and negative values."""
    for name, value in arguments.items():
        if value <= 0:
            raise ValueError(f"{name} {value} is not above 0")


def check_attn_type(attn_type: str, known: Collection[str]) -> None:
    """Refuse a back-end that the network does not have; public files write it in any case."""
    if attn_type.lower() not in known:
        raise ValueError(f"attn_type {attn_type!r} is unknown; known are {', '.join(known)}")
