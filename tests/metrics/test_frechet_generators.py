"""The Fréchet distance of a generator, on one rank and on two, and what it says about misuse."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from frechet_helpers import ALL, Pixels, dataset, random_images
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.metrics.features import EfficientNetLite0
from stylegan_lightning.metrics.frechet import (
    FrechetDistance,
    Preset,
    get_preset,
    label_sampler,
    metric_name,
)


class TinyG(nn.Module):
    """z -> 2 x 2 grey image through tanh; image i is a function of z_i and c_i alone. Records its calls."""

    z_dim = 4

    def __init__(self, c_dim: int = 0, bad: float | None = None) -> None:
        super().__init__()
        self.c_dim, self.bad = c_dim, bad
        self.dropout = nn.Dropout(0.5)
        self.labels: list[Tensor] = []
        self.options: list[tuple[float, str]] = []

    def forward(self, z: Tensor, c: Tensor, *, truncation_psi: float, noise_mode: str) -> Tensor:
        self.labels.append(c)
        self.options.append((truncation_psi, noise_mode))
        img = torch.tanh(self.dropout(z * truncation_psi)).reshape(-1, 1, 2, 2)
        return img if self.bad is None else torch.where(torch.arange(len(z))[:, None, None, None] == 0, self.bad, img)


# --------------------------------------------------------------------------------------------- generators


def evaluate(G: nn.Module, preset: Preset = ALL, data: PreparedDataset | None = None, **options) -> FrechetDistance:
    distance = FrechetDistance(Pixels(), preset)
    data = data or dataset(random_images(40), c_dim=G.c_dim)
    distance.set_real(data)
    distance.evaluate_generator(G, label_sampler(data) if G.c_dim else None, **options)
    return distance


def test_value_does_not_depend_on_the_batch_size() -> None:
    values = [evaluate(TinyG(), dataclasses.replace(ALL, batch_size=b)).result().value for b in (50, 7, 1)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-9) and values[0] > 0


def test_exactly_num_fake_images_with_the_presets_options() -> None:
    G = TinyG()
    result = evaluate(G, dataclasses.replace(ALL, num_fake=51, truncation_psi=0.5)).result()
    assert sum(len(c) for c in G.labels) == result.num_fake == 51 and result.num_real == 40
    assert set(G.options) == {(0.5, "const")}


def test_seed_and_truncation_change_the_value() -> None:
    presets = [ALL, dataclasses.replace(ALL, seed=1), dataclasses.replace(ALL, truncation_psi=0.5)]
    assert len({evaluate(TinyG(), p).result().value for p in presets}) == 3
    assert len({p.key() for p in presets}) == 3


def test_labels_come_from_the_data_set() -> None:
    G = TinyG(c_dim=3)
    images = random_images(40)
    data = dataset(images, c_dim=3)
    data.targets[:] = 0
    data.targets[:30, 0] = data.targets[30:, 2] = 1  # class 1 does not occur
    evaluate(G, dataclasses.replace(ALL, num_fake=400), data)
    share = torch.cat(G.labels).mean(0)
    assert share[1] == 0 and share[0] == pytest.approx(0.75, abs=0.08) and float(share.sum()) == 1
    again = TinyG(c_dim=3)
    evaluate(again, dataclasses.replace(ALL, num_fake=400, batch_size=9), data)
    assert torch.equal(torch.cat(again.labels), torch.cat(G.labels))


def _numpy_state() -> np.ndarray:
    return np.random.get_state(legacy=False)["state"]["key"].copy()


def test_global_random_state_mode_and_gradients_are_left_alone() -> None:
    G = TinyG().train()
    G.dropout.eval()
    before, numpy_before = torch.get_rng_state(), _numpy_state()
    evaluate(G)
    assert torch.equal(before, torch.get_rng_state()) and np.array_equal(numpy_before, _numpy_state())
    assert G.training and not G.dropout.training


def test_usable_inside_inference_mode_and_afterwards_outside() -> None:
    with torch.inference_mode():
        distance = FrechetDistance(Pixels(), ALL)
        distance.set_real(dataset(random_images(40)))
        inside = distance.evaluate_generator(TinyG())
    distance.update_fake(torch.from_numpy(random_images(9)))  # in place, which inference tensors refuse
    assert distance.compute() != inside
    distance.set_real(dataset(random_images(40)))
    assert distance.evaluate_generator(TinyG()) == inside


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_that_are_not_finite_give_nan(bad: float) -> None:
    with pytest.warns(UserWarning, match="fd_pixels is NaN"):
        result = evaluate(TinyG(bad=bad)).result()
    assert result.value != result.value and result.num_fake == 50
    distance = FrechetDistance(Pixels(), ALL)
    distance.set_real(dataset(random_images(40)))
    with pytest.warns(UserWarning, match="NaN"):
        distance.evaluate_generator(TinyG(bad=bad))
    assert distance.evaluate_generator(TinyG()) > 0  # the next one is not affected


def test_constant_images_have_a_finite_distance() -> None:
    G = TinyG(bad=0)
    G.forward = lambda z, c, **_: torch.zeros(len(z), 1, 2, 2)  # type: ignore[method-assign]
    assert 0 < evaluate(G).result().value < float("inf")


def test_quantisation_is_nvidias() -> None:
    x = torch.tensor([-2.0, -1.0, -1.0 + 0.9 / 127.5, 0.0, 1.0 / 127.5, 1.0, 3.0])
    assert to_uint8(x).tolist() == [0, 0, 1, 128, 129, 255, 255]


# ------------------------------------------------------------------------------------------- several ranks


def _run_rank(rank: int, world: int, folder: str, num_fake: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    warnings.simplefilter("ignore")
    extractor = Pixels()
    distance = FrechetDistance(extractor, dataclasses.replace(ALL, num_fake=num_fake))
    distance.set_real(dataset(random_images(40)), folder)
    real_seen = extractor.seen
    value = distance.evaluate_generator(TinyG())
    fake_seen, counted = extractor.seen - real_seen, distance.result().num_fake
    bad = distance.evaluate_generator(TinyG(bad=float("nan") if rank == 1 else None))
    again = distance.evaluate_generator(TinyG())
    np.save(f"{folder}/{rank}.npy", [value, bad, again, real_seen, fake_seen, counted])
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """51 images, so that the ranks have 26 and 25; NaN on one rank reaches both and does not stay."""
    mp.spawn(_run_rank, (2, str(tmp_path), 51), nprocs=2)
    single = evaluate(TinyG(), dataclasses.replace(ALL, num_fake=51)).result().value
    for rank in range(2):
        value, bad, again, real_seen, fake_seen, counted = np.load(tmp_path / f"{rank}.npy")
        assert value == again == pytest.approx(single, rel=1e-9) and np.isnan(bad)
        assert (real_seen, fake_seen, counted) == [(40, 26, 51), (0, 25, 51)][rank]


# ------------------------------------------------------------------------------------- names and messages


def test_names_and_record() -> None:
    result = evaluate(TinyG()).result().as_dict()
    assert metric_name(EfficientNetLite0()) == "fd_efflite0"
    inception = Pixels()
    inception.name = "inception"
    assert metric_name(inception) == "fid"
    assert result["metric"] == "fd_pixels" and result["preset_key"] == ALL.key()
    assert result["torch_version"] == torch.__version__ and result["weights_hash"] == "00000000"


def test_presets_and_their_messages() -> None:
    full = get_preset("fid50k_full")
    assert (full.num_real, full.num_fake, full.mirror_real, full.truncation_psi) == (None, 50_000, False, 1.0)
    with pytest.raises(UserError, match="Did you mean 'fid50k_full'"):
        get_preset("fid50kfull")
    with pytest.raises(UserError, match="num_fake must be at least 2; got 1"):
        dataclasses.replace(ALL, num_fake=1)


def test_misuse_is_explained() -> None:
    distance = FrechetDistance(Pixels(), ALL)
    with pytest.raises(UserError, match="nothing has been computed"):
        distance.result()
    distance.update_fake(torch.from_numpy(random_images(5)))
    with pytest.raises(UserError, match="set_real before compute"):
        distance.compute()
    with pytest.raises(UserError, match="at least 2 real images; test has 1"):
        distance.set_real(dataset(random_images(1)))
    distance.set_real(dataset(random_images(9)))
    assert distance.compute() > 0
    distance.reset()
    with pytest.raises(UserError, match="at least 2 generated images; got 0"):
        distance.compute()
    with pytest.raises(UserError, match="label sampler"):
        distance.evaluate_generator(TinyG(c_dim=3))
    with pytest.raises(UserError, match=r"\[N, 3\]; the data set gives \[50, 2\]"):
        distance.evaluate_generator(TinyG(c_dim=3), label_sampler(dataset(random_images(9), c_dim=2)))
    with pytest.raises(UserError, match=r"mirror=False, not of .*mirror=True"):
        distance.evaluate_generator(TinyG(), preset=dataclasses.replace(ALL, mirror_real=True))
