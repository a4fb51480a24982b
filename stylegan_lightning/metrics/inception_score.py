"""Inception score of generated pictures (Salimans et al. 2016).

    IS = exp E_x KL(p(y|x) || p(y)),    p(y) = E_x p(y|x)

over class probabilities p(y|x) of the Inception network, from 1 (all alike) to the number of classes; mean and standard
deviation over 10 parts of the pictures. All three known implementations leave out the bias of the last layer. They
differ in the parts:

| | order | parts | standard deviation |
|---|---|---|---|
| NVIDIA | as generated | i n / 10 ... (i + 1) n / 10 | over 10 |
| torch-fidelity | `fidelity_order` | as NVIDIA | over 10 |
| torchmetrics | `torch.randperm` | ceil(n / 10) pictures each: `chunks=True` | over 9: `correction=1` |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.features import InceptionFID


@dataclass(frozen=True)
class InceptionScoreResult:
    """Mean and standard deviation over the parts."""

    mean: float
    std: float


def class_logits(features: Tensor, extractor: InceptionFID) -> Tensor:
    """Logits [N, 1008] without the last layer's bias, of the network's pool features [N, 2048]."""
    return features @ extractor.net.fc.weight.detach().to(features).T


def fidelity_order(n: int, seed: int = 2020) -> Tensor:
    """The permutation [n] that torch-fidelity applies before it splits."""
    return torch.from_numpy(np.random.RandomState(seed).permutation(n))


@torch.no_grad()
def inception_score(
    scores: Tensor,
    *,
    probabilities: bool = False,
    splits: int = 10,
    order: Tensor | None = None,
    chunks: bool = False,
    correction: int = 0,
) -> InceptionScoreResult:
    """IS of `scores` [N, classes], logits or, if so said, probabilities; in float64.

    `order` [N] is the order before the split (None: as it is), `chunks` the rule of torchmetrics for the parts,
    `correction` what is subtracted from their number in the standard deviation. Raises UserError for fewer pictures
    than parts.
    """
    n = len(scores)
    if scores.ndim != 2 or splits < 1 or n < splits:
        raise UserError(
            f"The Inception score needs class scores [N, classes] with at least one row for each of {splits} splits; "
            f"got {list(scores.shape)}. Generate more images or lower the number of splits."
        )
    scores = (scores if order is None else scores[order.to(scores.device)]).double()
    if chunks:
        parts = scores.chunk(splits)
    else:
        parts = tuple(scores[i * n // splits : (i + 1) * n // splits] for i in range(splits))
    values = torch.stack([_score(part if probabilities else part.log_softmax(1), probabilities) for part in parts])
    return InceptionScoreResult(float(values.mean()), float(values.std(correction=correction)))


def _score(part: Tensor, probabilities: bool) -> Tensor:
    """exp of the mean divergence of rows from their mean; part holds probabilities or their logarithms."""
    p = part if probabilities else part.exp()
    own = torch.special.xlogy(p, p) if probabilities else p * part
    mean = p.mean(0)
    return (own.sum(1).mean() - torch.special.xlogy(mean, mean).sum()).exp()
