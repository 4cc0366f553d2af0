"""What the README promises of its commands."""

import re
import shlex
from pathlib import Path

import cv2
import numpy as np

from esc_arch.cli.main import main
from tests.run_python import output_of, start_python

ROOT = Path(__file__).parents[1]

# One small step instead of 500,000 large ones.
QUICK = [
    "train:total_iter=1",
    "train:warmup_iter=-1",
    "datasets:train:batch_size_per_gpu=1",
    "datasets:train:num_worker_per_gpu=0",
    "logger:print_freq=1",
    "num_gpu=0",
]
RUN = """
    import os, sys
    from esc_arch.cli.main import main
    os.chdir(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
"""


def test_from_a_folder_of_photos_to_training_in_two_lines(tmp_path, monkeypatch):
    section = (ROOT / "README.md").read_text().partition("## Data\n")[2]
    block = re.search(r"\n\n((?:    .*\n)+)", section)[1].replace("\\\n", "")
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [["basicsr", "data"], ["basicsr", "train"]]

    (tmp_path / "photos").mkdir()
    (tmp_path / "options").symlink_to(ROOT / "options")
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        photo = cv2.resize(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8), (150, 140))
        cv2.imwrite(str(tmp_path / "photos" / name), photo)
    monkeypatch.chdir(tmp_path)
    assert main(lines[0][1:]) == 0
    said = output_of(start_python(RUN, str(tmp_path), *lines[1][1:], *QUICK))
    assert "Validation mine" in said and re.search(r"# psnr: \d", said), said
    assert (tmp_path / "experiments/train_ESC_x2/models/net_g_latest.pth").is_file()
