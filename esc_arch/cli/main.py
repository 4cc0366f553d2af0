"""The ``basicsr`` command: each sub-command, or group of them, is a file of this folder."""

import argparse
import codecs
import errno
import locale
import os
import sys

from esc_arch.cli.commands import INTERRUPTED, add_modules
from esc_arch.errors import UserError, bounded
from esc_arch.files import remedy
from esc_arch.terminal import guarded, lost
from esc_arch.version import __version__

COMMANDS = {
    "train": "Train a network by an option file.",
    "test": "Test a network by an option file.",
    "runs": "List trainings: how far, how good, how fast, and what --auto_resume would use.",
    "upscale": "Enlarge image files: a photo, a folder of them.",
    "compare": "Compare networks: cost, quality, training, in one harness and one report.",
    "analyze": "Look into networks: similarity of layers, features, receptive fields, attribution.",
    "data": "Prepare, pack, check, measure and download training and test images.",
    "weights": "Convert checkpoints, and say what they are.",
    "export": "Write a trained network as an ONNX or .pt2 file, checked against PyTorch.",
    "options": "Print a new option file, the JSON schema of option files, or a reference of keys.",
    "nets": "List the registered networks, with presets and parameter counts.",
}


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Of files, memory or processes.
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
# What the dynamic linker says of a library that memory does not suffice for.
_UNLOADED = ("failed to map segment", "Cannot allocate memory")


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command.

    Whether anyone takes its output does not matter to its work.

    Args:
        argv: arguments after the program's name; ``sys.argv[1:]`` when None.

    Returns:
        The exit code: 0; 2 for a mistake that the user can correct; 130 after Ctrl-C; what the
        sub-command returns otherwise, 1 where some of the work failed, or where the output is
        its work and could not be written.
    """
    if argv is None:
        _take_utf8()
    with guarded():
        return _main(argv)


def _main(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="basicsr", description="Train, test and inspect super-resolution networks in BasicSR."
    )
    parser.add_argument("--version", action="version", version=f"esc-arch {__version__}")
    add_modules(parser, "esc_arch.cli", COMMANDS)
    try:
        args = parser.parse_args(argv)
        code = args.run(args) or 0
        if getattr(args, "prints_its_work", False) and (reason := lost()):
            print(
                f"basicsr: expected to write to the standard output; found: {reason}. Give it "
                "room, or another place.",
                file=sys.stderr,
            )
            return 1
        return code
    except UserError as error:
        print(f"basicsr: {bounded(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("basicsr: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        return _short_of(os.strerror(errno.ENOMEM))
    except ImportError as error:
        if any(text in str(error) for text in _UNLOADED):
            return _short_of(str(error))
        # A repository of another network, from which the command is started, brings its own.
        if not (error.name or "").startswith("basicsr."):
            raise
        print(
            f"basicsr: expected BasicSR 1.4.2; found {_origin('basicsr')}, a cut-down one: "
            f"{error}. Start in another folder, or without it in PYTHONPATH.",
            file=sys.stderr,
        )
        return 2
    except UnicodeEncodeError as error:
        print(
            f"basicsr: expected text that the encoding of this system, {error.encoding}, has; "
            f"found {error.object!a}. Set PYTHONUTF8=1 or LC_ALL=C.UTF-8 in the environment.",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        # A folder that vanished, a disk that is full.
        if error.errno in _NO_MORE:
            return _short_of(error.strerror or str(error))
        if error.filename is None and error.errno not in _NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(
            f"basicsr: {where}expected to read or write it; found: {error.strerror or error}. "
            f"{remedy(error)} Run it again then.",
            file=sys.stderr,
        )
        return 2


def _short_of(found: str) -> int:
    print(
        f"basicsr: expected more of this machine; found: {found}. Raise the limits of this shell "
        "(`ulimit -n` for files, `-u` for processes, `-v` for memory), free memory, or use fewer "
        "workers.",
        file=sys.stderr,
    )
    return 2


def _origin(package: str) -> str:
    return str(getattr(sys.modules.get(package), "__file__", package))


def _take_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale knows ASCII alone.

    BasicSR and others open files in the locale's encoding, for names and texts in any.
    """
    ascii_alone = codecs.lookup(locale.getpreferredencoding(False)).name == "ascii"
    if ascii_alone and not sys.flags.utf8_mode and os.name != "nt":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
