"""What a generator has learned, in pictures and histograms: truncation, mixed styles, ways between latents, reals
beside fakes, the discriminator's logits, styles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.imaging import fade_reals, image_grid, name_rows, save_png, to_dynamic_range
from stylegan_lightning.metrics.path_length import slerp
from stylegan_lightning.metrics.sampling import evaluating, label_sampler
from stylegan_lightning.networks import Generator, Growing
from stylegan_lightning.training.callbacks import reported
from stylegan_lightning.training.measurements import as_gan
from stylegan_lightning.training.module import GAN
from stylegan_lightning.training.phases import parts_of
from stylegan_lightning.training.samples import generate, latents, render

PSIS = (0.3, 0.5, 0.7, 0.85, 1.0)
STEPS = 8
"""From one end of an interpolation to the other."""
JUDGED, MAPPED = 256, 1000
"""Images whose logits, and latents whose styles, are in the histograms."""


@dataclass(frozen=True)
class Gallery:
    """Draws `G` for the latents, labels and images that `seed` names. Pictures are uint8 [H, W, C]."""

    G: Generator
    dataset: PreparedDataset
    rows: int
    columns: int
    psi: float = 1.0
    seed: int = 0
    device: torch.device | str = "cpu"

    def truncation(self) -> np.ndarray:
        """A row for each psi, a latent in each column."""
        z, c = latents(self.G, self.columns, self.seed), self._labels(self.columns)
        imgs = torch.cat([generate(self.G, z, c, psi, self.device) for psi in PSIS])
        return name_rows(self._grid(imgs, self.columns), [f"psi {psi:g}" for psi in PSIS], self._letters)

    def mixing(self) -> np.ndarray | None:
        """The first half of the styles from the latent above, the rest from the latent on the left.

        None where there are not more than two styles.
        """
        n, styles = self.rows, self.G.active_ws
        if styles <= 2:
            return None
        ws = self._map(n, self.psi)
        mixed = torch.where(torch.arange(ws.shape[1])[:, None] < styles // 2, ws[None], ws[:, None])
        imgs, mixed = render(self.G, ws, self.device), render(self.G, mixed.flatten(0, 1), self.device)
        table = imgs.new_full((n + 1, n + 1, *imgs.shape[1:]), 255)
        table[0, 1:], table[1:, 0], table[1:, 1:] = imgs, imgs, mixed.unflatten(0, (n, n))
        grid = self._grid(table.flatten(0, 1), n + 1)
        names = ["coarse styles", "fine styles", *[""] * (n - 1)]
        return name_rows(_gap(_gap(grid, n + 1, 0), n + 1, 1), names, self._letters)

    def interpolation(self) -> np.ndarray:
        """In each row the way over the sphere from one latent to another, of the same label."""
        start, end = latents(self.G, 2 * self.rows, self.seed).chunk(2)
        c = self._labels(self.rows).repeat_interleave(STEPS, 0)
        return self._grid(generate(self.G, way(start, end, STEPS).flatten(0, 1), c, self.psi, self.device), STEPS)

    def reals_and_fakes(self) -> np.ndarray:
        """Real images on the left, as many generated ones of the same labels on the right."""
        half = max(self.columns // 2, 1)
        reals, c = self._reals(self.rows * half)
        fakes = generate(self.G, latents(self.G, len(c), self.seed), c, self.psi, self.device)
        both = torch.cat([imgs.unflatten(0, (self.rows, half)) for imgs in (reals, fakes)], 1)
        grid = _gap(self._grid(both.flatten(0, 1), 2 * half), 2, 1)
        return name_columns(grid, ["real", "generated"], self._letters)

    def logits(self, D: nn.Module, batch_size: int) -> dict[str, np.ndarray]:
        """D's verdicts on real and generated images of the same labels, neither augmented, `batch_size` at a time."""
        reals, c = self._reals(-(-JUDGED // batch_size) * batch_size)
        alpha = float(D.alpha) if isinstance(D, Growing) else 1.0
        fakes = generate(self.G, latents(self.G, len(c), self.seed), c, 1.0, self.device)

        def judge(imgs: Tensor, faded: float) -> np.ndarray:
            parts = zip(imgs.split(batch_size), c.split(batch_size), strict=True)
            with evaluating(D):
                found = [D(fade_reals(to_dynamic_range(x.to(self.device)), faded), y.to(self.device)) for x, y in parts]
            return torch.cat(found).float().cpu().numpy().ravel()[:JUDGED]

        return {"logits_real": judge(reals, alpha), "logits_fake": judge(fakes, 1.0)}

    def styles(self) -> dict[str, np.ndarray]:
        """All numbers of the w of many latents, before truncation."""
        return {"w": self._map(MAPPED, 1.0)[:, 0].numpy().ravel()}

    @property
    def _letters(self) -> int:
        return max(14, self.dataset.img_resolution // 10)

    def _labels(self, count: int) -> Tensor:
        return label_sampler(self.dataset)(count, self.seed)

    def _reals(self, count: int) -> tuple[Tensor, Tensor]:
        """At the resolution that G has grown to; small data sets are gone through again."""
        order = np.random.default_rng(self.seed).permutation(len(self.dataset))
        grown = self.G.synthesis.resolution if isinstance(self.G.synthesis, Growing) else None
        return self.dataset.batch(np.resize(order, count).tolist(), grown)

    @torch.no_grad()
    def _map(self, count: int, psi: float) -> Tensor:
        z, c = latents(self.G, count, self.seed).to(self.device), self._labels(count).to(self.device)
        return self.G.mapping(z, c, truncation_psi=psi).float().cpu()

    def _grid(self, imgs: Tensor, columns: int) -> np.ndarray:
        return image_grid(imgs, columns, max(self.dataset.img_resolution, 64))


def way(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """[N, steps, d] over the sphere from `start` to `end` [N, d]; lengths go straight from one to the other."""
    t = torch.linspace(0, 1, steps)[None, :, None]
    a, b = (x[:, None].expand(-1, steps, -1) for x in (start, end))
    lengths = a.norm(dim=-1, keepdim=True).lerp(b.norm(dim=-1, keepdim=True), t)
    return slerp(a, b, t) * lengths / start.shape[-1] ** 0.5


def _gap(grid: np.ndarray, parts: int, axis: int) -> np.ndarray:
    """A white line after the first of `parts` equal parts."""
    at = grid.shape[axis] // parts
    return np.insert(grid, [at] * 8, 255, axis)


def name_columns(grid: np.ndarray, names: Sequence[str], size: int) -> np.ndarray:
    """The names above equal parts of a grid uint8 [H, W, C], black on white."""
    strip, width = Image.new("L", (grid.shape[1], 2 * size), 255), grid.shape[1] / len(names)
    for column, name in enumerate(names):
        ImageDraw.Draw(strip).text(((column + 0.5) * width, size), name, 0, ImageFont.load_default(size), "mm")
    row = np.asarray(strip)[..., None].repeat(grid.shape[2], 2)
    if grid.shape[2] == 4:
        row[..., 3] = 255
    return np.concatenate([row, grid])


class Showcase(Callback):
    """A `Gallery` of `G_ema` at the end of the run, and every `every_ticks` ticks, on rank 0.

    What cannot be drawn is reported and left out; training goes on.
    """

    def __init__(
        self,
        directory: Path,
        dataset: PreparedDataset,
        *,
        every_ticks: int | None,
        rows: int,
        columns: int,
        truncation_psi: float,
        seed: int,
    ) -> None:
        self.directory, self.dataset, self.every_ticks = directory, dataset, every_ticks
        self.rows, self.columns, self.truncation_psi, self.seed = rows, columns, truncation_psi, seed
        self.pictures: dict[str, np.ndarray] = {}
        self.histograms: dict[str, np.ndarray] = {}
        self._tick = 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gan = as_gan(pl_module)
        if not gan.tick_done:
            return
        self._tick += 1
        due = self.every_ticks is not None and self._tick % self.every_ticks == 0
        if trainer.is_global_zero and (due or gan.nimg >= gan.schedule.total_nimg):
            self.draw(gan, trainer.world_size)

    def draw(self, gan: GAN, ranks: int = 1) -> None:
        gallery = Gallery(gan.G_ema, self.dataset, self.rows, self.columns, self.truncation_psi, self.seed, gan.device)
        pictures: dict[str, Callable[[], np.ndarray | None]] = {
            "truncation": gallery.truncation,
            "mixing": gallery.mixing,
            "interpolation": gallery.interpolation,
            "reals_and_fakes": gallery.reals_and_fakes,
        }
        for name, draw in pictures.items():
            with reported(f"{name} could not be drawn"):
                picture = draw()
                if picture is not None:
                    save_png(self.directory / f"{name}_{gan.nimg / 1000:09.3f}_kimg.png", picture)
                    self.pictures[f"samples/{name}"] = picture
        share = gan.schedule.at(gan.nimg).batch_size // ranks
        batch_size = share // parts_of(share, gan.batch_per_device)  # of the statistics that D has been trained with
        with reported("logits could not be computed"):
            self._keep(gallery.logits(gan.D, batch_size))
        with reported("styles could not be computed"):
            self._keep(gallery.styles())

    def _keep(self, found: dict[str, np.ndarray]) -> None:
        finite = {name: values[np.isfinite(values)] for name, values in found.items()}
        self.histograms |= {f"histograms/{name}": values for name, values in finite.items() if len(values)}
