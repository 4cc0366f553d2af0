"""Training and validation as BasicSR's models leave them open."""

from esc_arch.models.esr_model import ESRModel

__all__ = ["ESRModel"]
