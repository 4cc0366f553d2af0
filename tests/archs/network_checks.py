"""What every network is held to: the public cases, layouts, types, sizes, gradients, options."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esc_arch import UserError, options
from esc_arch.fast import executor
from tests import tiny
from tests.reference_cases import REFERENCE, deviation


def public_cases(*archs: str) -> dict[str, dict]:
    """The cases of networks that others published, by name."""
    cases = json.loads((REFERENCE / "peer_cases.json").read_text())
    return {case["name"]: case for case in cases if case["arch"] in archs}


def check_sides(build: Callable[[int], nn.Module], size: tuple[int, int], scale: int) -> None:
    """A batch of this size comes out enlarged and finite."""
    with torch.no_grad():
        y = build(scale)(torch.rand(2, 3, *size))
    assert y.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert y.isfinite().all()


def cut_into_bands(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Bands of a few rows, so that maps of the tests have several."""
    monkeypatch.setattr(executor, "PIXELS_PER_BAND", 5 * width)
    monkeypatch.setattr(executor, "HALOS_PER_BAND", 1)


def check_layouts(network: nn.Module) -> None:
    """Both memory formats go in and come out, and the input is not written to."""
    x = torch.rand(2, 3, 11, 19)
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y, y_last = network(x), network(last)
    assert y.is_contiguous() and y_last.is_contiguous(memory_format=torch.channels_last)
    assert deviation(y_last, y) < 1e-5
    assert torch.equal(x, last)


def check_half_precision(network: nn.Module, x: Tensor, dtype: torch.dtype, bound: float) -> None:
    """Under autocast and as a whole; the network is left in ``dtype``."""
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", dtype=dtype):
            assert 0 < deviation(network(x), expected) < bound
        y = network.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert deviation(y, expected) < bound


def check_finite_gradients(network: nn.Module, x: Tensor) -> None:
    """In train mode; parameters that no gradient reaches have none."""
    network.train()(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def check_gradient_by_differences(network: nn.Module) -> None:
    """Of a network in float64."""
    x = torch.rand(2, 3, 9, 10, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(network(x).sum(), x)[0]
    step = 1e-7 * torch.randn_like(x)  # small, as ReLU and LeakyReLU have a kink
    with torch.no_grad():
        difference = (network(x + step) - network(x - step)).sum() / 2
    assert (gradient * step).sum().item() == pytest.approx(difference.item(), rel=1e-4)


def check_traces_as_one_graph(network: nn.Module) -> None:
    """ESC's test compiles to machine code, which takes minutes."""
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    x = torch.rand(2, 3, 13, 17)
    with torch.no_grad():
        assert deviation(compiled(x), network(x)) < 1e-5


def check_options(arch: str, arguments: dict[str, object], wrong: dict[str, object]) -> None:
    """The option checker takes the arguments, and tells each wrong one by its name."""
    opt = tiny.options()
    opt["network_g"] = {"type": arch, **arguments}
    options.check_structure(opt, "x.yml", is_train=True)
    for key, value in wrong.items():
        opt["network_g"] = {"type": arch, **arguments, key: value}
        with pytest.raises(UserError, match=rf"(?s)network_g.*{key}"):
            options.check_structure(opt, "x.yml", is_train=True)
