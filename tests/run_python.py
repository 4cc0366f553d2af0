"""A Python process of its own, for what can be seen only once in a process."""

import os
import subprocess
import sys
import textwrap

SECONDS = 120


def start_python(code: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start ``python -c code arguments...`` without a GPU, its output in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: subprocess.Popen) -> str:
    """All that the process printed; it must end well."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output
