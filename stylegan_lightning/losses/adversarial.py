"""Adversarial objectives: functions of logits, nothing else."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


class NonSaturating:
    """Non-saturating logistic loss (Goodfellow et al. 2014, section 3): the objective of StyleGAN 1, 2 and 3."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """mean of -log sigmoid(D(G(z)))."""
        return F.softplus(-fake_logits).mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """mean of -log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
        return self.discriminator_real(real_logits) + self.discriminator_fake(fake_logits)

    def discriminator_real(self, real_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits).mean()

    def discriminator_fake(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(fake_logits).mean()
