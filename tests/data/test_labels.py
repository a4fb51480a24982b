"""Kinds of labels, their groups, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numbers_source import Numbers
from PIL import Image

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.data.labels import class_rows, label_groups, label_kind, label_names
from stylegan_lightning.data.summary import summary_text
from stylegan_lightning.errors import UserError

KINDS = {
    "none": np.zeros((3, 0)),
    "classes": [[1, 0], [0, 1], [1, 0]],
    "attributes": [[1, 1], [0, 0], [1, 1]],
    "vectors": [[0.5, 1], [0, 1], [2, 0]],
}


def labelled(targets, names=()):
    targets = np.asarray(targets, np.float32)
    images = np.zeros((len(targets), 1, 4, 4), np.uint8)
    return PreparedDataset(images, targets, name="set", fingerprint="f", label_names=names)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind):
    assert label_kind(np.asarray(KINDS[kind], np.float32)) == kind


def test_equal_labels_are_a_group():
    assert label_groups(labelled(np.eye(5)[[4, 0, 4, 2]])).tolist() == [2, 0, 2, 1]  # classes 1 and 3 have no image
    assert label_groups(labelled([[1, 1], [0, 0], [1, 1], [0, 1]])).tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize(("kind", "words"), [("none", "no labels.*data.classes"), ("vectors", "vectors of numbers")])
def test_what_cannot_be_balanced(kind, words):
    with pytest.raises(UserError, match=rf"data\.balance=true needs .* set has .*{words}"):
        label_groups(labelled(KINDS[kind]))


def test_rows_of_a_class_and_of_an_attribute():
    rows = class_rows(labelled([[1, 1], [0, 0], [1, 0]]))
    assert {k: v.tolist() for k, v in rows.items()} == {0: [0, 2], 1: [0]}
    for kind in ("none", "vectors"):
        with pytest.raises(UserError, match=r"metrics\.per_class"):
            class_rows(labelled(KINDS[kind]))


def test_columns_without_names_are_numbered():
    assert label_names(labelled(np.eye(2))) == ("0", "1") and label_names(labelled(np.eye(2), "ab")) == ("a", "b")


class Bad(Numbers):
    def __init__(self, labels):
        super().__init__(4)
        self.table = np.asarray(labels)

    def labels(self):
        return self.table


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[0, 1]] * 3, r"shape \(4, 2\).*they have \(3, 2\)"),
        ([[1]] * 4, r"they have \(4, 1\)"),
        ([[0, 1], [np.nan, 0], [0, 1], [np.inf, 0]], r"2 images are not, first \[nan, 0.0\] of image 1"),
        ([[0, 1], [1e300, 0], [0, 1], [0, 1]], "1 images are not"),
    ],
)
def test_a_source_with_impossible_labels_is_refused_before_reading(labels, words, tmp_path):
    source = Bad(labels)
    with pytest.raises(UserError, match=words):
        prepare(source, tmp_path)
    assert source.reads == 0


def folder(tmp_path, labels, **extra):
    """Images 0.png, 1.png, ... with these labels in dataset.json."""
    (tmp_path / "in").mkdir()
    for i in range(len(labels)):
        Image.new("L", (4, 4), i).save(tmp_path / "in" / f"{i}.png")
    entries = [[f"{i}.png", label] for i, label in enumerate(labels)]
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": entries}))
    return ImageFolder(tmp_path / "in", 4, labels="json", **extra)


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        ([2, 0, 2], "classes", "3 classes (0: 1, 1: 0, 2: 2); 1 of them without an image"),
        ([[1, 1], [0, 0], [1, 0]], "attributes", "2 yes/no labels (0: 2, 1: 1)"),
        ([[0.25, -1], [0, 3], [1, 0]], "vectors", "vectors of 2 numbers"),
    ],
)
def test_dataset_json_gives_every_kind(tmp_path, labels, kind, text):
    data = prepare(folder(tmp_path, labels), tmp_path / "cache")
    expected = np.eye(3)[labels] if kind == "classes" else labels
    assert np.array_equal(data.targets, np.asarray(expected, np.float32)) and label_kind(data.targets) == kind
    assert text in summary_text(data)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, [0, 1]], "all class numbers .* or all lists"),
        ([[0.5], None], "1.png has None"),
        ([[1, 0], [1]], "same number of"),
        ([[1e39], [0]], "0.png has .1e[+]39"),
        ([True, False], "has True"),
        ([0, 10**9], "below 100000; got 1000000000"),
    ],
)
def test_dataset_json_that_cannot_be_meant(tmp_path, labels, words):
    with pytest.raises(UserError, match=words):
        folder(tmp_path, labels)
