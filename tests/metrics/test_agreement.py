"""The same numbers as torch-fidelity's and torchmetrics' own code under their presets, to six digits.

On random features, and on pictures through one randomly filled Inception network that each loads for itself.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_helpers import untrained_inception
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from stylegan_lightning.metrics.features import InceptionFID
from stylegan_lightning.metrics.gaussian import GaussianSums, frechet_distance
from stylegan_lightning.metrics.inception_score import class_logits, fidelity_order, inception_score
from stylegan_lightning.metrics.kid import kid, numpy_subsets, torch_subsets
from stylegan_lightning.metrics.neighbours import precision_recall

SIX_DIGITS = 1e-6
"""Relative; the sixth digit of a number that starts with 9 is 1e-6 of it, of one that starts with 1 1e-5."""
FEW_ROWS = 5e-6
"""For FIDs of fewer pictures than features, where both tools take roots of eigenvalues that are rounding errors; ours
is exact there (test_gaussian.py)."""
PICTURES = 12
SUBSETS, SIZE, SPLITS = 5, 8, 4


@pytest.fixture
def agree(parity: Any):
    """agree(what, ours, theirs): equal to six digits, with a row in the table at the end."""

    def check(what: str, ours: float, theirs: float, tolerance: float = SIX_DIGITS) -> None:
        parity(what, *(torch.tensor([float(x)], dtype=torch.float64) for x in (ours, theirs)), tolerance=tolerance)

    return check


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Given(nn.Module):
    """The extractor of a torchmetrics metric whose pictures are features already."""

    num_features = 24

    def forward(self, features: Tensor) -> Tensor:
        return features


def features(n: int, d: int = 24, seed: int = 0, shift: float = 0.0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.maximum(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / 4 + shift, 0))


def fid(reals: Tensor, fakes: Tensor, divisor: Any = "n-1") -> float:
    sums = [GaussianSums(s.shape[1]).update(s) for s in (reals, fakes)]
    return frechet_distance(*(x for s in sums for x in (s.mean(), s.covariance(divisor))))


def fidelity_fid(reals: Tensor, fakes: Tensor) -> float:
    stats = [fid_features_to_statistics(s) for s in (fakes, reals)]
    return fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]


def filled(metric: Any, reals: Tensor, fakes: Tensor) -> Any:
    metric.update(reals, real=True)
    metric.update(fakes, real=False)
    return metric


# ----------------------------------------------------------------------------------------------- features


def test_frechet_distance(agree) -> None:
    reals, fakes = features(300), features(200, seed=1, shift=0.1)
    theirs = filled(FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64), reals, fakes).compute()
    agree("FID of features, torchmetrics", fid(reals, fakes), theirs)
    agree("FID of features, torch-fidelity", fid(reals, fakes), fidelity_fid(reals, fakes))


def test_nvidia_divisor_shrinks_the_covariance_terms() -> None:
    reals, fakes = features(50), features(50, seed=1, shift=0.1)
    means = float((reals.mean(0) - fakes.mean(0)).square().sum())
    assert fid(reals, fakes, "n") - means == pytest.approx((fid(reals, fakes) - means) * (1 - 1 / 50), rel=1e-12)


@pytest.mark.parametrize(("size", "count"), [(30, 8), (150, 20)])
def test_kernel_distance(agree, size: int, count: int) -> None:
    reals, fakes = features(200), features(160, seed=1, shift=0.1)
    ours = kid(reals, fakes, numpy_subsets(200, 160, count, size))
    theirs = kid_features_to_metric(fakes, reals, kid_subsets=count, kid_subset_size=size, verbose=False)
    agree("KID of features, torch-fidelity", ours.mean, theirs["kernel_inception_distance_mean"])
    agree("KID std of features, torch-fidelity", ours.std, theirs["kernel_inception_distance_std"])
    ours = kid(reals, fakes, torch_subsets(200, 160, count, size, seed=5))
    metric = filled(KernelInceptionDistance(feature=Given(), subsets=count, subset_size=size), reals, fakes)
    torch.manual_seed(5)
    mean, std = metric.compute()
    agree("KID of features, torchmetrics", ours.mean, mean)
    agree("KID std of features, torchmetrics", ours.std, std)


@pytest.mark.parametrize("n", [200, 203])
def test_inception_score(agree, n: int) -> None:
    logits = features(n)
    for shuffle in (True, False):  # unshuffled: the contiguous parts of NVIDIA's code
        ours = inception_score(logits, order=fidelity_order(n) if shuffle else None)
        theirs = isc_features_to_metric(logits, shuffle=shuffle)
        agree("IS of logits, torch-fidelity", ours.mean, theirs["inception_score_mean"])
        agree("IS std of logits, torch-fidelity", ours.std, theirs["inception_score_std"])
    metric = InceptionScore(feature=Given())
    metric.update(logits)
    torch.manual_seed(3)
    order = torch.randperm(n)
    torch.manual_seed(3)
    mean, std = metric.compute()
    ours = inception_score(logits, order=order, chunks=True, correction=1)
    agree("IS of logits, torchmetrics", ours.mean, mean)
    agree("IS std of logits, torchmetrics", ours.std, std)


@pytest.mark.parametrize("less_memory", [True, False])
def test_precision_recall(agree, less_memory: bool) -> None:
    reals, fakes = features(300), features(240, seed=1, shift=0.3)
    theirs = prc_features_to_metric(fakes, reals, save_cpu_ram=less_memory, prc_batch_size=100, verbose=False)
    ours = precision_recall(reals, fakes, block=77)
    assert 0.05 < ours.precision < 0.95 and 0.05 < ours.recall < 0.95
    agree("precision of features, torch-fidelity", ours.precision, theirs["precision"])
    agree("recall of features, torch-fidelity", ours.recall, theirs["recall"])


# ----------------------------------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly filled Inception file whose class scores differ between pictures."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    net = untrained_inception(path)
    with torch.no_grad():  # class scores that do not see what all pictures have in common
        common = nn.functional.normalize(net.eval()(pictures(0))[0].mean(0), dim=0)
        scores = 2 * torch.randn_like(net.fc.weight)
        net.fc.weight.copy_(scores - torch.outer(scores @ common, common))
    torch.save(net.state_dict(), path)
    return path


def pictures(seed: int, contrast: float = 1.0) -> Tensor:
    """uint8 [PICTURES, 3, 32, 32]: smooth blobs of colour."""
    coarse = torch.rand(PICTURES, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    return ((smooth - 0.5) * contrast * 255 + 128).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def extractor(weights: Path) -> InceptionFID:
    with pytest.warns(UserWarning, match="not the standard FID Inception"):
        return InceptionFID(weights)


@pytest.mark.slow
def test_pictures_through_torch_fidelity(agree, weights: Path, extractor: InceptionFID) -> None:
    """Its preset resizes as TensorFlow 1 did, as ours does. Its statistics get its features in float64, because in
    float32 its KID itself has only five digits."""
    reals, fakes = pictures(0), pictures(1, contrast=0.8)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(weights)).eval()
    with torch.no_grad():
        (their_real, _), (their_fake, logits) = ([x.double() for x in network(images)] for images in (reals, fakes))
    real, fake = extractor(reals), extractor(fakes)
    agree("FID of pictures, torch-fidelity", fid(real, fake), fidelity_fid(their_real, their_fake), FEW_ROWS)
    theirs = kid_features_to_metric(their_fake, their_real, kid_subsets=SUBSETS, kid_subset_size=SIZE, verbose=False)[
        "kernel_inception_distance_mean"
    ]
    agree(
        "KID of pictures, torch-fidelity",
        kid(real, fake, numpy_subsets(PICTURES, PICTURES, SUBSETS, SIZE)).mean,
        theirs,
    )
    theirs = isc_features_to_metric(logits, splits=SPLITS)["inception_score_mean"]
    score = inception_score(class_logits(fake, extractor), splits=SPLITS, order=fidelity_order(PICTURES))
    assert score.mean > 1.1
    agree("IS of pictures, torch-fidelity", score.mean, theirs)
    theirs = prc_features_to_metric(their_fake, their_real, verbose=False)
    pr = precision_recall(real, fake)
    assert 0 < pr.precision < 1
    agree("precision of pictures, torch-fidelity", pr.precision, theirs["precision"])
    agree("recall of pictures, torch-fidelity", pr.recall, theirs["recall"])


class Once(nn.Module):
    """An extractor that looks at each batch of pictures once for all metrics, and gives float64."""

    num_features = 2048

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, {}

    def forward(self, images: Tensor) -> Tensor:
        if id(images) not in self.seen:
            self.seen[id(images)] = self.net(images).double()
        return self.seen[id(images)]


@pytest.mark.slow
def test_pictures_through_torchmetrics(agree, weights: Path) -> None:
    """Its preset resizes with anti-aliasing. float64 as above."""
    reals, fakes = pictures(0), pictures(1, contrast=0.8)
    extractor = InceptionFID(weights, "antialias")
    real, fake = extractor(reals), extractor(fakes)
    pool = Once(NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)))
    theirs = filled(FrechetInceptionDistance(feature=pool), reals, fakes).compute()
    agree("FID of pictures, torchmetrics", fid(real, fake), theirs, FEW_ROWS)
    metric = filled(KernelInceptionDistance(feature=pool, subsets=SUBSETS, subset_size=SIZE), reals, fakes)
    torch.manual_seed(5)
    mean, _ = metric.compute()
    ours = kid(real, fake, torch_subsets(PICTURES, PICTURES, SUBSETS, SIZE, seed=5))
    agree("KID of pictures, torchmetrics", ours.mean, mean)
    score = InceptionScore(NoTrainInceptionV3("inception-v3-compat", ["logits_unbiased"], str(weights)), splits=SPLITS)
    score.update(fakes)
    torch.manual_seed(3)
    order = torch.randperm(PICTURES)
    torch.manual_seed(3)
    mean, _ = score.compute()
    logits = class_logits(fake, extractor)
    result = inception_score(logits, splits=SPLITS, order=order, chunks=True, correction=1)
    agree("IS of pictures, torchmetrics", result.mean, mean)
