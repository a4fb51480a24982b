"""The verb directions as a command."""

from __future__ import annotations

import json
import re
from functools import partial

import cli_helpers
import numpy as np
import pytest
import torch
from cli_helpers import exported
from PIL import Image

import stylegan_lightning
from stylegan_lightning.errors import UserError
from stylegan_lightning.latent import steering
from stylegan_lightning.latent.attributes import examples_of_file, sample_examples
from stylegan_lightning.latent.codes import render, styles_of
from stylegan_lightning.latent.directions import Directions, pca, sefa, strip
from stylegan_lightning.latent.face_regressor import FaceRegressor, prepare
from stylegan_lightning.latent.judging import judge, markdown
from stylegan_lightning.latent.steering import Steering, steered
from stylegan_lightning.latent.supervised import supervised

NAMES = ["yaw", "smile", "glasses", "hair_melanin", "light_azimuth"]


call = partial(cli_helpers.call, "directions")


def done(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.exception
    return result.output


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: exported(folder / f"{name}.safetensors", name, "model.c_dim=0") for name in ("stylegan2", "dcgan")}


@pytest.fixture(scope="module")
def reader(tmp_path_factory, models):
    """A regressor that claims to read everything but freckles, and sees glasses in some pictures."""
    torch.manual_seed(0)
    net = FaceRegressor(16, 3).eval()
    net.quality[net.names.index("freckles")] = 0.1
    G = stylegan_lightning.load(models["stylegan2"])
    seen = net.both_ways(prepare(render(G, styles_of(G, range(40)))))[:, net.names.index("glasses")]
    net.mean[net.names.index("glasses")] = 0.5 - seen.detach().median()
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    net.save(path)
    with torch.no_grad():
        net.head[3].weight.mul_(1.5)
    net.save(path.with_suffix(".judge.safetensors"))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def same(path, expected):
    found = Directions.load(path)
    assert found.names == expected.names
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.vector, b.vector) and (a.layers, a.method) == (b.layers, b.method)
        assert a.scale == pytest.approx(b.scale)
    return found


def test_without_attributes(models, here):
    G = stylegan_lightning.load(models["stylegan2"])
    output = done(models["stylegan2"], "--count", 3, "--layers", "coarse", "--strips", "s", "--strengths=-1,0,2")
    found = same(here / "directions.safetensors", sefa(G, [0, 1], 3))
    assert output.split() == ["directions.safetensors", "s/sefa0.png", "s/sefa1.png", "s/sefa2.png"]
    names = [f"sefa0 seed {i}" for i in range(4)]
    expected = strip(G, found["sefa0"], styles_of(G, range(4), psi=0.7), [-1, 0, 2], names=names)
    assert np.array_equal(np.asarray(Image.open("s/sefa0.png")), expected)
    done(models["stylegan2"], "--method", "pca", "--samples", 50, "--seed", 4, "--out", "p.safetensors")
    same(here / "p.safetensors", pca(G, range(6), 8, 50, 4))


@pytest.mark.parametrize("model", ["stylegan2", "dcgan"])
def test_from_faces(models, reader, here, model):
    G, net = stylegan_lightning.load(models[model]), FaceRegressor.load(reader)
    common = [models[model], "--attributes", "faces", "--regressor", reader, "--samples", 60, "--seeds", "5-7"]
    names, held, wanted = NAMES, [n for n in net.names if n != "freckles"], []
    if model == "dcgan":  # its 16 dimensions are too few to hold everything, and no picture has glasses
        names, held, wanted = ["smile", "yaw"], ["yaw"], ["--names", "smile,yaw", "--orthogonal-to", "yaw"]
    report = ["--report", "r.json", "--strengths=-1,0,1", "--strips", "strips"]
    output = done(*common, "--method", "balanced", *wanted, *report)
    examples = sample_examples(G, net, 60)
    expected = supervised(G, examples, names, range(G.num_ws), orthogonal_to=held)
    found = same(here / "directions.safetensors", expected)
    assert found.about == {"pictures": "60", "orthogonal_to": ",".join(held)}
    other = FaceRegressor.load(reader.with_suffix(".judge.safetensors"))
    judged = judge(G, found, other, styles_of(G, [5, 6, 7], psi=0.7), strengths=[-1, 0, 1])
    assert json.loads((here / "r.json").read_text()) == json.loads(json.dumps([j.as_dict() for j in judged]))
    assert markdown(judged) in output and (here / "strips" / "smile.png").is_file()
    chosen = ["--names", "beard,yaw", "--orthogonal-to", "yaw,jaw", "--plain", "--seed", 2]
    done(*common, "--method", "means", *chosen, "--report", "r.md")
    examples = sample_examples(G, net, 60, seed=2, mixed=False)
    same(
        here / "directions.safetensors",
        supervised(G, examples, ["beard", "yaw"], range(G.num_ws), method="means", orthogonal_to=["yaw", "jaw"]),
    )
    assert (here / "r.md").read_text().startswith("| direction |")


def test_steered(models, reader, here, monkeypatch):
    monkeypatch.setattr(steering, "Steering", partial(Steering, steps=4))
    G, net = stylegan_lightning.load(models["stylegan2"]), FaceRegressor.load(reader)
    common = ["--attributes", "faces", "--regressor", reader, "--samples", 60, "--names", "yaw,smile"]
    done(models["stylegan2"], "--method", "steered", *common, "--orthogonal-to", "yaw,jaw", "--seed", 2)
    start = supervised(G, sample_examples(G, net, 60, seed=2), ["yaw", "smile"], range(6), orthogonal_to=["yaw", "jaw"])
    same(here / "directions.safetensors", steered(G, net, start, ["yaw", "jaw"], Steering(steps=4, seed=2)))


def test_from_a_table(models, here):
    rows = ["seed,smile,hat"] + [f"{i},{(i * 7) % 11},{'yes' if i % 3 else 'no'}" for i in range(40)]
    (here / "mine.csv").write_text("\n".join(rows))
    done(models["stylegan2"], "--method", "ridge", "--attributes", "mine.csv", "--orthogonal-to", "none")
    G = stylegan_lightning.load(models["stylegan2"])
    examples = examples_of_file(G, here / "mine.csv")
    found = same(here / "directions.safetensors", supervised(G, examples, ["smile", "hat"], range(6), method="ridge"))
    assert found.about == {"pictures": "40", "orthogonal_to": "none"}


def test_sefa_is_named_by_a_report(models, reader, here):
    faces = ["--attributes", "faces", "--regressor", reader, "--report", "r.json", "--seeds", "0-1"]
    done(models["stylegan2"], *faces, "--count", 2)
    report = json.loads((here / "r.json").read_text())
    assert [r["direction"] for r in report] == ["sefa0", "sefa1"] and report[0]["factor"] in FaceRegressor().names


def test_a_conditional_model_is_drawn_in_turn(reader, here):
    model = exported(here / "G.safetensors", "stylegan2", "data.classes=hair", "model.c_dim=4")
    common = [model, "--attributes", "faces", "--regressor", reader, "--samples", 40, "--method", "ridge"]
    done(*common, "--strips", "s", "--names", "yaw")
    G = stylegan_lightning.load(model)
    examples = sample_examples(G, FaceRegressor.load(reader), 40)
    expected = supervised(G, examples, ["yaw"], range(6), method="ridge", orthogonal_to=examples.names)
    same(here / "directions.safetensors", expected)
    done(*common, "--class", 1, "--names", "yaw")
    assert not torch.equal(Directions.load(here / "directions.safetensors")["yaw"].vector, expected["yaw"].vector)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--out", "d.pt"], "directions are kept in .safetensors"),
        (["--method", "means"], "learns from attributes: give --attributes"),
        (["--attributes", "a.csv"], "looks at no attributes"),
        (["--attributes", "faces"], "for a --report only"),
        (["--names", "yaw"], "--names does nothing for --method sefa"),
        (["--orthogonal-to", "none"], "--orthogonal-to does nothing"),
        (["--samples", "5"], "--samples does nothing"),
        (["--plain"], "--plain does nothing"),
        (["--regressor", "r.safetensors"], "--regressor does nothing"),
        (["--report", "r.md"], "give --attributes faces"),
        (["--method", "means", "--attributes", "faces", "--count", "3"], "--count does nothing"),
        (["--method", "means", "--attributes", "a.csv", "--samples", "9"], "--samples does nothing"),
        (["--method", "means", "--attributes", "a.csv", "--report", "r.md"], "give --attributes faces"),
        (["--method", "means", "--attributes", "faces", "--report", "r.txt"], ".md or a .json"),
        (["--method", "steered", "--attributes", "a.csv"], "give --attributes faces, or choose --method balanced"),
        (["--method", "means", "--attributes", "a.csv"], "cannot read a.csv"),
        (["--strengths", "1,2,x"], "--strengths must be numbers"),
        (["--strengths", "1,2"], "at least three"),
        (["--strengths", "1,3,2"], "go upwards"),
        (["--count", "17"], "16 dimensions"),
        (["--layers", "9"], r"0\.\.5"),
        (["--seeds", "x"], "seeds are whole numbers"),
        (["--class", "1"], "without classes"),
    ],
)
def test_what_cannot_be_done(models, here, options, why):
    result = call(models["stylegan2"], *options)
    assert isinstance(result.exception, UserError)
    assert re.search(why, str(result.exception))
    assert not list(here.iterdir())  # nothing is written


def test_names_that_cannot_be_read(models, reader):
    common = [models["stylegan2"], "--attributes", "faces", "--regressor", reader, "--method", "means", "--samples", 9]
    assert "freckles cannot be read" in str(call(*common, "--names", "freckles").exception)
    assert "no attribute 'smle'" in str(call(*common, "--names", "smle").exception)
    assert "one style" in str(call(models["dcgan"]).exception)
