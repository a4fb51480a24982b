"""Style mixing: some styles of one picture, the rest of another (StyleGAN, section 3.1 and figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import Codes, Progress, render, silent
from stylegan_lightning.networks import Generator
from stylegan_lightning.protocols import NoiseMode


def take_layers(ws: Tensor, other: Tensor, layers: Sequence[int]) -> Tensor:
    """`ws` [..., num_ws, w_dim] with these layers of `other`."""
    mixed = torch.broadcast_to(ws, torch.broadcast_shapes(ws.shape, other.shape)).clone()
    mixed[..., list(layers), :] = other[..., list(layers), :].to(mixed)
    return mixed


def mixing_table(
    G: Generator,
    rows: Codes,
    columns: Codes,
    layers: Sequence[int],
    *,
    noise_mode: NoiseMode = "const",
    progress: Progress = silent,
) -> Tensor:
    """uint8 [(R + 1) * (C + 1), C, H, W]: the picture of each row with `layers` of each column.

    The first row and the first column show the sources themselves; the corner is white. Raises UserError for a model
    with one style.
    """
    if G.num_ws == 1:
        raise UserError("this model has one style, which makes the whole picture: there is nothing to mix")
    mixed = take_layers(rows.ws[:, None], columns.ws[None].to(rows.ws), layers).flatten(0, 1)
    images = render(G, torch.cat([rows.ws, columns.ws, mixed]), noise_mode=noise_mode, progress=progress)
    r, c = len(rows), len(columns)
    table = images.new_full((r + 1, c + 1, *images.shape[1:]), 255)
    table[1:, 0], table[0, 1:], table[1:, 1:] = images[:r], images[r : r + c], images[r + c :].unflatten(0, (r, c))
    return table.flatten(0, 1)
