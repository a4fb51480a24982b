"""One pass over images: rows in order, files for large sets, errors on all ranks, and rows of reals that are kept."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frechet_helpers import ALL, Pixels, TinyG, dataset, random_images
from rank_helpers import on_two_ranks
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics import extraction
from stylegan_lightning.metrics.extraction import Features, extract
from stylegan_lightning.metrics.images import GeneratedImages, StoredImages
from stylegan_lightning.metrics.real_stats import real_features, real_images, rows_file
from stylegan_lightning.metrics.sampling import NotFinite

OPTIONS: dict[str, Any] = {"batch_size": 4, "device": "cpu"}


def stored(n: int = 51, seed: int = 0) -> StoredImages:
    return StoredImages(dataset(random_images(n, seed=seed)), np.arange(n), "all")


def flat(n: int = 51) -> Tensor:
    """[n, 4], the features of Pixels."""
    return torch.from_numpy(random_images(n)).flatten(1).float()


class Broken(Pixels):
    """Fails, or gives the wrong number of features."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        if self.error is not None:
            raise self.error
        return features[:, 1:]


class BrokenImages(StoredImages):
    def batch(self, rows: Tensor, device: torch.device | str) -> Tensor:
        if 10 in rows // 2:  # images 20 and 21, one on each of two ranks
            raise OSError("the disk is gone")
        return super().batch(rows, device)


def check(found: Features, expected: Tensor, keep_rows: bool = True) -> None:
    assert found.count == found.sums.count == len(expected)
    assert torch.equal(found.sums.sum, expected.double().sum(0))
    assert torch.equal(found.sums.outer, expected.double().T @ expected.double())  # whole numbers are exact
    assert (found.rows is None) if not keep_rows else torch.equal(found.rows, expected)


# ------------------------------------------------------------------------------------------------ one rank


@pytest.mark.parametrize("batch_size", [1, 7, 51, 100])
@pytest.mark.parametrize("keep_rows", [True, False])
def test_rows_are_the_features_of_each_image_in_order(batch_size: int, keep_rows: bool) -> None:
    (found,) = extract(stored(), [Pixels()], [keep_rows], batch_size=batch_size, device="cpu")
    check(found, flat(), keep_rows)


def test_each_image_is_made_once_for_all_networks() -> None:
    G, networks = TinyG(), [Pixels(4), Pixels(2), Pixels(3)]
    found = extract(GeneratedImages(G, 51), networks, [True, False, True], **OPTIONS)
    assert G.made == 51 and [e.seen for e in networks] == [51, 51, 51]
    expected = GeneratedImages(G, 51).batch(torch.arange(51), "cpu").flatten(1).float()
    for features, network, keep in zip(found, networks, (True, False, True), strict=True):
        check(features, expected[:, : network.num_features], keep)


def test_many_rows_lie_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def record(*, dir: Path | None) -> Any:
        folders.append(dir)
        return real(dir=dir)

    real = tempfile.TemporaryFile
    monkeypatch.setattr(extraction.tempfile, "TemporaryFile", record)
    monkeypatch.setattr(extraction, "IN_MEMORY", 51 * 3 * 4)
    networks = [Pixels(4), Pixels(3), Pixels(4)]
    found = extract(stored(), networks, [True, True, False], folder=tmp_path / "new", **OPTIONS)
    assert folders == [tmp_path / "new"] and not list((tmp_path / "new").iterdir())
    for features, network, keep in zip(found, networks, (True, True, False), strict=True):
        check(features, flat()[:, : network.num_features], keep)
    extract(stored(), networks[:1], [True], **OPTIONS)
    assert folders[1:] == [None]  # the system's


@pytest.mark.parametrize("keep_rows", [True, False])
def test_errors_are_raised_and_end_the_work(keep_rows: bool, tmp_path: Path) -> None:
    G, after = TinyG(), Pixels()
    with pytest.raises(RuntimeError, match="no memory"):
        extract(GeneratedImages(G, 51), [Broken(RuntimeError("no memory")), after], [keep_rows] * 2, **OPTIONS)
    assert G.made == 4 and after.seen == 0
    with pytest.raises(UserError, match=r"\[N, 4\], one row an image; got \[4, 3\]"):
        extract(stored(), [Broken()], [keep_rows], **OPTIONS)
    with pytest.raises(OSError, match="the disk is gone"):
        extract(BrokenImages(dataset(random_images(51)), np.arange(51), ""), [after], [keep_rows], **OPTIONS)
    assert after.seen == 20
    with pytest.raises(NotFinite, match="not finite"):
        extract(GeneratedImages(TinyG(bad=float("nan")), 51), [after], [keep_rows], **OPTIONS)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "IN_MEMORY", 0)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        extract(stored(), [Pixels()], [True], folder=tmp_path / "file", **OPTIONS)


# ------------------------------------------------------------------------------------------------ two ranks

COUNTS = (51, 49, 1)
"""The last batches of 51 and 49 have 2 and 1 images on rank 0, and 1 and none on rank 1."""


def extract_on_a_rank(folder: Path) -> dict[str, Any]:
    rank = torch.distributed.get_rank()
    extraction.IN_MEMORY = 0

    def outcome(images: Any, network: Pixels, keep_rows: bool, place: Path = folder) -> str:
        try:
            extract(images, [network], [keep_rows], folder=place, **OPTIONS)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    errors = []
    for keep in (True, False):
        for wrong in (0, 1):  # the rank
            images = (BrokenImages if rank == wrong else StoredImages)(dataset(random_images(51)), np.arange(51), "")
            errors.append(outcome(images, Pixels(), keep))
            errors.append(outcome(stored(), Broken(ValueError("broken")) if rank == wrong else Pixels(), keep))
            generator = GeneratedImages(TinyG(bad=float("inf") if rank == wrong else None), 51)
            errors.append(outcome(generator, Pixels(), keep))
        errors.append(outcome(stored(), Broken(), keep))
    place = folder / "file"
    place.touch()
    errors.append(outcome(stored(), Pixels(), True, place))  # rank 0 alone needs it
    networks = [Pixels(4), Pixels(3)]
    good = [extract(stored(n), networks, [True, False], **OPTIONS) for n in COUNTS]
    return {"errors": errors, "good": good, "seen": networks[0].seen}


def test_two_ranks_give_what_one_gives_and_raise_together(tmp_path: Path) -> None:
    first, second = on_two_ranks(extract_on_a_rank, tmp_path)
    own = ["OSError: the disk is gone", "ValueError: broken", "NotFinite: the generated images"]
    others = ["RuntimeError: another process", "RuntimeError: another process", "NotFinite: another process"]
    both = "UserError: Features must be a matrix"
    for found, one_pass, last in (
        (first, [*own, *others, both], "FileExistsError"),
        (second, [*others, *own, both], "RuntimeError: another process"),
    ):
        expected = [*one_pass, *one_pass, last]
        assert [e[: len(x)] for e, x in zip(found["errors"], expected, strict=True)] == expected
    assert (first["seen"], second["seen"]) == (26 + 25 + 1, 25 + 24)
    for n, at_first, at_second in zip(COUNTS, first["good"], second["good"], strict=True):
        check(at_first[0], flat(n))
        check(at_second[0], flat(n), keep_rows=False)  # rank 0 alone has the rows
        for rank in (at_first, at_second):
            check(rank[1], flat(n)[:, :3], keep_rows=False)


# --------------------------------------------------------------------------------------- rows that are kept


def kept(folder: Path, extractor: Pixels, keep_rows: bool = True) -> Features:
    return real_features(real_images(dataset(random_images(51)), ALL), extractor, folder, keep_rows=keep_rows)


def test_rows_of_reals_are_computed_once(tmp_path: Path) -> None:
    extractors = [Pixels() for _ in range(4)]
    for extractor, keep in zip(extractors, (False, True, True, False), strict=True):
        check(kept(tmp_path, extractor, keep), flat(), keep)
    assert [e.seen for e in extractors] == [51, 51, 0, 0]  # sums alone at first
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".lock", ".npy", ".npz"]


def test_rows_come_from_the_file_and_do_not_write_to_it(tmp_path: Path) -> None:
    kept(tmp_path, Pixels())
    (file,) = tmp_path.glob("*.npy")
    other = flat().numpy()[::-1]
    np.save(file, other)
    rows = kept(tmp_path, Pixels()).rows
    assert rows is not None and np.array_equal(rows.numpy(), other)
    rows.zero_()
    assert np.array_equal(np.load(file), other)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "few", "wide", "type", "pickle"])
def test_damaged_rows_are_computed_again(damage: str, tmp_path: Path) -> None:
    kept(tmp_path, Pixels())
    (sums,) = tmp_path.glob("*.npz")
    file, good = rows_file(sums), flat().numpy()
    if damage == "missing":
        file.unlink()
    elif damage in ("truncated", "empty"):
        file.write_bytes(file.read_bytes()[: 300 if damage == "truncated" else 0])
    else:
        wrong = {
            "few": good[1:],
            "wide": np.concatenate([good, good], 1),
            "type": good.astype(np.float64),
            "pickle": np.array([{}]),
        }
        np.save(file, wrong[damage])
    extractor = Pixels()
    if damage == "missing":
        with warnings.catch_warnings(action="error"):
            check(kept(tmp_path, extractor), flat())
    else:
        with pytest.warns(UserWarning, match="again"):
            check(kept(tmp_path, extractor), flat())
    again = Pixels()
    check(kept(tmp_path, again), flat())
    assert (extractor.seen, again.seen) == (51, 0)


def test_nothing_is_kept_of_generated_images(tmp_path: Path) -> None:
    extractor = Pixels()
    for _ in range(2):
        real_features(GeneratedImages(TinyG(), 51), extractor, tmp_path, keep_rows=True)
    assert extractor.seen == 102 and not list(tmp_path.iterdir())
