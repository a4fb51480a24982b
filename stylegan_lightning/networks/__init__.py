"""Networks. They know nothing of losses, data or training."""

from stylegan_lightning.networks.generator import Generator, track_running_stats
from stylegan_lightning.networks.mapping import MappingNetwork
from stylegan_lightning.networks.stylegan2 import StyleGAN2Discriminator, StyleGAN2Synthesis

__all__ = [
    "Generator",
    "MappingNetwork",
    "StyleGAN2Discriminator",
    "StyleGAN2Synthesis",
    "track_running_stats",
]
