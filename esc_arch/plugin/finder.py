"""The import hook: work-arounds before BasicSR is imported, registration after that."""

import importlib
import importlib.abc
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["install"]

# Modules that register something with BasicSR when they are imported, and what, in words.
_REGISTERING = {
    "esc_arch.archs": "its networks",
    "esc_arch.data.downsample_image_dataset": "DownsampleImageDataset",
    "esc_arch.data.photo_image_dataset": "PhotoImageDataset",
    "esc_arch.data.random_scale_image_dataset": "RandomScaleImageDataset",
    "esc_arch.losses": "VGGPerceptualLoss",
    "esc_arch.metrics": "calculate_psnr_lte",
    "esc_arch.models": "its models",
}


def install() -> None:
    """Join BasicSR: now if it is imported already, otherwise when it will be.

    Calling it again does no harm.
    """
    if "basicsr" in sys.modules:
        _before()
        _after()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _before() -> None:
    from esc_arch.plugin import workarounds

    workarounds.before_basicsr()


def _after() -> None:
    from esc_arch.plugin import workarounds

    workarounds.after_basicsr()
    lacking = []
    for name, registered in _REGISTERING.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            # Repositories of other networks bring a BasicSR without what they do not use.
            if not (error.name or "").startswith("basicsr"):
                raise
            lacking.append(f"{registered} ({error})")
    if lacking:
        logging.getLogger("basicsr.esc_arch").warning(
            f"esc_arch: expected BasicSR 1.4.2; found a cut-down one, "
            f"{sys.modules['basicsr'].__file__}. Not registered: {'; '.join(lacking)}."
        )


class _Finder(importlib.abc.MetaPathFinder):
    """Sees the first import of BasicSR, and no other."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "basicsr":
            return None
        # Once only; importing it fails without the work-arounds, and then may be tried again.
        sys.meta_path.remove(self)
        try:
            _before()
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
            # Another esc_arch, imported before and no longer, may have put its own over this one.
            vars(loader).pop("exec_module", None)
            try:
                execute(module)
            except BaseException:
                sys.meta_path.insert(0, self)
                raise
            _after()

        loader.exec_module = execute_and_register  # type: ignore[method-assign]
