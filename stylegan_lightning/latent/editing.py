"""Edits of codes and of regions of pictures."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_dynamic_range, to_uint8
from stylegan_lightning.latent.codes import Progress, device_of, silent, synthesise
from stylegan_lightning.networks import Generator
from stylegan_lightning.networks.progressive import StyleGAN1Layer
from stylegan_lightning.networks.stylegan2 import SynthesisLayer, ToRGB
from stylegan_lightning.networks.stylegan3 import AliasFreeLayer
from stylegan_lightning.protocols import NoiseMode

STYLED = (StyleGAN1Layer, SynthesisLayer, ToRGB, AliasFreeLayer)
"""The layers that a style enters."""


def feather(mask: Tensor, width: float) -> Tensor:
    """mask [N, 1, H, W] with a border of about `width` pixels on both sides of its edge; 0 leaves it."""
    if width <= 0:
        return mask
    reach = math.ceil(1.5 * width)
    x = torch.arange(-reach, reach + 1, device=mask.device)
    taps = torch.exp(-2 * (x / width) ** 2)
    taps = (taps / taps.sum())[None, None]
    soft = F.conv2d(F.pad(mask, (reach, reach, 0, 0), mode="replicate"), taps[:, :, None])
    return F.conv2d(F.pad(soft, (0, 0, reach, reach), mode="replicate"), taps[..., None])


@torch.inference_mode()
def edit_region(
    G: Generator,
    ws: Tensor,
    other: Tensor,
    mask: Tensor,
    *,
    noise_mode: NoiseMode = "const",
    noise: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
) -> Tensor:
    """uint8 [N, C, H, W]: `ws` outside the mask, `other` (both [N, num_ws, w_dim]) inside, drawn as one picture.

    mask [1, 1, H, W] in [0, 1]. Every layer is computed with both styles and its features are joined by the mask at
    that layer's size, so that each layer works on what the layers before have joined: the border is the network's
    own, not a fade between two pictures (Suzuki et al. 2018, "Spatially controllable image synthesis with internal
    representation collaging"). Raises UserError for models without style layers.
    """
    assert isinstance(G.synthesis, nn.Module)
    layers = [m for m in G.synthesis.modules() if isinstance(m, STYLED)]
    if not layers:
        raise UserError("a region can take another style in style-based models only (stylegan1, 2, 3)")
    images = []
    mask = mask.to(device_of(G), torch.float32)
    with _joining(layers, mask):
        for i in range(len(ws)):
            pair = torch.stack([ws[i], other[i].to(ws)]).to(mask.device)
            own = {name: maps[i : i + 1].to(mask) for name, maps in (noise or {}).items()}
            images.append(to_uint8(synthesise(G, pair, noise_mode=noise_mode, noise=own)[:1].float()).cpu())
            progress(i + 1, len(ws))
    return torch.cat(images)


@contextlib.contextmanager
def _joining(layers: Sequence[nn.Module], mask: Tensor) -> Iterator[None]:
    """While open, these layers take two rows, (outside, inside), and give both rows the joined features."""

    def join(layer: nn.Module, inputs: object, features: Tensor) -> Tensor:
        outside, inside = features.chunk(2)
        return torch.lerp(outside, inside, mask_at(layer, features, mask).to(features)).expand_as(features)

    handles = [layer.register_forward_hook(join) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mask_at(layer: nn.Module, features: Tensor, mask: Tensor) -> Tensor:
    """The mask at the size of a layer's output; over the margin of StyleGAN3's canvas its edge goes on."""
    height, width = features.shape[2:]
    if not isinstance(layer, AliasFreeLayer):
        return _resize(mask, height, width)
    rate = round(layer.out_sampling_rate)
    margin = (height - rate) // 2
    return F.pad(_resize(mask, rate, rate), (margin,) * 4, mode="replicate")


def _resize(mask: Tensor, height: int, width: int) -> Tensor:
    if mask.shape[2:] == (height, width):
        return mask
    return F.interpolate(mask, size=(height, width), mode="bilinear", antialias=True)


def keep_outside(photos: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    """uint8 [N, C, H, W]: `edited` inside the mask [1, 1, H, W], the very pixels of `photos` where it is 0."""
    joined = to_dynamic_range(photos).lerp(to_dynamic_range(edited), mask)
    return torch.where(mask > 0, (joined * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8), photos)
