"""ProGAN and StyleGAN1 in the variable names and layouts of the TensorFlow originals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.interop.names import apply_first
from stylegan_lightning.networks import (
    Generator,
    MappingNetwork,
    ProGANSynthesis,
    ProgressiveDiscriminator,
    StyleGAN1Synthesis,
)
from stylegan_lightning.networks.progressive import SQRT2

Config = Mapping[str, Any]

_GENERATOR = (
    (r"^ToRGB_lod(\d+)/", r"torgb.<\1>."),
    (r"^4x4/Dense/bias$", "blocks.4.bias"),
    (r"^4x4/Dense/", "blocks.4.dense."),
    (r"^4x4/Conv/", "blocks.4.conv."),
    (r"^(\d+)x\d+/Conv(\d)(?:_up)?/", r"blocks.\1.conv\2."),
)
_STYLEGAN1_LAYERS = (
    (r"^ToRGB_lod(\d+)/", r"torgb.<\1>."),
    (r"^4x4/Const/const$", "blocks.4.const"),
    (r"^4x4/Const/", "blocks.4.layer0."),
    (r"^4x4/Conv/", "blocks.4.layer1."),
    (r"^(\d+)x\d+/Conv(\d)(?:_up)?/", r"blocks.\1.layer\2."),
)
_STYLEGAN1_PARTS = (
    ("StyleMod/", "style."),
    (r"Noise/weight$", "noise_strength"),
    (r"(blocks\.\d+\.layer\d\.)weight$", r"\1conv.weight"),
)
_DISCRIMINATOR = (
    (r"^FromRGB_lod(\d+)/", r"fromrgb.<\1>."),
    (r"^4x4/Conv/", "epilogue.conv."),
    (r"^4x4/Dense0/", "epilogue.fc."),
    (r"^4x4/Dense1/", "epilogue.out."),
    (r"^(\d+)x\d+/Conv(\d)(?:_down)?/", r"blocks.\1.conv\2."),
)


def build(config: Config, network: str, state: Mapping[str, np.ndarray]) -> nn.Module:
    """The network of `config`: kind (progan or stylegan1), resolution, channels, fmap_max, z_dim, fused_scale,
    mbstd_group_size; for StyleGAN1 also w_dim and mapping_layers. Widths are read off `state`, because
    `fmap_base` counts from a resolution that differs between the originals' versions.
    """
    resolution, channels, fused = config["resolution"], config["channels"], config["fused_scale"]
    size = {"channel_base": _channel_base(config, network, state), "channel_max": config["fmap_max"]}
    stylegan1 = config["kind"] == "stylegan1"
    if network == "D":
        group = config["mbstd_group_size"]
        return ProgressiveDiscriminator(
            resolution, channels, blur=stylegan1, fused_scale=bool(fused), mbstd_group_size=group, **size
        )
    if not stylegan1:
        synthesis = ProGANSynthesis(resolution, channels, w_dim=config["z_dim"], fused_scale=bool(fused), **size)
        return Generator(synthesis, partial(MappingNetwork, z_dim=config["z_dim"], num_layers=0))
    mapping = partial(
        MappingNetwork,
        z_dim=config["z_dim"],
        num_layers=config["mapping_layers"],
        he_gain=SQRT2,
        w_avg_beta=0.995,
    )
    synthesis1 = StyleGAN1Synthesis(resolution, channels, w_dim=config["w_dim"], fused_scale=fused, **size)
    return Generator(synthesis1, mapping)


def _channel_base(config: Config, network: str, state: Mapping[str, np.ndarray]) -> int:
    """channel_base whose widths are those of the image layers in `state`."""
    layer, axis = ("ToRGB", 2) if network == "G" else ("FromRGB", 3)
    widths = {
        config["resolution"] >> int(m[1]): value.shape[axis]
        for name, value in state.items()
        if (m := re.fullmatch(layer + r"_lod(\d+)/weight", name))
    }
    return max((r * width for r, width in widths.items() if width < config["fmap_max"]), default=config["fmap_base"])


def convert(state: Mapping[str, np.ndarray], config: Config, network: str) -> dict[str, Tensor]:
    """`state` in our names and layouts: convolutions HWIO -> OIHW, dense [in, out] -> [out, in]."""
    out = {_name(name, config, network): torch.from_numpy(_array(name, value)) for name, value in state.items()}
    if "lod" in state:
        growth = growth_of(config["resolution"], float(state["lod"]))
        out[("synthesis." if network == "G" else "") + "_extra_state"] = torch.tensor(growth, dtype=torch.float64)
        del out["lod"]
    if network == "G" and config["kind"] == "progan":
        out["mapping.w_avg"] = torch.zeros(config["z_dim"])
    return out


def growth_of(img_resolution: int, lod: float) -> tuple[int, float]:
    """(resolution, alpha) of a level of detail: 0 is full size, n is img_resolution / 2^n, fractions fade."""
    return img_resolution >> int(lod), 1 - lod % 1


def _array(name: str, value: np.ndarray) -> np.ndarray:
    if name.endswith("Const/const"):
        value = value[0]
    elif re.fullmatch(r"noise\d+", name):
        value = value[0, 0]
    elif value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
        value = value.transpose(1, 0)
    return np.array(value, dtype=np.float32)


def _name(name: str, config: Config, network: str) -> str:
    if name == "lod":
        return name
    if network == "D":
        return _image_layers(apply_first(name, _DISCRIMINATOR), config)
    if config["kind"] == "progan":
        return "synthesis." + _image_layers(apply_first(name, _GENERATOR), config)
    if name == "dlatent_avg":
        return "mapping.w_avg"
    if match := re.match(r"Dense(\d+)/", name):
        return f"mapping.layers.{match[1]}.{name[match.end() :]}"
    if match := re.fullmatch(r"noise(\d+)", name):
        index = int(match[1])
        return f"synthesis.blocks.{4 << index // 2}.layer{index % 2}.noise_const"
    name = _image_layers(apply_first(name, _STYLEGAN1_LAYERS), config)
    return "synthesis." + apply_first(name, _STYLEGAN1_PARTS)


def _image_layers(name: str, config: Config) -> str:
    """torgb.<lod>. -> torgb.resolution."""
    return re.sub(r"<(\d+)>", lambda m: str(config["resolution"] >> int(m[1])), name)
