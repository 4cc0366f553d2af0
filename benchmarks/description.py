"""What a benchmark's numbers depend on, for its JSON."""

import torch

from esc_arch.machine import processor, versions


def description(*packages: str) -> dict[str, object]:
    """CPU, threads and versions.

    Args:
        packages: further installed packages whose versions matter.
    """
    return {
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        **versions("torch", *packages),
    }
