"""Writing a network as a ``.pt2`` file, which PyTorch runs without this package."""

import io
from pathlib import Path

import torch
import torch.fx.experimental._config as fx_config

from esc_arch.checkpoints.loading import LoadedModel
from esc_arch.checkpoints.state_dicts import write_atomically
from esc_arch.export.agreement import Agreement, compare, sizes
from esc_arch.export.exportable import portable
from esc_arch.export.source import Source

__all__ = ["METADATA_FILE", "write_program"]

# Prefix of the metadata's keys among the file's extra files.
METADATA_FILE = "esc_arch/"


def write_program(model: LoadedModel, path: Path) -> list[Agreement]:
    """Export a network by ``torch.export``, compare it with PyTorch, then write the file.

    ``torch.export.load(path).module()`` maps (B, C, H, W) in float32, in [0, 1], on the CPU;
    any B, H and W from 1, but H and W above the f of a network that folds f x f pixels into
    channels (ESCRealM).  The metadata are the extra files ``esc_arch/KEY``.  Nothing in the file is
    pickled, as PyTorch 2.13 writes it; older releases pickle the weights.

    Args:
        model: the network.
        path: of the file, which is replaced.

    Returns:
        How it compares with PyTorch.

    Raises:
        UserError: as :func:`esc_arch.export.onnx_file.write_onnx`.
    """
    source = Source.of(model, ".pt2")
    unshuffle = getattr(source.network, "unshuffle", 1)
    least = 1 if unshuffle == 1 else 1 + unshuffle
    program = _exported(source, least)
    metadata = source.metadata("float32")
    extra = {METADATA_FILE + key: value for key, value in metadata.items()}
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=extra)
    buffer.seek(0)
    agreements = compare(
        source.network,
        torch.export.load(buffer).module(),
        sizes(source.detected.window, model.channels, least),
        "float32",
        str(path),
    )
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
    return agreements


def _exported(source: Source, least: int) -> torch.export.ExportedProgram:
    shapes = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=least),
        3: torch.export.Dim("width", min=least),
    }
    with (
        source.exporting("exporting"),
        torch.no_grad(),
        # One image or one window is a case like any other, as in torch.onnx.export.
        fx_config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]  # set at run time
    ):
        program = torch.export.export(
            portable(source.network), (source.example(),), dynamic_shapes=(shapes,)
        )
    # They would refuse one image and sides of one pixel, whose memory format is ambiguous; the
    # graph is right for them, too, which the comparison shows.
    program._guards_code = []
    # They would be written by pickle, which a file to be passed on should not need.
    program.example_inputs = None
    return program
