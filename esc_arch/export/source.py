"""The network of an export, its metadata, and the errors of PyTorch's exporter."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from esc_arch.checkpoints.detection import Detected
from esc_arch.checkpoints.loading import LoadedModel
from esc_arch.checkpoints.provenance import describe
from esc_arch.errors import UserError, first_line
from esc_arch.files import sha256_of
from esc_arch.progress import progress

__all__ = ["EXPORTED", "PROGRAMS", "Source"]

# Classes whose graphs hold for every size, see tests/export.
EXPORTED = ("ESC", "ESCFP", "ESCLTE", "ESCReal", "ESCRealM", "HiT_SRF", "ELAN", "EDSR", "MSRResNet")
# Of ELAN, torch.export finds constraints on the width; the size that ESCLTE is asked for would be a
# constant of the program.
PROGRAMS = tuple(name for name in EXPORTED if name not in ("ELAN", "ESCLTE"))


@dataclass(frozen=True)
class Source:
    """A network to export.

    Attributes:
        model: as it was loaded.
        network: of the model.
        detected: its class and arguments.
    """

    model: LoadedModel
    network: nn.Module
    detected: Detected

    @classmethod
    def of(cls, model: LoadedModel, ending: str) -> "Source":
        """The source, when it can be exported.

        Args:
            model: the network.
            ending: of the file, ``.onnx`` or ``.pt2``.

        Raises:
            UserError: when the network is none of :data:`EXPORTED` or, for .pt2, of
                :data:`PROGRAMS`.
        """
        known = EXPORTED if ending == ".onnx" else PROGRAMS
        expected = f"a network that can be exported as {ending}: {', '.join(known)}"
        if not isinstance(model.network, nn.Module):
            raise _refused(model, expected, "an exported file already")
        detected = model.detected
        if detected is None or detected.network.__name__ not in known:
            raise _refused(model, expected, "its operations depend on sizes")
        return cls(model, model.network, detected)

    def metadata(self, precision: str) -> dict[str, str]:
        """Of the exported file: that of ``.safetensors`` files and more.

        Args:
            precision: ``float32`` or ``float16``.
        """
        texts = {key: self.model.metadata.get(key) for key in ("licence", "training")}
        return {
            **describe(self.detected, self.detected.scale, **texts),
            "name": self.model.name,
            "channels": str(self.model.channels),
            "precision": precision,
            "source_file": Path(self.model.path).name,
            "source_sha256": sha256_of(self.model.path),
        }

    def example(self) -> Tensor:
        """Two images of more than one window along each side, in no whole number, so that no size
        becomes a constant of the graph."""
        window = self.detected.window
        return torch.rand(2, self.model.channels, window + 3, window + 5)

    @contextmanager
    def exporting(self, step: str) -> Iterator[None]:
        """Show the step's progress, and turn the exporter's errors into one for the user.

        Raises:
            UserError: saying that the network cannot be exported.
        """
        try:
            with progress(step, None), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:  # the exporter's, of many kinds
            raise _refused(
                self.model, "a network that PyTorch exports", first_line(error)
            ) from error


def _refused(model: LoadedModel, expected: str, reason: str) -> UserError:
    return UserError(
        f"{model.path}: expected {expected}; found {model.name} ({reason}). Run it by "
        f"`basicsr upscale -w {model.path}` instead."
    )
