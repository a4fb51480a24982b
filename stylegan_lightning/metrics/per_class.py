"""The Fréchet distance of every class: its real images against images that are asked of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.labels import class_rows, label_names
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.frechet import FrechetDistance, FrechetResult, label_sampler, metric_name
from stylegan_lightning.metrics.preset import Preset
from stylegan_lightning.metrics.real_stats import Part


class ClassDistances:
    """One distance a label column, each with the preset's numbers of reals (of that class) and fakes.

    A class is the images whose label is 1 in a column: a class of one-hot labels, an attribute of multi-label
    ones, whose fakes get the labels of these images. Values are comparable with each other where the numbers of
    reals are alike. Classes with fewer than two reals are left out, with a warning. Raises UserError for data
    without labels and for float vectors. Collective over the ranks, like FrechetDistance.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        preset: Preset,
        dataset: PreparedDataset,
        cache_dir: str | Path | None,
        device: torch.device | str | None = None,
    ) -> None:
        self.dataset, self.cache_dir = dataset, cache_dir
        self.distance = FrechetDistance(extractor, preset, device)
        self.rows = class_rows(dataset)
        few = [label_names(dataset)[k] for k, rows in self.rows.items() if len(rows) < 2]
        if few:
            warnings.warn(
                f"no distance for {len(few)} of {len(self.rows)} classes, which have fewer than 2 real images: "
                f"{', '.join(few[:10])}{', ...' if len(few) > 10 else ''}",
                stacklevel=2,
            )
        self.rows = {k: rows for k, rows in self.rows.items() if len(rows) >= 2}

    def evaluate_generator(
        self, G: nn.Module, preset: Preset | None = None, device: torch.device | str = "cpu"
    ) -> list[FrechetResult]:
        """A result a class, in the order of the columns; `metric` is its name, such as fd_efflite0/class/smile."""
        results, distance = [], self.distance
        for column, rows in self.rows.items():
            distance.name = class_metric_name(distance.extractor, label_names(self.dataset)[column])
            distance.to(device).set_real(self.dataset, self.cache_dir, Part(f"label {column}", rows))
            distance.evaluate_generator(G, label_sampler(self.dataset, rows), preset, device)
            results.append(distance.result())
        return results


def class_metric_name(extractor: FeatureExtractor, label_name: str) -> str:
    """Log name; a slash in a label's name would open another level in it."""
    return f"{metric_name(extractor)}/class/{label_name.replace('/', '_')}"
