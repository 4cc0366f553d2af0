"""Training and test data out of any image files: HR, LR, sub-images, LMDBs."""

from esc_arch.data.prepare.preparing import Prepared, prepare
from esc_arch.data.prepare.settings import Settings, settings

__all__ = ["Prepared", "Settings", "prepare", "settings"]
