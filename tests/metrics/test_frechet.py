"""The Fréchet distance between images: known answers, and the statistics of the real ones."""

from __future__ import annotations

import dataclasses
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from frechet_helpers import ALL, Pixels, dataset, random_images
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics import real_stats
from stylegan_lightning.metrics.features import EfficientNetLite0, FeatureExtractor
from stylegan_lightning.metrics.frechet import FrechetDistance


def gaussian_images(n: int, mean: list[float], std: list[float], seed: int) -> np.ndarray:
    """[n, 1, 2, 2] with exactly this sample mean and deviation, up to rounding to whole grey levels."""
    x = np.random.default_rng(seed).standard_normal((n, 4))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return np.rint(x * std + mean).clip(0, 255).astype(np.uint8).reshape(n, 1, 2, 2)


def pictures(n: int, seed: int) -> np.ndarray:
    """Discs of random place, size and colour on a graded background, [n, 3, 32, 32]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:32]
    out = np.empty((n, 3, 32, 32))
    for image in out:
        image[:] = rng.uniform(40, 120, (3, 1, 1)) + rng.uniform(-2, 2, (3, 1, 1)) * x
        for _ in range(3):
            cx, cy, r = rng.uniform(4, 28), rng.uniform(4, 28), rng.uniform(3, 8)
            image[:, (x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, (3, 1))
    return out.clip(0, 255).astype(np.uint8)


def measure(reals: np.ndarray, fakes: np.ndarray, extractor: FeatureExtractor, batch_size: int = 64) -> float:
    distance = FrechetDistance(extractor, dataclasses.replace(ALL, batch_size=batch_size))
    distance.set_real(dataset(reals))
    for start in range(0, len(fakes), batch_size):
        distance.update_fake(torch.from_numpy(fakes[start : start + batch_size]))
    return distance.compute()


# ----------------------------------------------------------------------------------------- known answers


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0, 0, 0, 0], [1, 1, 1, 1]), ([3, -4, 0, 0], [1, 1, 1, 1]), ([5, 1, 2, 3], [0.5, 1, 1.5, 2])],
)
def test_distance_between_gaussians(mean: list[float], std: list[float]) -> None:
    """Diagonal covariances: |dmu|^2 + sum (s1 - s2)^2."""
    base = np.array([12.0, 10.0, 8.0, 14.0])
    reals = gaussian_images(4000, [128] * 4, base.tolist(), 1)
    fakes = gaussian_images(4000, (128 + np.array(mean)).tolist(), (base * std).tolist(), 2)
    expected = np.square(mean).sum() + np.square(base - base * np.array(std)).sum()
    assert measure(reals, fakes, Pixels()) == pytest.approx(expected, rel=0.02, abs=0.02)


def test_same_images_have_no_distance_and_order_does_not_matter() -> None:
    images = random_images(200)
    assert measure(images, images[::-1].copy(), Pixels()) == pytest.approx(0, abs=1e-6)


def test_agrees_with_torch_fidelity_on_the_same_features() -> None:
    """torch-fidelity's own formula on 64 features, float64, both covariances of full rank."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    reals, fakes = random_images(300, 8, seed=1), random_images(250, 8, seed=2) // 2 + 20
    stats = [fid_features_to_statistics(torch.from_numpy(a.reshape(len(a), -1)).double()) for a in (reals, fakes)]
    expected = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert measure(reals, fakes, Pixels(64)) == pytest.approx(expected, rel=1e-6)
    assert expected > 1000


def test_agrees_with_torch_fidelity_on_inception(tmp_path: Path) -> None:
    """The same randomly initialised Inception, 64-dimensional layer, whole pipelines from uint8 images."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import NoTrainInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **kwargs):
            torch.save(self.state_dict(), tmp_path / "random.pth")

    class Early(Pixels):
        def __init__(self, weights: Path) -> None:
            super().__init__(64)
            self.net = NoTrainInceptionV3("inception-v3-compat", ["64"], str(weights), antialias=False)

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

    torch.save({}, tmp_path / "empty.pth")
    torch.manual_seed(0)
    Untrained("inception-v3-compat", ["64"], str(tmp_path / "empty.pth"))
    reals, fakes = pictures(24, 1), pictures(20, 2) // 2
    theirs = torch_fidelity.calculate_metrics(
        input1=_Uint8(fakes),
        input2=_Uint8(reals),
        fid=True,
        cuda=False,
        verbose=False,
        save_cpu_ram=True,
        feature_layer_fid="64",
        feature_extractor_weights_path=str(tmp_path / "random.pth"),
    )["frechet_inception_distance"]
    with torch.no_grad():
        ours = measure(reals, fakes, Early(tmp_path / "random.pth"))
    assert ours == pytest.approx(theirs, rel=2e-6) and theirs > 1e-3


class _Uint8(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_efflite0_distance_grows_with_the_damage() -> None:
    distance = FrechetDistance(EfficientNetLite0(), ALL)
    reals, clean = pictures(150, 1), pictures(150, 2)
    distance.set_real(dataset(reals))

    def to_reals(fakes: np.ndarray) -> float:
        distance.reset()
        distance.update_fake(torch.from_numpy(fakes))
        return distance.compute()

    rng = np.random.default_rng(0)
    noise = rng.standard_normal(clean.shape)
    noisy = [(clean + s * noise).clip(0, 255).astype(np.uint8) for s in (8, 20, 50)]
    few = [clean[np.arange(150) % k] for k in (40, 10, 2)]
    by_noise, by_mode_loss = [to_reals(a) for a in noisy], [to_reals(a) for a in few]
    unharmed = to_reals(clean)
    for values in (by_noise, by_mode_loss):
        assert all(b > 1.1 * a for a, b in itertools.pairwise([unharmed, *values])), values
    assert to_reals(reals) < 0.01 * unharmed


# ---------------------------------------------------------------------------------------- real statistics


def test_cached_statistics_are_not_computed_again(tmp_path: Path) -> None:
    images, extractor = random_images(40), Pixels()
    values = []
    for _ in range(2):
        distance = FrechetDistance(extractor, ALL)
        distance.set_real(dataset(images), tmp_path / "new" / "folder")
        seen = extractor.seen
        distance.update_fake(torch.from_numpy(random_images(30, seed=5)))
        extractor.seen = seen
        values.append(distance.compute())
    assert extractor.seen == 40 and values[0] == values[1] > 0
    assert [p.suffix for p in sorted((tmp_path / "new" / "folder").iterdir())] == [".lock", ".npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "f1"},
        {"weights": "11111111"},
        {"preset": dataclasses.replace(ALL, mirror_real=True)},
        {"preset": dataclasses.replace(ALL, num_real=20)},
        {"preset": dataclasses.replace(ALL, num_real=20, seed=3)},
    ],
)
def test_key_changes_with_all_that_decides_the_statistics(change: dict, tmp_path: Path) -> None:
    images = random_images(40)
    FrechetDistance(Pixels(), ALL).set_real(dataset(images), tmp_path)
    FrechetDistance(Pixels(), dataclasses.replace(ALL, num_real=20, seed=4)).set_real(dataset(images), tmp_path)
    extractor = Pixels(weights_hash=change.get("weights", "00000000"))
    distance = FrechetDistance(extractor, change.get("preset", ALL))
    distance.set_real(dataset(images, change.get("fingerprint", "f0")), tmp_path)
    assert extractor.seen == distance.num_real > 0


@pytest.mark.parametrize(
    "change", [{"batch_size": 7}, {"num_fake": 10}, {"seed": 9}, {"truncation_psi": 0.5}, {"name": "other"}]
)
def test_key_does_not_change_with_the_rest(change: dict, tmp_path: Path) -> None:
    FrechetDistance(Pixels(), ALL).set_real(dataset(random_images(40)), tmp_path)
    extractor = Pixels()
    FrechetDistance(extractor, dataclasses.replace(ALL, **change)).set_real(dataset(random_images(40)), tmp_path)
    assert extractor.seen == 0


@pytest.mark.parametrize("damage", ["truncated", "not numpy", "empty", "other key", "other size", "nan"])
def test_damaged_cache_is_computed_again(damage: str, tmp_path: Path) -> None:
    images = random_images(40)
    FrechetDistance(Pixels(), ALL).set_real(dataset(images), tmp_path)
    (path,) = tmp_path.glob("*.npz")
    good = path.read_bytes()
    with np.load(path) as stored:
        content = dict(stored)
    if damage == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif damage == "not numpy":
        path.write_bytes(b"something else")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        wrong = {
            "other key": ("key", "x"),
            "other size": ("sum", np.zeros(3)),
            "nan": ("sum", np.full(4, np.nan)),
        }
        name, value = wrong[damage]
        np.savez(path, **{**content, name: value})
    extractor = Pixels()
    with pytest.warns(UserWarning, match="again"):
        FrechetDistance(extractor, ALL).set_real(dataset(images), tmp_path)
    assert extractor.seen == 40
    with np.load(path) as stored:
        assert all(np.array_equal(stored[k], content[k]) for k in content)


def test_of_several_runs_one_computes(tmp_path: Path) -> None:
    class Slow(Pixels):
        def forward(self, images: Tensor) -> Tensor:
            time.sleep(0.05)
            return super().forward(images)

    extractors = [Slow() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(real_stats.real_sums, dataset(random_images(40)), e, ALL, tmp_path) for e in extractors]
        sums = [job.result() for job in jobs]
    assert sorted(e.seen for e in extractors) == [0, 0, 40]
    assert all(torch.equal(s.outer, sums[0].outer) for s in sums)


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(real_stats.np, "savez", full)
    with pytest.raises(UserError, match="No space left on device"):
        FrechetDistance(Pixels(), ALL).set_real(dataset(random_images(10)), tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


def test_mirrored_reals_are_the_images_and_their_mirror_images() -> None:
    images = random_images(30)
    both = np.concatenate([images, images[..., ::-1]])
    for mirror_in_data in (False, True):  # the preset decides, not the data set's own option
        for preset, expected in ((dataclasses.replace(ALL, mirror_real=True), both), (ALL, images)):
            data = dataset(images, mirror=mirror_in_data)
            sums = real_stats.compute_sums(data, Pixels(), preset)
            flat = expected.reshape(len(expected), -1).astype(np.float64)
            assert sums.count == len(expected)
            assert np.array_equal(sums.sum.numpy(), flat.sum(0)) and np.array_equal(sums.outer.numpy(), flat.T @ flat)


def test_subset_is_drawn_without_repetition_by_the_seed() -> None:
    presets = [dataclasses.replace(ALL, num_real=20, seed=seed) for seed in (0, 0, 1)]
    a, b, c = (p.real_indices(50) for p in presets)
    assert len(set(a)) == 20 and max(a) < 50 and np.array_equal(a, b) and not np.array_equal(a, c)
    assert len(dataclasses.replace(ALL, num_real=60).real_indices(50)) == 50


def test_reset_keeps_the_reals() -> None:
    distance = FrechetDistance(Pixels(), ALL)
    distance.set_real(dataset(random_images(40)))
    fakes = torch.from_numpy(random_images(30, seed=5))
    distance.update_fake(fakes)
    first = distance.compute()
    distance.update_fake(torch.zeros_like(fakes))
    assert distance.compute() != first
    distance.reset()
    distance.update_fake(fakes)
    assert distance.compute() == first
