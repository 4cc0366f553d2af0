"""Training and test data from any image files: HR, LR, sub-images, LMDBs."""

from esc_arch.data.prepare.layout import Settings, option_lines, settings
from esc_arch.data.prepare.run import Prepared, prepare, summary

__all__ = ["Prepared", "Settings", "option_lines", "prepare", "settings", "summary"]
