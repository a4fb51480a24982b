"""Means over a tick, kept on the device so that recording never waits for it."""

from __future__ import annotations

import torch
from torch import Tensor

from stylegan_lightning.training.distributed import sum_over_ranks


class RunningMeans:
    """Sums and counts by name. A resumed run carries on with the sums of its interrupted tick."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach().double().sum() if value.device.type != "mps" else value.detach().sum()
        previous = self._sums.get(name)
        self._sums[name] = value if previous is None else previous.to(value.device) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def add_mean(self, name: str, values: Tensor) -> None:
        self.add(name, values.mean())

    def compute(self) -> dict[str, float]:
        """Means over everything added since the last reset, on all ranks, which must have added the same names."""
        names = sorted(self._sums)
        if not names:
            return {}
        device = self._sums[names[0]].device
        rows = torch.stack([self._sums[n].to(device) for n in names])
        counts = torch.tensor([float(self._counts[n]) for n in names], dtype=rows.dtype, device=device)
        rows, counts = sum_over_ranks(torch.stack([rows, counts])).unbind()
        return dict(zip(names, (rows / counts).tolist(), strict=True))

    def reset(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def state(self) -> dict[str, list[float]]:
        return {name: [float(self._sums[name]), self._counts[name]] for name in self._sums}

    def load(self, state: dict[str, list[float]]) -> None:
        self._sums = {name: torch.tensor(total, dtype=torch.float64) for name, (total, _) in state.items()}
        self._counts = {name: int(count) for name, (_, count) in state.items()}
