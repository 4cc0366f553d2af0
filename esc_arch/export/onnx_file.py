"""Writing a network as an ONNX file that runs for every batch, height and width."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn

from esc_arch.checkpoints.detection import detect
from esc_arch.checkpoints.loading import LoadedModel
from esc_arch.checkpoints.onnx_network import OnnxNetwork
from esc_arch.checkpoints.state_dicts import write_atomically
from esc_arch.export.checking import Agreement, compare, sizes
from esc_arch.export.description import describe_source, refused, window_of
from esc_arch.export.exportable import exportable
from esc_arch.export.graph_ops import onnx_translations
from esc_arch.progress import progress

__all__ = ["OPSETS", "write_onnx"]

# The first with Gelu, which the networks consist of to a third, and the last that is tested.
OPSETS = range(18, 22)
DEFAULT_OPSET = 20

INPUT, OUTPUT = "image", "enlarged"


def write_onnx(
    opened: LoadedModel, path: Path, *, half: bool = False, opset: int = DEFAULT_OPSET
) -> list[Agreement]:
    """Export a network, compare it with PyTorch in onnxruntime, then write the file.

    The graph is standard ONNX.  It takes ``image``, (batch, C, height, width) in [0, 1], any of
    the three from 1, and gives ``enlarged``, (batch, C, r * height, r * width), both in float32.

    Args:
        opened: the network.
        path: of the file, which is replaced.
        half: weights and arithmetic in float16, the attention's scores and softmax in float32;
            images stay in float32, so that programs need not know.
        opset: one of :data:`OPSETS`.

    Returns:
        How it compares with PyTorch.

    Raises:
        UserError: when the network cannot be exported, the comparison fails, or the file
            cannot be written.
    """
    precision = "float16" if half else "float32"
    metadata = describe_source(opened, precision)
    window = window_of(detect(opened.network.state_dict()).arguments)
    network = exportable(opened.network)
    if half:
        network = _InHalf(network)
    model = _translated(network, opened, window, opset)
    _strip(model.graph)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    agreements = compare(
        opened.network,
        OnnxNetwork(content, path, ["CPUExecutionProvider"]),
        sizes(window, opened.channels),
        precision,
        str(path),
    )
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return agreements


class _InHalf(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.half()).float()


def _translated(network: nn.Module, opened: LoadedModel, window: int, opset: int) -> ModelProto:
    # More than one window along each side, in no whole number: nothing is taken for constant.
    example = torch.rand(2, opened.channels, window + 3, window + 5)
    dims = {0: "batch", 2: "height", 3: "width"}
    shapes = {index: torch.export.Dim(name, min=1) for index, name in dims.items()}
    # What they say at this level is of no use to who exports.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            progress("translating to ONNX", None),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=(shapes,),
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                custom_translation_table=onnx_translations(),
                verbose=False,
            )
    except Exception as error:  # the exporter's, of many kinds
        lines = str(error).splitlines()
        raise refused(opened, lines[0] if lines else type(error).__name__) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return program.model_proto


def _strip(graph: GraphProto) -> None:
    """Take out where in the source each node was made: paths of this machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
