"""Weights in the reference implementation's parameter names -> our networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.networks import Generator, MappingNetwork, StyleGAN2Discriminator, StyleGAN2Synthesis

Config = Mapping[str, Any]

_STYLEGAN2_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "G": (
        (r"^synthesis\.b(\d+)\.", r"synthesis.blocks.\1."),
        (r"^mapping\.fc(\d+)\.", r"mapping.layers.\1."),
    ),
    "D": (
        (r"^b4\.", "epilogue."),
        (r"^b(\d+)\.", r"blocks.\1."),
        (r"^mapping\.fc(\d+)\.", r"mapping.layers.\1."),
    ),
}


def _stylegan2(config: Config, network: str) -> nn.Module:
    size = {"channel_base": config["channel_base"], "channel_max": config["channel_max"]}
    resolution, channels = config["img_resolution"], config["img_channels"]
    if network == "D":
        return StyleGAN2Discriminator(
            resolution,
            channels,
            config["c_dim"],
            architecture=config["d_architecture"],
            mbstd_group_size=config["mbstd_group_size"],
            **size,
        )
    mapping = partial(MappingNetwork, z_dim=config["z_dim"], c_dim=config["c_dim"], num_layers=config["mapping_layers"])
    synthesis = StyleGAN2Synthesis(
        resolution, channels, w_dim=config["w_dim"], architecture=config["g_architecture"], **size
    )
    return Generator(synthesis, mapping)


_FAMILIES: dict[str, tuple[Callable[[Config, str], nn.Module], dict[str, tuple[tuple[str, str], ...]]]] = {
    "stylegan2": (_stylegan2, _STYLEGAN2_RULES),
}


def translate_name(name: str, kind: str, network: Literal["G", "D"]) -> str:
    """Our name of the reference parameter `name` of a `kind` network."""
    for pattern, replacement in _FAMILIES[kind][1][network]:
        new = re.sub(pattern, replacement, name)
        if new != name:
            return new
    return name


def from_reference(state: Mapping[str, np.ndarray], config: Config, network: Literal["G", "D"] = "G") -> nn.Module:
    """The network that `config` describes, filled with `state`, in eval mode.

    `state` maps reference names (without "G/" or "D/") to arrays; `config` needs `kind` (stylegan2) and its
    sizes: z_dim, w_dim, c_dim, img_resolution, img_channels, channel_base, channel_max, mapping_layers,
    g_architecture, d_architecture, mbstd_group_size. Raises UserError for another kind, for a missing or
    unknown parameter, and for one of the wrong shape.
    """
    kind = config.get("kind")
    if kind not in _FAMILIES:
        raise UserError(f"config['kind'] must be one of {sorted(_FAMILIES)}, got {kind!r}")
    if network not in ("G", "D"):
        raise UserError(f"network must be 'G' or 'D', got {network!r}")
    net = _FAMILIES[kind][0](config, network)
    ours = {
        translate_name(name, kind, network): torch.from_numpy(np.array(value))
        for name, value in state.items()
        if not name.endswith("resample_filter")
    }
    try:
        net.load_state_dict(ours)
    except RuntimeError as error:
        raise UserError(f"the {kind} {network} weights do not fit the given config: {error}") from None
    return net.eval().requires_grad_(False)
