"""The showcase: what stands in which cell, what the histograms hold, when it is drawn, and that it never ends a run."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.networks import (
    Generator,
    MappingNetwork,
    ProgressiveDiscriminator,
    StyleGAN1Synthesis,
    StyleGAN2Discriminator,
    StyleGAN2Synthesis,
)
from stylegan_lightning.training.samples import latents, render, sample_fixed
from stylegan_lightning.training.showcase import JUDGED, MAPPED, PSIS, STEPS, Gallery, way

CELL, GAP, RESOLUTION = 64, 8, 16
ROWS, COLUMNS = 3, 4


def dataset(c_dim=0, channels=3, count=20):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, channels, RESOLUTION, RESOLUTION), np.uint8)
    targets = np.eye(c_dim, dtype=np.float32)[rng.integers(c_dim, size=count)] if c_dim else np.zeros((count, 0))
    return PreparedDataset(images, targets.astype(np.float32), name="n", fingerprint="f")


def gallery(c_dim=0, channels=3, synthesis=StyleGAN2Synthesis, psi=0.8, **data):
    torch.manual_seed(0)
    net = synthesis(RESOLUTION, channels, w_dim=8, channel_base=128, channel_max=8)
    G = Generator(net, partial(MappingNetwork, z_dim=6, c_dim=c_dim, num_layers=2)).eval()
    G.mapping.w_avg.normal_()
    return Gallery(G, dataset(c_dim, channels, **data), ROWS, COLUMNS, psi, seed=3)


def cells(picture, rows, columns):
    """uint8 [rows, columns, C, H, W], at the images' own size, of a picture without gaps."""
    picture = picture[:, picture.shape[1] - columns * CELL :][picture.shape[0] - rows * CELL :]
    parts = picture.reshape(rows, CELL, columns, CELL, -1).transpose(0, 2, 4, 1, 3)
    return parts[..., :: CELL // RESOLUTION, :: CELL // RESOLUTION].astype(int)


def assert_same(found, expected):
    np.testing.assert_allclose(found, np.asarray(expected).astype(int), atol=1)  # batches of other sizes round apart


@pytest.mark.parametrize(("c_dim", "channels"), [(0, 3), (4, 1), (0, 4)])
def test_rows_are_truncations_and_the_last_are_plain_samples(c_dim, channels):
    shown = gallery(c_dim, channels)
    picture = shown.truncation()
    assert picture.dtype == np.uint8 and picture.shape[0] == len(PSIS) * CELL and picture.shape[2] == channels
    rows = cells(picture, len(PSIS), COLUMNS)
    for psi, row in zip(PSIS, rows, strict=True):
        assert_same(row, sample_fixed(shown.G, shown.dataset, COLUMNS, shown.seed, psi, "cpu"))
    assert PSIS[-1] == 1 and picture[:, : picture.shape[1] - COLUMNS * CELL, 0].min() < 128  # names are written


@pytest.mark.parametrize("c_dim", [0, 4])
def test_mixing_takes_coarse_styles_from_above_and_fine_ones_from_the_left(c_dim):
    shown = gallery(c_dim)
    picture = shown.mixing()
    size = (ROWS + 1) * CELL + GAP
    assert picture.shape[0] == size
    table = picture[:, -size:]
    lines = np.r_[CELL : CELL + GAP]
    assert (table[lines] == 255).all() and (table[:, lines] == 255).all() and (table[:CELL, :CELL] == 255).all()
    found = cells(np.delete(np.delete(table, lines, 0), lines, 1), ROWS + 1, ROWS + 1)
    sources = sample_fixed(shown.G, shown.dataset, ROWS, shown.seed, shown.psi, "cpu")
    assert_same(found[0, 1:], sources)
    assert_same(found[1:, 0], sources)
    assert_same(found[range(1, ROWS + 1), range(1, ROWS + 1)], sources)
    ws = shown._map(ROWS, shown.psi)
    half = shown.G.num_ws // 2
    mixed = torch.cat([ws[2:3, :half], ws[0:1, half:]], 1)  # third column, first row
    assert_same(found[1, 3], render(shown.G, mixed, "cpu")[0])


def test_one_or_two_styles_are_not_mixed():
    shown = gallery()
    shown.G.mapping.num_ws = 2
    assert shown.mixing() is None


@pytest.mark.parametrize("c_dim", [0, 4])
def test_ways_begin_and_end_at_the_latents(c_dim):
    shown = gallery(c_dim)
    found = cells(shown.interpolation(), ROWS, STEPS)
    z, c = latents(shown.G, 2 * ROWS, shown.seed), shown._labels(ROWS)
    for end, column in ((z[:ROWS], 0), (z[ROWS:], -1)):
        assert_same(found[:, column], render(shown.G, shown.G.mapping(end, c, truncation_psi=shown.psi), "cpu"))


def test_a_way_stays_between_the_lengths_of_its_ends():
    start, end = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    points = way(start, 3 * end, 9)
    torch.testing.assert_close(points[:, 0], start)
    torch.testing.assert_close(points[:, -1], 3 * end)
    lengths = torch.stack([start.norm(dim=1), 3 * end.norm(dim=1)]).sort(0).values
    assert (lengths[0] - 1e-5 <= points.norm(dim=2).T).all() and (lengths[1] + 1e-5 >= points.norm(dim=2).T).all()
    unit = torch.nn.functional.normalize(points, dim=2)
    torch.testing.assert_close((unit[:, 1:] * unit[:, :-1]).sum(2).std(1), torch.zeros(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("c_dim", [0, 4])
def test_reals_stand_on_the_left_of_fakes_with_their_labels(c_dim):
    shown, half = gallery(c_dim), COLUMNS // 2
    picture = shown.reals_and_fakes()
    titles, halves = np.split(picture, [picture.shape[0] - ROWS * CELL])
    left, right = titles[:, : half * CELL], titles[:, half * CELL + GAP :]
    assert left.min() == right.min() == 0  # both are written
    middle = np.r_[half * CELL : half * CELL + GAP]
    assert (halves[:, middle] == 255).all()
    found = cells(np.delete(halves, middle, 1), ROWS, COLUMNS)
    order = np.random.default_rng(shown.seed).permutation(len(shown.dataset))[: ROWS * half]
    reals, c = shown.dataset.batch(order.tolist())
    assert (found[:, :half].reshape(-1, 3, RESOLUTION, RESOLUTION) == reals.numpy()).all()
    ws = shown.G.mapping(latents(shown.G, len(c), shown.seed), c, truncation_psi=shown.psi)
    assert_same(found[:, half:].reshape(-1, 3, RESOLUTION, RESOLUTION), render(shown.G, ws, "cpu"))


@pytest.mark.parametrize(("c_dim", "count", "batch"), [(0, 300, 8), (4, 20, 24)])
def test_logits_are_those_of_reals_and_fakes_in_evaluation_mode(c_dim, count, batch):
    shown = gallery(c_dim, count=count)
    D = StyleGAN2Discriminator(RESOLUTION, 3, c_dim=c_dim, channel_base=128, channel_max=8, mbstd_group_size=4).train()
    before = torch.random.get_rng_state()
    found = shown.logits(D, batch)
    assert torch.equal(torch.random.get_rng_state(), before) and all(m.training for m in D.modules())
    assert {k: v.shape for k, v in found.items()} == {"logits_real": (JUDGED,), "logits_fake": (JUDGED,)}
    reals, c = shown._reals(batch)
    expected = D(reals / 127.5 - 1, c).flatten().detach()
    np.testing.assert_allclose(found["logits_real"][:batch], expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(found["logits_real"], found["logits_fake"])


def test_networks_that_grow_are_shown_as_they_are():
    shown = gallery(synthesis=StyleGAN1Synthesis)
    shown.dataset.levels = {8: shown.dataset.images[..., ::2, ::2].copy()}
    D = ProgressiveDiscriminator(RESOLUTION, 3, channel_base=128, channel_max=8)
    full = {name: getattr(shown, name)().shape for name in ("truncation", "mixing", "interpolation", "reals_and_fakes")}
    for net in (shown.G.synthesis, D):
        net.grow_to(8, 0.5)
    assert {name: getattr(shown, name)().shape for name in full} == full
    assert shown._reals(5)[0].shape == (5, 3, 8, 8)
    assert all(len(v) == JUDGED for v in shown.logits(D, 8).values())


def test_styles_are_those_before_truncation():
    shown = gallery(psi=0.1)
    w = shown.styles()["w"]
    assert w.shape == (MAPPED * shown.G.w_dim,)
    expected = shown.G.mapping(latents(shown.G, MAPPED, shown.seed))[:, 0]
    np.testing.assert_allclose(w, expected.detach().numpy().ravel(), rtol=1e-5, atol=1e-6)


SHOWN = "callbacks.showcase.enabled=true"  # which the tests' tiny runs turn off
NAMES = ["interpolation", "mixing", "reals_and_fakes", "truncation"]


def pictures(run_dir, *names):
    return sorted(p.name for name in names or NAMES for p in (run_dir / "samples").glob(f"{name}_*.png"))


@pytest.mark.parametrize(
    ("option", "moments"),
    [("every_ticks=null", ["064"]), ("every_ticks=1", ["032", "064"]), ("enabled=false", [])],
)
def test_it_is_drawn_as_often_as_it_says(run, tiny, tmp_path, option, moments):
    done = run("train.py", *tiny, "logger=csv", SHOWN, f"callbacks.showcase.{option}", f"run_dir={tmp_path}/r")
    assert done.code == 0, done.err
    assert pictures(tmp_path / "r") == [f"{name}_00000.{k}_kimg.png" for name in NAMES for k in moments]


def test_tensorboard_gets_pictures_and_histograms(run, tiny, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert run("train.py", *tiny, "logger=tensorboard", SHOWN, f"run_dir={tmp_path}/r").code == 0
    events = accumulator.EventAccumulator(str(tmp_path / "r/tensorboard")).Reload()
    assert {f"samples/{name}" for name in NAMES} <= set(events.Tags()["images"])
    assert set(events.Tags()["histograms"]) == {"histograms/logits_real", "histograms/logits_fake", "histograms/w"}
    assert events.Histograms("histograms/logits_real")[0].step == 64


def test_a_model_without_layers_in_its_mapping_has_all_but_mixing(run, tiny, tmp_path):
    plain = [a for a in tiny if not a.startswith("model.")]
    done = run("train.py", *plain, "model=mlp", "logger=csv", SHOWN, f"run_dir={tmp_path}/r")
    assert done.code == 0, done.err
    assert [p.split("_000")[0] for p in pictures(tmp_path / "r")] == [n for n in NAMES if n != "mixing"]


def test_what_fails_is_reported_and_the_rest_goes_on(run, tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no more paint")

    for name in ("mixing", "logits"):
        monkeypatch.setattr(Gallery, name, fail)
    with pytest.warns(UserWarning, match="mixing could not be drawn: no more paint"):
        done = run("train.py", *tiny, "logger=csv", SHOWN, f"run_dir={tmp_path}/r")
    assert done.code == 0, done.err
    assert len(pictures(tmp_path / "r")) == 3 and (tmp_path / "r/checkpoints/best.ckpt").exists()
    assert np.asarray(Image.open(tmp_path / "r/samples/truncation_00000.064_kimg.png")).std() > 0
