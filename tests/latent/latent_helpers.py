"""Tiny generators of every family, with weights filled at random."""

from __future__ import annotations

from functools import partial

import torch

from stylegan_lightning.networks import Generator
from stylegan_lightning.networks.baselines import DCGANSynthesis, MLPSynthesis, WGANGPSynthesis
from stylegan_lightning.networks.mapping import MappingNetwork
from stylegan_lightning.networks.progressive import ProGANSynthesis, StyleGAN1Synthesis
from stylegan_lightning.networks.stylegan2 import StyleGAN2Synthesis
from stylegan_lightning.networks.stylegan3 import StyleGAN3Synthesis

Z = W = 16
FAMILIES = ("mlp", "dcgan", "wgan_gp", "progan", "stylegan1", "stylegan2", "stylegan3_t", "stylegan3_r")
STYLE_BASED = FAMILIES[4:]


def tiny(family: str, *, resolution: int = 16, channels: int = 3, c_dim: int = 0, seed: int = 0) -> Generator:
    """In eval mode, with noise inputs and w_avg that are not zero, as after training."""
    torch.manual_seed(seed)
    w_dim = W if family in STYLE_BASED or not c_dim else W + 4
    small = {"w_dim": w_dim, "channel_base": 16 * resolution, "channel_max": 16}
    three = {**small, "num_layers": 6, "channel_multiplier": 1, "margin_size": 4}
    synthesis = {
        "mlp": lambda: MLPSynthesis(resolution, channels, w_dim=w_dim, hidden=32),
        "dcgan": lambda: DCGANSynthesis(resolution, channels, **small),
        "wgan_gp": lambda: WGANGPSynthesis(resolution, channels, **small),
        "progan": lambda: ProGANSynthesis(resolution, channels, **small),
        "stylegan1": lambda: StyleGAN1Synthesis(resolution, channels, **small),
        "stylegan2": lambda: StyleGAN2Synthesis(resolution, channels, **small),
        "stylegan3_t": lambda: StyleGAN3Synthesis(resolution, channels, **three),
        "stylegan3_r": lambda: StyleGAN3Synthesis(
            resolution, channels, conv_kernel=1, use_radial_filters=True, **three
        ),
    }[family]()
    layers, normalize = (2 if family in STYLE_BASED else 0), family not in ("mlp", "dcgan", "wgan_gp")
    mapping = partial(MappingNetwork, z_dim=Z, c_dim=c_dim, num_layers=layers, normalize=normalize)
    G = Generator(synthesis, mapping)
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.3)
    if hasattr(synthesis, "grow_to"):
        synthesis.grow_to(resolution, 1.0)
    torch.nn.init.normal_(G.mapping.w_avg, std=0.1)
    if any(isinstance(m, torch.nn.BatchNorm2d) for m in G.modules()):
        for _ in range(30):  # statistics of batch normalisation
            G.synthesis(torch.randn(16, 1, w_dim))
    return G.eval().requires_grad_(False)
