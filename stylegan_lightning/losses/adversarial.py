"""Adversarial objectives: functions of logits [N, 1], nothing else. `needs_reals`: G's objective uses D(x) too."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class NonSaturating:
    """Non-saturating logistic loss (Goodfellow et al. 2014, section 3): the objective of StyleGAN 1, 2 and 3."""

    needs_reals = False

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """mean of -log sigmoid(D(G(z)))."""
        return F.softplus(-fake_logits).mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """mean of -log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


class Minimax(NonSaturating):
    """The game as first stated (Goodfellow et al. 2014, eq. 1). G's gradient vanishes where D is sure."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """mean of log(1 - sigmoid(D(G(z))))."""
        return -F.softplus(fake_logits).mean()


class LeastSquares:
    """Targets 1 for reals and, in G's eyes, for fakes; 0 for fakes (Mao et al. 2017, eq. 9)."""

    needs_reals = False

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """mean of (D(G(z)) - 1)^2 / 2."""
        return (fake_logits - 1).square().mean() / 2

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """mean of (D(x) - 1)^2 / 2 + D(G(z))^2 / 2."""
        return (real_logits - 1).square().mean() / 2 + fake_logits.square().mean() / 2


class Hinge:
    """Only logits inside the margin [-1, 1] teach D (Lim and Ye 2017; Miyato et al. 2018)."""

    needs_reals = False

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """mean of -D(G(z))."""
        return -fake_logits.mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """mean of max(0, 1 - D(x)) + max(0, 1 + D(G(z)))."""
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


class Wasserstein:
    """The critic's estimate of the distance (Arjovsky et al. 2017, eq. 2), to be used with a gradient penalty.

    `drift` keeps the critic's output near zero (ProGAN, appendix A); 0 is the plain objective.
    """

    needs_reals = False

    def __init__(self, drift: float = 0.001) -> None:
        self.drift = drift

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """mean of -D(G(z))."""
        return -fake_logits.mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """mean of D(G(z)) - D(x) + drift * D(x)^2."""
        return fake_logits.mean() - real_logits.mean() + self.drift * real_logits.square().mean()


class Relativistic:
    """Relativistic pairing loss: sample n of the reals against sample n of the fakes (Jolicoeur-Martineau 2019;
    R3GAN, Huang et al. 2024), to be used with R1 and R2."""

    needs_reals = True

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """mean of -log sigmoid(D(G(z)) - D(x)). Raises ValueError without `real_logits`."""
        if real_logits is None:
            raise ValueError("the relativistic generator loss compares fakes with reals: real_logits must be given")
        return F.softplus(real_logits - fake_logits).mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """mean of -log sigmoid(D(x) - D(G(z)))."""
        return F.softplus(fake_logits - real_logits).mean()
