"""Writing a network as a ``.pt2`` file, which PyTorch runs without this package."""

import io
import warnings
from pathlib import Path

import torch
import torch.fx.experimental._config as fx_config
from torch import nn

from esc_arch.checkpoints.detection import detect
from esc_arch.checkpoints.loading import LoadedModel
from esc_arch.checkpoints.state_dicts import write_atomically
from esc_arch.export.checking import Agreement, compare, sizes
from esc_arch.export.description import describe_source, refused, window_of
from esc_arch.export.exportable import portable
from esc_arch.progress import progress

__all__ = ["METADATA_FILE", "write_program"]

# Prefix of the metadata's keys among the file's extra files.
METADATA_FILE = "esc_arch/"


def write_program(opened: LoadedModel, path: Path) -> list[Agreement]:
    """Export a network by ``torch.export``, compare it with PyTorch, then write the file.

    ``torch.export.load(path).module()`` takes (B, C, H, W) in float32, in [0, 1], on the CPU;
    any B, H and W from 1, but H and W above the f of a network that folds f x f pixels into
    channels (ESCRealM).  The metadata are the extra files ``esc_arch/KEY``.

    Args:
        opened: the network.
        path: of the file, which is replaced.

    Returns:
        How it compares with PyTorch.

    Raises:
        UserError: as :func:`esc_arch.export.onnx_file.write_onnx`.
    """
    metadata = describe_source(opened, "float32")
    window = window_of(detect(opened.network.state_dict()).arguments)
    unshuffle = getattr(opened.network, "unshuffle", 1)
    least = 1 if unshuffle == 1 else 1 + unshuffle
    program = _exported(portable(opened.network), opened, window, least)
    extra = {METADATA_FILE + key: value for key, value in metadata.items()}
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=extra)
    buffer.seek(0)
    agreements = compare(
        opened.network,
        torch.export.load(buffer).module(),
        sizes(window, opened.channels, least),
        "float32",
        str(path),
    )
    content = buffer.getvalue()
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return agreements


def _exported(
    network: nn.Module, opened: LoadedModel, window: int, least: int
) -> torch.export.ExportedProgram:
    example = torch.rand(2, opened.channels, window + 3, window + 5)
    shapes = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=least),
        3: torch.export.Dim("width", min=least),
    }
    try:
        with (
            progress("exporting", None),
            warnings.catch_warnings(),
            torch.no_grad(),
            # One image or one window is a case like any other, as in torch.onnx.export.
            fx_config.patch(backed_size_oblivious=True),
        ):
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (example,), dynamic_shapes=(shapes,))
    except Exception as error:  # the exporter's, of many kinds
        lines = str(error).splitlines()
        raise refused(opened, lines[0] if lines else type(error).__name__) from error
    # They would refuse one image and sides of one pixel, whose memory format is ambiguous; the
    # graph is right for them, too, which the comparison shows.
    program._guards_code = []
    return program
