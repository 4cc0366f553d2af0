"""Testing in sections: the pixels of a network that looks less far than they overlap."""

import pytest
import torch
from torch import nn

from esc_arch.models import SectionsModel, TenthSectionsModel


class Sharp(nn.Module):
    """x2 by a 5x5 convolution, which notes the sizes that it gets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 12, 5, padding=2)
        self.sizes: list[tuple[int, int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        return nn.functional.pixel_shuffle(self.conv(x), 2)


def result_of(kind: type, height: int, width: int, **val: object) -> tuple:
    model = object.__new__(kind)
    model.opt, model.net_g = {"val": val}, Sharp()
    lq = model.lq = torch.rand(1, 3, height, width)
    model.test()
    assert model.lq is lq
    with torch.no_grad():
        whole = model.net_g(lq)
    assert model.output.shape == whole.shape
    return model.output, whole, model.net_g.sizes[:-1]


@pytest.mark.parametrize(
    ("kind", "size", "sizes"),
    [
        (SectionsModel, (402, 100), [(150, 100), (166, 100), (150, 100)]),
        # A tenth of 134 and of 110.
        (
            TenthSectionsModel,
            (402, 220),
            [(147, 121), (147, 121), (160, 121), (160, 121), (147, 121), (147, 121)],
        ),
        (TenthSectionsModel, (199, 40), [(199, 40)]),
    ],
)
def test_sections_are_the_whole_image(kind, size, sizes):
    output, whole, seen = result_of(kind, *size, use_chop=True)
    assert seen == sizes
    assert torch.allclose(output, whole, atol=1e-6)


@pytest.mark.parametrize("kind", [SectionsModel, TenthSectionsModel])
@pytest.mark.parametrize("size", [(401, 203), (200, 1), (1, 400)])
def test_any_size(kind, size):
    """Rows and columns are added at the bottom and right, and cut off again."""
    output, whole, _ = result_of(kind, *size, use_chop=True)
    inner = output[..., :-8, :-8], whole[..., :-8, :-8]
    assert torch.allclose(*inner, atol=1e-6)


def test_whole_images_without_the_key():
    _, _, seen = result_of(SectionsModel, 402, 220)
    assert seen == [(402, 220)]
