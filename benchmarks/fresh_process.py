"""Measuring memory in a process in which nothing ran before."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from esc_arch.machine import extra_peak_bytes

_ARGUMENT = "--memory-of"


def peak_mb(script: str, **request: object) -> float | None:
    """What a script's ``answer`` gives for a request in a fresh process; None if it dies."""
    command = [sys.executable, script, _ARGUMENT, json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode else float(done.stdout.splitlines()[-1])


def answers(prepare: Callable[..., Callable[[], object]]) -> bool:
    """Answer such a request, if this process was started for one.

    Args:
        prepare: takes the request, builds what it needs, and returns what is to be
            measured.
    """
    if sys.argv[1:2] != [_ARGUMENT]:
        return False
    request = json.loads(sys.argv[2])
    function = prepare(**request)
    if request["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        print((torch.cuda.max_memory_allocated() - before) / 1e6)
    else:
        print(extra_peak_bytes(function) / 1e6)
    return True


def write_json(path: Path | None, report: dict) -> None:
    """Write a report where the user asked for it."""
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n")
