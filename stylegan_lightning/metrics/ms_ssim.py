"""Diversity: how similar two random generated pictures are, by MS-SSIM (Odena et al. 2017, section 4.2).

    MS-SSIM(a, b) = l_M(a, b)^beta_M prod_j (c_j s_j)(a, b)^beta_j     (Wang et al. 2003; M scales, each half the last)

The mean over pairs: 1 where all pictures are equal, lower the more they differ. It says nothing of quality, so it is
read beside the value of real images. Published: 10,000 pairs of 20,000 pictures (Karras et al. 2018), a pair of one
class where there are classes (Odena et al. 2017). Computed by torchmetrics: Gaussian windows of 11 pixels with a
deviation of 1.5, K = (0.01, 0.03), range 255, negative contrast terms taken as 0; borders are reflected, which moves
values a little from those of implementations that only take windows inside.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.metrics.features import to_rgb
from stylegan_lightning.metrics.sampling import LabelSampler, draw_pairs, evaluating, join_ranks, own_rows

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11


def scale_weights(size: int) -> tuple[float, ...]:
    """beta of each scale for pictures whose smaller side is `size`.

    All five from 176 pixels on. Below, the first M scales whose smallest picture still holds a window, divided by
    their sum: 4 from 99, 3 from 44, 2 from 22, 1 (plain SSIM) from 11. Values of different M do not compare.
    Raises UserError below 11 pixels.
    """
    if size < WINDOW:
        raise UserError(
            f"MS-SSIM needs pictures of at least {WINDOW} pixels; these have {size}. Choose another metric."
        )
    scales = len(BETAS)
    # the second condition is torchmetrics' own
    while scales > 1 and (size >> (scales - 1) < WINDOW or size // (scales - 1) ** 2 < WINDOW):
        scales -= 1
    total = sum(BETAS[:scales])
    return BETAS if scales == len(BETAS) else tuple(beta / total for beta in BETAS[:scales])


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM float32 [N] of pairs of uint8 pictures [N, 1|3|4, H, W]; RGBA is composited over white."""
    if a.shape != b.shape:
        raise ValueError(f"pictures to compare must have one shape, got {list(a.shape)} and {list(b.shape)}")
    x, y = to_rgb(a).float(), to_rgb(b).float()
    betas = scale_weights(min(a.shape[2:]))
    value = multiscale_structural_similarity_index_measure(
        x, y, sigma=1.5, kernel_size=WINDOW, data_range=255.0, betas=betas, normalize="relu", reduction="none"
    )
    return value.reshape(len(a))


@dataclass(frozen=True)
class DiversityResult:
    """A value together with all that decides it."""

    metric: str
    value: float
    num_pairs: int
    scales: int
    within_class: bool
    truncation_psi: float
    seed: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def diversity(
    G: nn.Module,
    num_pairs: int = 10_000,
    *,
    c_sampler: LabelSampler | None = None,
    within_class: bool = True,
    truncation_psi: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> DiversityResult:
    """Mean MS-SSIM of `num_pairs` independent pairs that G (on `device`) makes.

    For a conditional G a pair has one label, drawn as the data have them; with `within_class=False` it has two. In a
    torch.distributed run all ranks call it and share the pairs. A diverged generator gives nan.
    """
    if num_pairs < 1 or batch_size < 1:
        raise UserError(f"MS-SSIM: num_pairs and batch_size must be at least 1; got {num_pairs} and {batch_size}.")
    betas = scale_weights(int(G.img_resolution))  # type: ignore[arg-type]
    z, c = draw_pairs(int(G.z_dim), int(G.c_dim), num_pairs, seed, c_sampler)  # type: ignore[arg-type]
    other = c
    if not within_class and c_sampler is not None:
        other = c_sampler(2 * num_pairs, seed)[num_pairs:]
    values = torch.zeros(num_pairs, dtype=torch.float64, device=device)
    with evaluating(G):
        for rows in own_rows(num_pairs).split(batch_size):
            if len(rows):
                inputs = torch.cat([z[rows, 0], z[rows, 1]]), torch.cat([c[rows], other[rows]])
                img = G(*(x.to(device) for x in inputs), truncation_psi=truncation_psi, noise_mode="const").float()
                wrong = ~img.isfinite().flatten(1).all(1).view(2, -1).all(0)
                values[rows.to(device)] = ms_ssim(*to_uint8(img).chunk(2)).double().masked_fill(wrong, float("nan"))
    return DiversityResult(
        metric="ms_ssim",
        value=float(join_ranks(values).mean()),
        num_pairs=num_pairs,
        scales=len(betas),
        within_class=bool(G.c_dim) and within_class,
        truncation_psi=truncation_psi,
        seed=seed,
    )
