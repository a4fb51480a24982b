"""Everything that changes during training, as a pure function of the number of images shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Stage:
    """What holds at one moment of a run. `resolution` and `alpha` describe growth (final size and 1 when fixed)."""

    resolution: int
    alpha: float
    batch_size: int
    g_lr: float
    d_lr: float


class Schedule(Protocol):
    """`nimg` counts real images shown to the discriminator's main phase, over all ranks."""

    total_nimg: int
    tick_nimg: int

    def at(self, nimg: int) -> Stage: ...


class FixedSchedule:
    """One resolution, one batch size, constant learning rates."""

    def __init__(
        self, resolution: int, total_kimg: float, tick_kimg: float, batch_size: int, g_lr: float, d_lr: float
    ) -> None:
        self.total_nimg, self.tick_nimg = kimg_to_nimg(total_kimg), max(kimg_to_nimg(tick_kimg), 1)
        self._stage = Stage(resolution, 1.0, batch_size, g_lr, d_lr)

    def at(self, nimg: int) -> Stage:
        return self._stage


def kimg_to_nimg(kimg: float) -> int:
    return round(kimg * 1000)


def tick_of(schedule: Schedule, nimg: int) -> int:
    """Index of the tick that image `nimg` belongs to. The last, possibly short, tick ends at total_nimg."""
    return nimg // schedule.tick_nimg


def ends_tick(schedule: Schedule, before: int, after: int) -> bool:
    """Whether a batch that took `before` to `after` images completed a tick, or the run."""
    return after >= schedule.total_nimg or tick_of(schedule, after) > tick_of(schedule, before)
