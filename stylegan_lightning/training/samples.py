"""Pictures of fixed latents: what the training grids and evaluate.py show."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.labels import label_kind, label_names
from stylegan_lightning.imaging import image_grid, name_rows, to_uint8
from stylegan_lightning.metrics.sampling import join_ranks, label_sampler, own_rows
from stylegan_lightning.networks import Generator

MOST_ROWS = 20
"""Classes in a picture of classes; the rest are left out."""


@torch.inference_mode()
def generate(
    G: Generator, z: Tensor, c: Tensor, psi: float, device: torch.device | str, together: bool = False
) -> Tensor:
    """uint8 [N, C, H, W] on the CPU; `together`, all ranks call it and share the work."""
    own = own_rows(len(z)) if together else torch.arange(len(z))
    made = to_uint8(
        torch.cat(
            [
                G(z[rows].to(device), c[rows].to(device), truncation_psi=psi, noise_mode="const")
                for rows in (own if len(own) else torch.tensor([0])).split(32)
            ]
        )
    )
    if not together:
        return made.cpu()
    everything = made.new_zeros(len(z), *made.shape[1:])
    everything[own.to(device)] = made[: len(own)]
    return join_ranks(everything).cpu()


@torch.inference_mode()
def render(G: Generator, ws: Tensor, device: torch.device | str) -> Tensor:
    """uint8 [N, C, H, W] of styles [N, num_ws, w_dim], on the CPU."""
    return to_uint8(torch.cat([G.synthesis(w.to(device), noise_mode="const") for w in ws.split(32)])).cpu()


def latents(G: Generator, count: int, seed: int) -> Tensor:
    """z [count, z_dim] that `seed` names, on the CPU."""
    return torch.randn(count, G.z_dim, generator=torch.Generator().manual_seed(seed))


def sample_fixed(
    G: Generator,
    dataset: PreparedDataset,
    count: int,
    seed: int,
    psi: float,
    device: torch.device | str,
    together: bool = False,
) -> Tensor:
    """uint8 [count, C, H, W] of the latents and data labels that `seed` names."""
    return generate(G, latents(G, count, seed), label_sampler(dataset)(count, seed), psi, device, together)


def class_picture(
    G: Generator,
    dataset: PreparedDataset,
    columns: int,
    seed: int,
    psi: float,
    device: torch.device | str,
    min_cell: int = 64,
    together: bool = False,
) -> np.ndarray | None:
    """uint8 [H, W, C]: a row for each of the first classes, its name on the left, the same latents in every row.

    None unless labels are one-hot and several classes have images.
    """
    if label_kind(dataset.targets) != "classes":
        return None
    present = np.flatnonzero(dataset.targets.any(0))[:MOST_ROWS]
    if len(present) < 2:
        return None
    z = latents(G, columns, seed).repeat(len(present), 1)
    c = torch.eye(dataset.c_dim)[present].repeat_interleave(columns, 0)
    names = [label_names(dataset)[k] for k in present]
    return name_rows(image_grid(generate(G, z, c, psi, device, together), columns, min_cell), names)
