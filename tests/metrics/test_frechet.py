"""The Fréchet distance between images: known answers, and the statistics of the real ones."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from frechet_helpers import ALL, Pixels, TinyG, dataset, distance_between, gaussian_images, random_images, values_of
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics import real_stats
from stylegan_lightning.metrics.by_features import Frechet
from stylegan_lightning.metrics.extraction import Features
from stylegan_lightning.metrics.features import EfficientNetLite0, FeatureExtractor
from stylegan_lightning.metrics.metric import Subject
from stylegan_lightning.metrics.preset import Preset


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
    assert distance_between(reals, fakes, Pixels()) == pytest.approx(expected, rel=0.02, abs=0.02)


def test_same_images_have_no_distance_and_order_does_not_matter() -> None:
    images = random_images(200)
    assert distance_between(images, images[::-1].copy(), Pixels()) == pytest.approx(0, abs=1e-6)


def test_agrees_with_torch_fidelity_on_the_same_features() -> None:
    """torch-fidelity's own formula on 64 features, float64, both covariances of full rank."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    reals, fakes = random_images(300, 8, seed=1), random_images(250, 8, seed=2) // 2 + 20
    stats = [fid_features_to_statistics(torch.from_numpy(a.reshape(len(a), -1)).double()) for a in (reals, fakes)]
    expected = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert distance_between(reals, fakes, Pixels(64)) == pytest.approx(expected, rel=1e-6)
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
        ours = distance_between(reals, fakes, Early(tmp_path / "random.pth"))
    assert ours == pytest.approx(theirs, rel=2e-6) and theirs > 1e-3


class _Uint8(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_efflite0_distance_grows_with_the_damage() -> None:
    reals, clean = pictures(150, 1), pictures(150, 2)
    metric, subject = Frechet(replace(ALL, num_fake=150), EfficientNetLite0()), Subject(dataset(clean), dataset(reals))

    def to_reals(fakes: np.ndarray) -> float:
        subject.turn_to(dataset(fakes))
        return values_of(metric, subject)["fd_efflite0"]

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


def prepare(folder: Path, extractor: FeatureExtractor, preset: Preset = ALL, fingerprint: str = "f0") -> Features:
    """Statistics of 40 reals, from the cache in `folder` where they are there."""
    images = real_stats.real_images(dataset(random_images(40), fingerprint), preset)
    return real_stats.real_features(images, extractor, folder, batch_size=preset.batch_size)


def test_cached_statistics_are_not_computed_again(tmp_path: Path) -> None:
    folder, extractors, values = tmp_path / "new" / "folder", [Pixels(), Pixels()], []
    for extractor in extractors:
        subject = Subject(TinyG(), dataset(random_images(40)), cache_dir=folder)
        values.append(values_of(Frechet(ALL, extractor), subject)["fd_pixels"])
    assert [e.seen for e in extractors] == [40 + 50, 50] and values[0] == values[1] > 0
    assert [p.suffix for p in sorted(folder.iterdir())] == [".lock", ".npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "f1"},
        {"weights_hash": "11111111"},
        {"name": "others"},
        {"resize": "smaller"},
        {"preset": replace(ALL, mirror_real=True)},
        {"preset": replace(ALL, num_real=20)},
        {"preset": replace(ALL, num_real=20, seed=3)},
    ],
)
def test_key_changes_with_all_that_decides_the_statistics(change: dict, tmp_path: Path) -> None:
    prepare(tmp_path, Pixels())
    prepare(tmp_path, Pixels(), replace(ALL, num_real=20, seed=4))
    extractor = Pixels()
    for name in ("weights_hash", "name", "resize"):
        setattr(extractor, name, change.get(name, getattr(extractor, name)))
    found = prepare(tmp_path, extractor, change.get("preset", ALL), change.get("fingerprint", "f0"))
    assert extractor.seen == found.count > 0


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 7}, {"num_fake": 10}, {"seed": 9}, {"truncation_psi": 0.5}, {"name": "other"}, {"divisor": "n"}],
)
def test_key_does_not_change_with_the_rest(change: dict, tmp_path: Path) -> None:
    prepare(tmp_path, Pixels())
    extractor = Pixels()
    assert prepare(tmp_path, extractor, replace(ALL, **change)).count == 40 and extractor.seen == 0


@pytest.mark.parametrize("damage", ["truncated", "not numpy", "empty", "other key", "other size", "nan"])
def test_damaged_cache_is_computed_again(damage: str, tmp_path: Path) -> None:
    prepare(tmp_path, Pixels())
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
        prepare(tmp_path, extractor)
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
        found = [job.result() for job in [pool.submit(prepare, tmp_path, e) for e in extractors]]
    assert sorted(e.seen for e in extractors) == [0, 0, 40]
    assert all(torch.equal(f.sums.outer, found[0].sums.outer) for f in found)


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(real_stats.np, "savez", full)
    with pytest.raises(UserError, match="No space left on device"):
        prepare(tmp_path, Pixels())
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


def test_mirrored_reals_are_the_images_and_their_mirror_images() -> None:
    images = random_images(30)
    both = np.concatenate([images, images[..., ::-1]])
    for mirror_in_data in (False, True):  # the preset decides, not the data set's own option
        for preset, expected in ((replace(ALL, mirror_real=True), both), (ALL, images)):
            reals = real_stats.real_images(dataset(images, mirror=mirror_in_data), preset)
            sums = real_stats.real_features(reals, Pixels(), None).sums
            flat = expected.reshape(len(expected), -1).astype(np.float64)
            assert sums.count == len(expected)
            assert np.array_equal(sums.sum.numpy(), flat.sum(0)) and np.array_equal(sums.outer.numpy(), flat.T @ flat)


def test_subset_is_drawn_without_repetition_by_the_seed() -> None:
    presets = [replace(ALL, num_real=20, seed=seed) for seed in (0, 0, 1)]
    a, b, c = (p.real_indices(50) for p in presets)
    assert len(set(a)) == 20 and max(a) < 50 and np.array_equal(a, b) and not np.array_equal(a, c)
    assert len(replace(ALL, num_real=60).real_indices(50)) == 50
    assert len(ALL.real_indices(50, most=20)) == len(replace(ALL, num_real=20).real_indices(50, most=30)) == 20
    assert ALL.real_key(most=20) == replace(ALL, num_real=20).real_key() != ALL.real_key()


def test_other_fakes_keep_the_reals() -> None:
    extractor, first, others = Pixels(), dataset(random_images(50, seed=5)), dataset(random_images(50, seed=6))
    metric, subject = Frechet(ALL, extractor), Subject(first, dataset(random_images(40)))
    values = []
    for fakes in (first, others, first):
        subject.turn_to(fakes)
        values.append(values_of(metric, subject)["fd_pixels"])
    assert values[0] == values[2] != values[1] and extractor.seen == 40 + 3 * 50
    values_of(metric, subject)
    assert extractor.seen == 40 + 3 * 50
