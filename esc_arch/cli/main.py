"""The ``basicsr`` command: each sub-command, or group of them, is a file of this folder."""

import argparse
import errno
import io
import os
import sys

from esc_arch.cli.commands import INTERRUPTED, add_modules
from esc_arch.errors import UserError
from esc_arch.version import __version__

COMMANDS = {
    "train": "Train a network by an option file.",
    "test": "Test a network by an option file.",
    "runs": "List trainings: how far, how good, how fast, and what --auto_resume would use.",
    "upscale": "Enlarge image files: a photo, a folder of them.",
    "compare": "Compare networks: cost, quality, training, in one harness and one report.",
    "data": "Prepare, pack, check, measure and download training and test images.",
    "weights": "Convert checkpoints, and say what they are.",
    "export": "Write a trained network as an ONNX or .pt2 file, checked against PyTorch.",
    "options": "Print a new option file, the JSON schema of option files, or a reference of keys.",
    "nets": "List the registered networks, with presets and parameter counts.",
}


_BROKEN_PIPE = 128 + 13  # what shells give for SIGPIPE
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        argv: arguments after the program's name; ``sys.argv[1:]`` when None.

    Returns:
        The exit code: 0; 2 for a mistake that the user can correct; 130 after Ctrl-C; 141 when
        the reader of the output has closed it; what the sub-command returns otherwise, 1 where
        some of the work failed.
    """
    parser = argparse.ArgumentParser(
        prog="basicsr", description="Train, test and inspect super-resolution networks in BasicSR."
    )
    parser.add_argument("--version", action="version", version=f"esc-arch {__version__}")
    add_modules(parser, "esc_arch.cli", COMMANDS)
    try:
        _write_any_name()
        args = parser.parse_args(argv)
        code = args.run(args) or 0
        # The reader may have closed the output before the rest is written.
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"basicsr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("basicsr: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    except ImportError as error:
        # A repository of another network, from which the command is started, brings its own.
        if not (error.name or "").startswith("basicsr."):
            raise
        print(
            f"basicsr: expected BasicSR 1.4.2; found {_origin('basicsr')}, a cut-down one: "
            f"{error}. Start in another folder, or without it in PYTHONPATH.",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        # `| head` has read enough.  At its end Python would try to write the rest again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        # A folder that vanished, a disk that is full.
        if error.filename is None and error.errno not in _NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(
            f"basicsr: {where}expected to read or write it; found: {error.strerror or error}. "
            "Correct that, by freeing disk space if there is none left, and run again.",
            file=sys.stderr,
        )
        return 2


def _origin(package: str) -> str:
    return str(getattr(sys.modules.get(package), "__file__", package))


def _write_any_name() -> None:
    """File names need not be text, nor text that the terminal's encoding has."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
