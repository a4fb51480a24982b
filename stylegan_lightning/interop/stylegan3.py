"""StyleGAN3 weights: the network of a configuration, and our names of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.interop.names import Rules
from stylegan_lightning.networks import Generator, MappingNetwork, StyleGAN3Synthesis

RULES: dict[str, Rules] = {
    "G": (
        (r"^synthesis\.L(\d+)_\d+_\d+\.", r"synthesis.layers.\1."),
        (r"^mapping\.fc(\d+)\.", r"mapping.layers.\1."),
    ),
}


def build(config: Mapping[str, Any], network: str, state: Mapping[str, np.ndarray]) -> nn.Module:
    """The generator that `config` describes: z_dim, w_dim, c_dim, img_resolution, img_channels, mapping_layers,
    channel_base, channel_max (R: doubled), num_layers, num_critical, conv_kernel, use_radial_filters.

    Raises UserError for "D": StyleGAN3 is trained against the discriminator of StyleGAN2, of kind stylegan2.
    """
    if network != "G":
        raise UserError(f"a {config['kind']} file holds a generator; its discriminator is of kind 'stylegan2'")
    synthesis = StyleGAN3Synthesis(
        config["img_resolution"],
        config["img_channels"],
        w_dim=config["w_dim"],
        channel_base=config["channel_base"],
        channel_max=config["channel_max"],
        num_layers=config["num_layers"],
        num_critical=config["num_critical"],
        conv_kernel=config["conv_kernel"],
        use_radial_filters=config["use_radial_filters"],
    )
    mapping = partial(MappingNetwork, z_dim=config["z_dim"], c_dim=config["c_dim"], num_layers=config["mapping_layers"])
    return Generator(synthesis, mapping)
