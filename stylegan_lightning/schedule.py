"""Everything that changes during training, as a pure function of the number of images shown."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class Stage:
    """What holds at one moment of a run. `resolution` and `alpha` describe growth (final size and 1 when fixed),
    `blur_sigma` (pixels) the blur of what D sees."""

    resolution: int
    alpha: float
    batch_size: int
    g_lr: float
    d_lr: float
    blur_sigma: float = 0.0


class Schedule(Protocol):
    """`nimg` counts real images shown to the discriminator's main phase, over all ranks."""

    total_nimg: int
    tick_nimg: int
    resolutions: tuple[int, ...]
    """Every resolution of the run, ascending."""
    batch_sizes: tuple[int, ...]
    """Every batch size of the run."""

    def at(self, nimg: int) -> Stage: ...


class FixedSchedule:
    """One resolution, one batch size, constant learning rates.

    D's blur falls linearly from `blur_sigma` to nothing over `blur_fade_kimg` (StyleGAN3-R).
    """

    def __init__(
        self,
        resolution: int,
        total_kimg: float,
        tick_kimg: float,
        batch_size: int,
        g_lr: float,
        d_lr: float,
        blur_sigma: float = 0.0,
        blur_fade_kimg: float = 0.0,
    ) -> None:
        self.total_nimg, self.tick_nimg = kimg_to_nimg(total_kimg), max(kimg_to_nimg(tick_kimg), 1)
        self.resolutions, self.batch_sizes = (resolution,), (batch_size,)
        self._stage = Stage(resolution, 1.0, batch_size, g_lr, d_lr)
        self.blur_sigma, self.blur_fade = blur_sigma, kimg_to_nimg(blur_fade_kimg)

    def at(self, nimg: int) -> Stage:
        if nimg >= self.blur_fade:
            return self._stage
        return replace(self._stage, blur_sigma=self.blur_sigma * (1 - nimg / self.blur_fade))


class ProgressiveSchedule:
    """Growth from `start_resolution` (ProGAN, section 2): each resolution is trained for `stabilise_kimg`, then the
    next one is faded in over `fade_kimg`; the last stays.

    Resolution, batch size and learning rates change when a fade begins. `batch_sizes` and `lrs` hold values by
    resolution: an empty table means `batch_size` and `g_lr`, `d_lr` everywhere, a resolution that `lrs` lacks has
    the base rates, and `batch_sizes` must be complete. The stage is held for `minibatch_repeats` batches.
    Raises ValueError for an impossible or incomplete table.
    """

    def __init__(
        self,
        resolution: int,
        start_resolution: int,
        total_kimg: float,
        tick_kimg: float,
        stabilise_kimg: float,
        fade_kimg: float,
        batch_size: int,
        g_lr: float,
        d_lr: float,
        batch_sizes: Mapping[int, int] | None = None,
        lrs: Mapping[int, float] | None = None,
        minibatch_repeats: int = 1,
    ) -> None:
        self.total_nimg, self.tick_nimg = kimg_to_nimg(total_kimg), max(kimg_to_nimg(tick_kimg), 1)
        self.resolutions = _doubling(start_resolution, resolution)
        self.stabilise, self.fade = kimg_to_nimg(stabilise_kimg), kimg_to_nimg(fade_kimg)
        if self.stabilise + self.fade <= 0:
            raise ValueError("stabilise_kimg + fade_kimg must be positive")
        table = {int(r): b for r, b in (batch_sizes or {}).items()}
        missing = [r for r in self.resolutions if r not in table] if table else []
        if missing:
            lacks = ", ".join(map(str, missing))
            raise ValueError(f"batch_sizes must hold every resolution of the run; it lacks {lacks}")
        self._batch = {r: table.get(r, batch_size) for r in self.resolutions}
        self.batch_sizes = tuple(dict.fromkeys(self._batch.values()))
        rates = {int(r): lr for r, lr in (lrs or {}).items()}
        self._lrs = {r: (rates.get(r, g_lr), rates.get(r, d_lr)) for r in self.resolutions}
        self._repeats = minibatch_repeats
        self._held = self._find_held()

    def at(self, nimg: int) -> Stage:
        start, batch = self._held[bisect_right(self._held, (nimg, 2**62)) - 1]
        group = batch * self._repeats
        return self._unheld(start + (nimg - start) // group * group)

    def _unheld(self, nimg: int) -> Stage:
        index = min(nimg // (self.stabilise + self.fade), len(self.resolutions) - 1)
        faded = nimg - index * (self.stabilise + self.fade) - self.stabilise
        alpha = 1.0
        if faded > 0 and index + 1 < len(self.resolutions):
            index, alpha = index + 1, faded / self.fade
        resolution = self.resolutions[index]
        return Stage(resolution, alpha, self._batch[resolution], *self._lrs[resolution])

    def _find_held(self) -> list[tuple[int, int]]:
        """(nimg, batch size) where held groups of batches of one size begin."""
        period = self.stabilise + self.fade
        held, start = [], 0
        for index, resolution in enumerate(self.resolutions):
            group = self._batch[resolution] * self._repeats
            end = index * period + self.stabilise  # the last image of this batch size
            held.append((start, self._batch[resolution]))
            if index + 1 < len(self.resolutions):
                start += max(-(-(end + 1 - start) // group), 0) * group
        return [h for h, after in zip(held, [*held[1:], (2**62, 0)], strict=True) if h[0] < after[0]]


def _doubling(first: int, last: int) -> tuple[int, ...]:
    if first < 1:
        raise ValueError(f"start_resolution must be at least 1, got {first}")
    if first > last:
        raise ValueError(f"start_resolution must be at most the final resolution {last}, got {first}")
    resolutions = [first]
    while resolutions[-1] < last:
        resolutions.append(resolutions[-1] * 2)
    if resolutions[-1] != last:
        raise ValueError(f"start_resolution must be {last} divided by a power of two, got {first}")
    return tuple(resolutions)


def kimg_to_nimg(kimg: float) -> int:
    return round(kimg * 1000)


def tick_of(schedule: Schedule, nimg: int) -> int:
    """Index of the tick that image `nimg` belongs to. The last, possibly short, tick ends at total_nimg."""
    return nimg // schedule.tick_nimg


def ends_tick(schedule: Schedule, before: int, after: int) -> bool:
    """Whether a batch that took `before` to `after` images completed a tick, or the run."""
    return after >= schedule.total_nimg or tick_of(schedule, after) > tick_of(schedule, before)
