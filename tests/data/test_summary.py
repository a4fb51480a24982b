"""The statistics that preparing gathers, and their summary."""

import numpy as np
import pytest
from numbers_source import Numbers
from PIL import Image

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.data.summary import summary_text


def test_mean_and_std_are_exact(tmp_path):
    data = prepare(Numbers(200, bad=(3,)), tmp_path)
    pixels = np.asarray(data.images, np.float64)
    assert data.stats["mean"] == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-12)
    assert data.stats["std"] == pytest.approx(pixels.std((0, 2, 3)), rel=1e-9)


def test_sizes_modes_and_labels_are_counted(tmp_path):
    for i, (mode, size) in enumerate([("L", (5, 6)), ("RGB", (20, 10)), ("RGB", (20, 10)), ("RGBA", (9, 9))]):
        (tmp_path / "in" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new(mode, size).save(tmp_path / "in" / "ab"[i % 2] / f"{i}.png")
    data = prepare(ImageFolder(tmp_path / "in", 4, labels="folders"), tmp_path / "c", mirror=True)
    assert data.stats["sizes"] == {
        "distinct": 3,
        "common": {"20x10": 2, "5x6": 1, "9x9": 1},
        "min": "5x6",
        "max": "20x10",
    }
    assert data.stats["modes"] == {"RGB": 2, "L": 1, "RGBA": 1}
    assert data.stats["labels"] == {"a": 2, "b": 2}
    text = summary_text(data)
    for words in (
        "in: 4 images of 3x4x4, with mirrored copies 8",
        "3 sizes, 5x6 to 20x10",
        "RGB: 2",
        "a: 2, b: 2",
    ):
        assert words in text
    assert "skipped" not in text


def test_summary_names_ten_skipped_files_then_counts(tmp_path):
    text = summary_text(prepare(Numbers(20, bad=tuple(range(13))), tmp_path))
    assert "13 of 20 images cannot be read" in text
    assert text.count("is broken") == 10 and text.endswith("... and 3 more")


def test_summary_of_a_data_set_without_statistics():
    data = PreparedDataset(np.zeros((3, 1, 4, 4), np.uint8), np.zeros((3, 0), np.float32), name="x", fingerprint="")
    assert summary_text(data).splitlines() == ["x: 3 images of 1x4x4", "  labels   none (unconditional)"]
