"""A network by torch.compile, with failures in a user's words."""

import logging
import textwrap
from collections.abc import Callable

import torch
from torch import Tensor, nn

from esc_arch.errors import UserError

__all__ = ["compiled"]

_logger = logging.getLogger("basicsr.esc_arch")


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The forward pass of a network by torch.compile.

    Args:
        network: stays as it is and shares its parameters, so that saving and evaluating it
            do not depend on the compilation.

    Returns:
        A function of a batch, which compiles when it is called first and raises UserError
        when that fails.
    """
    # Its import takes a second or two.
    from torch._dynamo.exc import TorchDynamoException

    fast = torch.compile(network)
    _logger.info("train.compile: the first iteration compiles the network, which takes minutes.")

    def forward(lq: Tensor) -> Tensor:
        try:
            return fast(lq)
        except TorchDynamoException as error:
            # The text after the first blank line is advice for developers of PyTorch.
            reason = textwrap.shorten(str(error).strip().partition("\n\n")[0], 300)
            raise UserError(
                "train.compile: expected a network and a machine that torch.compile can work "
                f"with; found {type(error).__name__}: {reason}. Write `compile: false`."
            ) from error

    return forward
