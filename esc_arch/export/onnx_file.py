"""Writing a network as an ONNX file that runs for every batch, height and width."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn

from esc_arch.checkpoints.loading import LoadedModel
from esc_arch.checkpoints.onnx_network import OnnxNetwork
from esc_arch.checkpoints.state_dicts import write_atomically
from esc_arch.export.agreement import Agreement, compare, sizes
from esc_arch.export.exportable import exportable
from esc_arch.export.graph_ops import onnx_translations
from esc_arch.export.source import Source

__all__ = ["DEFAULT_OPSET", "DTYPES", "OPSETS", "write_onnx"]

# The first with Gelu, of which the networks consist to a third, and the last that is tested.
OPSETS = range(18, 22)
DEFAULT_OPSET = 20

# As the upscaler calls them, and as the metadata do.
DTYPES = {"fp32": "float32", "fp16": "float16"}

# The size is an input of networks for any scale alone.
INPUT, SIZE, OUTPUT = "image", "size", "enlarged"


def write_onnx(
    model: LoadedModel, path: Path, *, dtype: str = "fp32", opset: int = DEFAULT_OPSET
) -> list[Agreement]:
    """Export a network, compare it with PyTorch in onnxruntime, then write the file.

    The graph is standard ONNX without Loop, Scan and If, which few programs load.  Its input is
    ``image``, (batch, C, height, width) in [0, 1], any of the three from 1, its output
    ``enlarged``, (batch, C, r * height, r * width), both float32.  A network for any scale has a
    second input ``size``: two numbers of int64, height and width of the result.

    Args:
        model: the network.
        path: of the file, which is replaced.
        dtype: of weights and arithmetic, one of :data:`DTYPES`.  With fp16 the attention's scores
            and softmax and the means over a map are in float32; images, too, so that programs need
            not know.
        opset: one of :data:`OPSETS`.

    Returns:
        How it compares with PyTorch.

    Raises:
        UserError: when the network cannot be exported, the comparison fails, or the file
            cannot be written.
    """
    precision = DTYPES[dtype]
    source = Source.of(model, ".onnx")
    metadata = source.metadata(precision)
    network = exportable(source.network)
    if dtype == "fp16":
        network = (_AnyScaleInHalf if source.detected.any_scale else _InHalf)(network)
    graph = _translated(network, source, opset)
    _strip(graph.graph)
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    content = graph.SerializeToString()
    agreements = compare(
        source.network,
        OnnxNetwork(content, path, ["CPUExecutionProvider"]),
        sizes(source.detected.window, model.channels),
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
        y: Tensor = self.network(x.half())
        return y.float()


class _AnyScaleInHalf(_InHalf):
    def forward(self, x: Tensor, size: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = self.network(x.half(), size)
        return y.float()


def _translated(network: nn.Module, source: Source, opset: int) -> ModelProto:
    dims = {0: "batch", 2: "height", 3: "width"}
    shapes: list[dict[int, torch.export.Dim] | None]
    shapes = [{index: torch.export.Dim(name, min=1) for index, name in dims.items()}]
    examples, names = [source.example()], [INPUT]
    if source.detected.any_scale:
        examples.append(torch.tensor([171, 203]))
        names.append(SIZE)
        shapes.append(None)
    with (
        source.exporting("translating to ONNX"),
        _silent("torch.onnx", "onnxscript", "onnx_ir"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        program = torch.onnx.export(
            network,
            tuple(examples),
            dynamo=True,
            dynamic_shapes=tuple(shapes),
            opset_version=opset,
            input_names=names,
            output_names=[OUTPUT],
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None  # with dynamo=True
    return program.model_proto


@contextlib.contextmanager
def _silent(*names: str) -> Iterator[None]:
    """Only errors from these loggers: their warnings are for authors of exporters."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(graph: GraphProto) -> None:
    """Remove the source line of each node: paths of this machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
