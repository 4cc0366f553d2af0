"""SRModel with the tests of public releases that cut large images into sections."""

import torch
from basicsr.models.sr_model import SRModel
from torch import Tensor

from esc_arch.ops.padding import reflect_pad
from esc_arch.plugin.registration import register_model

__all__ = ["SectionsModel", "TenthSectionsModel"]

# An image has one section for each begun 200 pixels of a side.
SECTION = 200


@register_model
class SectionsModel(SRModel):
    """SRModel that tests an image in sections where ``val.use_chop`` says so.

    The sections are of equal size and overlap by 16 pixels.

    Source: the public code of DAT and HiT-SR, whose option files name DATModel and HITModel.
    """

    lq: Tensor
    output: Tensor

    def test(self) -> None:
        """Set ``output`` to the network's output for ``lq``, (1, C, rH, rW)."""
        if (self.opt.get("val") or {}).get("use_chop"):
            self.test_in_sections()
        else:
            super().test()

    def overlap(self, side: int) -> int:
        """Pixels by which a section of a side reaches into the next one."""
        return 16

    def extend(self, lq: Tensor, bottom: int, right: int) -> Tensor:
        """The image, mirrored at the bottom and right, its border twice."""
        height, width = lq.shape[-2:]
        lq = torch.cat([lq, lq.flip(-2)], -2)[..., : height + bottom, :]
        return torch.cat([lq, lq.flip(-1)], -1)[..., : width + right]

    def test_in_sections(self) -> None:
        """As ``test``, section by section."""
        lq = self.lq
        height, width = lq.shape[-2:]
        rows, columns = height // SECTION + 1, width // SECTION + 1
        extended = self.extend(lq, -height % rows, -width % columns)
        # Sides of a section.
        high, wide = extended.shape[-2] // rows, extended.shape[-1] // columns
        above, beside = self.overlap(high), self.overlap(wide)
        lines = []
        try:
            for top in range(0, high * rows, high):
                line = []
                for left in range(0, wide * columns, wide):
                    first_row, first_column = max(top - above, 0), max(left - beside, 0)
                    self.lq = extended[
                        ..., first_row : top + high + above, first_column : left + wide + beside
                    ].contiguous()
                    super().test()
                    scale = self.output.shape[-1] // self.lq.shape[-1]
                    y, x = (top - first_row) * scale, (left - first_column) * scale
                    line.append(self.output[..., y : y + high * scale, x : x + wide * scale])
                lines.append(torch.cat(line, -1))
            self.output = torch.cat(lines, -2)[..., : height * scale, : width * scale]
        finally:
            self.lq = lq


@register_model
class TenthSectionsModel(SectionsModel):
    """SRModel that tests every image in sections, which overlap by a tenth of their sides.

    Source: the public code of MambaIR and MambaIRv2, whose option files name models of theirs.
    """

    def test(self) -> None:
        """Set ``output`` to the network's output for ``lq``, (1, C, rH, rW)."""
        self.test_in_sections()

    def overlap(self, side: int) -> int:
        """Pixels by which a section of a side reaches into the next one."""
        return side // 10

    def extend(self, lq: Tensor, bottom: int, right: int) -> Tensor:
        """The image, reflected at the bottom and right."""
        return reflect_pad(lq, 0, bottom, 0, right)
