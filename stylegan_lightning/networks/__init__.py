"""Networks. They know nothing of losses, data or training."""

from stylegan_lightning.networks.baselines import (
    DCGANDiscriminator,
    DCGANSynthesis,
    MLPDiscriminator,
    MLPSynthesis,
    WGANGPCritic,
    WGANGPSynthesis,
)
from stylegan_lightning.networks.generator import Generator, track_running_stats
from stylegan_lightning.networks.growing import Growing, GrowingDiscriminator, GrowingSynthesis
from stylegan_lightning.networks.layers import LowPrecision
from stylegan_lightning.networks.mapping import MappingNetwork
from stylegan_lightning.networks.progressive import ProGANSynthesis, ProgressiveDiscriminator, StyleGAN1Synthesis
from stylegan_lightning.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Synthesis
from stylegan_lightning.networks.stylegan3 import StyleGAN3Synthesis

__all__ = [
    "DCGANDiscriminator",
    "DCGANSynthesis",
    "Generator",
    "Growing",
    "GrowingDiscriminator",
    "GrowingSynthesis",
    "LowPrecision",
    "MLPDiscriminator",
    "MLPSynthesis",
    "MappingNetwork",
    "ProGANSynthesis",
    "ProgressiveDiscriminator",
    "StyleGAN1Synthesis",
    "StyleGAN2Discriminator",
    "StyleGAN2Synthesis",
    "StyleGAN3Synthesis",
    "WGANGPCritic",
    "WGANGPSynthesis",
    "track_running_stats",
]
