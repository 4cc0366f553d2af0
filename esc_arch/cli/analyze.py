"""``basicsr analyze``: what the layers of networks have in common, what they put out, and on which
pixels their results depend."""

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


def _add_lam(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Local attribution maps (LAM): on which pixels of the LR image a window of the result "
        "depends, and how far they are spread, the diffusion index. Writes a picture for each "
        "image, with the networks side by side, numbers as JSON, and the maps as lam.npz."
    )
    parser.epilog = (
        "X and Y are the column and row of the window's upper left pixel in the HR image, which "
        "has the pixels of the result. Networks of several scales get LR images of their own of "
        "the same part of the HR image; diffusion indices of one scale are comparable."
    )
    add_shared(parser, "lam", "HR images: files, and folders of them; LR images are made of them")
    parser.add_argument(
        "--window",
        nargs=2,
        type=_place,
        metavar=("X", "Y"),
        help="upper left pixel of the window (default: that of the most texture in the image)",
    )
    parser.add_argument(
        "--window-size", type=_count, default=16, metavar="PIXELS", help="its side (default: 16)"
    )
    parser.add_argument(
        "--crop",
        type=_count,
        default=256,
        metavar="PIXELS",
        help="of larger images only the square of this side about the window, which bounds time "
        "and memory (default: 256)",
    )
    parser.set_defaults(run=_lam)


def _place(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0; found {text!r}")
    return int(text)


def _lam(args: argparse.Namespace) -> None:
    import math

    from esc_arch.analysis import folder, lam, lam_figure, subjects
    from esc_arch.compare import figures
    from esc_arch.progress import progress

    networks, images, place = opened(args, "lam")
    multiple = math.lcm(*(network.scale for network in networks))
    sides = (args.window_size, args.crop, multiple)
    parts = [
        lam.placed(str(path), subjects.read_pixels(path), args.window, *sides) for path in images
    ]
    names = subjects.image_names(images)
    pictures = [f"lam_{folder.file_name(name)}.png" for name in names]
    folder.claim(place, ["lam.json", "lam.npz", *pictures], args.overwrite)
    with progress("attributing", len(parts) * len(networks) * lam.FOLD, "steps") as advance:
        found = [[lam.attribute(one, part, advance) for one in networks] for part in parts]
    rows = list(zip(names, images, parts, found, strict=True))
    with figures.fixed_style():
        drawn = [figures.png(lam_figure.draw(name, part, row)) for name, _, part, row in rows]
    means = lam.means(found)
    result = {
        "window": "picked by its texture" if args.window is None else "given",
        "maps": "lam.npz",
        "images": [
            {
                "image": str(path),
                **part.described(),
                "networks": [{**one.described(), "map": one.key(name)} for one in row],
            }
            for name, path, part, row in rows
        ],
        "mean_diffusion_index": means,
    }
    maps = {one.key(name): one.attribution for name, _, _, row in rows for one in row}
    files = [folder.write_arrays(place, "lam.npz", maps)]
    files += folder.write(place, "lam", result, dict(zip(pictures, drawn, strict=True)))
    for name, _, _, row in rows:
        for one in row:
            print(f"{name}: {one}")
    if len(images) > 1:
        for label, mean in means.items():
            print(f"{label}: mean diffusion index {mean:.2f} of {len(images)} images")
    _name_files(files)


def _add_erf(parser: argparse.ArgumentParser) -> None:
    from esc_arch.analysis.erf import CONVENTIONS

    parser.description = (
        "Effective receptive field (ERF): on which pixels of the image the centre of the result, "
        "or of layers, depends, as a mean over images. Writes a picture with the table of areas, "
        "numbers as JSON, and the fields as erf.npz."
    )
    parser.epilog = (
        "Both conventions sum the output's central pixel over channels, and keep the positive "
        "gradients. sr, MambaIR's, resizes images by nearest neighbour and draws g^0.25; replknet "
        "resizes by bicubic, takes positive outputs alone, and draws log10(g + 1). The table has "
        "the smallest centred square, of 3x3 pixels or more, that holds more than 20, 30, 50 and "
        "99 % of log10(g + 1). Images are what the network takes: LR images of a network that "
        "enlarges."
    )
    add_shared(parser, "erf", "the network's inputs: files, and folders of them")
    parser.add_argument(
        "--convention", choices=CONVENTIONS, default=CONVENTIONS[0], help="default: sr"
    )
    parser.add_argument(
        "--size",
        type=_count,
        default=120,
        metavar="PIXELS",
        help="side of the square to which each image is resized (default: 120)",
    )
    parser.add_argument(
        "--layers", nargs="+", metavar="LAYER", help=f"{_LAYERS} (default: the result)"
    )
    parser.set_defaults(run=_erf)


def _erf(args: argparse.Namespace) -> None:
    from esc_arch.analysis import erf, erf_figure, folder, layers
    from esc_arch.compare import figures
    from esc_arch.progress import progress

    networks, images, place = opened(args, "erf")
    own = [[] for _ in networks] if args.layers is None else layers.resolve(networks, args.layers)
    folder.claim(place, ["erf.json", "erf.npz", "erf.png"], args.overwrite)
    found: dict[str, erf.ReceptiveField] = {}
    described = []
    with progress("differentiating", len(images) * len(networks)) as advance:
        for network, paths in zip(networks, own, strict=True):
            fields = erf.fields_of(network, paths, images, args.size, args.convention, advance)
            for layer, field in fields.items():
                found[f"{network.label} {layer}".rstrip()] = field
                described.append(
                    {**network.described(), "layer": layer or None, **field.described()}
                )
    with figures.fixed_style():
        picture = figures.png(erf_figure.draw(found, args.convention))
    result = {
        "images": [str(path) for path in images],
        "convention": args.convention,
        "size": args.size,
        "fields": described,
        "contributions": "erf.npz",
    }
    arrays = {label: field.contribution for label, field in found.items()}
    files = [folder.write_arrays(place, "erf.npz", arrays)]
    files += folder.write(place, "erf", result, {"erf.png": picture})
    for label, field in found.items():
        print(f"{label}: {field}")
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
    "erf": ("Show on which pixels of an image the centre of the result depends.", _add_erf),
    "lam": ("Show on which LR pixels a window of the result depends.", _add_lam),
}
