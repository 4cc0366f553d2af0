"""What is no checkpoint is named by what it is, whatever its name ends with, and quickly."""

import gzip
import io
import json
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from esc_arch import UserError
from esc_arch.archs import ESC
from esc_arch.checkpoints import convert, open_weights, read_state_dict
from esc_arch.checkpoints.loading import inspect
from esc_arch.export.program_file import write_program
from tests.tiny import SIZES

STATE = ESC(**SIZES, upscaling_factor=2).state_dict()


def written(write, *args, **kwargs):
    file = io.BytesIO()
    write(file, *args, **kwargs)
    return file.getvalue()


def saved(content, **kwargs):
    return written(lambda file: torch.save(content, file, **kwargs))


def zipped(compression=zipfile.ZIP_STORED, **parts):
    def write(file):
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in parts.items():
                archive.writestr(f"net/{name.replace('__', '/')}", content)

    return written(write)


def tarred(name):
    def write(file):
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))

    return written(write)


def image(kind):
    return written(lambda file: Image.new("RGB", (8, 8)).save(file, kind))


class _Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


OTHERS = {
    "a web page": b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>",
    "web page": b"<!-- x --><HTML>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    "JSON": b'{"message": "Bad credentials"}',
    "XML": b'\xef\xbb\xbf<?xml version="1.0"?><Error/>',
    "text": "Zugriff verweigert: müde\n".encode(),
    "PNG": image("PNG"),
    "JPEG": image("JPEG"),
    "gzip": gzip.compress(saved(STATE)),
    "zip archive of 1 files": zipped(readme="x"),
    "tar archive": tarred("net.pth"),
    "before 0.1.10": tarred("storages"),
    "an empty file": b"",
    "zero bytes": bytes(5000),
    "cut off": saved(STATE)[:-3000],
    "which does not load": os.urandom(64).replace(b"\0", b"\1") + b"\xff\0",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(50),
    "NumPy": written(np.save, np.ones(3)),
    "npz": written(np.savez, a=np.ones(3)),
    "Python objects": pickle.dumps({"a": _Code()}),
    "Python objects, which": pickle.dumps({"a": 1}, protocol=0).replace(b"(dp0", b"cos\nmkdir\n"),
    "TorchScript": zipped(constants__pkl=b"", **{"constants.pkl": b"", "data.pkl": b""}),
    r"torch.export \(.pt2\)": zipped(archive_format=b"pt2", models__model__json=b"{}"),
    "compressed parts": zipped(zipfile.ZIP_DEFLATED, **{"data.pkl": bytes(1 << 20)}),
}


@pytest.mark.parametrize("name", ["net.pth", "net.SafeTensors", "net.ONNX"])
@pytest.mark.parametrize("found", OTHERS)
def test_what_it_is(tmp_path, found, name):
    path = tmp_path / name
    path.write_bytes(OTHERS[found])
    with pytest.raises(UserError, match=f"{name}: expected .*; found .*{found}") as error:
        open_weights(path)
    assert "weights_only" not in str(error.value) and "miniz" not in str(error.value)
    with pytest.raises(UserError, match=f"{name}: expected .*; found .*{found}"):
        convert(path, tmp_path / "out.safetensors")
    assert sorted(os.listdir(tmp_path)) == [name]


@pytest.mark.parametrize("name", ["net.SAFETENSORS", "net.onnx", "net"])
@pytest.mark.parametrize(
    "content",
    [saved(STATE), saved(STATE, _use_new_zipfile_serialization=False), save(STATE)],
    ids=["zip", "old", "safetensors"],
)
def test_checkpoints_under_any_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    found = inspect(path).state
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)
    assert open_weights(path).scale == 2


@pytest.mark.parametrize("name", ["net.ONNX", "net.pth"])
def test_onnx_under_any_name(tmp_path, name):
    """Made here, without the exporter: pixels twice as large."""
    images = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", 3, "h", "w"])
        for name in ("x", "y")
    ]
    scales = onnx.numpy_helper.from_array(np.float32([1, 1, 2, 2]), "scales")
    node = onnx.helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    graph = onnx.helper.make_graph([node], "graph", images[:1], images[1:], [scales])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / name)
    opened = open_weights(tmp_path / name)
    x = torch.rand(1, 3, 4, 5)
    assert opened.scale == 2 and opened.network(x).shape == (1, 3, 8, 10)
    with pytest.raises(UserError, match=f"{name}: .*found an ONNX file"):
        convert(tmp_path / name, tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.onnx"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_no_regular_file(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(UserError, match=f"{name}: expected .*; found a {kind}"):
        open_weights(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**36),
        torch.zeros(1).expand(2**31, 2**31),
        torch.zeros(3, 1).expand(3, 2**40),
        torch.zeros(1).expand(8, 8, 3, 3),
    ],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_more_elements_than_the_file_holds(tmp_path, tensor, is_zip):
    path = tmp_path / "net.pth"
    torch.save({"params": {"a": tensor}}, path, _use_new_zipfile_serialization=is_zip)
    for read in (read_state_dict, open_weights):
        with pytest.raises(UserError, match=rf"net\.pth: .*a of {tensor.numel()} numbers"):
            read(path)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.ones(2, 2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(2, 2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, 2).to_sparse(), "sparse"),
        (torch.ones(2, 2).to_sparse_csr(), "sparse"),
        (torch.ones(2, 2, device="meta"), "meta"),
        (torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8), "qint8"),
        (torch.ones(2, 2, dtype=torch.uint16), "uint16"),
        (torch.ones(8, dtype=torch.int8), "int8"),
        (torch.ones(8, dtype=torch.bool), "bool"),
        (torch.ones(8, dtype=torch.int64), "int64"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_types_that_no_parameter_has(tmp_path, tensor, kind):
    path = tmp_path / "net.pth"
    torch.save({"params": STATE | {"last.bias": tensor}}, path)
    with pytest.raises(UserError, match=rf"net\.pth: expected .*float32.*last\.bias.*{kind}"):
        open_weights(path)


@pytest.mark.parametrize(("name", "size"), [("F8_E4M3", 4), ("F8_E8M0", 4), ("F4", 2), ("C64", 32)])
def test_types_in_safetensors(tmp_path, name, size):
    header = json.dumps({"a": {"dtype": name, "shape": [4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    with pytest.raises(UserError, match=r"net\.safetensors: expected .*float32.*found a of type"):
        open_weights(path)


def test_whole_numbers_that_a_network_has(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    assert read_state_dict(tmp_path / "net.pth")["1.num_batches_tracked"].dtype == torch.int64


def test_parts_that_claim_to_be_larger_than_their_archive(tmp_path):
    path = tmp_path / "net.pth"
    content = bytearray(saved(STATE))
    at = content.index(b"PK\x01\x02")
    # The sizes in the directory's first entry.
    content[at + 20 : at + 28] = struct.pack("<II", 1 << 31, 1 << 31)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"net\.pth: .*does not load"):
        open_weights(path)


def _is_pickle(content):
    """Whether bytes are a pickle of today's protocols from beginning to end."""
    try:
        return content[:1] == pickle.PROTO and bool([*pickletools.genops(content)])
    except Exception:
        return False


@pytest.mark.parametrize("change", [-4, 4, None])
def test_parts_of_another_size_than_the_tensors(tmp_path, change):
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(io.BytesIO(saved(STATE))) as source, zipfile.ZipFile(path, "w") as archive:
        for part in source.infolist():
            content = source.read(part)
            if part.filename.endswith("data/0"):
                if change is None:
                    continue
                content = content[:change] if change < 0 else content + bytes(change)
            archive.writestr(part.filename, content)
    with pytest.raises(UserError) as caught:
        inspect(path)
    assert str(path) in str(caught.value)
    assert not any(word in str(caught.value) for word in ("miniz", "enforce", "Pytorch"))


def test_a_file_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    path, newer = tmp_path / "net.pth", tmp_path / "newer"
    path.write_bytes(saved(STATE)[:-100])
    newer.write_bytes(saved(STATE))
    read = zipfile.ZipFile.__init__

    def replaced(self, *args, **kwargs):
        if newer.exists():
            monkeypatch.setattr(zipfile.ZipFile, "__init__", read)
            newer.rename(path)
            raise zipfile.BadZipFile
        read(self, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "__init__", replaced)
    assert inspect(path).state.keys() == STATE.keys()


def test_a_file_that_is_overwritten_after_it_was_read(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(saved(STATE))
    found = inspect(path)
    path.write_bytes(b"")
    assert all(torch.equal(found.state[key], STATE[key]) for key in STATE)


@pytest.mark.slow
def test_no_pickle_in_our_programs(tmp_path):
    """PyTorch's loader of .pt2 files unpickles what it finds in them."""
    torch.save(STATE, tmp_path / "net.pth")
    write_program(open_weights(tmp_path / "net.pth"), tmp_path / "net.pt2")
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        for part in archive.namelist():
            content = archive.read(part)
            # torch.save's archives hold pickles.
            assert not content.startswith(b"PK") and not _is_pickle(content), part
    x = torch.rand(1, 3, 9, 7)
    program = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(program(x), open_weights(tmp_path / "net.pth").network(x))


@pytest.mark.parametrize("name", ["out.pth", "out.safetensors"])
def test_a_full_disk(tmp_path, name):
    """A process whose files may not grow: the system says the same as of a disk without room."""
    resource = pytest.importorskip("resource")
    save_file(STATE, tmp_path / "net.safetensors")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(UserError, match=rf"{name}: expected to write it; found .*too large"):
            convert(tmp_path / "net.safetensors", tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["net.safetensors"]
