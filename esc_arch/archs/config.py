"""Constructors whose arguments are the fields of a dataclass."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["takes_fields_of"]


def takes_fields_of(config: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of ``__init__(self, config, ...)``: callers give the config's fields one by one.

    The fields come first, in their order, then the constructor's own arguments; so they stand in
    the signature and in the hints, where option files are checked against them.

    Args:
        config: a dataclass.
    """
    fields = [p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in _parameters(config)]
    names = {field.name for field in fields}

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        self, _, *own = _parameters(init)
        signature = inspect.Signature([self, *fields, *own])

        @functools.wraps(init)
        def with_fields(*args: object, **kwargs: object) -> None:
            given = signature.bind(*args, **kwargs).arguments
            values = {name: given.pop(name) for name in names & given.keys()}
            init(config=config(**values), **given)

        vars(with_fields)["__signature__"] = signature
        with_fields.__annotations__ = {
            p.name: p.annotation for p in (*fields, *own) if p.annotation is not p.empty
        }
        return with_fields

    return decorate


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())
