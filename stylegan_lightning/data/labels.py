"""What the label columns of a data set mean, and which images share a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError

LabelKind = Literal["none", "classes", "attributes", "vectors"]
"""No columns; one-hot; zeros and ones otherwise (multi-label); any other numbers."""


def label_kind(targets: np.ndarray) -> LabelKind:
    """The kind of labels float32 [N, c]."""
    if targets.shape[1] == 0:
        return "none"
    if not np.all((targets == 0) | (targets == 1)):
        return "vectors"
    return "classes" if np.all(targets.sum(1) == 1) else "attributes"


def label_names(dataset: PreparedDataset) -> tuple[str, ...]:
    """Of the label columns: their numbers where they have no names."""
    return dataset.label_names or tuple(map(str, range(dataset.c_dim)))


def check_labels(name: str, targets: np.ndarray, names: Sequence[str], count: int) -> None:
    """Raises UserError unless there is one vector of finite float32 numbers, one number a name, for each image."""
    shape = (count, len(names))
    if targets.shape != shape:
        raise UserError(f"{name}: labels must have the shape {shape} (images, label names); they have {targets.shape}.")
    with np.errstate(over="ignore"):
        wrong = np.flatnonzero(~np.isfinite(targets.astype(np.float32)).all(1))
    if len(wrong):
        raise UserError(
            f"{name}: labels must be finite float32 numbers; those of {len(wrong)} images are not, "
            f"first {targets[wrong[0]].tolist()} of image {wrong[0]}. Correct these labels or leave the images out."
        )


def label_groups(dataset: PreparedDataset) -> np.ndarray:
    """A number 0, 1, ... for every image, the same where labels are: what balanced sampling balances.

    Raises UserError for data without labels, and for float vectors, which hardly ever repeat.
    """
    kind = label_kind(dataset.targets)
    if kind in ("none", "vectors"):
        what = "no labels" if kind == "none" else "labels that are vectors of numbers, so that hardly two are alike"
        change = ", or choose labels (data.labels, data.classes)" if kind == "none" else ""
        raise UserError(
            f"data.balance=true needs class labels or labels of zeros and ones; {dataset.name} has {what}. "
            f"Leave data.balance=false{change}."
        )
    if kind == "classes":
        return np.unique(dataset.targets.argmax(1), return_inverse=True)[1].reshape(-1)
    return np.unique(dataset.targets, axis=0, return_inverse=True)[1].reshape(-1)


def class_rows(dataset: PreparedDataset) -> dict[int, np.ndarray]:
    """Images of every label column, {column: numbers of the images whose label is 1 there}.

    For multi-label data an image may be in several, or in none. Raises UserError for any other labels.
    """
    if label_kind(dataset.targets) in ("none", "vectors"):
        raise UserError(
            f"metrics.per_class=true needs class labels or labels of zeros and ones, which {dataset.name} does not "
            "have. Leave metrics.per_class=false, or choose labels (data.labels, data.classes)."
        )
    return {k: np.flatnonzero(dataset.targets[:, k]) for k in range(dataset.c_dim)}
