"""The Fréchet distance between generated and real images (Heusel et al. 2017), through torchmetrics.

    d^2 = |mu_r - mu_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^(1/2))

with float64 sums, covariances divided by n - 1 (torchmetrics and torch-fidelity; NVIDIA's code divides by n,
which changes the value by a factor of about 1 - 1/n in the covariance terms).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.preset import PRESETS, Preset, get_preset
from stylegan_lightning.metrics.real_stats import Part, real_items, real_sums
from stylegan_lightning.metrics.sampling import LabelSampler, draw_labels, evaluating

__all__ = [
    "PRESETS",
    "FrechetDistance",
    "FrechetResult",
    "LabelSampler",
    "Preset",
    "get_preset",
    "label_sampler",
    "metric_name",
]


@dataclass(frozen=True)
class FrechetResult:
    """A value together with all that decides it."""

    metric: str
    value: float
    preset: str
    preset_key: str
    num_real: int
    num_fake: int
    seed: int
    truncation_psi: float
    extractor: str
    weights_hash: str
    resize: str
    torch_version: str
    torchmetrics_version: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def metric_name(extractor: FeatureExtractor) -> str:
    """Log name: "fid" for the Inception network that FID is defined by, "fd_<extractor>" for any other."""
    return "fid" if extractor.name == "inception" else f"fd_{extractor.name}"


def label_sampler(dataset: PreparedDataset, rows: np.ndarray | None = None) -> LabelSampler:
    """Draws labels as the data set, or these images of it, have them, with replacement."""
    targets = dataset.targets if rows is None else dataset.targets[rows]

    def sample(count: int, seed: int) -> Tensor:
        rng = np.random.default_rng([seed, 1])
        return torch.from_numpy(targets[rng.integers(len(targets), size=count)])

    return sample


class _Float64(nn.Module):
    """The metric casts its value to the features' type; float64 keeps all digits."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor, self.num_features = extractor, extractor.num_features

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor(images).double()


@contextlib.contextmanager
def _no_grad() -> Iterator[None]:
    """No gradients, but ordinary tensors even inside inference_mode: the sums are updated in place later."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class FrechetDistance:
    """Real statistics once, then as many generators as wanted.

        distance = FrechetDistance(load_extractor("efflite0"), get_preset("quick"))
        distance.set_real(dataset, cache_dir)
        value = distance.evaluate_generator(G_ema, label_sampler(dataset), device=device)
        distance.result().as_dict()

    Deliberately no nn.Module: as an attribute of a LightningModule its network would enter every checkpoint.
    In a torch.distributed run `set_real`, `compute` and `evaluate_generator` are collective: all ranks call
    them. Rank 0 alone holds the real statistics, so that the sum over the ranks is exact.
    """

    @_no_grad()
    def __init__(self, extractor: FeatureExtractor, preset: Preset, device: torch.device | str | None = None) -> None:
        self.extractor, self.preset = extractor, preset
        self.name = metric_name(extractor)
        self.num_real = 0
        self._last: FrechetResult | None = None
        self._metric = FrechetInceptionDistance(
            feature=_Float64(extractor),
            reset_real_features=False,
            normalize=False,
            sync_on_compute=False,  # compute() below syncs, to look at the sums before the matrix root
            compute_with_cache=False,
        )
        self._metric.orig_dtype = torch.float64  # of ranks that have no fakes to update with
        if device is not None:
            self.to(device)

    @_no_grad()
    def to(self, device: torch.device | str) -> FrechetDistance:
        self._metric.to(device)
        return self

    @_no_grad()
    def set_real(self, dataset: PreparedDataset, cache_dir: str | Path | None = None, part: Part | None = None) -> None:
        """Statistics of the preset's real images, or of those in `part`, from the cache when any run has computed
        them before.

        Rank 0 computes, the others wait: with a slow extractor and much data the process group's timeout must
        allow for it. Raises UserError when the data are too few or the cache cannot be written.
        """
        self.num_real = len(real_items(dataset, self.preset, part))
        if self.num_real < 2:
            raise UserError(f"{self.name} needs at least 2 real images; {dataset.name} has {self.num_real}.")
        try:
            if _place()[0] == 0:
                sums, m = real_sums(dataset, self.extractor, self.preset, cache_dir, part), self._metric
                m.real_features_sum.copy_(sums.sum)
                m.real_features_cov_sum.copy_(sums.outer)
                m.real_features_num_samples.fill_(sums.count)
        finally:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.barrier()

    @_no_grad()
    def update_fake(self, images: Tensor) -> None:
        """Adds generated images, uint8 [N, C, H, W], on the device of `to`."""
        self._metric.update(images, real=False)

    @_no_grad()
    def reset(self) -> None:
        """Forgets the fakes; the real statistics stay."""
        self._metric.reset()

    @_no_grad()
    def compute(self) -> float:
        """The distance over the fakes of all ranks, the same on each.

        NaN, with a warning, when any fake was not finite.
        """
        m = self._metric
        with m.sync_context():
            num_real, num_fake = int(m.real_features_num_samples), int(m.fake_features_num_samples)
            finite = bool(m.fake_features_sum.isfinite().all() and m.fake_features_cov_sum.isfinite().all())
            value = self._value() if finite and num_real > 1 and num_fake > 1 else float("nan")
        if num_real < 2:
            raise UserError(f"{self.name}: call set_real before compute.")
        if finite and num_fake < 2:
            raise UserError(f"{self.name} needs at least 2 generated images; got {num_fake}.")
        if not finite:
            warnings.warn(f"{self.name} is NaN: the generated images are not finite.", stacklevel=4)
        self._last = self._result(value, num_fake)
        return value

    def _value(self) -> float:
        try:
            return float(self._metric.compute())
        except torch.linalg.LinAlgError as e:
            warnings.warn(f"{self.name}: no matrix root ({e}).", stacklevel=6)
            return float("nan")

    def evaluate_generator(
        self,
        G: nn.Module,
        c_sampler: LabelSampler | None = None,
        preset: Preset | None = None,
        device: torch.device | str = "cpu",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> float:
        """The distance of `preset.num_fake` images of G(z, c, truncation_psi=..., noise_mode="const").

        z and c of image i depend on the seed and i alone, so the value depends on neither the batch size nor
        the number of ranks (beyond rounding), and no global random state is used. G is in evaluation mode
        during the call. `rank` and `world_size` default to torch.distributed's. `c_sampler` (see
        `label_sampler`) may be None for an unconditional G.
        """
        preset = preset or self.preset
        if preset.real_key() != self.preset.real_key():
            raise UserError(f"The real statistics are of {self.preset.real_key()}, not of {preset.real_key()}.")
        here, ranks = _place(rank, world_size)
        z, c = _inputs(G, c_sampler, preset)
        self.to(device).reset()
        with evaluating(G):
            for index in torch.arange(here, preset.num_fake, ranks).split(preset.batch_size):
                if len(index):
                    self._add(G, z[index].to(device), c[index].to(device), preset)
        value = self.compute()
        assert self._last is not None
        self._last = self._result(value, self._last.num_fake, preset)
        return value

    def _add(self, G: nn.Module, z: Tensor, c: Tensor, preset: Preset) -> None:
        with torch.inference_mode():
            images = G(z, c, truncation_psi=preset.truncation_psi, noise_mode="const").float()
            finite, images = bool(images.isfinite().all()), to_uint8(images)
        if finite:
            self.update_fake(images)
        else:  # reaches every rank through the sum
            with _no_grad():
                self._metric.fake_features_sum.fill_(float("nan"))
                self._metric.fake_features_num_samples += len(images)

    def result(self) -> FrechetResult:
        """The last value with all that decides it."""
        if self._last is None:
            raise UserError(f"{self.name}: nothing has been computed yet.")
        return self._last

    def _result(self, value: float, num_fake: int, preset: Preset | None = None) -> FrechetResult:
        preset, extractor = preset or self.preset, self.extractor
        return FrechetResult(
            metric=self.name,
            value=value,
            preset=preset.name,
            preset_key=preset.key(),
            num_real=self.num_real,
            num_fake=num_fake,
            seed=preset.seed,
            truncation_psi=preset.truncation_psi,
            extractor=extractor.name,
            weights_hash=extractor.weights_hash,
            resize=extractor.resize,
            torch_version=str(torch.__version__),
            torchmetrics_version=str(torchmetrics.__version__),
        )


def _place(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        default = torch.distributed.get_rank(), torch.distributed.get_world_size()
    else:
        default = 0, 1
    return default[0] if rank is None else rank, default[1] if world_size is None else world_size


def _inputs(G: nn.Module, c_sampler: LabelSampler | None, preset: Preset) -> tuple[Tensor, Tensor]:
    """z [num_fake, z_dim] and c [num_fake, c_dim] of all ranks, on the CPU."""
    z_dim, c_dim, n = int(G.z_dim), int(G.c_dim), preset.num_fake  # type: ignore[arg-type]
    z = torch.randn(n, z_dim, generator=torch.Generator().manual_seed(preset.seed))
    return z, draw_labels(c_dim, n, preset.seed, c_sampler)
