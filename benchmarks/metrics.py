"""Distances of pictures: time, memory and values of ours against torch-fidelity and torchmetrics.

    python benchmarks/metrics.py [--images 3000] [--features 2048] [--device cpu] [--pictures 0]

Each gets the same random features in float32, one metric in a process of its own (so that the memory is its peak
above what the features and libraries take), in an order that alternates. Seconds are of the processor, over all
threads, so that other work on the machine hardly matters (with CUDA: of the clock). `ratio` is theirs / ours: above 1
ours is faster or smaller. The values are from the same subsets and splits, so they must agree. `--pictures N` adds
N + N pictures of 32 pixels through a randomly filled Inception network that each tool loads for itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from stylegan_lightning.metrics.features import InceptionFID
from stylegan_lightning.metrics.gaussian import GaussianSums, frechet_distance
from stylegan_lightning.metrics.inception_score import class_logits, fidelity_order, inception_score
from stylegan_lightning.metrics.kid import kid, numpy_subsets, torch_subsets
from stylegan_lightning.metrics.neighbours import density_coverage, nearest_training, precision_recall

Value = dict[str, float]
SEED = 5


class Given(nn.Module):
    """The extractor of a torchmetrics metric whose pictures are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def make_features(n: int, d: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, d)) @ np.random.default_rng(9).normal(size=(d, d)) / d**0.5
    return torch.from_numpy(np.maximum(mixed + 0.1 * seed, 0)).float()


# ------------------------------------------------------------------------------------- one function a cell


def ours_fid(reals: Tensor, fakes: Tensor) -> Value:
    sums = [GaussianSums(s.shape[1], s.device) for s in (reals, fakes)]
    for total, rows in zip(sums, (reals, fakes), strict=True):
        for piece in rows.split(64):
            total.update(piece)
    return {"FID": frechet_distance(*(x for s in sums for x in (s.mean(), s.covariance())))}


def fidelity_fid(reals: Tensor, fakes: Tensor) -> Value:
    stats = [fid_features_to_statistics(s.cpu()) for s in (fakes, reals)]
    return {"FID": fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]}


def torchmetrics_fid(reals: Tensor, fakes: Tensor) -> Value:
    metric = FrechetInceptionDistance(feature=Given(reals.shape[1])).to(reals.device)
    return {"FID": float(_filled(metric, reals, fakes).compute())}


def _filled(metric: Any, reals: Tensor, fakes: Tensor) -> Any:
    for rows, real in ((reals, True), (fakes, False)):
        for piece in rows.split(64):
            metric.update(piece, real=real)
    return metric


def ours_kid(reals: Tensor, fakes: Tensor) -> Value:
    return {"KID": kid(reals, fakes).mean}


def ours_kid_as_torchmetrics(reals: Tensor, fakes: Tensor) -> Value:
    return {"KID, other draws": kid(reals, fakes, torch_subsets(len(reals), len(fakes), seed=SEED)).mean}


def fidelity_kid(reals: Tensor, fakes: Tensor) -> Value:
    size = min(1000, len(reals), len(fakes))
    result = kid_features_to_metric(fakes, reals, kid_subset_size=size, verbose=False)
    return {"KID": result["kernel_inception_distance_mean"]}


def torchmetrics_kid(reals: Tensor, fakes: Tensor) -> Value:
    size = min(1000, len(reals), len(fakes))
    metric = _filled(KernelInceptionDistance(feature=Given(reals.shape[1]), subset_size=size), reals, fakes)
    torch.manual_seed(SEED)
    return {"KID, other draws": float(metric.compute()[0])}


def ours_is(reals: Tensor, fakes: Tensor) -> Value:
    return {"IS": inception_score(fakes, order=fidelity_order(len(fakes))).mean}


def fidelity_is(reals: Tensor, fakes: Tensor) -> Value:
    return {"IS": isc_features_to_metric(fakes)["inception_score_mean"]}


def ours_is_as_torchmetrics(reals: Tensor, fakes: Tensor) -> Value:
    order = torch.randperm(len(fakes), generator=torch.Generator().manual_seed(SEED))
    return {"IS, other order": inception_score(fakes, order=order, chunks=True, correction=1).mean}


def torchmetrics_is(reals: Tensor, fakes: Tensor) -> Value:
    metric = InceptionScore(feature=Given(fakes.shape[1]))
    metric.update(fakes)
    torch.manual_seed(SEED)
    return {"IS, other order": float(metric.compute()[0])}


def ours_pr(reals: Tensor, fakes: Tensor) -> Value:
    result = precision_recall(reals, fakes)
    return {"precision": result.precision, "recall": result.recall}


def fidelity_pr(reals: Tensor, fakes: Tensor) -> Value:
    result = prc_features_to_metric(fakes, reals, save_cpu_ram=True, verbose=False)
    return {"precision": result["precision"], "recall": result["recall"]}


def ours_density(reals: Tensor, fakes: Tensor) -> Value:
    result = density_coverage(reals, fakes)
    return {"density": result.density, "coverage": result.coverage}


def ours_nearest(reals: Tensor, fakes: Tensor) -> Value:
    return {"nearest real": float(nearest_training(fakes, reals).distance.mean())}


Cell = Callable[[Tensor, Tensor], Value]
ROWS: tuple[tuple[str, Cell, dict[str, Cell]], ...] = (
    ("Fréchet distance", ours_fid, {"torch-fidelity": fidelity_fid, "torchmetrics": torchmetrics_fid}),
    ("KID", ours_kid, {"torch-fidelity": fidelity_kid}),
    ("KID, other draws", ours_kid_as_torchmetrics, {"torchmetrics": torchmetrics_kid}),
    ("Inception score", ours_is, {"torch-fidelity": fidelity_is}),
    ("Inception score, other order", ours_is_as_torchmetrics, {"torchmetrics": torchmetrics_is}),
    ("precision and recall", ours_pr, {"torch-fidelity": fidelity_pr}),
    ("density and coverage", ours_density, {}),
    ("nearest training images", ours_nearest, {}),
)


# ---------------------------------------------------------------------------------------------- measuring


def measure(cell: Cell, n: int, d: int, device: str) -> tuple[Value, float, float]:
    """Values, seconds and peak MiB above the start, in a new process."""
    method = "fork" if device == "cpu" else "spawn"  # a fork needs no second import, but cannot use CUDA
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(_alone, (cell, n, d, device))


def _alone(cell: Cell, n: int, d: int, device: str) -> tuple[Value, float, float]:
    warnings.simplefilter("ignore")
    reals, fakes = (make_features(n, d, seed).to(device) for seed in (0, 1))
    cell(reals[:64], fakes[:64])  # libraries load their kernels
    gpu = torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = _peak(gpu)
    clock = time.perf_counter if gpu else time.process_time
    start = clock()
    values = cell(reals, fakes)
    if gpu:
        torch.cuda.synchronize()
    return values, clock() - start, (_peak(gpu) - before) / 2**20


def _peak(gpu: bool) -> int:
    """Bytes: of the device where there is one, else of the process."""
    return torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(n: int, d: int, device: str, repeats: int) -> None:
    print(f"{n} + {n} rows of {d} features, {device}, {torch.get_num_threads()} threads; best of {repeats}")
    print(f"{'metric':30s} {'tool':15s} {'seconds':>9s} {'ratio':>7s} {'MiB':>8s} {'ratio':>7s}  value (difference)")
    for name, ours, others in ROWS:
        cells = {"ours": ours, **others}
        runs: dict[str, list[tuple[Value, float, float]]] = {tool: [] for tool in cells}
        for repeat in range(repeats):
            for tool in list(cells)[:: 1 if repeat % 2 == 0 else -1]:
                runs[tool].append(measure(cells[tool], n, d, device))
        best = {tool: (r[0][0], min(x[1] for x in r), min(x[2] for x in r)) for tool, r in runs.items()}
        for tool in cells:
            _print(name, tool, best[tool], best["ours"])


def _print(name: str, tool: str, run: tuple[Value, float, float], ours: tuple[Value, float, float]) -> None:
    values, seconds, memory = run
    text = [f"{key} {value:.7g} ({value / ours[0][key] - 1:+.0e})" for key, value in values.items()]
    size = f"{memory / ours[2]:7.2f}" if ours[2] > 1 else f"{'-':>7s}"
    print(f"{name:30s} {tool:15s} {seconds:9.3f} {seconds / ours[1]:7.2f} {memory:8.0f} {size}  {', '.join(text)}")


# ---------------------------------------------------------------------------------------------- pictures


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def random_inception(path: Path) -> None:
    """Writes a file of the FID Inception's form, randomly filled."""
    made: list[nn.Module] = []

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
            made.append(self)

    torch.save({}, path)
    torch.manual_seed(0)
    Untrained("inception-v3-compat", ["2048"], str(path))
    for module in made[0].modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(made[0].state_dict(), path)


def compare_pictures(n: int, device: str) -> None:
    """Time and values of all four metrics from pictures to numbers."""
    reals, fakes = (torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    reals, fakes = ((nn.functional.interpolate(x, size=32) * 255).to(torch.uint8) for x in (reals, 0.9 * fakes))
    size = max(n // 2, 4)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "random.pth"
        random_inception(path)
        start = time.perf_counter()
        theirs = torch_fidelity.calculate_metrics(
            input1=Pictures(fakes), input2=Pictures(reals), cuda=device != "cpu", verbose=False, cache=False,
            feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(path),
            isc=True, fid=True, kid=True, prc=True, kid_subset_size=size,
        )  # fmt: skip
        middle = time.perf_counter()
        extractor = InceptionFID(path).to(device)
        real, fake = (torch.cat([extractor(b.to(device)) for b in x.split(64)]) for x in (reals, fakes))
        ours = {
            "frechet_inception_distance": ours_fid(real, fake)["FID"],
            "kernel_inception_distance_mean": kid(real, fake, numpy_subsets(n, n, size=size)).mean,
            "inception_score_mean": inception_score(class_logits(fake, extractor), order=fidelity_order(n)).mean,
            **ours_pr(real, fake),
        }
        end = time.perf_counter()
    print(f"\n{n} + {n} pictures: torch-fidelity {middle - start:.1f} s, ours {end - middle:.1f} s")
    for key, value in ours.items():
        print(f"{key:32s} ours {value:.7g}  torch-fidelity {theirs[key]:.7g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=0)
    options = parser.parse_args()
    compare(options.images, options.features, options.device, options.repeats)
    if options.pictures:
        compare_pictures(options.pictures, options.device)


if __name__ == "__main__":
    main()
