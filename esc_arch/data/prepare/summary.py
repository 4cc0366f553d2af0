"""What the user reads at the end: what was made, and the lines for an option file."""

import json
from pathlib import Path

from esc_arch.data.prepare.preparing import Prepared
from esc_arch.data.prepare.settings import Folder, Settings

__all__ = ["option_lines", "summary"]


def summary(done: Prepared, dest: Path, settings: Settings) -> str:
    """A few lines about a run, and the option-file lines of each scale."""
    made = f"{done.images} images"
    if settings.grid is not None:
        made += f", {done.sub_images} sub-images"
    if settings.lmdb and done.images:
        made += f", {len(settings.packed_folders())} LMDBs"
    if done.images and not done.new and not done.skipped:
        made += "; all was there already"
    if done.skipped:
        made += f"; {len(done.skipped)} skipped"
    lines = [f"{dest}: {made}."]
    if done.narrow:
        lines.append(
            f"Images with a side shorter than {settings.grid.size}, whose sub-images are smaller: "
            f"{done.narrow}. Training needs a gt_size that fits in them."
        )
    if done.images:
        lines.append("\nFor an option file:")
        lines += option_lines(dest, settings)
    return "\n".join(lines)


def option_lines(dest: Path, settings: Settings) -> list[str]:
    """YAML lines, to be put under ``datasets: train:``, for each scale or for HR alone."""
    of_sub_images = settings.grid is not None
    ending = ".lmdb" if settings.lmdb else ""
    hr = Folder(1, of_sub_images)
    lines = []
    for lq in [f for f in settings.folders() if f.of_sub_images == of_sub_images]:
        if lq.scale == 1 and settings.scales:
            continue
        lines += [f"# scale: {lq.scale}"] if settings.scales else []
        lines += [f"dataroot_gt: {_yaml(dest, hr.path + ending)}"]
        if settings.scales:
            lines += [f"dataroot_lq: {_yaml(dest, lq.path + ending)}"]
            # Keys of an LMDB are the same for both.
            template = "{}" if settings.lmdb else lq.filename_tmpl
            lines += [f"filename_tmpl: '{template}'"]
        lines += ["io_backend:", f"  type: {'lmdb' if settings.lmdb else 'disk'}", ""]
    return lines[:-1]


def _yaml(dest: Path, path: str) -> str:
    text = (dest / path).as_posix()
    plain = text.replace("/", "").replace("_", "").replace("-", "").replace(".", "")
    # JSON's strings are YAML's too.
    return text if plain.isascii() and plain.isalnum() else json.dumps(text)
