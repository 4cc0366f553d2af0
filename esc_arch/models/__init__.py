"""Training and validation as BasicSR's models leave them open."""

# Before what registers: BasicSR registers all of esc_arch when it is imported, and must not
# meet a half-imported module of ours.
import basicsr  # noqa: F401

# isort: split
from esc_arch.models.esc_lte_model import ESCLTEModel
from esc_arch.models.esc_model import ESCModel
from esc_arch.models.esr_model import ESRModel
from esc_arch.models.sections_model import SectionsModel, TenthSectionsModel

__all__ = ["ESCLTEModel", "ESCModel", "ESRModel", "SectionsModel", "TenthSectionsModel"]
