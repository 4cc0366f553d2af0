"""Joining BasicSR: its mends before it is imported, our networks and the rest after that."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["install"]

# What registers something with BasicSR when it is imported.
_REGISTERING = (
    "esc_arch.archs",
    "esc_arch.data.downsample_image_dataset",
    "esc_arch.losses",
    "esc_arch.models",
)


def install() -> None:
    """Join BasicSR: now if it is imported already, otherwise when it will be.

    Calling it again does no harm.
    """
    if "basicsr" in sys.modules:
        _mend()
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _mend() -> None:
    from esc_arch import compat

    compat.before_basicsr()


def _register() -> None:
    from esc_arch import compat

    compat.after_basicsr()
    for name in _REGISTERING:
        importlib.import_module(name)
    from esc_arch.models.optimizers import optimizers_by_name

    optimizers_by_name()


class _Finder(importlib.abc.MetaPathFinder):
    """Sees the first import of BasicSR, and no other."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "basicsr":
            return None
        # Once only; importing it fails without the mends, and then may be tried again.
        sys.meta_path.remove(self)
        try:
            _mend()
            spec = importlib.util.find_spec(name)
        except BaseException:
            sys.meta_path.insert(0, self)
            raise
        if spec is not None and spec.loader is not None:
            self._register_after(spec.loader)
        return spec

    def _register_after(self, loader: importlib.abc.Loader) -> None:
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            del loader.exec_module
            try:
                execute(module)
            except BaseException:
                sys.meta_path.insert(0, self)
                raise
            _register()

        loader.exec_module = execute_and_register
