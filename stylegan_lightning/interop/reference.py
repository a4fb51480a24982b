"""Weights in the reference implementation's parameter names -> our networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.interop import progressive, stylegan3
from stylegan_lightning.interop.names import Rules, apply_first
from stylegan_lightning.networks import Generator, MappingNetwork, StyleGAN2Discriminator, StyleGAN2Synthesis

Config = Mapping[str, Any]
State = Mapping[str, np.ndarray]

_STYLEGAN2_RULES: dict[str, Rules] = {
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


def _stylegan2(config: Config, network: str, state: State) -> nn.Module:
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


_RULES = {"stylegan2": _STYLEGAN2_RULES, "stylegan3-t": stylegan3.RULES, "stylegan3-r": stylegan3.RULES}


def translate_name(name: str, kind: str, network: Literal["G", "D"]) -> str:
    """Our name of the PyTorch parameter `name` of a `kind` network."""
    return apply_first(name, _RULES[kind][network])


def _renamed(state: State, config: Config, network: Literal["G", "D"]) -> dict[str, Tensor]:
    """PyTorch states keep their layouts; filters are derived from the configuration."""
    return {
        translate_name(name, config["kind"], network): torch.from_numpy(np.array(value))
        for name, value in state.items()
        if not name.endswith("_filter")
    }


_FAMILIES: dict[str, tuple[Callable[..., nn.Module], Callable[..., dict[str, Tensor]]]] = {
    "stylegan2": (_stylegan2, _renamed),
    "stylegan3-t": (stylegan3.build, _renamed),
    "stylegan3-r": (stylegan3.build, _renamed),
    "progan": (progressive.build, progressive.convert),
    "stylegan1": (progressive.build, progressive.convert),
}
"""Kind -> (network of a configuration, its state in our names and layouts)."""


def from_reference(state: State, config: Config, network: Literal["G", "D"] = "G") -> nn.Module:
    """The network that `config` describes, filled with `state`, in eval mode.

    `state` maps reference names (without "G/" or "D/") to arrays. `config` holds `kind` and sizes; for stylegan2:
    z_dim, w_dim, c_dim, img_resolution, img_channels, channel_base, channel_max, mapping_layers,
    g_architecture, d_architecture, mbstd_group_size; for progan and stylegan1 see `progressive.build`, for
    stylegan3-t and stylegan3-r `stylegan3.build`.
    Raises UserError for another kind, for a missing or unknown parameter, and for one of the wrong shape.
    """
    kind = config.get("kind")
    if kind not in _FAMILIES:
        raise UserError(f"config['kind'] must be one of {sorted(_FAMILIES)}, got {kind!r}")
    if network not in ("G", "D"):
        raise UserError(f"network must be 'G' or 'D', got {network!r}")
    build, convert = _FAMILIES[kind]
    net = build(config, network, state)
    try:
        net.load_state_dict(convert(state, config, network))
    except RuntimeError as error:
        raise UserError(f"the {kind} {network} weights do not fit the given config: {error}") from None
    return net.eval().requires_grad_(False)
