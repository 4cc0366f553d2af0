"""Optimiser steps that are skipped because a number is not finite."""

import logging
import math

from esc_arch.errors import UserError

__all__ = ["MAX_IN_A_ROW", "NonfiniteSteps"]

# Far more than GradScaler needs to find its factor, which it halves each time.
MAX_IN_A_ROW = 100

_logger = logging.getLogger("basicsr.esc_arch")


class NonfiniteSteps:
    """Counts skipped steps, logs them now and then, and stops a training after too many in a row.

    Attributes:
        total: skipped steps since the training began, resumptions included.
        in_a_row: those since the last step that was taken.
    """

    def __init__(self) -> None:
        self.total = 0
        self.in_a_row = 0

    def note_taken(self) -> None:
        """Note a step that was taken."""
        self.in_a_row = 0

    def note_skipped(self, iteration: int) -> None:
        """Note a skipped step; the 1st, 10th, 100th and so on is logged.

        Raises:
            UserError: after ``MAX_IN_A_ROW`` skipped steps without one that was taken.
        """
        self.total += 1
        self.in_a_row += 1
        if math.log10(self.total).is_integer():
            _logger.warning(
                f"Iteration {iteration}: the loss or its gradient is not finite, so this step is "
                f"skipped; skipped so far: {self.total}."
            )
        if self.in_a_row == MAX_IN_A_ROW:
            raise UserError(
                f"train.skip_nonfinite: expected a finite loss and gradient; found none in the "
                f"{MAX_IN_A_ROW} iterations up to {iteration}. The training has broken down: "
                "resume from an earlier state with a lower `lr`, with `grad_clip` or without "
                "`amp`, and look for broken images."
            )
