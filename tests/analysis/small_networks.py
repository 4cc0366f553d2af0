"""Small networks with initial weights as subjects of analyses."""

import torch

from esc_arch.analysis.subjects import Subject
from esc_arch.archs import ESC
from esc_arch.archs.basicsr_networks import SwinIR
from esc_arch.archs.mambairv2_light_arch import MambaIRv2Light
from tests.tiny import SIZES


def subject(network, scale=2, label="small"):
    return Subject(label, label, "initial weights", network.eval(), scale, 3)


def random_biases(network):
    """Biases of attention by position start at nearly nothing, which would hide mistakes."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "relative_position_bias" in name:
                parameter.normal_()
    return network


def esc(**changes):
    return subject(random_biases(ESC(**{**SIZES, "upscaling_factor": 2, **changes})))


def swinir():
    network = SwinIR(
        upscale=2,
        img_size=16,
        window_size=4,
        depths=(2, 2),
        embed_dim=12,
        num_heads=(2, 2),
        mlp_ratio=2,
        upsampler="pixelshuffledirect",
    )
    return subject(random_biases(network))


def mambairv2():
    network = MambaIRv2Light(
        embed_dim=12, depths=(2,), num_heads=(2,), window_size=4, inner_rank=4, num_tokens=4
    )
    return subject(random_biases(network))
