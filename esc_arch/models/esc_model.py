"""SRModel with faster and smaller training: the keys of ESCModel."""

import logging
import math
import textwrap
from collections import OrderedDict
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from esc_arch.archs.esc_arch import ESCBlock, ESCFamily
from esc_arch.errors import DivergedError, UserError
from esc_arch.models.esr_model import ESRModel
from esc_arch.plugin.registration import register_model

__all__ = ["MAX_IN_A_ROW", "PRECISIONS", "ESCModel", "NonfiniteSteps", "checkpoint_blocks"]

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Where the optimiser's part of a training state keeps what this model adds to it.
STATE_KEY = "esc_model"
# Far more than GradScaler needs to find its factor, which it halves each time.
MAX_IN_A_ROW = 100

_logger = logging.getLogger("basicsr.esc_arch")


class NonfiniteSteps:
    """Counts skipped steps, says so now and then, and stops a training that has broken down.

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
            raise DivergedError(
                f"train.skip_nonfinite: expected a finite loss and gradient; found none in the "
                f"{MAX_IN_A_ROW} iterations up to {iteration}. The training has broken down: "
                "resume from an earlier state with a lower `lr`, with `grad_clip` or without "
                "`amp`, and look for broken images."
            )


@register_model
class ESCModel(ESRModel):
    """SRModel with further keys in the option file; without them it trains as SRModel does.

    Under ``train``:
        amp: ``bf16`` or ``fp16``: the network runs under autocast; weights, losses, gradients
            and averages stay in float32.  fp16 scales the loss by a GradScaler.
        compile: the network runs by torch.compile.
        channels_last: network and images lie channels last in memory.
        accumulate: into how many equal parts each process's batch is split.  Their gradients
            are added up before the step, so steps, schedule and, but for rounding, results are
            those of the whole batch, while the memory is that of a part.
        grad_clip: largest norm of all gradients together; the log has the norm before.
        skip_nonfinite: take no step, in weights, optimiser and average, where the loss or a
            gradient is not finite; true by default.  ``skipped`` in the log counts them, and
            too many in a row stop the training, see :class:`NonfiniteSteps`.
        checkpoint_activations: the blocks of the ESC networks compute their inner results
            again in backward instead of keeping them.

    Under ``val``:
        whole_windows: validate as ESRModel does.  Validation is in float32, not compiled.

    Raises:
        UserError: when a value is unknown or does not fit the network.
    """

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As in BaseModel, before which the memory format is set."""
        # Here, as DistributedDataParallel copies the format of the parameters.
        train = self.opt.get("train") or {}
        self.memory_format = (
            torch.channels_last if train.get("channels_last") else torch.contiguous_format
        )
        return super().model_to_device(
            net.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # not in the stub
        )

    def init_training_settings(self) -> None:
        super().init_training_settings()
        train = self.opt["train"]
        if self.ema_decay > 0:
            self.net_g_ema.to(memory_format=self.memory_format)
        if train.get("checkpoint_activations"):
            checkpoint_blocks(self.get_bare_model(self.net_g))
        self.run_net_g: Callable[..., Tensor] = (
            _compiled(self.net_g) if train.get("compile") else self.net_g
        )
        self.precision = _precision(train.get("amp"))
        self.accumulate = train.get("accumulate", 1)
        self.grad_clip = train.get("grad_clip")
        self.skip_nonfinite = train.get("skip_nonfinite", True)
        self.nonfinite_steps = NonfiniteSteps()
        # Without fp16 it hands everything through.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision is torch.float16
        )
        # In the optimiser's part of the training state, which SRModel resumes from, too.
        self.optimizer_g.register_state_dict_post_hook(self._add_to_state)
        self.optimizer_g.register_load_state_dict_pre_hook(self._take_from_state)

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one step on the batch that was fed, or skip it when it is not finite.

        Raises:
            UserError: when the batch cannot be split, or too many steps in a row were skipped.
        """
        self.optimizer_g.zero_grad()
        losses = self._backward()
        self.scaler.unscale_(self.optimizer_g)
        parameters = [p for group in self.optimizer_g.param_groups for p in group["params"]]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.grad_clip is not None:
            clip_grads_with_norm_(parameters, self.grad_clip, norm)
        is_skipped = self.skip_nonfinite and not self._is_finite(norm, *losses.values())
        if not is_skipped:
            self.scaler.step(self.optimizer_g)
            if self.ema_decay > 0:
                self.model_ema(decay=self.ema_decay)
        self.scaler.update()

        if is_skipped:
            self.nonfinite_steps.note_skipped(current_iter)
        else:
            self.nonfinite_steps.note_taken()
        self.log_dict = self.reduce_loss_dict(losses)
        if self.grad_clip is not None:
            self.log_dict["grad_norm"] = norm.item()
        self.log_dict["skipped"] = self.nonfinite_steps.total

    def _backward(self) -> OrderedDict[str, Tensor]:
        """Add up the gradients of the batch's parts; returns the losses of the whole batch.

        DistributedDataParallel averages over the processes after every part.  The average of
        what is averaged already is itself, so the sum is right in the end.
        """
        if len(self.lq) % self.accumulate:
            raise UserError(
                f"train.accumulate: expected a divisor of the batch of {len(self.lq)} images; "
                f"found {self.accumulate}. Change it or batch_size_per_gpu."
            )
        size = len(self.lq) // self.accumulate
        losses: OrderedDict[str, Tensor] = OrderedDict()
        outputs = []
        for start in range(0, len(self.lq), size):
            part = slice(start, start + size)
            arguments = {name: value[part] for name, value in self.network_arguments().items()}
            with torch.autocast(
                self.device.type, self.precision, enabled=self.precision is not torch.float32
            ):
                output = self.run_net_g(self._laid_out(self.lq[part]), **arguments)
            output = output.float()
            terms = self._losses(output, self._laid_out(self.gt[part]))
            self.scaler.scale(reduce(add, terms.values())).backward()
            outputs.append(output.detach())
            for name, term in terms.items():
                losses[name] = losses.get(name, 0) + term.detach()
        self.output = torch.cat(outputs)
        return losses

    def network_arguments(self) -> dict[str, Tensor]:
        """Inputs of the network beside ``lq``, for the batch, by the argument's name."""
        return {}

    def _laid_out(self, images: Tensor) -> Tensor:
        """Images (b, C, H, W) in the memory format; queries stay as they are."""
        return images.contiguous(memory_format=self.memory_format) if images.dim() == 4 else images

    def _losses(self, output: Tensor, gt: Tensor) -> OrderedDict[str, Tensor]:
        """The contribution of a part of the batch, (b, C, rH, rW), to each loss of the batch."""
        terms: OrderedDict[str, Tensor] = OrderedDict()
        if self.cri_pix:
            is_sum = getattr(self.cri_pix, "reduction", "mean") == "sum"
            l_pix = self.cri_pix(output, gt)
            terms["l_pix"] = l_pix if is_sum else l_pix / self.accumulate
        if self.cri_perceptual:
            l_percep, l_style = self.cri_perceptual(output, gt)
            if l_percep is not None:
                terms["l_percep"] = l_percep / self.accumulate
            if l_style is not None:
                terms["l_style"] = l_style / self.accumulate
        return terms

    def _is_finite(self, *values: Tensor) -> bool:
        """Whether all numbers are finite in all processes, which have to agree on a step."""
        finite = torch.stack([value.isfinite().all() for value in values]).all().float()
        if self.opt["dist"]:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        return bool(finite)

    def _add_to_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        state[STATE_KEY] = {
            "skipped": self.nonfinite_steps.total,
            "skipped_in_a_row": self.nonfinite_steps.in_a_row,
            "grad_scaler": self.scaler.state_dict(),
        }

    def _take_from_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        own = state.get(STATE_KEY)
        if own is None:
            return
        self.nonfinite_steps.total = own["skipped"]
        self.nonfinite_steps.in_a_row = own.get("skipped_in_a_row", 0)
        # Empty when the state was saved without fp16.
        if own["grad_scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(own["grad_scaler"])

    def test(self) -> None:
        """Set ``output`` to the network's output for ``lq``, (1, C, rH, rW)."""
        if (self.opt.get("val") or {}).get("whole_windows"):
            super().test()
        else:
            SRModel.test(self)


def _precision(amp: str | None) -> torch.dtype:
    if amp is None:
        return torch.float32
    if amp not in PRECISIONS:
        raise UserError(
            f"train.amp: expected one of {', '.join(PRECISIONS)}; found {amp}. Write one of "
            "these, or remove the key."
        )
    return PRECISIONS[amp]


def _compiled(network: nn.Module) -> Callable[..., Tensor]:
    """The forward pass of a network by torch.compile.

    Args:
        network: stays as it is and shares its parameters, so whoever saves or evaluates it
            needs to know nothing of the compilation.

    Returns:
        A function of a batch and the network's other arguments, which compiles when it is called
        first and raises UserError when that fails.
    """
    # Its import takes a second or two.
    from torch._dynamo.exc import TorchDynamoException

    fast = torch.compile(network)
    _logger.info("train.compile: the first iteration compiles the network, which takes minutes.")

    def forward(lq: Tensor, **arguments: Tensor) -> Tensor:
        try:
            return fast(lq, **arguments)
        except TorchDynamoException as error:
            # The text after the first blank line is advice for developers of PyTorch.
            reason = textwrap.shorten(str(error).strip().partition("\n\n")[0], 300)
            raise UserError(
                "train.compile: expected a network and a machine that torch.compile can work "
                f"with; found {type(error).__name__}: {reason}. Write `compile: false`."
            ) from error

    return forward


def checkpoint_blocks(network: nn.Module) -> None:
    """Let training compute the inner results of every block again instead of keeping them.

    Backward needs them once; keeping only the input of each block takes a fraction of the memory
    and one more forward pass of time.  Results and gradients stay as they are.

    Raises:
        UserError: for a network without such blocks.
    """
    body = getattr(network, "encoder", network)
    if not isinstance(body, ESCFamily):
        raise UserError(
            "train.checkpoint_activations: expected a network of ESC blocks; found "
            f"{type(network).__name__}. Remove the key."
        )
    for block in body.blocks:
        assert isinstance(block, ESCBlock)
        block.checkpointed = True
