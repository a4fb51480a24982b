"""What is known of a damaged picture, put back into the one that was found for it.

Pictures are float [N, C, H, W] in [-1, 1].
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Of R, G, B (ITU-R BT.601), as Pillow's "L"."""
PATCH = 8
THRESHOLD = 3.25
"""In standard deviations of the noise: what a coefficient must exceed to be structure."""
ROUNDS = 20
BISECTIONS = 20


def luma(img: Tensor) -> Tensor:
    """[N, 1, H, W] of the first three channels, in the same range."""
    return torch.einsum("nchw,c->nhw", img[:, :3], torch.tensor(LUMA, device=img.device, dtype=img.dtype))[:, None]


def with_luma(img: Tensor, wanted: Tensor) -> Tensor:
    """[N, 3, H, W] of luma `wanted` [N, 1, H, W] and the colour of `img`, paler where it would leave [-1, 1]."""
    colour = img - luma(img)
    room = torch.where(colour > 0, 1 - wanted, 1 + wanted) / colour.abs().clamp(min=1e-8)
    return wanted + colour * room.amin(1, keepdim=True).clamp(0, 1)


def blurred_around(img: Tensor, known: Tensor) -> Tensor:
    """Means of the known pixels around each pixel, of the smallest square (1, 2, 4, ... across) that has some."""
    filled, left = img * known, 1 - known
    size = 1
    while bool(left.any()):
        window = {"kernel_size": 2 * size + 1, "stride": 1, "padding": size}
        weight = F.avg_pool2d(known, **window)  # type: ignore[arg-type]
        mean = F.avg_pool2d(img * known, **window) / weight.clamp(min=1e-12)  # type: ignore[arg-type]
        found = left * (weight > 1e-9)
        filled, left, size = filled + mean * found, left - found, size * 2
    return filled


def with_surroundings(img: Tensor, left: Tensor, hole: Tensor) -> Tensor:
    """`left` where hole [N or 1, 1, H, W] is 0, and inside `img`, moved so that it meets its surroundings.

    Their difference at the border is carried into the hole as the smoothest function that has these values there
    (the solution of Laplace's equation; Perez et al. 2003, "Poisson image editing"), so that no seam shows.
    """
    difference = ((left - img) * (1 - hole)).cpu().numpy().astype(np.float64)
    holes = hole.expand(len(img), -1, -1, -1)[:, 0].cpu().numpy() > 0
    moved = [_carry(rows, inside) for rows, inside in zip(difference, holes, strict=True)]
    inside = (img + torch.from_numpy(np.array(moved)).to(img)).clamp(-1, 1)
    return torch.where(hole > 0, inside, left)


def _carry(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """[C, H, W] with the pixels of hole [H, W] replaced by the mean of their neighbours within the picture."""
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(hole.sum())
    ys, xs = np.nonzero(hole)
    rows, columns, degree = [], [], np.zeros(len(ys))
    right = np.zeros((len(ys), len(values)))
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        y, x = ys + dy, xs + dx
        within = (y >= 0) & (y < hole.shape[0]) & (x >= 0) & (x < hole.shape[1])
        own, y, x = np.nonzero(within)[0], y[within], x[within]
        degree[own] += 1
        inner = hole[y, x]
        rows.append(own[inner])
        columns.append(number[y[inner], x[inner]])
        right[own[~inner]] += values[:, y[~inner], x[~inner]].T
    i, j = np.concatenate(rows), np.concatenate(columns)
    matrix = scipy.sparse.diags(degree) - scipy.sparse.coo_matrix((np.ones(len(i)), (i, j)), (len(ys),) * 2)
    result = values.copy()
    result[:, hole] = scipy.sparse.linalg.splu(matrix.tocsc()).solve(right).T
    return result


def add_missing_means(img: Tensor, left: Tensor, factor: int) -> Tensor:
    """`img` changed until the means of its squares are `left` [N, C, H / factor, W / factor].

    What a mean lacks is added as a smooth field again and again (back-projection, Irani and Peleg 1991); then each
    square is made lighter or darker as a whole until its mean, with values cut to [-1, 1], is the one wanted.
    """
    for _ in range(ROUNDS):
        missing = left - F.avg_pool2d(img, factor)
        img = (img + F.interpolate(missing, scale_factor=float(factor), mode="bicubic")).clamp(-1, 1)
    low, high = torch.full_like(left, -2.0), torch.full_like(left, 2.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        dark = F.avg_pool2d((img + F.interpolate(middle, scale_factor=float(factor))).clamp(-1, 1), factor) < left
        low, high = torch.where(dark, middle, low), torch.where(dark, high, middle)
    return (img + F.interpolate((low + high) / 2, scale_factor=float(factor))).clamp(-1, 1)


def add_structure(img: Tensor, noisy: Tensor, sigma: float) -> Tensor:
    """`img` with what `noisy` has beyond it and is no noise of standard deviation `sigma`.

    Cosine coefficients of the difference in all windows of 8 x 8 pixels that do not exceed the noise are taken as
    noise, and the windows are averaged (Yu and Sapiro 2011, "DCT image denoising"); colours enter as three
    uncorrelated channels.
    """
    difference = noisy - img
    n, channels, height, width = difference.shape
    mixing = torch.eye(channels, device=img.device)
    if channels >= 3:
        axes = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]], device=img.device)
        mixing[:3, :3] = axes / axes.norm(dim=1, keepdim=True)
    edge = min(PATCH, height, width) - 1
    planes = F.pad(torch.einsum("kc,nchw->nkhw", mixing, difference), (edge,) * 4, mode="reflect")
    waves = _cosines(edge + 1).to(img)
    found = F.conv2d(planes.flatten(0, 1)[:, None], waves)
    found = torch.where(found.abs() > THRESHOLD * sigma, found, 0.0)
    smooth = F.conv_transpose2d(found, waves)[:, 0] / len(waves)
    inner = smooth.unflatten(0, (n, channels))[..., edge : edge + height, edge : edge + width]
    return (img + torch.einsum("kc,nkhw->nchw", mixing, inner)).clamp(-1, 1)


def _cosines(size: int) -> Tensor:
    """[size^2, 1, size, size]: the orthonormal cosine basis (DCT-II) in two dimensions."""
    k, x = torch.arange(size)[:, None], torch.arange(size)[None]
    basis = torch.cos(math.pi * (x + 0.5) * k / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", basis, basis).reshape(size * size, 1, size, size)
