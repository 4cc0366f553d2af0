"""What each command makes of each bad input; ``python -m tests.faults.table`` prints it.

Exit code 2: refused before anything is written.  1: one bad file among many is named, and the
others are done.  0: the right result.
"""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from tests.faults.bad_images import ODD, encoded, flipped
from tests.faults.workplace import TEST, TRAIN, network, write_options


class OnImages(NamedTuple):
    """A command on a folder that holds every odd image and a good one.

    Attributes:
        command: as it is called in the table.
        arguments: of ``basicsr``; the images are in ``odd``.
        code: its exit code.
        too_small: good images that it refuses for their size.
        apart: those of which a case of its own tells.
    """

    command: str
    arguments: tuple[str, ...]
    code: int
    too_small: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


class Case(NamedTuple):
    """One command on one bad input, in the folder that ``workplace.furnish`` makes.

    Attributes:
        command: what is called, for the table and as the arguments of ``basicsr``.
        given: the bad input, in words.
        prepare: makes it.
        code: exit code.
        says: what the message has to hold, as a regular expression.
        made: files that are there afterwards and were not before; None for any.
        breaks: a function (``os.fsync``) that fails as on a full disk.
    """

    command: str
    given: str
    prepare: Callable[[], object]
    code: int
    says: str
    made: tuple[str, ...] | None = ()
    breaks: str = ""


IMAGES = (
    OnImages("data prepare", ("data", "prepare", "odd", "--dest", "made", "--scales", "2"), 1,
             ("one_pixel.png",)),
    OnImages("data verify", ("data", "verify", "odd"), 1),
    OnImages("data stats", ("data", "stats", "odd"), 1),
    OnImages("data lmdb", ("data", "lmdb", "odd", "-o", "made.lmdb"), 2),
    OnImages("upscale", ("upscale", "odd", "-o", "made", "-w", "net.pth"), 1),
    OnImages("test", ("test", "-opt", "odd.yml"), 2, ("one_pixel.png",),
             apart=("gone.png",)),
    OnImages("compare quality", ("compare", "quality", "--weights", "net.pth", "--data", "sets",
             "--sets", "odd"), 2, ("one_pixel.png",), apart=("gone.png",)),
)  # fmt: skip

_RUNS = "Path('ran').touch()"


class _Runs:
    """Would make a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return exec, (f"from pathlib import Path; {_RUNS}",)


def _write(name: str, content: bytes | str) -> Callable[[], None]:
    content = content.encode() if isinstance(content, str) else content
    return lambda: Path(name).write_bytes(content) and None


def _cut(name: str, part: float = 0.6) -> None:
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: int(part * len(content))])


def _flip(name: str, part: float) -> None:
    Path(name).write_bytes(flipped(Path(name).read_bytes(), part))


def _flip_number(name: str) -> None:
    """In the middle of the largest tensor of a file of torch.save."""
    state = torch.load(name)["params"]
    largest = max(state.values(), key=torch.numel)
    content = Path(name).read_bytes()
    place = content.index(largest.numpy().tobytes()) + largest.numel() * 2
    Path(name).write_bytes(flipped(content, place / len(content)))


def _flip_key(name: str, key: bytes) -> None:
    content = Path(name).read_bytes()
    Path(name).write_bytes(flipped(content, (content.index(key) + 0.5) / len(content)))


def _spoil(value: float, name: str = "net.pth") -> None:
    state = network().state_dict()
    list(state.values())[2].view(-1)[0] = value
    save_file(state, name) if name.endswith("safetensors") else torch.save({"params": state}, name)


def _option(file: str, base: dict, **changes: object) -> Callable[[], None]:
    return lambda: write_options(Path(file), base, **changes)


def _folder(name: str) -> None:
    if os.path.exists(name):
        os.unlink(name)
    os.mkdir(name)


def _lmdb_option() -> None:
    write_options(
        Path("train.yml"), TRAIN,
        datasets__train__io_backend={"type": "lmdb"},
        datasets__train__dataroot_gt="hr.lmdb", datasets__train__dataroot_lq="lr.lmdb",
    )  # fmt: skip
    import shutil

    shutil.copytree("hr.lmdb", "lr.lmdb")


def _flipped_tree() -> None:
    """The kind of the leaf pages of the LMDB's tree."""
    data = bytearray(Path("hr.lmdb/data.mdb").read_bytes())
    for page in range(2, len(data) // 4096):
        start = page * 4096
        if data[start : start + 12] == page.to_bytes(10, "little") + b"\2\0":
            data[start + 10] = 0
    Path("hr.lmdb/data.mdb").write_bytes(bytes(data))


def _several(*steps: Callable[[], object]) -> Callable[[], None]:
    def do() -> None:
        for step in steps:
            step()

    return do


_bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n"
                                   for i in range(1, 12))  # fmt: skip
_merge_bomb = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)


def _weights(kind: str, prepare: Callable[[str], object], says: str) -> list[Case]:
    """A bad checkpoint in all that reads one."""
    return [
        Case("weights show net.pth", kind, lambda: prepare("net.pth"), 2, says),
        Case("weights convert net.pth made.safetensors", kind, lambda: prepare("net.pth"), 2, says),
        Case("upscale data/LR -o made -w net.pth", kind, lambda: prepare("net.pth"), 2, says),
        Case("export net.pth -o made.onnx", kind, lambda: prepare("net.pth"), 2, says),
        Case("compare quality --weights net.pth --data sets", kind, lambda: prepare("net.pth"), 2,
             says),
        Case("test -opt test.yml", kind, _several(
            lambda: prepare("net.pth"),
            _option("test.yml", TEST, path__pretrain_network_g="net.pth")), 2, says),
        Case("train -opt train.yml", kind, _several(
            lambda: prepare("net.pth"),
            _option("train.yml", TRAIN, path__pretrain_network_g="net.pth")), 2, says),
    ]  # fmt: skip


def _state(kind: str, prepare: Callable[[], object], says: str) -> Case:
    return Case("train -opt train.yml", f"training state: {kind}", _several(
        prepare, _option("train.yml", TRAIN, path__resume_state="1.state")), 2, says)  # fmt: skip


def _yaml(kind: str, content: bytes | str, says: str) -> list[Case]:
    return [
        Case(f"{command} -opt bad.yml", kind, _write("bad.yml", content), 2, says)
        for command in ("train", "test")
    ]


def _code(name: str) -> None:
    torch.save({"params": _Runs()}, name)


def _raw_code(name: str) -> None:
    Path(name).write_bytes(pickle.dumps(_Runs()))


def _endless(name: str) -> None:
    torch.save({"params": {"a.weight": torch.zeros(1).expand(2**36)}}, name)


CASES = [
    *_weights("a web page", lambda name: Path(name).write_bytes(b"<!doctype html><p>Log in"),
              r"net\.pth.*web page"),
    *_weights("more elements than the file holds", _endless,
              r"net\.pth.*a\.weight of 68719476736 numbers"),
    Case("weights convert net.safetensors made.pth", "a full disk", lambda: None, 2,
         r"made\.pth.*No space", breaks="os.fsync"),
    *_weights("cut off", _cut, r"net\.pth.*(does not load|which is none|something else)"),
    *_weights("a flipped bit in a number", _flip_number, r"net\.pth.*[Cc]RC|CRC"),
    *_weights("empty", lambda name: Path(name).write_bytes(b""), r"net\.pth"),
    *_weights("a folder in its place", _folder, r"net\.pth.*folder|folder net\.pth"),
    *_weights("not there", os.unlink, r"net\.pth"),
    *_weights("NaN", lambda name: _spoil(float("nan")), "NaN or infinite ones in "),
    *_weights("infinity", lambda name: _spoil(float("-inf")), "NaN or infinite ones in "),
    *_weights("a pickle that runs code", _code, "could run code"),
    *_weights("a bare pickle that runs code", _raw_code, "could run code"),
    *_weights("a list", lambda name: torch.save([1], name), r"net\.pth"),
    Case("weights show net.safetensors", "cut off", lambda: _cut("net.safetensors"), 2, "load"),
    Case("weights show net.safetensors", "a flipped bit in its header",
         lambda: _flip("net.safetensors", 0.001), 2, r"net\.safetensors"),
    Case("upscale data/LR -o made -w net.safetensors", "NaN",
         lambda: _spoil(float("nan"), "net.safetensors"), 2, "NaN or infinite ones in "),
    Case("weights convert net.pth made/x.safetensors", "a file in the place of its folder",
         _write("made", b"x"), 2, r"made/x\.safetensors: expected to write"),
    Case("weights convert net.pth made.safetensors", "a full disk", lambda: None, 2,
         r"made\.safetensors.*No space", breaks="os.fsync"),
    _state("cut off", lambda: _cut("1.state"), r"1\.state"),
    _state("flipped", lambda: _flip_key("1.state", b"epoch"), r"1\.state"),
    _state("empty", lambda: Path("1.state").write_bytes(b""), r"1\.state"),
    _state("runs code", lambda: _code("1.state"), "could run code"),
    _state("a folder", lambda: _folder("1.state"), r"1\.state"),
    *_yaml("a tag that runs code", f"name: !!python/object/apply:exec [\"{_RUNS}\"]\n",
           "could run code"),
    *_yaml("aliases that multiply", _bomb, "at most 100000 values"),
    *_yaml("merge keys that multiply", _merge_bomb, "at most 100000 values"),
    *_yaml("a number of 5,000 digits", f"scale: {'9' * 5000}\n", r"bad\.yml"),
    *_yaml("a number of 5,000 hexadecimal digits", f"scale: 0x{'f' * 5000}\n", "at most 63 bits"),
    *_yaml("nesting of 100,000 levels", "[" * 100_000, "nesting without end"),
    *_yaml("NUL bytes", "name: a\0b\n", "control character 0x00"),
    *_yaml("a whole number of no digit", "scale: !!int ''\n", "fit their tags"),
    *_yaml("a tab", "name: a\npath:\n\tx: 1\n", "tab"),
    *_yaml("a key given twice", "name: a\nname: b\n", "given twice"),
    *_yaml("Latin-1", "name: ü\n".encode("latin-1"), "UTF-8"),
    *_yaml("empty", "", "found it empty"),
    *_yaml("an image", encoded(".png"), "UTF-8"),
    *_yaml("2 MB", "#" * 2_000_000, "1,000,000 bytes"),
    Case("train -opt bad.yml", "a folder", lambda: _folder("bad.yml"), 2, "a folder"),
    Case("train -opt bad.yml", "a pipe", lambda: os.mkfifo("bad.yml"), 2, "a pipe"),
    Case("train -opt none.yml", "not there", lambda: None, 2, "no such file"),
    *[Case(f"train -opt train.yml --force_yml {entry}", "a bad --force_yml", lambda: None, 2, says)
      for entry, says in (
          (f"scale={'9' * 5000}", "63 bits|digit"), ("scale", "no '='"), ("=2", "no key"),
          ("scale:x=2", "a section"), ("none=2", "no none"),
          ("name=[!!python/name:exec\n]", "could run code"), (f"name={'[' * 9999}", "nesting"),
          ("name=a\0b", "plain folder name"), ("scale=!!float[1", "fit|usable"))],
    *[Case("train -opt train.yml", f"{key} {value}",
           _option("train.yml", TRAIN, **{key.replace(".", "__"): value}), 2, rf"{key}: expected")
      for key, value in (
          ("datasets.train.dataset_enlarge_ratio", 10**12),
          ("datasets.train.num_worker_per_gpu", 100_000),
          ("datasets.train.num_prefetch_queue", 10**9),
          ("datasets.train.dataroot_gt", ["data/HR", "data/LR"]),
          ("datasets.train.color", "y"), ("train.total_iter", 10**18),
          ("train.optim_g.lr", float("inf")), ("name", "\ud800"))],
    Case("train -opt train.yml", "SRGANModel without what it reads",
         _option("train.yml", TRAIN, model_type="SRGANModel"), 2,
         "(?s)network_d: .*train.optim_d: .*train.gan_opt: "),
    Case("train -opt train.yml", "a discriminator of another size",
         _option("train.yml", TRAIN, model_type="SRGANModel", train__optim_d={"type": "Adam",
                 "lr": 1e-4}, train__gan_opt={"type": "GANLoss", "gan_type": "hinge"},
                 network_d={"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 8}), 2,
         "network_d: expected .* 16x16"),
    *[Case(f"{command} -opt {command}.yml", f"a metric that leaves nothing, crop_border {border}",
           _option(f"{command}.yml", base, val__metrics__psnr__crop_border=border), 2,
           r"val\.metrics\.psnr: expected images with sides")
      for command, base, border in (("train", TRAIN, 16), ("test", TEST, 10**9))],
    *[Case(f"{command} -opt {command}.yml", "a metric that reads images of another order",
           _option(f"{command}.yml", base, val__metrics__psnr__input_order="CHW"), 2,
           "psnr.input_order: expected 'HWC'")
      for command, base in (("train", TRAIN), ("test", TEST))],
    *[Case(f"{command} -opt x.toml", "a TOML file", _write("x.toml", "name = 'x'\n"), 2,
           "YAML .*TOML") for command in ("train", "test")],
    *_yaml("UTF-16", "name: x\n".encode("utf-16"), "UTF-16"),
    Case("train -opt train.yml", "images one folder down",
         _option("train.yml", TRAIN, datasets__train__dataroot_gt="data"), 2,
         "4 one folder down"),
    Case("train -opt train.yml", "a network that nothing registers",
         _option("train.yml", TRAIN, network_g__type="MyNet"), 2,
         "from esc_arch.cli.main import main"),
    Case("train -opt train.yml", "a network of 10^6 layers",
         _option("train.yml", TRAIN, network_g__n_blocks=10**6), 2, "more than 10000 layers"),
    Case("train -opt train.yml", "a network of 10^18 numbers",
         _option("train.yml", TRAIN, network_g__dim=10**9), 2, "network_g"),
    Case("train -opt train.yml", "an LR image of another size",
         _write("data/LR/ax2.png", encoded(".png")), 2, "32x32, LR 32x32 instead of 16x16"),
    Case("train -opt train.yml", "HR sides that are no multiple of the scale",
         _write("data/HR/a.png", encoded(".png", side=33)), 2,
         "a.png HR 33x33 instead of 32x32, for LR 16x16"),
    Case("train -opt train.yml", "an empty image", _write("data/HR/a.png", b""), 2, "empty"),
    Case("data lmdb data/HR -o lr.lmdb", "a name that is not ASCII",
         _write("data/HR/ü.png", encoded(".png")), 0, "3 images",
         tuple(f"lr.lmdb/{name}" for name in ("data.mdb", "lock.mdb", "meta_info.txt",
                                              "plan.json"))),
    Case("train -opt train.yml", "a flipped page in an LMDB",
         _several(_lmdb_option, _flipped_tree), 2, r"hr\.lmdb.*(damaged|bytes)"),
    Case("train -opt train.yml", "experiments is a file", _write("experiments", b"x"), 2,
         "experiments"),
    Case("data verify data/HR --lq data/LR --scale 2", "an LR image of another size",
         _write("data/LR/ax2.png", encoded(".png")), 1, "a HR 32x32, LR 32x32 instead of 16x16"),
    *[Case(f"data {command} hr.lmdb", f"an LMDB, {kind}", prepare, code, says)
      for command, code in (("verify", 1), ("stats", 2))
      for kind, prepare, says in (
          ("cut off", lambda: _cut("hr.lmdb/data.mdb"), r"hr\.lmdb"),
          ("with a flipped page", _flipped_tree, "damaged"),
          ("empty", lambda: Path("hr.lmdb/data.mdb").write_bytes(b""), "an empty file"),
          ("text", lambda: Path("hr.lmdb/data.mdb").write_bytes(b"text" * 9000), "another file"),
          ("a folder for data.mdb", lambda: _folder("hr.lmdb/data.mdb"), "hr.lmdb"))],
    *[Case(f"data {command} none", "not there", lambda: None, 2, "none")
      for command in ("prepare --dest made", "verify", "stats", "lmdb")],
    *[Case(f"data {command} file", "a file in the place of a folder", _write("file", b"x"), code,
           "file") for command, code in (("verify", 2), ("stats", 2), ("lmdb", 2))],
    Case("data prepare data/HR --dest made/x", "a file in the place of a folder",
         _write("made", b"x"), 2, "made"),
    Case("data lmdb data/HR -o made/x.lmdb", "a file in the place of a folder",
         _write("made", b"x"), 2, "made"),
    Case("data prepare data/HR --dest made --scales 2", "a full disk", lambda: None, 2,
         "No space", made=None, breaks="os.replace"),
    Case("data lmdb data/HR -o made.lmdb", "a full disk", lambda: None, 2, "No space",
         made=None, breaks="os.fsync"),
    Case("test -opt test.yml", "a full disk for its images",
         _option("test.yml", TEST, val__save_img=True), 2, r"\.png: .*No space", made=None,
         breaks="os.fsync"),
    Case("upscale data/LR -o made -w net.pth", "a full disk", lambda: None, 2, "No space",
         breaks="os.fsync"),
    Case("upscale data/LR -o made/x -w net.pth", "a file in the place of a folder",
         _write("made", b"x"), 2, "made"),
    *[Case(command, f"{kind} among the images", make, code,
           r"q\.png.*(FIFO|device)|(FIFO|device).*q\.png", made)
      for command, code, made in (
          ("upscale data/HR -o made -w net.pth", 1, ("made/a.png", "made/b.png")),
          ("data verify data/HR", 1, ()), ("data stats data/HR", 1, ()),
          ("data lmdb data/HR", 2, ()), ("train -opt train.yml", 2, ()))
      for kind, make in (
          ("a FIFO", lambda: os.mkfifo("data/HR/q.png")),
          ("a link to a device", lambda: os.symlink("/dev/zero", "data/HR/q.png")))],
    Case("upscale q.png -o made.png -w net.pth", "a FIFO", lambda: os.mkfifo("q.png"), 1,
         "q.png: .*FIFO"),
    Case("test -opt q.yml", "a FIFO", lambda: os.mkfifo("q.yml"), 2, "q.yml: .*FIFO"),
    Case("data verify hr.lmdb", "a FIFO for its data", _several(
        lambda: os.unlink("hr.lmdb/data.mdb"), lambda: os.mkfifo("hr.lmdb/data.mdb")), 1,
        "data.mdb: .*FIFO"),
    Case("upscale data/HR -o data/HR -w net.pth --overwrite", "an output that is an input",
         lambda: None, 2, "data/HR/a.png.*none of the inputs"),
    Case("upscale none.png -o made.png -w net.pth", "not there", lambda: None, 2, "no such thing"),
    Case("upscale data/LR/ax2.png -o data -w net.pth", "a folder to write to", lambda: None, 0,
         "1 of 1 image", ("data/ax2.png",)),
    Case("compare quality --weights net.pth --data none", "not there", lambda: None, 2,
         "no folder"),
    *[Case(command, "a link to nothing among the images", _several(
        lambda: os.symlink("nothing", "data/HR/c.png"),
        lambda: os.makedirs("sets/x"), lambda: os.symlink("../../data/HR", "sets/x/HR"),
        _option("test.yml", TEST)), 2, "1 links to nothing .*c.png")
      for command in ("train -opt train.yml", "test -opt test.yml",
                      "compare quality --weights net.pth --data sets --sets x")],
    Case("compare quality --weights net.pth --data sets --sets x", "a full disk", _several(
         lambda: os.makedirs("sets/x"), lambda: os.symlink("../../data/HR", "sets/x/HR")),
         2, "No space", breaks="os.fsync"),
    Case("compare quality --weights net.pth --data data/HR/a.png", "a file in its place",
         lambda: None, 2, "folder"),
]  # fmt: skip


def markdown() -> str:
    """The table: a row for each command and input."""
    lines = ["| command | input | outcome |", "|---|---|---|"]
    for surface in IMAGES:
        for image in ODD:
            if image.name in surface.apart:
                continue
            bad = image.is_bad or image.name in surface.too_small
            outcome = "named, " if bad else "right result; "
            if surface.code == 2:
                outcome = "named in the refusal, 2" if bad else "accepted"
            elif bad:
                outcome += "the others go on, 1"
            else:
                outcome = "right result"
            lines.append(f"| {surface.command} | {image.name} | {outcome} |")
    for case in CASES:
        command = case.command if len(case.command) < 70 else f"{case.command[:60]}..."
        command = re.sub(r"[\0|\s]+", " ", command)
        outcome = {0: "right result", 1: "named, the rest goes on, 1", 2: "refused, 2"}[case.code]
        lines.append(f"| {command} | {case.given} | {outcome} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
