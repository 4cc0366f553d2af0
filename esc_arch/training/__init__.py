"""Training that survives kills, full disks and damaged files: the loop of ``basicsr train``."""

from typing import Any

# The checked and completed options of a run, see esc_arch.options.parse.
Options = dict[str, Any]
