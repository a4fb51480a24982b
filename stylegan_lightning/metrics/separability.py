"""Linear separability: can a plane in latent space tell who has an attribute (Karras et al. 2019, section 4.2)?

    exp( sum_i H(Y_i | X_i) ),    H(Y | X) = - sum_xy p(x, y) ln p(y | x)

A classifier of attributes says of every generated picture whether it has attribute i (Y_i); of the half that it is
surest of, a linear SVM is fitted to the latents, and X_i is the side of its plane. H is how much is left to be said:
0 where the plane is always right, the entropy of the attribute where it knows nothing. So 1 is best, and a hopeless
latent space has exp(sum_i H(Y_i)). Published: 200,000 pictures, 100,000 kept, 40 attributes, Z 165.0 and W 3.74.
Values of different classifiers do not compare.

The SVM minimises |w|^2 / 2 + C sum_n max(0, 1 - y_n (w . x_n + b))^2, the squared hinge, by L-BFGS: this is smooth and
convex, so that the one minimum is found with products of matrices and vectors alone. Latents are scaled to mean 0 and
deviation 1 in every dimension first, for conditioning; with so many points C has little influence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.sampling import LabelSampler, draw_pairs, evaluating, join_ranks, own_rows

AttributeClassifier = Callable[[Tensor], Tensor]
"""img float [N, C, H, W] in [-1, 1] -> logits [N, A]: positive where a picture has the attribute, far from 0 where
that is sure. Of a softmax over (no, yes) it is the difference of the two."""


@dataclass(frozen=True)
class Separability:
    """The value, and the conditional entropy (nats) of each attribute, together with all that decides them."""

    metric: str
    value: float
    entropies: tuple[float, ...]
    num_images: int
    kept: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ----------------------------------------------------------------------------------------------------- SVM


def fit_svm(x: Tensor, y: Tensor, *, C: float = 1.0, max_iterations: int = 1000) -> tuple[Tensor, float]:
    """w [d] and b of the squared-hinge SVM of points x [n, d] and labels y [n] of -1 and 1; float64.

    b is regularised like w (as one more feature, constantly 1). Raises ValueError for other labels.
    """
    if not bool((y.abs() == 1).all()):
        raise ValueError("labels must be -1 and 1")
    signed = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64, device=x.device)], 1)
    signed *= y.double()[:, None]

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(parameters).to(signed.device)
        short = (1 - signed @ w).clamp(min=0)
        gradient = w - 2 * C * (short @ signed)
        return float(w @ w / 2 + C * short.square().sum()), gradient.cpu().numpy()

    start = np.zeros(signed.shape[1])
    options = {"maxiter": max_iterations, "ftol": 1e-12, "gtol": 1e-6 * len(x)}
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(found[:-1]).to(x.device), float(found[-1])


def standardize(x: Tensor) -> Tensor:
    """float64 [n, d] with mean 0 and deviation 1 in every dimension (0 where all are equal)."""
    x = x.double()
    deviation, mean = torch.std_mean(x, 0, correction=0)
    return (x - mean) / deviation.clamp(min=1e-12)


def conditional_entropy(y: Tensor, x: Tensor) -> float:
    """H(Y | X) in nats of two bool [n]: - sum_xy p(x, y) ln p(y | x)."""
    total = 0.0
    for side in (x, ~x):
        for agree in (side & y, side & ~y):
            if count := int(agree.sum()):
                total -= count / len(y) * math.log(count / int(side.sum()))
    return total


def attribute_entropy(latents: Tensor, logits: Tensor, kept: int) -> float:
    """H(Y | X) of one attribute: latents [n, d], logits [n], of which the `kept` farthest from 0 count.

    0 where all of them are on one side: then nothing is left to be said. nan where something is not finite.
    """
    if not bool(logits.isfinite().all() and latents.isfinite().all()):
        return math.nan
    surest = logits.abs().sort(descending=True, stable=True)[1][:kept]
    has, x = logits[surest] > 0, standardize(latents[surest])
    if bool(has.all()) or not bool(has.any()):
        return 0.0
    w, b = fit_svm(x, has.double() * 2 - 1)
    return conditional_entropy(has, x @ w + b > 0)


# --------------------------------------------------------------------------------------------------- value


def linear_separability(latents: Tensor, logits: Tensor, *, keep: float = 0.5) -> tuple[float, tuple[float, ...]]:
    """exp(sum H) and each H for latents [n, d] and logits [n, A]; `keep` is the fraction of the surest."""
    if latents.ndim != 2 or logits.ndim != 2 or len(latents) != len(logits) or 0 in logits.shape:
        raise UserError(
            "Linear separability needs latents [N, d] and logits [N, A], one column an attribute; got "
            f"{list(latents.shape)} and {list(logits.shape)}. Let the classifier return [N, A]."
        )
    if not 0 < keep <= 1:
        raise UserError(f"Linear separability: keep must be greater than 0 and at most 1; got {keep}.")
    kept = max(round(keep * len(latents)), 1)
    entropies = tuple(attribute_entropy(latents, column, kept) for column in logits.unbind(1))
    return math.exp(math.fsum(entropies)), entropies


def separability(
    G: nn.Module,
    classifier: AttributeClassifier,
    *,
    space: Literal["z", "w"] = "w",
    num_images: int = 200_000,
    keep: float = 0.5,
    c_sampler: LabelSampler | None = None,
    batch_size: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Separability:
    """Linear separability of the latents z, or w (the first style, not truncated), of G on `device`.

    In a torch.distributed run all ranks call it and share the pictures; each then fits all planes. A diverged
    generator gives nan. Raises UserError for labels that are missing or logits of a wrong shape.
    """
    if space not in ("z", "w"):
        raise UserError(f"Linear separability: space must be z or w; got {space}.")
    if num_images < 1 or batch_size < 1:
        raise UserError(
            f"Linear separability: num_images and batch_size must be at least 1; got {num_images} and {batch_size}."
        )
    z, c = draw_pairs(int(G.z_dim), int(G.c_dim), num_images, seed, c_sampler)  # type: ignore[arg-type]
    latents, logits = classified(G, classifier, space, z[:, 0], c, batch_size, device)
    value, entropies = linear_separability(latents, logits, keep=keep)
    return Separability(f"separability_{space}", value, entropies, num_images, max(round(keep * num_images), 1), seed)


def classified(
    G: nn.Module,
    classifier: AttributeClassifier,
    space: Literal["z", "w"],
    z: Tensor,
    c: Tensor,
    batch_size: int,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Latents [N, d] and the logits [N, A] of the pictures that G makes of z and c; collective."""
    mapping: Any = G.mapping
    synthesis: Any = G.synthesis
    own = own_rows(len(z))
    parts = []
    with evaluating(G):
        for rows in (own if len(own) else torch.tensor([0])).split(batch_size):  # a rank without rows learns A
            batch = z[rows].to(device)
            ws = mapping(batch, c[rows].to(device))
            logits = classifier(synthesis(ws, noise_mode="const").float())
            if logits.ndim != 2 or len(logits) != len(rows):
                raise UserError(
                    f"An attribute classifier must return logits [N, A] for N = {len(rows)} pictures; "
                    f"it returned {list(logits.shape)}. Change the classifier."
                )
            parts.append((batch if space == "z" else ws[:, 0], logits))
    joined = []
    for values in map(torch.cat, zip(*parts, strict=True)):
        rows_of_all = torch.zeros(len(z), values.shape[1], device=values.device)
        rows_of_all[own.to(values.device)] = values[: len(own)].float()
        joined.append(join_ranks(rows_of_all))
    return joined[0], joined[1]
