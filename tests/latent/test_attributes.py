"""Attributes of pictures: samples of them, tables of them, and the regressor of faces."""

from __future__ import annotations

import json

import pytest
import torch
from latent_helpers import W, tiny

from stylegan_lightning.data.faces import draw, sample_factors
from stylegan_lightning.errors import UserError
from stylegan_lightning.latent import face_regressor
from stylegan_lightning.latent.attributes import (
    codes_in_turn,
    examples_of_file,
    read_codes,
    readable,
    sample_examples,
)
from stylegan_lightning.latent.codes import Codes, render, sample_w, styles_of
from stylegan_lightning.latent.face_regressor import (
    MIRRORED,
    FaceRegressor,
    face_regressor_for,
    prepare,
    readings_of,
    train_face_regressor,
)


class Reader:
    """Reads the mean of each colour; the last one badly."""

    names = ("red", "green", "blue")
    deviation = torch.tensor([1.0, 2.0, 3.0])
    quality = torch.tensor([0.9, 0.5, 0.49])

    def __call__(self, images):
        return images.float().mean((2, 3))


# --------------------------------------------------------------------------------------------- samples


def test_readings_are_those_of_the_pictures():
    G = tiny("stylegan2")
    ws = styles_of(G, range(20))  # more than one batch
    assert torch.allclose(read_codes(G, Reader(), ws), Reader()(render(G, ws)), atol=1)
    steps = []
    read_codes(G, Reader(), ws, lambda done, total: steps.append((done, total)))
    assert steps == [(16, 20), (20, 20)]


def test_samples():
    G = tiny("stylegan2")
    plain, mixed = (sample_examples(G, Reader(), 40, seed=2, mixed=m) for m in (False, True))
    assert plain.names == mixed.names == readable(Reader()) == ("red", "green")
    assert torch.equal(mixed.deviation, torch.tensor([1.0, 2.0]))
    w = sample_w(G, 40, 2)
    assert torch.equal(plain.ws, w)
    assert torch.allclose(plain.values, read_codes(G, Reader(), w[:, None].expand(-1, 6, -1))[:, :2])
    assert torch.allclose(mixed.values, read_codes(G, Reader(), mixed.ws)[:, :2])
    assert mixed.ws.shape == (40, 6, W)
    for i in range(6):  # every style has the same codes, in another order
        assert torch.equal(mixed.ws[:, i].sort(0).values, w.sort(0).values)
        assert not torch.equal(mixed.ws[:, i], mixed.ws[:, i - 1])
    assert sample_examples(tiny("mlp"), Reader(), 3).ws.shape == (3, W)
    assert mixed.only(["green"]).values.shape == (40, 1) and mixed.only(["green"]).deviation.tolist() == [2.0]
    with pytest.raises(UserError, match="1 samples"):
        sample_examples(G, Reader(), 1)
    bad = Reader()
    bad.quality = torch.zeros(3)
    with pytest.raises(UserError, match="reads no attribute"):
        sample_examples(G, bad, 10)


def test_mixed_samples_of_a_conditional_model_are_of_one_class():
    G = tiny("stylegan2", c_dim=3)
    w, ws = sample_w(G, 30, 4), sample_examples(G, Reader(), 30, seed=4).ws
    for k in range(3):
        own = w[k::3]
        assert all((own == row).all(1).any() for row in ws[k::3].flatten(0, 1))


# ---------------------------------------------------------------------------------------------- tables


def test_tables_by_seed(tmp_path):
    G = tiny("stylegan2")
    (tmp_path / "a.csv").write_text("seed,smile,hat\n7,0.25,true\n3,-1e1,False\n9,3,yes\n")
    table = ((7, 0.25, True), (3, -10, False), (9, 3, 1))
    rows = [dict(zip(("seed", "smile", "hat"), row, strict=True)) for row in table]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name in ("a.csv", "a.json"):
        found = examples_of_file(G, tmp_path / name)
        assert found.names == ("smile", "hat") and torch.equal(found.ws, styles_of(G, [7, 3, 9])[:, 0])
        assert found.values.tolist() == [[0.25, 1], [-10, 0], [3, 1]]


def test_tables_of_conditional_models(tmp_path):
    G = tiny("stylegan2", c_dim=3)
    (tmp_path / "a.csv").write_text("seed,smile\n7,1\n3,2\n")
    turn = torch.cat([styles_of(G, [7], label=1), styles_of(G, [3], label=0)])
    assert torch.equal(codes_in_turn(G, [7, 3]), turn)
    assert torch.equal(examples_of_file(G, tmp_path / "a.csv").ws, turn[:, 0])
    assert torch.equal(examples_of_file(G, tmp_path / "a.csv", 2).ws, styles_of(G, [7, 3], label=2)[:, 0])


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.txt", "", "`faces`, or a .csv or .json"),
        ("a.csv", "smile\n1\n2\n", "must have a column 'seed'"),
        ("a.csv", "seed\n1\n2\n", "at least one attribute"),
        ("a.csv", "seed,smile\n1,2\n", "at least two rows"),
        ("a.csv", "seed,smile\n1,2\n-1,2\n", "row 2: a seed is a whole number"),
        ("a.csv", "seed,smile\n1,2\n1.5,2\n", "row 2: a seed is a whole number"),
        ("a.csv", "seed,smile\n1,2\n2,wide\n", "row 2: smile must be a number, true or false; got 'wide'"),
        ("a.csv", "seed,smile\n1,\n2,1\n", "row 1: smile must be"),
        ("a.csv", "seed,smile\n1,nan\n2,1\n", "row 1: smile must be"),
        ("a.csv", "seed,smile\n1,2\n2,1,4\n", "row 2 must have the columns"),
        ("a.json", "{", "no table"),
        ("a.json", '{"seed": 1}', "must be a list"),
        ("a.json", '[{"seed": 1, "a": 1}, {"seed": 2, "b": 1}]', "row 2 must have the columns"),
        ("a.json", '[{"seed": 1, "a": null}, {"seed": 2, "a": 1}]', "row 1: a must be"),
    ],
)
def test_what_is_no_table(tmp_path, name, text, why):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=why):
        examples_of_file(tiny("mlp"), tmp_path / name)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        examples_of_file(tiny("mlp"), tmp_path / "a.csv")


# ------------------------------------------------------------------------------------------- regressor


def test_painted_faces_are_mirrored_by_the_factors_that_the_regressor_mirrors():
    factors = sample_factors(3, 5)
    other = {n: -v if n in MIRRORED else v for n, v in factors.items()}
    assert (draw(other, 32) == draw(factors, 32)[:, :, ::-1]).all()
    glasses = list(factors).index("glasses")
    for value, worn in ((0.2, 0.0), (0.9, 1.0)):
        assert readings_of({**factors, "glasses": value})[glasses] == worn


@pytest.fixture(scope="module")
def trained():
    face_regressor.HELD_OUT, before = 60, face_regressor.HELD_OUT
    state = torch.get_rng_state()
    steps = []
    net = train_face_regressor(32, 1, faces=320, epochs=6, progress=lambda done, total: steps.append((done, total)))
    face_regressor.HELD_OUT = before
    assert torch.equal(torch.get_rng_state(), state)
    assert steps[-1] == (380 + 30, 380 + 30) and [s[0] for s in steps] == list(range(1, 411))
    return net


def test_the_regressor_learns(trained):
    quality = dict(zip(trained.names, trained.quality.tolist(), strict=True))
    assert quality["background_lightness"] > 0.5  # on faces that it has not seen
    assert quality["background_hue"] < 0.3  # grey pictures do not tell
    faces = [sample_factors(i, 77) for i in range(40)]
    images = torch.stack([torch.from_numpy(draw(f, 32, 1)) for f in faces])
    seen = trained(images)
    assert seen.shape == (40, 38) and not trained.training
    yaw = torch.corrcoef(torch.stack([seen[:, 0], torch.tensor([f["yaw"] for f in faces])]))[0, 1]
    assert yaw > 0.4
    assert seen[:, trained.names.index("glasses")].unique().tolist() in ([0.0], [0.0, 1.0], [1.0])
    background = trained.names.index("background_lightness")
    spread = seen[:, background] - torch.tensor([f["background_lightness"] for f in faces])
    assert spread.abs().mean() < 0.2  # in the factor's own unit


def test_mirror_images_read_alike(trained):
    images = torch.stack([torch.from_numpy(draw(sample_factors(i, 7), 32, 1)) for i in range(4)])
    seen, mirrored = trained(images), trained(images.flip(3))
    signs = torch.tensor([-1.0 if n in MIRRORED else 1.0 for n in trained.names])
    assert torch.allclose(mirrored, seen * signs, atol=1e-5) and not torch.allclose(mirrored, seen, atol=1e-2)


def test_regressors_are_kept(trained, tmp_path):
    path = tmp_path / "new" / "r.safetensors"
    trained.save(path)
    back = FaceRegressor.load(path)
    images = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    assert torch.equal(back(images), trained(images)) and (back.size, back.channels) == (32, 1)
    assert torch.equal(back.quality, trained.quality)
    G = tiny("stylegan2", resolution=32, channels=1)
    assert torch.equal(face_regressor_for(G, path)(images), trained(images))
    with pytest.raises(UserError, match=r"32 pixels and 1 channels.*16 and 3"):
        face_regressor_for(tiny("stylegan2"), path)
    with pytest.raises(UserError, match=r"\.safetensors"):
        face_regressor_for(G, tmp_path / "r.pt")
    Codes(torch.zeros(1, 1, 1), ("a",)).save(tmp_path / "codes.safetensors")
    with pytest.raises(UserError, match="does not hold a face regressor"):
        FaceRegressor.load(tmp_path / "codes.safetensors")


def test_what_is_not_kept_is_trained(tmp_path, monkeypatch):
    asked = []

    def quick(resolution, channels, *, seed, device, progress):
        asked.append((resolution, channels, seed))
        return FaceRegressor(resolution, channels).eval()

    monkeypatch.setattr(face_regressor, "train_face_regressor", quick)
    G = tiny("stylegan1", channels=4)
    G.synthesis.grow_to(8, 1.0)
    first = face_regressor_for(G, tmp_path / "r.safetensors", seed=3)
    again = face_regressor_for(G, tmp_path / "r.safetensors")
    assert asked == [(8, 4, 3)] and torch.equal(first.head[0].weight, again.head[0].weight)


def test_pictures_of_any_kind_are_prepared_alike():
    grey = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    rgb = grey.expand(-1, 3, -1, -1)
    opaque = torch.cat([rgb, torch.full_like(grey, 255)], 1)
    assert torch.equal(prepare(grey), prepare(rgb)) and torch.allclose(prepare(opaque), prepare(rgb), atol=1e-6)
    assert prepare(grey).shape == prepare(grey[..., :8, :8]).shape == (2, 3, 64, 64)
    assert float(prepare(torch.full((1, 1, 256, 256), 255, dtype=torch.uint8)).min()) == 1
