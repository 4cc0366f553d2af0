"""``basicsr export``: a trained network as an ONNX or ``.pt2`` file."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from esc_arch.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The weights, the file to write, and how."""
    parser.add_argument(
        "weights",
        metavar="WEIGHTS",
        help="checkpoint, its address, or the name of a shipped model",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help=".onnx or .pt2"
    )
    parser.add_argument(
        "--dtype",
        choices=("fp32", "fp16"),
        default="fp32",
        help="of weights and arithmetic (default: fp32); images stay float32 (fp16: .onnx only)",
    )
    # The former name, in scripts.
    parser.add_argument("--half", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--opset", metavar="N", type=int, help="version of ONNX, 18 to 21 (default: 20)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> None:
    """Check, export, compare and write; report how far the results differ."""
    if args.half:
        print("note: --half is now --dtype fp16.", file=sys.stderr)
        args.dtype = "fp16"
    kind = args.output.suffix.lower()
    if kind not in (".onnx", ".pt2"):
        raise UserError(
            f"-o {args.output}: expected a name that ends with .onnx or .pt2; found "
            f"{kind or 'none'}. Name it so."
        )
    if kind == ".pt2" and (args.dtype != "fp32" or args.opset is not None):
        raise UserError(
            f"-o {args.output}: expected neither --dtype fp16 nor --opset, which are for .onnx; "
            f"found {'--opset' if args.dtype == 'fp32' else '--dtype fp16'}. Leave it out."
        )
    if args.output.exists() and not args.overwrite:
        raise UserError(
            f"{args.output}: expected no such file; found one. Name another, or add --overwrite."
        )
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]
    if kind == ".onnx" and missing:
        raise UserError(
            f"expected the packages that write and check ONNX; found no {', '.join(missing)}. "
            f"Install them: pip install {' '.join(missing)}"
        )

    from esc_arch.checkpoints.loading import open_weights

    opened = open_weights(args.weights)
    choice = f", of its {opened.choice}" if opened.choice else ""
    print(f"{opened.path}: {opened.name}{choice}")
    if kind == ".onnx":
        from esc_arch.export.onnx_file import DEFAULT_OPSET, OPSETS, write_onnx

        opset = DEFAULT_OPSET if args.opset is None else args.opset
        if opset not in OPSETS:
            raise UserError(
                f"--opset: expected {OPSETS[0]} to {OPSETS[-1]}; found {opset}. Leave it out."
            )
        agreements = write_onnx(opened, args.output, dtype=args.dtype, opset=opset)
    else:
        from esc_arch.export.program_file import write_program

        agreements = write_program(opened, args.output)
    for agreement in agreements:
        print(f"{agreement}")
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
