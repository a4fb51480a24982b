"""Means over a tick, kept on the device so that recording never waits for it."""

from __future__ import annotations

import torch
from torch import Tensor

from stylegan_lightning.training.distributed import share_of_ranks, sum_over_ranks


class RunningMeans:
    """Sums and counts of finite values by name, and how many were not finite.

    A resumed run carries on with the sums of its interrupted tick.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # [3]: sum and number of the finite values, number of all
        self.finite: dict[str, float] = {}
        """After `compute`: the share of finite values."""

    def add_mean(self, name: str, values: Tensor) -> None:
        value = values.detach().mean().float()
        finite = value.isfinite()
        row = torch.stack([value.where(finite, 0.0), finite.float(), torch.ones_like(value)])
        row = row if row.device.type == "mps" else row.double()
        previous = self._sums.get(name)
        self._sums[name] = row if previous is None else previous.to(row.device) + row

    def compute(self) -> dict[str, float]:
        """Means over everything added since the last reset, on all ranks, which must have added the same names.

        NaN where no value was finite.
        """
        names = sorted(self._sums)
        if not names:
            return {}
        device = self._sums[names[0]].device
        totals, finite, counts = sum_over_ranks(torch.stack([self._sums[n].to(device) for n in names])).unbind(1)
        self.finite = dict(zip(names, (finite / counts).tolist(), strict=True))
        return dict(zip(names, (totals / finite).tolist(), strict=True))

    def reset(self) -> None:
        self._sums.clear()

    def state(self) -> dict[str, list[float]]:
        """Each rank's part of the sums over all, so that they add up again on as many ranks."""
        return {name: share_of_ranks(row).tolist() for name, row in sorted(self._sums.items())}

    def load(self, state: dict[str, list[float]]) -> None:
        self._sums = {name: torch.tensor(row, dtype=torch.float64) for name, row in state.items()}
