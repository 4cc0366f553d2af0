"""The circumstances of a run, which the command line gives beside the option file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        is_train: training rather than testing.
        root_path: folder under which experiments/ and results/ lie.
        launcher: none, pytorch or slurm.
        auto_resume: whether the newest training state is looked for.
        debug: BasicSR's debug mode.
    """

    is_train: bool
    root_path: str = "."
    launcher: str = "none"
    auto_resume: bool = False
    debug: bool = False

    def experiment(self, opt: Mapping[str, object]) -> str:
        """The experiment's name, as BasicSR changes it in debug mode."""
        name = str(opt.get("name"))
        return f"debug_{name}" if self.debug and not name.startswith("debug") else name

    def folder(self, opt: Mapping[str, object]) -> str:
        """The folder that training writes to."""
        return os.path.join(self.root_path, "experiments", self.experiment(opt))

    def processes(self) -> int:
        """How many processes train together."""
        variable = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS"}.get(self.launcher)
        count = os.environ.get(variable, "1") if variable else "1"
        return int(count) if count.isdigit() else 1
