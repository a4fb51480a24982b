"""Projection: the code whose picture is nearest to a given one, whole or degraded (StyleGAN2, appendix D).

    result = project(G, pictures, Settings(space="w+", steps=300))
    result.codes, result.images, result.psnr

A caller that shows the work as it goes on, or ends it, passes `watch`: it gets a `Look` every `every` steps, and False
from it ends the search with what there is by then; an exception from it ends `project` at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_dynamic_range
from stylegan_lightning.latent.codes import (
    Codes,
    Progress,
    device_of,
    frozen,
    label_of,
    noise_maps,
    own_noise,
    render,
    silent,
    size_of,
    synthesise,
)
from stylegan_lightning.latent.degradations import AddedNoise, Degradation, Identity
from stylegan_lightning.latent.likeness import LayeredDistance, Likeness, noise_autocorrelation, normalised
from stylegan_lightning.latent.spaces import (
    LatentSpace,
    Searched,
    StyleSpace,
    StyleStatistics,
    candidates,
    chosen_space,
    release_of,
)
from stylegan_lightning.metrics.perceptual import load_distance
from stylegan_lightning.networks import Generator

CHUNK = 32
"""Candidates drawn at a time."""
SHORT_LIST = 16
"""How many of them, the nearest by their pixels, are looked at by the perceptual distance."""


@dataclass(frozen=True)
class Settings:
    """How to search. Raises UserError for values that cannot be."""

    space: str = "auto"
    """z, w, w+, or auto: w+ for style-based models, z for the others."""
    steps: int = 300
    lr: float = 0.1
    """Of Adam, in standard deviations of w (or z)."""
    pixel_weight: float = 5.0
    """Of the mean square difference of pixels in [-1, 1]."""
    perceptual_weight: float = 1.0
    """Of the perceptual distance; 0 leaves it out."""
    prior_weight: float = 0.0
    """Of the mean square of the whitened coordinates of w and w+: how far the code is from the mean."""
    tie_weight: float = 0.0
    """Of the mean square by which layers of w+ differ from their mean."""
    jitter: float = 0.0
    """Standard deviation of noise on the point at the start, in those of w; it ends after 3/4 of the steps."""
    starts: int = 2
    """Searches for each picture, of which the one with the least loss is kept. In w and w+ the first starts at the
    mean, from where most real pictures are reached best; all others, at the nearest of the candidates in turn."""
    candidates: int = 256
    """Random pictures, for starts that are not the mean."""
    release: tuple[float, ...] = (0.1, 0.2, 0.3)
    """Of w+: shares of the steps after which coarse, middle and fine layers get styles of their own."""
    optimise_noise: bool = False
    """Also search for noise maps, of models that have them."""
    noise_weight: float = 100.0
    """Of their autocorrelation."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0:
            raise UserError(
                "a projection takes at least one step and a learning rate above 0; "
                f"got steps={self.steps}, lr={self.lr:g}"
            )
        if not 1 <= self.starts <= min(self.candidates, SHORT_LIST):
            raise UserError(
                f"there can be 1 to {SHORT_LIST} starts, and no more than candidates; "
                f"got starts={self.starts}, candidates={self.candidates}"
            )


@dataclass(frozen=True)
class Look:
    """A search under way, after `step` of `steps`; tensors are detached."""

    step: int
    steps: int
    ws: Tensor
    """[N, num_ws, w_dim]"""
    img: Tensor
    """[N, C, H, W] in [-1, 1], before this step moved the point."""
    loss: Tensor
    """[N]"""


Watch = Callable[[Look], bool | None]


@dataclass(frozen=True)
class Projection:
    codes: Codes
    images: Tensor
    """uint8 [N, C, H, W], of the codes."""
    curves: dict[str, Tensor]
    """"loss", "pixels", "perceptual": [steps taken, N]"""
    psnr: Tensor
    """[N]: decibels of the finished picture over what is known of the target."""
    perceptual: Tensor | None
    """[N]: perceptual distance of the finished picture to what is known; None where it was left out."""
    space: str
    seconds: float


def project(
    G: Generator,
    targets: Tensor,
    settings: Settings | None = None,
    *,
    names: Sequence[str] | None = None,
    degradation: Degradation | None = None,
    distance: LayeredDistance | None = None,
    label: int | Sequence[float] | None = None,
    watch: Watch | None = None,
    every: int = 10,
    progress: Progress = silent,
) -> Projection:
    """The codes whose pictures, degraded, are nearest to `targets`, uint8 or float in [-1, 1] [N, C, H, W].

    Each row is a search of its own, and the same targets give the same codes. `distance` defaults to efflite0, and is
    moved to G's device. Leaves the global random state as it is. Raises UserError for targets that do not fit.
    """
    settings, degradation = settings or Settings(), degradation or Identity()
    space = chosen_space(G, settings.space)
    if settings.optimise_noise and not noise_maps(G):
        raise UserError("this model has no noise inputs, so there are no noise maps to search for")
    label_of(G, label)
    target = checked(G, targets, degradation)
    if settings.perceptual_weight <= 0:
        distance = None
    elif distance is None:
        distance = load_distance("efflite0")  # type: ignore[assignment]
    if isinstance(distance, nn.Module):
        distance.to(target.device)
    start = time.perf_counter()
    with frozen(G):
        likeness = Likeness(target, degradation, distance)
        found = _searched(_Starts(G, likeness, settings, space, label), watch, every, progress)
        codes = Codes(found.ws, tuple(names or [f"picture {i}" for i in range(len(target))]), found.noise)
        images = render(G, codes.ws, noise=codes.noise)
    with torch.no_grad():
        finished = to_dynamic_range(images).to(target.device)
        psnr = likeness.psnr(finished).cpu()
        perceptual = None if distance is None else likeness.perceptual(finished).cpu()
    return Projection(codes, images, found.curves, psnr, perceptual, space, time.perf_counter() - start)


def checked(G: Generator, targets: Tensor, degradation: Degradation) -> Tensor:
    """Targets as float in [-1, 1] on G's device. Raises UserError where they do not fit the model, or hold NaN."""
    shape = degradation.check(int(G.img_channels), size_of(G))
    if targets.ndim != 4 or len(targets) == 0 or tuple(targets.shape[1:]) != shape:
        raise UserError(f"this model needs pictures [N, {', '.join(map(str, shape))}]; got {list(targets.shape)}")
    if targets.dtype == torch.uint8:
        targets = to_dynamic_range(targets)
    within = targets.isfinite() if isinstance(degradation, AddedNoise) else targets.abs() <= 1 + 1e-3
    if not bool(within.all()):
        raise UserError("pictures to project must be uint8, or numbers from -1 to 1; these have others, or NaN")
    return targets.to(device_of(G), torch.float32).contiguous()


def displayed(img: Tensor) -> Tensor:
    """float32, cut to [-1, 1] as pictures are, with the gradient of what was not cut: a white that is too white in a
    white place costs nothing, elsewhere it is told so."""
    img = img.float()
    return img + (img.clamp(-1, 1) - img).detach()


def learning_rate(settings: Settings, step: int) -> float:
    """Up over the first 5 % of the steps, down with a cosine over the last quarter (StyleGAN2, appendix D)."""
    t = (step + 0.5) / settings.steps
    return settings.lr * min(1.0, t / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25)))


class _Starts:
    """Where the searches start; whatever of it several searches share."""

    def __init__(
        self,
        G: Generator,
        likeness: Likeness,
        settings: Settings,
        space: str,
        label: int | Sequence[float] | None,
    ) -> None:
        self.G, self.likeness, self.settings, self.space, self.label = G, likeness, settings, space, label
        if space == "z" or settings.starts > 1:
            self.z, self.w = candidates(G, settings.candidates, settings.seed, label)
            self.order = self._nearest()
        self.statistics = None if space == "z" else StyleStatistics.of(G, label)
        self.release = release_of(G, settings.release) if space == "w+" else []

    def point(self, start: int) -> Searched:
        if self.statistics is None:
            return LatentSpace(self.z[self.order[start]], self.G, self.label)
        mean = self.statistics.mean.expand(len(self.likeness.target), -1)
        first = self.w[self.order[start - 1]] if start else mean
        return StyleSpace(first, int(self.G.num_ws), self.statistics, self.release)

    @torch.no_grad()
    def _nearest(self) -> Tensor:
        """[SHORT_LIST, N]: for each target the candidates nearest by their pixels, in the order of their loss."""
        by_pixels = torch.cat([self._pixels_of_each(part) for part in self.w.split(CHUNK)])
        short = by_pixels.argsort(0)[:SHORT_LIST]
        losses = []
        for chosen, pixels in zip(short, by_pixels.gather(0, short), strict=True):
            perceptual = self.likeness.perceptual(self._draw(self.w[chosen]))
            losses.append(self.settings.pixel_weight * pixels + self.settings.perceptual_weight * perceptual)
        return short.gather(0, torch.stack(losses).argsort(0))

    def _pixels_of_each(self, w: Tensor) -> Tensor:
        """[len(w), N]"""
        count = len(self.likeness.target)
        return torch.stack([self.likeness.pixels(one.expand(count, -1, -1, -1)) for one in self._draw(w)])

    def _draw(self, w: Tensor) -> Tensor:
        return displayed(synthesise(self.G, w[:, None].expand(-1, self.G.num_ws, -1)))


@dataclass(frozen=True)
class _Found:
    ws: Tensor
    noise: dict[str, Tensor]
    curves: dict[str, Tensor]

    def better(self, other: _Found) -> _Found:
        """Of each picture, the search that ended with the least loss."""
        steps = min(len(self.curves["loss"]), len(other.curves["loss"]))
        better = other.curves["loss"][-1] < self.curves["loss"][-1]

        def pick(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(better.view(-1, *[1] * (a.ndim - 1)), b, a)

        noise = {name: pick(maps, other.noise[name]) for name, maps in self.noise.items()}
        curves = {n: torch.where(better, other.curves[n][-steps:], c[-steps:]) for n, c in self.curves.items()}
        return _Found(pick(self.ws, other.ws), noise, curves)


def _searched(starts: _Starts, watch: Watch | None, every: int, progress: Progress) -> _Found:
    found: _Found | None = None
    total = starts.settings.steps * starts.settings.starts
    for number in range(starts.settings.starts):
        search = _Search(starts, number)
        ended = search.run(watch, every, lambda done, _: progress(search.before + done, total))  # noqa: B023
        found = search.found() if found is None else found.better(search.found())
        if ended:
            break
    assert found is not None
    return found


class _Search:
    def __init__(self, starts: _Starts, number: int) -> None:
        self.G, self.likeness, self.settings = starts.G, starts.likeness, starts.settings
        self.before = number * self.settings.steps
        self.point = starts.point(number)
        self.maps = self._noise()
        self.random = torch.Generator().manual_seed(self.settings.seed + number)
        self.rows: list[dict[str, Tensor]] = []
        self.adam = torch.optim.Adam([*self.point.parameters(), *self.maps.values()], lr=self.settings.lr)

    def _noise(self) -> dict[str, Tensor]:
        """Maps to search for, from the model's own."""
        if not self.settings.optimise_noise:
            return {}
        count = len(self.likeness.target)
        return {
            name: normalised(maps.expand(count, -1, -1, -1)).clone().requires_grad_()
            for name, maps in own_noise(self.G).items()
        }

    def run(self, watch: Watch | None, every: int, progress: Progress) -> bool:
        """Whether `watch` ended it."""
        steps = self.settings.steps
        for step in range(steps):
            ws, img, parts = self._step(step)
            self.rows.append(parts)
            progress(step + 1, steps)
            if watch is not None and ((step + 1) % every == 0 or step + 1 == steps):
                done, total = self.before + step + 1, steps * self.settings.starts
                if watch(Look(done, total, ws.detach(), img.detach(), parts["loss"])) is False:
                    return True
        return False

    def _step(self, step: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        settings = self.settings
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(settings, step)
        self.adam.zero_grad(set_to_none=True)
        ws = self.point.styles(self._jitter(step))
        img = displayed(synthesise(self.G, ws, noise=self.maps))
        pixels, perceptual = self.likeness.pixels(img), self.likeness.perceptual(img)
        far, apart = self.point.penalty()
        loss = settings.pixel_weight * pixels + settings.perceptual_weight * perceptual
        loss = loss + settings.prior_weight * far + settings.tie_weight * apart
        for maps in self.maps.values():
            loss = loss + settings.noise_weight * noise_autocorrelation(maps)
        loss.sum().backward()
        self.adam.step()
        with torch.no_grad():
            for maps in self.maps.values():
                maps.copy_(normalised(maps))
        self.point.settle((step + 1) / settings.steps)
        parts = {"loss": loss, "pixels": pixels, "perceptual": perceptual}
        return ws, img, {name: value.detach() for name, value in parts.items()}

    def _jitter(self, step: int) -> Tensor | None:
        """[1, 1, K], the same for every row, so that a row does not depend on its neighbours."""
        scale = self.settings.jitter * max(0.0, 1 - step / self.settings.steps / 0.75) ** 2
        if scale == 0:
            return None
        first = self.point.parameters()[0]
        return (scale * torch.randn(1, 1, first.shape[-1], generator=self.random)).to(first)

    @torch.no_grad()
    def found(self) -> _Found:
        curves = {name: torch.stack([row[name] for row in self.rows]).cpu() for name in self.rows[0]}
        noise = {name: maps.detach().cpu().clone() for name, maps in self.maps.items()}
        return _Found(self.point.styles().cpu().clone(), noise, curves)
