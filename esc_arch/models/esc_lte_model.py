"""ESCModel for networks of any scale, such as ESC+LTE: trained by queries, tested at each scale.

Shapes: B images, Q queries of each.
"""

import inspect
import logging
import os
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from basicsr.metrics import calculate_metric
from basicsr.utils import imwrite, tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor

from esc_arch.archs.esc_lte_arch import LARGEST_TRAINED_SCALE
from esc_arch.models.esc_model import ESCModel
from esc_arch.plugin.registration import register_model
from esc_arch.progress import progress

__all__ = ["ESCLTEModel"]

_logger = logging.getLogger("basicsr.esc_arch")


@register_model
class ESCLTEModel(ESCModel):
    """ESCModel of a network that takes a size or queries, as ESCLTE does.

    It trains on :class:`esc_arch.data.random_scale_image_dataset.RandomScaleImageDataset`, by the
    colours of the queries.  In validation each set has a ``scale`` of its own, and the network
    makes an image of the size of the HR image from the LR image as it is.  Metrics get it clamped
    and not rounded; those with an argument ``scale`` get that of the set.

    Under ``path``:
        pretrain_network_encoder: a checkpoint of ESC, of any scale, with which the encoder starts
            when the training does; its upsampler is left out.
        param_key_encoder: key of the parameters in that file, ``params`` by default.

    Under ``train``: the keys of ESCModel.

    Under ``val``:
        max_scale: queries of larger scales have the pixel sides of this one, 4 by default.
    """

    lq: Tensor
    gt: Tensor
    output: Tensor

    def init_training_settings(self) -> None:
        path = self.opt["path"]
        file = path.get("pretrain_network_encoder")
        # A resumed training, or a whole checkpoint, has its own.
        if file is not None and path.get("pretrain_network_g") is None:
            key = path.get("param_key_encoder", "params")
            # Not strict because of the upsampler.
            self.load_network(self.get_bare_model(self.net_g).encoder, file, False, key)
            _logger.info(f"The encoder starts from {file}; to_img, its upsampler, is left out.")
        super().init_training_settings()

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: lq (B, 3, h, w), and gt (B, 3, H, W), or (B, Q, 3) with queries."""
        # A set without HR images must not be tested with those of the batch before.
        if hasattr(self, "gt"):
            del self.gt
        super().feed_data(data)
        self.queries: dict[str, Tensor] = {
            name: data[name].to(self.device) for name in ("coord", "cell") if name in data
        }

    def network_arguments(self) -> dict[str, Tensor]:
        """The queries of the batch: coord (B, Q, 2), cell (B, 2)."""
        return self.queries

    def test(self) -> None:
        """Set ``output`` to the network's image of the size of ``gt``, (1, 3, H, W).

        Without ``gt``, its size is that of the set's scale.
        """
        network = self.get_bare_model(getattr(self, "net_g_ema", self.net_g))
        has_gt, is_training = hasattr(self, "gt"), network.training
        network.eval()
        with torch.no_grad():
            self.output = network(
                self.lq,
                size=tuple(self.gt.shape[-2:]) if has_gt else None,
                scale=None if has_gt else self.scale,
                max_scale=self.opt["val"].get("max_scale", LARGEST_TRAINED_SCALE),
            )
        network.train(is_training)

    def nondist_validation(
        self, dataloader: Any, current_iter: int | str, tb_logger: object, save_img: bool
    ) -> None:
        """As in SRModel, but for what metrics get."""
        section, metrics = dataloader.dataset.opt, self.opt["val"].get("metrics")
        name, self.scale = section["name"], section["scale"]
        if metrics is not None:
            self._initialize_best_metric_results(name)
            self.metric_results = dict.fromkeys(metrics, 0.0)
        count = len(dataloader)
        shown = self.opt["val"].get("pbar", False)
        with progress(f"validating {name}", count) if shown else nullcontext() as advance:
            for data in dataloader:
                self.feed_data(data)
                self.test()
                images = {"img": _image(self.output)}
                if hasattr(self, "gt"):
                    images["img2"] = _image(self.gt)
                    del self.gt
                del self.lq, self.output
                if save_img:
                    self._write(images["img"], data["lq_path"][0], name, current_iter)
                for metric, arguments in (metrics or {}).items():
                    own = _with_scale(arguments, self.scale)
                    self.metric_results[metric] += calculate_metric(images, own)
                if advance is not None:
                    advance()
        if metrics is None:
            return
        for metric in metrics:
            self.metric_results[metric] /= count
            value = self.metric_results[metric]
            self._update_best_metric_result(name, metric, value, current_iter)
        self._log_validation_metric_values(current_iter, name, tb_logger)

    def _write(self, image: np.ndarray, lq_path: str, name: str, current_iter: int | str) -> None:
        """Write an image where SRModel does."""
        folder, stem = self.opt["path"]["visualization"], os.path.basename(lq_path)
        stem = os.path.splitext(stem)[0]
        if self.opt["is_train"]:
            file = os.path.join(folder, stem, f"{stem}_{current_iter}.png")
        else:
            ending = self.opt["val"]["suffix"] or self.opt["name"]
            file = os.path.join(folder, name, f"{stem}_{ending}.png")
        imwrite(np.rint(image).astype(np.uint8), file)


def _image(tensor: Tensor) -> np.ndarray:
    """(H, W, 3), BGR, float32 in [0, 255], not rounded, of (1, 3, H, W)."""
    image: np.ndarray = tensor2img([tensor.detach().cpu()], out_type=np.float32)
    return image * 255


def _with_scale(arguments: dict[str, Any], scale: float) -> dict[str, Any]:
    function = METRIC_REGISTRY.get(arguments["type"])
    is_asked = "scale" in inspect.signature(function).parameters
    return {**arguments, "scale": scale} if is_asked else arguments
