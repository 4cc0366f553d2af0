"""SRModel with the validation of the published numbers: whole windows only."""

from basicsr.models.sr_model import SRModel
from torch import Tensor

from esc_arch.ops.padding import pad_to_windows
from esc_arch.plugin.registration import register_model

__all__ = ["ESRModel"]


@register_model
class ESRModel(SRModel):
    """SRModel that pads the image, instead of feature maps, to whole windows in validation.

    ``network_g.window_size`` is the side of the window in pixels.  Trains as SRModel does.

    Source: ESC, arXiv 2503.06671, whose published PSNR is measured this way; the public
    option files name this model.
    """

    lq: Tensor
    output: Tensor

    def test(self) -> None:
        """Set ``output`` to the network's output for ``lq``, (1, C, rH, rW)."""
        lq = self.lq
        height, width = lq.shape[-2:]
        window = self.opt["network_g"]["window_size"]
        padded = pad_to_windows(lq, (window, window))
        self.lq = padded.contiguous()
        try:
            super().test()
            scale = self.output.shape[-1] // self.lq.shape[-1]
            self.output = self.output[..., : height * scale, : width * scale]
        finally:
            self.lq = lq
