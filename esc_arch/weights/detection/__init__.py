"""Knowing a network by the keys and shapes of its parameters, whatever the file is called."""

from esc_arch.weights.detection.detected import Detected
from esc_arch.weights.detection.detecting import detect

__all__ = ["Detected", "detect"]
