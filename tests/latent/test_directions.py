"""Directions: what they do to codes, files of them, and those found without attributes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from latent_helpers import FAMILIES, STYLE_BASED, W, tiny

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import Codes, render, sample_w, styles_of
from stylegan_lightning.latent.directions import Direction, Directions, pca, sefa, strip, style_weights


def unit(*shape):
    v = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return v / v.norm(dim=-1, keepdim=True)


DIRECTIONS = {
    "one vector": Direction("a", unit(W), (1, 3), 0.7, "sefa"),
    "a vector for each style": Direction("b", unit(6, W), (0, 1, 5), 2.0, "ridge"),
}


@pytest.mark.parametrize("d", DIRECTIONS.values(), ids=DIRECTIONS)
def test_laws_of_a_move(d):
    ws = torch.randn(4, 6, W)
    before = ws.clone()
    assert torch.equal(d.apply(ws, 0), ws) and torch.equal(ws, before)
    assert torch.allclose(d.apply(d.apply(ws, 0.4), 1.1), d.apply(ws, 1.5), atol=1e-6)
    assert torch.allclose(d.apply(d.apply(ws, 2), -2), ws, atol=1e-6)
    moved = d.apply(ws, 3) - ws
    others = [i for i in range(6) if i not in d.layers]
    assert torch.equal(d.apply(ws, 3)[:, others], ws[:, others])
    assert torch.allclose(moved[:, list(d.layers)].norm(dim=-1), torch.tensor(3 * d.scale), rtol=1e-4)
    each = d.apply(ws, torch.tensor([0.0, 1.0, -2.0, 5.0]))
    assert torch.equal(each, torch.stack([d.apply(w, s) for w, s in zip(ws, (0, 1, -2, 5), strict=True)]))
    assert torch.equal(d.apply(ws[0], torch.tensor([1.0, 2.0]))[1], d.apply(ws[0], 2.0))


def test_directions_go_through_files(tmp_path):
    kept = Directions(tuple(DIRECTIONS.values()), 6, W, {"pictures": "3"})
    kept.save(tmp_path / "new" / "d.safetensors")
    back = Directions.load(tmp_path / "new" / "d.safetensors")
    assert back.names == ("a", "b") and back.about == kept.about and (back.num_ws, back.w_dim) == (6, W)
    for mine, theirs in zip(kept, back, strict=True):
        assert torch.equal(mine.vector, theirs.vector)
        assert (mine.layers, mine.scale, mine.method) == (theirs.layers, theirs.scale, theirs.method)
    assert back["b"].name == "b" and len(back) == 2
    assert back.check_fits(tiny("stylegan2")) is back
    with pytest.raises(UserError, match=r"'bb'.*a, b.*mean 'b'"):
        back["bb"]


def test_files_that_hold_no_fitting_directions(tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    Codes(torch.zeros(1, 6, W), ("a",)).save(tmp_path / "codes.safetensors")
    for name, why in (("absent", "there is no file"), ("damaged", "damaged"), ("codes", "does not hold directions")):
        with pytest.raises(UserError, match=why):
            Directions.load(tmp_path / f"{name}.safetensors")
    d = DIRECTIONS["one vector"]
    with pytest.raises(UserError, match=r"\.safetensors"):
        Directions((d,), 6, W).save(tmp_path / "d.pt")
    with pytest.raises(UserError, match=r"another model, with styles \[4, 16\]"):
        Directions((d,), 4, W).check_fits(tiny("stylegan2"))
    for items, num_ws in (((d, d), 6), ((d,), 3), ((Direction("c", unit(W), (), 1.0, "x"),), 6)):
        with pytest.raises(ValueError):
            Directions(items, num_ws, W)
    with pytest.raises(ValueError):
        Directions((d,), 6, W + 1)


# -------------------------------------------------------------------------------------------------- SeFa


def test_styles_and_the_layers_that_they_enter():
    G = tiny("stylegan2")
    b, found = G.synthesis.blocks, style_weights(G)
    layers = [b["4"].conv1, b["8"].conv0, b["8"].conv1, b["16"].conv0, b["16"].conv1, b["16"].torgb]
    assert sorted(found) == list(range(6))
    for i, layer in enumerate(layers):
        assert torch.equal(found[i], layer.affine.weight / W**0.5)  # equalised learning rate
    G = tiny("stylegan3_t")
    layers = [G.synthesis.input, *G.synthesis.layers]
    assert all(torch.equal(style_weights(G)[i], x.affine.weight / W**0.5) for i, x in enumerate(layers))


def test_a_growing_model_has_the_layers_it_has():
    G = tiny("stylegan1")
    whole = style_weights(G)
    G.synthesis.grow_to(8, 0.5)
    assert sorted(style_weights(G)) == [0, 1, 2, 3] and torch.equal(style_weights(G)[3], whole[3])
    assert torch.equal(sefa(G, range(6))["sefa0"].vector, sefa(G, range(4))["sefa0"].vector)
    with pytest.raises(UserError, match="not grown to layers"):
        sefa(G, [4, 5])


@pytest.mark.parametrize("family", STYLE_BASED)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_sefa_changes_styles_most(family, c_dim):
    G = tiny(family, c_dim=c_dim)
    layers = [1, 2, 4]
    A = torch.cat([style_weights(G)[i] for i in layers]).double()
    found = sefa(G, layers, W)
    V = torch.stack([d.vector for d in found]).double()
    assert torch.allclose(V @ V.t(), torch.eye(W).double(), atol=1e-5)
    change = (A @ V.t()).norm(dim=0)
    assert torch.allclose(change, torch.linalg.svdvals(A), rtol=1e-4)  # the slow version, in its order
    assert (V.gather(1, V.abs().argmax(1, keepdim=True)) > 0).all()
    assert all(d.layers == (1, 2, 4) and d.method == "sefa" for d in found)
    w = sample_w(G, 1000)
    assert found["sefa3"].scale == pytest.approx(float((w @ found["sefa3"].vector).std()), rel=1e-4)
    again = sefa(G, layers, 2)
    assert torch.equal(again["sefa1"].vector, found["sefa1"].vector)


# --------------------------------------------------------------------------------------------------- PCA


def test_pca_finds_what_varies_most():
    G = tiny("stylegan2")
    found = pca(G, range(6), 5, 500, seed=3)
    w = sample_w(G, 500, 3).double().numpy()
    _, s, rows = np.linalg.svd(w - w.mean(0))
    for k, d in enumerate(found):
        assert d.scale == pytest.approx(s[k] / 499**0.5, rel=1e-4)
        assert abs(float(d.vector.double().numpy() @ rows[k])) == pytest.approx(1, abs=1e-5)
        assert d.vector[d.vector.abs().argmax()] > 0
    assert not torch.equal(found["pca0"].vector, pca(G, range(6), 5, 500, seed=4)["pca0"].vector)


def test_of_one_class():
    G = tiny("stylegan2", c_dim=3)
    w = sample_w(G, 1000, label=1)
    d = sefa(G, range(6), 2, label=1)["sefa1"]
    assert (
        d.scale == pytest.approx(float((w @ d.vector).std()), rel=1e-4)
        and d.scale != sefa(G, range(6), 2)["sefa1"].scale
    )
    d = pca(G, range(6), 2, 1000, label=1)["pca1"]
    assert d.scale == pytest.approx(float((w @ d.vector).std()), rel=1e-4)


def test_what_cannot_be_found():
    for family in FAMILIES:
        if family not in STYLE_BASED:
            for method in (sefa, pca):
                with pytest.raises(UserError, match="one style"):
                    method(tiny(family), [0])
    G = tiny("stylegan2")
    for method in (sefa, pca):
        for count in (0, W + 1):
            with pytest.raises(UserError, match=f"16 dimensions.*{count}"):
                method(G, [0], count)
    with pytest.raises(UserError, match="two samples"):
        pca(G, [0], 1, 1)


def test_a_strip_shows_every_strength():
    G = tiny("stylegan2")
    ws, d = styles_of(G, [0, 1]), sefa(G, range(6), 1)["sefa0"]
    picture = strip(G, d, ws, [-2, 0, 2], min_cell=16)
    assert picture.shape == (32, 48, 3)
    assert np.array_equal(picture[:16, 16:32], render(G, ws)[0].permute(1, 2, 0).numpy())
    assert np.array_equal(picture[16:, 32:], render(G, d.apply(ws, 2))[1].permute(1, 2, 0).numpy())
    assert not np.array_equal(picture[:, :16], picture[:, 32:])
    named = strip(G, d, ws, [-2, 0, 2], names=["x", "y"], min_cell=16)
    assert np.array_equal(named[:, -48:], picture) and named.shape[1] > 48
