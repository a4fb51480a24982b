"""Directions learned through the generator."""

from __future__ import annotations

import pytest
import torch
from latent_helpers import W, tiny

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import styles_of
from stylegan_lightning.latent.directions import Direction, Directions
from stylegan_lightning.latent.steering import Steering, steered


class Colours:
    """Reads mean red, mean blue, and whether the picture is greener than it usually is."""

    names = ("red", "blue", "green")
    two_valued = ("green",)

    def __init__(self, G):
        with torch.no_grad():
            means = self.means(G.synthesis(styles_of(G, range(200)), noise_mode="const"))
        self.centre = means.median(0).values
        self.deviation, self.mean = means.std(0), self.centre.clone()
        self.deviation[2], self.mean[2] = 0.5, 0.5

    def means(self, img):
        return torch.stack([img[:, 0].mean((1, 2)), img[:, 2].mean((1, 2)), img[:, 1].mean((1, 2))], 1)

    def continuous(self, img):
        means = self.means(img) - self.centre
        green = torch.sigmoid(30 * means[:, 2]) / 0.5 - 1
        return torch.cat([means[:, :2] / self.deviation[:2], green[:, None]], 1)


SMALL = Steering(steps=40, batch=4, lr=0.1)


def start(G, name, layers=None, by_layer=True):
    layers = tuple(layers or range(int(G.num_ws)))
    random = torch.Generator().manual_seed(1)
    vector = torch.zeros(int(G.num_ws), W)
    vector[list(layers)] = torch.randn(len(layers), W, generator=random)
    vector = vector if by_layer else torch.randn(W, generator=random)
    return Directions((Direction(name, vector / 3, layers, 0.2, "balanced"),), int(G.num_ws), W)


def readings(G, reader, direction, strengths=(-2, -1, 0, 1, 2)):
    """[N, S, A]"""
    ws = styles_of(G, range(500, 520), psi=0.7)
    with torch.no_grad():
        return torch.stack(
            [reader.continuous(G.synthesis(direction.apply(ws, s), noise_mode="const")) for s in strengths], 1
        )


@pytest.mark.parametrize("family", ["dcgan", "stylegan1", "stylegan2", "stylegan3_t"])
def test_pictures_change_as_wanted_and_no_more(family):
    G = tiny(family)
    reader, before = Colours(G), start(G, "red", by_layer=True)
    (found,) = steered(G, reader, before, ["blue"], SMALL)
    (free,) = steered(G, reader, before, [], SMALL)
    first, last, loose = (readings(G, reader, d) for d in (before["red"], found, free))
    wanted = torch.tensor([-2.0, -1, 0, 1, 2])

    def missing(r):
        return float((wanted.sign() * (wanted - (r - r[:, 2:3])[..., 0])).clamp(min=0).mean())

    def leaked(r):
        return float((r - r[:, 2:3])[..., 1].square().mean())

    assert missing(loose) < 0.9 * missing(first) and missing(last) < missing(first)
    assert leaked(last) < leaked(loose), "what is to stay moves less than where nothing is"
    assert found.method == "steered" and found.layers == before["red"].layers


def test_two_values_go_from_no_to_yes():
    G = tiny("stylegan2")
    reader = Colours(G)
    (found,) = steered(G, reader, start(G, "green"), ["red"], Steering(steps=100, batch=8, lr=0.1))
    worn = readings(G, reader, found)[..., 2] > 0
    assert worn[:, 4].float().mean() > 0.9 and worn[:, 0].float().mean() < 0.1


def test_layers_shape_and_the_model_stay():
    G = tiny("stylegan2")
    reader = Colours(G)
    G.requires_grad_(True)
    state = torch.get_rng_state()
    before = start(G, "red", layers=(1, 3))
    (found,) = steered(G, reader, before, ["blue"], SMALL)
    ws = styles_of(G, [0])
    moved = (found.apply(ws, 1.0) - ws).abs().sum((0, 2)) > 0
    assert moved.tolist() == [i in (1, 3) for i in range(int(G.num_ws))]
    shared = steered(G, reader, start(G, "red", by_layer=False), ["blue"], SMALL).items[0]
    assert shared.vector.shape == (W,) and float(shared.vector.norm()) == pytest.approx(1)
    assert all(p.requires_grad and p.grad is None for p in G.parameters())
    assert torch.equal(state, torch.get_rng_state())
    again = steered(G, reader, before, ["blue"], SMALL).items[0]
    assert torch.equal(again.vector, found.vector) and again.scale == found.scale
    other = steered(G, reader, before, ["blue"], Steering(steps=60, batch=8, lr=0.1, seed=1)).items[0]
    assert not torch.equal(other.vector, found.vector)


def test_what_cannot_be_is_said():
    G = tiny("stylegan2")
    with pytest.raises(UserError, match="cannot be read"):
        steered(G, Colours(G), start(G, "smile"), [])
    with pytest.raises(UserError, match="cannot be read"):
        steered(G, Colours(G), start(G, "red"), ["smile"])
    with pytest.raises(UserError, match="at least one step"):
        Steering(steps=0)
