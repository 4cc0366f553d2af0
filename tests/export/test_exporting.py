"""Exported files against PyTorch, run by onnxruntime and by PyTorch without this package."""

import copy
import io
import json
import os
import pickletools
import re
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from esc_arch.archs import PRESETS
from esc_arch.archs.presets import build
from esc_arch.checkpoints import open_weights
from esc_arch.checkpoints.conversion import write_safetensors
from esc_arch.cli.main import main
from esc_arch.errors import UserError
from esc_arch.export import agreement
from esc_arch.export.program_file import METADATA_FILE
from esc_arch.export.source import Source
from esc_arch.files import sha256_of
from tests import tiny
from tests.reference_cases import deviation, fill_parameters

SMALL = {**tiny.SIZES, "dim": 16}
SHAPES = [(1, 3, 1, 1), (1, 3, 1, 21), (3, 3, 8, 8), (2, 3, 17, 6), (1, 3, 40, 33)]


def small(name: str, scale: int, **arguments: object) -> nn.Module:
    return fill_parameters(build(name, scale, **{**SMALL, **arguments})).eval()


def exported(network: nn.Module, folder, ending: str, *options: str):
    """The file that the command writes of a network."""
    weights, path = folder / "weights.safetensors", folder / f"network{ending}"
    write_safetensors(network, weights, licence="CC0-1.0", training="none")
    assert main(["export", str(weights), "-o", str(path), *options]) == 0
    return path


def run(path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def assert_same(network: nn.Module, path, bound: float, shapes=SHAPES) -> None:
    for shape in shapes:
        x = torch.rand(shape)
        with torch.no_grad():
            expected = network.double()(x.double())
        y = run(path, x)
        assert y.shape == expected.shape
        assert y.dtype == torch.float32
        assert (y - expected).abs().max() < bound


@pytest.fixture(scope="module")
def esc(tmp_path_factory):
    network = small("esc", 2)
    return network, exported(network, tmp_path_factory.mktemp("esc"), ".onnx")


def test_every_batch_and_size_from_one_pixel(esc):
    assert_same(*esc, 1e-5)


def test_the_graph_is_standard_and_says_nothing_of_this_machine(esc):
    model = onnx.load(esc[1])
    onnx.checker.check_model(model, full_check=True)
    assert [o.domain for o in model.opset_import] == [""]
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    assert b"/esc_arch/" not in esc[1].read_bytes()


def test_metadata(esc):
    metadata = {p.key: p.value for p in onnx.load(esc[1]).metadata_props}
    assert metadata["network"] == "ESC"
    assert metadata["scale"] == "2"
    assert metadata["licence"] == "CC0-1.0"
    assert metadata["training"] == "none"
    assert metadata["source_sha256"] == sha256_of(esc[1].parent / "weights.safetensors")
    rebuilt = PRESETS["esc"].network(**json.loads(metadata["arguments"]))
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in esc[0].state_dict().items()
    }


def test_opened_again(esc):
    opened = open_weights(esc[1])
    assert (opened.scale, opened.channels) == (2, 3)
    x = torch.rand(2, 3, 9, 20)
    with torch.no_grad():
        assert deviation(opened.network(x), esc[0].float()(x)) < 1e-5


# What ONNX has for control flow and sequences; OpenVINO, TensorRT, CoreML, DirectML and ncnn load
# none of it, or not all.
CONTROL_FLOW = {"Loop", "Scan", "If", "SequenceMap", "SequenceAt", "SequenceInsert", "Optional"}
CONTROL_FLOW |= {"SequenceConstruct", "SplitToSequence", "ConcatFromSequence", "NonZero"}


def assert_plain(path) -> None:
    """No control flow, no sub-graph."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    nodes = model.graph.node
    assert not CONTROL_FLOW & {node.op_type for node in nodes}
    assert not model.functions
    assert not any(a.type in (a.GRAPH, a.GRAPHS) for node in nodes for a in node.attribute)


def by_openvino(path, x: torch.Tensor) -> torch.Tensor:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    # On some processors its default is a type of half the width.
    compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled({"image": x.numpy()})[0])


def test_no_loop(esc):
    assert_plain(esc[1])


def test_scores_are_never_held_for_a_whole_image(esc):
    """One head, and some rows of its queries: 2 blocks of 16 heads times rows of 8 columns."""
    model = onnx.shape_inference.infer_shapes(onnx.load(esc[1]))
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 16
    for node in softmaxes:
        assert [d.dim_value for d in shapes[node.input[0]]][1:] == [1, 8, 64]


def test_openvino_agrees(esc):
    for shape in SHAPES[::3]:
        x = torch.rand(shape)
        torch.testing.assert_close(by_openvino(esc[1], x), run(esc[1], x), atol=2e-5, rtol=0)


MEANS = ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool")


def assert_sums_in_float32(path) -> None:
    """Summed in float16, a channel overflows from about 400,000 pixels on some runtimes."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    means = [node for node in model.graph.node if node.op_type in MEANS]
    assert len(means) == 1
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert softmaxes
    assert all(kinds[node.input[0]] == onnx.TensorProto.FLOAT for node in means + softmaxes)
    # The sum as a runtime takes it that adds in the type of its input, by NumPy.
    cast = next(node for node in model.graph.node if means[0].input[0] in node.output)
    before = onnx.utils.Extractor(model).extract_model(cast.input, cast.output)
    channel = np.full((1, 1, 500, 1000), 200, np.float16)
    (summed,) = ReferenceEvaluator(before).run(None, {cast.input[0]: channel})
    assert np.add.reduce(summed, axis=(2, 3), dtype=summed.dtype) == 200 * channel.size


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("esc", 2),
        pytest.param("esc_fp", 3, marks=pytest.mark.slow),
        pytest.param("esc_real_m", 2, marks=pytest.mark.slow),
    ],
)
def test_half(tmp_path, name, scale):
    network = small(name, scale)
    path = exported(network, tmp_path, ".onnx", "--dtype", "fp16")
    weights = onnx.load(path).graph.initializer
    assert {onnx.TensorProto.FLOAT16} == {
        w.data_type for w in weights if w.data_type in (1, 10) and len(w.dims) == 4
    }
    assert_same(network, path, 0.05)
    assert_sums_in_float32(path)


@pytest.mark.parametrize("blocks", [3, pytest.param(32, marks=pytest.mark.slow)])
def test_any_scale_has_the_size_as_an_input(tmp_path, monkeypatch, blocks):
    monkeypatch.setattr("esc_arch.export.any_scale.BLOCKS", blocks)
    network = small("esc_lte", 4, hidden_dim=8)
    network.freq.weight.data *= 0.1
    path = exported(network, tmp_path, ".onnx")
    assert_plain(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    opened = open_weights(path)
    assert opened.any_scale
    double = copy.deepcopy(network).double()
    # Fewer rows than the graph has blocks, sizes that are no multiple of them, cells of more than
    # the largest scale of the training.
    cases = ((1, 1, 3, 2), (1, 9, 1, 9), (9, 13, 33, 50), (5, 7, 150, 31), (8, 8, 4, 3))
    for height, width, *size in cases:
        x = torch.rand(2, 3, height, width)
        with torch.no_grad():
            expected = double(x.double(), size=size, max_scale=4)
        y = session.run(None, {"image": x.numpy(), "size": np.array(size)})[0]
        assert np.abs(y - expected.numpy()).max() < 5e-6
        assert torch.equal(opened.network(x, tuple(size)), torch.from_numpy(y))


@pytest.mark.slow
def test_any_scale_in_half_and_by_openvino(tmp_path):
    openvino = pytest.importorskip("openvino")
    network = small("esc_lte", 4, hidden_dim=8)
    network.freq.weight.data *= 0.1
    x, size = torch.rand(1, 3, 11, 9), np.array([37, 24])
    with torch.no_grad():
        expected = network(x, size=tuple(size.tolist())).numpy()
    half = exported(network, tmp_path, ".onnx", "--dtype", "fp16")
    session = onnxruntime.InferenceSession(str(half), providers=["CPUExecutionProvider"])
    given = {"image": x.numpy(), "size": size}
    assert np.abs(session.run(None, given)[0] - expected).max() < 2e-3
    path = exported(network, tmp_path, "_32.onnx")
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", hint)
    assert np.abs(compiled(given)[0] - expected).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale", "arguments"),
    [
        ("esc_real", 4, {}),
        ("esc_real_dysample", 3, {}),
        ("esc_real_m", 1, {}),
        ("esc_real_m", 2, {"upsampler": "pixelshuffle"}),
        ("esc_xl", 4, {"window_size": 12}),
    ],
)
def test_other_networks(name, scale, arguments, tmp_path):
    network = small(name, scale, **arguments)
    path = exported(network, tmp_path, ".onnx")
    assert_same(network, path, 5e-5)
    assert_plain(path)
    for shape in [(1, 3, 1, 1), (2, 3, 17, 6)]:
        x = torch.rand(shape)
        torch.testing.assert_close(by_openvino(path, x), run(path, x), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_published_sizes_of_layers(tmp_path):
    network = fill_parameters(build("esc", 4, n_blocks=1, conv_blocks=1)).eval()
    path = exported(network, tmp_path, ".onnx")
    assert_same(network, path, 1e-4, [(2, 3, 33, 70)])
    x = torch.rand(2, 3, 33, 70)
    torch.testing.assert_close(by_openvino(path, x), run(path, x), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_hit_srf(tmp_path):
    network = build("hit_srf", 2, embed_dim=20, depths=(3,), num_heads=(2,))
    network = fill_parameters(network).eval()
    path = exported(network, tmp_path, ".onnx")
    assert_same(network, path, 1e-4, [(2, 3, 33, 20)])
    assert_plain(path)
    x = torch.rand(2, 3, 33, 20)
    torch.testing.assert_close(by_openvino(path, x), run(path, x), atol=1e-4, rtol=0)


def test_arguments_that_only_the_metadata_hold(tmp_path):
    """ELAN's windows share no shape with its parameters; the published sides are (4, 8, 16)."""
    arguments = {"window_sizes": (2, 4, 8), "m_elan": 2, "c_elan": 6, "scale": 2}
    network, weights = PRESETS["elan_light"].network(**arguments).eval(), tmp_path / "a.safetensors"
    metadata = write_safetensors(network, weights)
    labelled = json.dumps(json.loads(metadata["arguments"]) | {"window_sizes": (2, 4, 8)})
    write_safetensors(network, weights, metadata=metadata | {"arguments": labelled})
    found = Source.of(open_weights(weights), ".onnx").metadata("float32")
    rebuilt = PRESETS[found["network"].lower() + "_light"].network(**json.loads(found["arguments"]))
    rebuilt.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 21, 13)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(x), network(x))


def zipped(path) -> dict[str, bytes]:
    """The files of an archive, those of archives in it included."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for name, content in list(files.items()):
        if zipfile.is_zipfile(io.BytesIO(content)):
            files |= {f"{name}/{k}": v for k, v in zipped(io.BytesIO(content)).items()}
    return files


def is_pickle(content: bytes) -> bool:
    """Whether it starts a pickle of protocol 2 or later that ends somewhere."""
    if content[:1] != b"\x80":
        return False
    try:
        return bool(list(pickletools.genops(content)))
    except Exception:
        return False


@pytest.mark.parametrize(
    ("name", "least"), [("esc", 1), pytest.param("esc_real_m", 3, marks=pytest.mark.slow)]
)
def test_program(tmp_path, name, least):
    """Sides of esc_real_m are above its fold of 2."""
    network = small(name, 2)
    path = exported(network, tmp_path, ".pt2")
    extra = {f"{METADATA_FILE}scale": "", f"{METADATA_FILE}licence": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert (extra["esc_arch/scale"], extra["esc_arch/licence"]) == ("2", "CC0-1.0")
    assert not [name for name, content in zipped(path).items() if is_pickle(content)]
    for shape in [(1, 3, least, least + 1), (2, 3, 17, 30), (1, 3, 64, 9)]:
        x = torch.rand(shape)
        with torch.no_grad():
            assert deviation(program(x), network(x)) < 1e-5


@pytest.mark.parametrize("name", ["ELAN", "ESCLTE"])
def test_some_are_no_programs(tmp_path, capsys, name):
    if name == "ELAN":
        network = PRESETS["elan_light"].network(m_elan=2, c_elan=6, scale=2)
    else:
        network = small("esc_lte", 4, hidden_dim=8)
    write_safetensors(network, tmp_path / "a.safetensors")
    path = tmp_path / "a.pt2"
    assert main(["export", str(tmp_path / "a.safetensors"), "-o", str(path)]) == 2
    _, expected, found = re.split(": expected|; found", capsys.readouterr().err)
    assert name not in expected and name in found and not path.exists()


def test_nothing_is_overwritten_or_left_behind(esc, tmp_path, capsys):
    path = tmp_path / "there.onnx"
    path.write_text("mine")
    assert main(["export", str(esc[1].parent / "weights.safetensors"), "-o", str(path)]) == 2
    assert path.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    for arguments in (
        ["-o", "a.txt"],
        ["-o", "a.pt2", "--dtype", "fp16"],
        ["-o", "a.pt2", "--half"],
        ["-o", "a.onnx", "--opset", "9"],
    ):
        assert main(["export", str(esc[1].parent / "weights.safetensors"), *arguments]) == 2


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("wrong", [lambda y: y + 0.02, lambda y: y * torch.nan, lambda y: y[1:]])
def test_a_file_that_differs_is_refused(precision, wrong):
    network = nn.Upsample(scale_factor=2)
    shapes = agreement.sizes(8, 3)
    agreements = agreement.compare(network, network, shapes, precision, "n.onnx")
    assert [a.difference for a in agreements] == [0.0] * 3
    with pytest.raises(UserError, match="Nothing was kept"):
        agreement.compare(network, lambda x: wrong(network(x)), shapes, precision, "n.onnx")


def test_sizes_to_compare():
    for window in (1, 8, 32, 48):
        shapes = agreement.sizes(window, 3)
        assert len(set(shapes)) == 3
        assert any(h % window or w % window for _, _, h, w in shapes) or window == 1
        assert any(h < window for _, _, h, _ in shapes) or window == 1
        assert len({batch for batch, *_ in shapes}) == 2


def other_file(path, text: str):
    onnx.save(onnx.parser.parse_model(text), path)
    return path


RESIZE = """scales = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
    none = Constant <value = float[0] {}> ()"""
TWICE = RESIZE + 'y = Resize <mode="nearest"> (x, none, scales)'
ANY_SIZE = "(float[N,3,H,W] x) => (float[N,3,R,S] y) "
HEADER = '<ir_version: 8, opset_import: ["": 18]> g '


def test_a_file_without_metadata_has_its_scale_found(tmp_path):
    path = other_file(
        tmp_path / "f.onnx",
        HEADER
        + """(float[1,1,H,W] x) => (float[1,1,R,S] y) {
            scales = Constant <value = float[4] {1.0, 1.0, 3.0, 3.0}> ()
            none = Constant <value = float[0] {}> ()
            y = Resize <mode="nearest"> (x, none, scales) }""",
    )
    opened = open_weights(path)
    assert (opened.scale, opened.channels) == (3, 1)
    x = torch.rand(2, 1, 4, 5, dtype=torch.float64)  # one image at a time is all that it takes
    y = opened.network(x)
    assert y.dtype == torch.float64
    np.testing.assert_allclose(y, nn.functional.interpolate(x, scale_factor=3), atol=1e-7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(float[4,3,H,W] x) => (float[4,3,H,W] y) { y = Relu (x) }", "fixed number 4"),
        ("(float[N,H,W,3] x) => (float[N,H,W,3] y) { y = Relu (x) }", "channels last"),
        ("(uint8[N,3,H,W] x) => (uint8[N,3,H,W] y) { y = Identity (x) }", "uint8.*0, 1"),
        (
            "(float[N,3,H,W] x) => (float[N,3,H,W] y, float[N,3,H,W] z) "
            "{ y = Relu (x) z = Abs (x) }",
            "one output.*y.*z",
        ),
        ("(float[N,3,H,W] x) => (float[N,3,H,W] y) { z = Sub (x, x) y = Div (x, z) }", "NaN"),
        ("(float[N,M] x) => (float[N,M] y) { y = Relu (x) }", "channels first"),
        ("(float[N,4,H,W] x) => (float[N,4,H,W] y) { y = Relu (x) }", "channels first"),
        ("(float[N,3,H,W] x, float[1] z) => (float[N,3,H,W] y) { y = Add (x, z) }", "one input"),
        ("(float[N,3,H,W] x) => (float[A,B] y) { y = Flatten (x) }", "enlarged by a whole"),
        ("(float[N,3,H,W] x) => (float[N,3,I,J] y) { y = GlobalMaxPool (x) }", "whole number"),
    ],
)
def test_other_onnx_files_are_refused(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_weights(other_file(tmp_path / "f.onnx", HEADER + text))


def test_files_that_are_not_onnx_are_refused(tmp_path):
    path = tmp_path / "f.onnx"
    with pytest.raises(UserError, match="expected a checkpoint file"):
        open_weights(path)
    path.mkdir()
    with pytest.raises(UserError, match="expected an ONNX file; found a folder"):
        open_weights(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="expected an ONNX file; found a pipe"):
        open_weights(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="expected an ONNX file; found a device"):
        open_weights(path)
    path.unlink()
    path.write_bytes(b"not a graph")
    with pytest.raises(UserError, match="expected an ONNX file"):
        open_weights(path)


def twice(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(x, scale_factor=2)


SIZES = [(1, 1), (1, 40), (7, 9), (33, 50), (64, 64), (71, 100)]


@pytest.mark.parametrize("multiple", [1, 2, 4, 6, 8, 12, 16])
@pytest.mark.parametrize("opset", [11, 17])
def test_sizes_that_a_foreign_network_wants(multiple, opset, tmp_path):
    """Folding pixels into channels asks for whole multiples, as windows do."""
    graph = f"""{{ {RESIZE}
        folded = SpaceToDepth <blocksize={multiple}> (x)
        larger = Resize <mode="nearest"> (folded, none, scales)
        y = DepthToSpace <blocksize={multiple}> (larger) }}"""
    header = f'<ir_version: 7, opset_import: ["": {opset}]> g '
    opened = open_weights(other_file(tmp_path / "f.onnx", header + ANY_SIZE + graph))
    assert opened.scale == 2
    for height, width in SIZES:
        x = torch.rand(2, 3, height, width)
        y = opened.network(x)
        assert y.shape == (2, 3, 2 * height, 2 * width)
        if multiple == 1:
            assert torch.equal(y, twice(x))
        # A corner of the image is the mean of no other pixels.
        assert torch.equal(y[..., 0, 0], x[..., 0, 0])


def test_images_that_a_foreign_network_finds_too_small(tmp_path):
    """Reflection inside the graph needs more pixels than it adds."""
    graph = f"""{{ {RESIZE}
        widths = Constant <value = int64[8] {{0, 0, 4, 4, 0, 0, 4, 4}}> ()
        first = Constant <value = int64[2] {{4, 4}}> ()
        last = Constant <value = int64[2] {{-4, -4}}> ()
        axes = Constant <value = int64[2] {{2, 3}}> ()
        wide = Pad <mode="reflect"> (x, widths)
        same = Slice (wide, first, last, axes)
        y = Resize <mode="nearest"> (same, none, scales) }}"""
    opened = open_weights(other_file(tmp_path / "f.onnx", HEADER + ANY_SIZE + graph))
    for height, width in SIZES:
        x = torch.rand(1, 3, height, width)
        assert torch.equal(opened.network(x), twice(x))


@pytest.mark.parametrize("shape", ["1,3,32,32", "1,3,32,W", "1,3,H,24", "N,3,20,48"])
def test_a_fixed_size_goes_by_tiles(shape, tmp_path):
    text = f"(float[{shape}] x) => (float[N,3,R,S] y) {{ {TWICE} }}"
    opened = open_weights(other_file(tmp_path / "f.onnx", HEADER + text))
    assert opened.scale == 2
    for height, width in SIZES:
        x = torch.rand(2, 3, height, width)
        assert torch.equal(opened.network(x), twice(x))


def test_the_image_among_outputs_is_taken(tmp_path):
    text = f"""(float[N,3,H,W] x) => (float[M] z, float[N,3,R,S] y) {{ {TWICE}
        all = Constant <value = int64[1] {{-1}}> ()
        z = Reshape (x, all) }}"""
    opened = open_weights(other_file(tmp_path / "f.onnx", HEADER + text))
    x = torch.rand(1, 3, 5, 4)
    assert torch.equal(opened.network(x), twice(x))


@pytest.mark.parametrize(
    ("label", "known"),
    [("2", True), ("2.0", True), ("3", False), ("0", False), ("NaN", False), ("x2", False)],
)
def test_the_scale_of_the_metadata_is_compared(label, known, tmp_path):
    model = onnx.parser.parse_model(HEADER + ANY_SIZE + f"{{ {TWICE} }}")
    model.metadata_props.add(key="scale", value=label)
    onnx.save(model, tmp_path / "f.onnx")
    if known:
        assert open_weights(tmp_path / "f.onnx").scale == 2
    else:
        with pytest.raises(UserError, match=f"f.onnx: scale.* 2 .*{label}"):
            open_weights(tmp_path / "f.onnx")


def test_a_result_that_is_not_finite_is_an_error(tmp_path):
    """Of a bright image alone, which no small probe shows."""
    text = ANY_SIZE + f"{{ one = Constant <value = float {{1.0}}> () {TWICE[:-1]}".replace(
        "y = Resize", "larger = Resize"
    )
    text += """)
        rest = Sub (one, larger)
        y = Log (rest) }"""
    opened = open_weights(other_file(tmp_path / "f.onnx", HEADER + text))
    assert torch.isfinite(opened.network(torch.zeros(1, 3, 4, 4))).all()
    with pytest.raises(UserError, match=r"f.onnx.*infinity"):
        opened.network(torch.ones(1, 3, 4, 4))


def with_external_data(folder, location: str):
    """A network that doubles values, the factor in a file beside it."""
    folder.mkdir()
    model = onnx.parser.parse_model(
        HEADER + "(float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Mul (x, two) }"
    )
    factor = onnx.numpy_helper.from_array(np.full((1, 1, 1, 1), 2, np.float32), "two")
    onnx.external_data_helper.set_external_data(factor, location, 0, 4)
    (folder / "net.onnx.data").write_bytes(factor.raw_data)
    factor.ClearField("raw_data")
    model.graph.initializer.append(factor)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_file(tmp_path, monkeypatch):
    path = with_external_data(tmp_path / "a", "net.onnx.data")
    monkeypatch.chdir(tmp_path)
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(open_weights(path).network(x), 2 * x)
    assert torch.equal(open_weights("a/net.onnx").network(x), 2 * x)
    (tmp_path / "a" / "net.onnx.data").unlink()
    with pytest.raises(UserError, match=r"net.onnx.*beside"):
        open_weights(path)


@pytest.mark.parametrize("kind", ["above", "absolute", "link", "link to a folder"])
def test_external_data_elsewhere_is_refused(kind, tmp_path, monkeypatch):
    (tmp_path / "net.onnx.data").write_bytes(np.float32(2).tobytes())
    location = {
        "above": "../net.onnx.data",
        "absolute": str(tmp_path / "net.onnx.data"),
        "link": "net.onnx.data",
        "link to a folder": "linked/net.onnx.data",
    }[kind]
    path = with_external_data(tmp_path / "a", location)
    if kind == "link":
        (tmp_path / "a" / "net.onnx.data").unlink()
        (tmp_path / "a" / "net.onnx.data").symlink_to(tmp_path / "net.onnx.data")
    if kind == "link to a folder":
        (tmp_path / "a" / "linked").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(UserError, match=r"net.onnx: expected its tensors"):
        open_weights(path)
