"""A training that is killed again and again ends as one that was left alone.

``benchmarks/kills.py`` does the same with ten kills.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_killed_trainings_end_the_same(tmp_path):
    out = tmp_path / "kills.json"
    command = [sys.executable, str(PROGRAM), "--kills", "3", "--iterations", "20", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())
    assert [(row["workers"], row["kills"]) for row in rows] == [(0, 3), (2, 3)]
    assert all(row["compared_tensors"] > 100 for row in rows)
    assert all(row["different_tensors"] == [] for row in rows)
