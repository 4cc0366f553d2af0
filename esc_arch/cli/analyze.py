"""``basicsr analyze``: what the layers of networks have in common, and what they put out."""

import argparse
from typing import TYPE_CHECKING

from esc_arch.cli.commands import add_commands, add_device, device_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from esc_arch.analysis.subjects import Subject

_LAYERS = (
    "module paths, or patterns of them such as 'blocks.*.attn', of which * stands for a part of a "
    "name"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands, each with its arguments."""
    add_commands(parser, COMMANDS)


def add_shared(parser: argparse.ArgumentParser, analysis: str, images: str) -> None:
    """The arguments that all analyses have.

    Args:
        analysis: its name.
        images: what its images are.
    """
    # The images come first: behind -w they would be taken for weights.
    parser.usage = "%(prog)s IMAGE [IMAGE ...] -w WEIGHTS [WEIGHTS ...] [options]"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=images)
    parser.add_argument(
        "-w",
        "--weights",
        nargs="+",
        action="extend",
        required=True,
        metavar="WEIGHTS",
        help="networks: file (.pth, .safetensors, ...), URL, name of a shipped model, or "
        "PRESET:SCALE for initial weights, such as swinir_light:4",
    )
    parser.add_argument(
        "--limit", type=_count, metavar="N", help="only the first N images (default: all)"
    )
    add_device(parser)
    parser.add_argument(
        "--name",
        help=f"writes experiments/analysis/NAME (default: {analysis})",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="writes DIR instead")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the results of an earlier analysis"
    )


def add_crop(parser: argparse.ArgumentParser, default: int) -> None:
    """``--crop``."""
    parser.add_argument(
        "--crop",
        type=_count,
        default=default,
        metavar="PIXELS",
        help="of larger images only the central square of this side, which bounds time and "
        f"memory (default: {default})",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1; found {text!r}")
    return int(text)


def opened(args: argparse.Namespace, analysis: str) -> "tuple[list[Subject], list[Path], Path]":
    """The networks, the images, and the folder to write to, which is not made yet.

    Raises:
        UserError: when something is not there, or matplotlib is missing.
    """
    from esc_arch import terminal
    from esc_arch.analysis import folder, subjects

    place = folder.folder_of(args.name, args.output, analysis)
    folder.require_matplotlib()
    images = subjects.find_inputs(args.images, args.limit, terminal.say)
    return subjects.open_subjects(args.weights, device_of(args.device)), images, place


def _add_similarity(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "How much the layers of a network resemble each other: linear CKA and cosine of what they "
        "put out, and cosine of their attention maps, of all pairs of layers. Writes a heat map, "
        "and numbers as JSON."
    )
    parser.epilog = (
        "The samples of CKA are N patches of a map, drawn once for all layers; with --patch 1, the "
        "feature vectors of N pixels. Those of --batch images are a minibatch: HSIC is estimated "
        "without bias and averaged over minibatches before the ratio. The cosine is that of the "
        "feature vectors of a pixel, averaged over the patches' central pixels. Attention maps are "
        "averaged over images, windows and heads before their cosine; layers without a softmax in "
        "windows have none. Images are what the network takes: LR images of a network that "
        "enlarges."
    )
    add_shared(parser, "similarity", "the network's inputs: files, and folders of them")
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help=f"{_LAYERS} (default: the attentions of a known network)",
    )
    add_crop(parser, 256)
    parser.add_argument(
        "--samples", type=_count, default=1024, metavar="N", help="of an image (default: 1024)"
    )
    parser.add_argument(
        "--patch",
        type=_count,
        default=1,
        metavar="PIXELS",
        help="side of a sample; 8 for the windows of SwinIR-light (default: 1)",
    )
    parser.add_argument(
        "--batch",
        type=_count,
        default=1,
        metavar="N",
        help="images of a minibatch; with --crop and --patch of one size, a sample is an image "
        "(default: 1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.set_defaults(run=_similarity)


def _similarity(args: argparse.Namespace) -> None:
    from esc_arch.analysis import drawing, folder, layers, similarity
    from esc_arch.compare import figures
    from esc_arch.progress import progress

    subjects, images, place = opened(args, "similarity")
    own = _layers(subjects, args.layers, layers.ATTENTIONS)
    sampling = similarity.Sampling(args.samples, args.patch, args.batch, args.seed)
    folder.claim(place, ["similarity.json", "similarity.png"], args.overwrite)
    with progress("comparing layers", len(images) * len(subjects)) as advance:
        found = similarity.compare_layers(subjects, own, images, args.crop, sampling, advance)
    with figures.fixed_style():
        picture = figures.png(drawing.draw_similarities(found))
    result = {
        "images": [str(path) for path in images],
        "crop": args.crop,
        "sampling": sampling.described(),
        "networks": [{**s.described(), **found[s.label].described()} for s in subjects],
    }
    files = folder.write(place, "similarity", result, {"similarity.png": picture})
    for label, one in found.items():
        print(f"{label}: {one.line()}")
    _name_files(files)


def _add_features(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show the output of each block of a network, or of named layers: a sheet of pictures for "
        "each network and image, and statistics as JSON."
    )
    parser.epilog = (
        "Of each layer there are two pictures: the mean over channels of the absolute values, and "
        "the first three principal components of the pixels' feature vectors as red, green and "
        "blue; above stands the share of the variance that they hold. Each is spread over its "
        "range, but for its last percent at either end. Images are what the network takes: LR "
        "images of a network that enlarges."
    )
    add_shared(parser, "features", "the network's inputs: files, and folders of them")
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help=f"{_LAYERS} (default: the blocks of a known network)",
    )
    add_crop(parser, 128)
    parser.set_defaults(run=_features)


def _features(args: argparse.Namespace) -> None:
    from esc_arch.analysis import drawing, features, folder, layers, subjects
    from esc_arch.compare import figures
    from esc_arch.progress import progress

    networks, images, place = opened(args, "features")
    own = _layers(networks, args.layers, layers.BLOCKS)
    names = subjects.image_names(images)
    jobs = [
        (folder.file_name("features", network.label, name) + ".png", network, paths, image)
        for image, name in zip(images, names, strict=True)
        for network, paths in zip(networks, own, strict=True)
    ]
    folder.claim(place, ["features.json", *(job[0] for job in jobs)], args.overwrite)
    pictures, seen, lines = {}, [], []
    with progress("looking at layers", len(images) * sum(map(len, own)), "layers") as advance:
        for name, network, paths, image in jobs:
            found = features.see(network, paths, image, args.crop, advance)
            with figures.fixed_style():
                pictures[name] = figures.png(drawing.draw_features(network.label, found))
            seen.append(
                {
                    **network.described(),
                    "image": str(image),
                    "picture": name,
                    "layers": found.described(),
                }
            )
            lines.append(f"{network.label}, {image}: {found.line()}")
    files = folder.write(place, "features", {"crop": args.crop, "features": seen}, pictures)
    for line in lines:
        print(line)
    _name_files(files)


def _layers(
    subjects: "list[Subject]",
    patterns: list[str] | None,
    known: "Mapping[type[nn.Module], Sequence[str]]",
) -> list[list[str]]:
    from esc_arch.analysis.layers import default_layers, resolve

    if patterns is not None:
        return resolve(subjects, patterns)
    return [default_layers(subject, known) for subject in subjects]


def _name_files(files: "list[Path]") -> None:
    for path in files:
        print(path)


COMMANDS = {
    "similarity": (
        "Compare the layers of networks with each other: CKA, cosine, attention maps.",
        _add_similarity,
    ),
    "features": ("Show the output of each block of a network as pictures.", _add_features),
}
