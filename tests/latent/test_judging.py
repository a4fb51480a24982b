"""What the report says of edits whose effect is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from latent_helpers import W, tiny

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.attributes import read_codes, sample_examples
from stylegan_lightning.latent.codes import styles_of
from stylegan_lightning.latent.directions import Direction, sefa
from stylegan_lightning.latent.judging import (
    STRENGTHS,
    judge,
    judgement,
    leakage_matrix,
    markdown,
    rank_correlation,
)
from stylegan_lightning.latent.supervised import supervised

NAMES = ("own", "follows", "against", "noise", "none")
S = (-2.0, -1.0, 0.0, 1.0, 2.0)


def readings(pictures=6):
    """own grows by 1 a step, `follows` by 0.5; `against` by 1 in half of the pictures and by -1 in the others."""
    s = torch.tensor(S).expand(pictures, -1)
    turn = torch.where(torch.arange(pictures) % 2 == 0, 1.0, -1.0)[:, None]
    flip = torch.tensor([0.0, 1, 0, 1, 0]).expand(pictures, -1)
    base = torch.randn(pictures, 1, 5, generator=torch.Generator().manual_seed(0))
    return base + torch.stack([s, 0.5 * s, turn * s, flip, torch.zeros_like(s)], 2)


def made(name="own"):
    return Direction(name, torch.ones(W) / 4, (0,), 1.0, "made")


def test_a_perfect_edit_and_its_leakage():
    j = judgement(made(), readings(), NAMES, S, "own")
    assert j.factor == "own" and j.rank == pytest.approx(1) and j.curve_rank == pytest.approx(1)
    assert j.moved == pytest.approx(4, abs=1e-5)
    assert j.leakage == pytest.approx({"follows": 0.5, "against": 0, "noise": 0, "none": 0}, abs=1e-5)
    assert j.mean_leakage == pytest.approx(0.125, abs=1e-5)
    assert j.changed == pytest.approx((0.5 + 1) / 4, abs=1e-5)  # what goes both ways counts picture by picture
    assert j.worst[0] == "follows" and j.worst[1] == pytest.approx(0.5, abs=1e-5)
    assert len(j.curves["own"]) == 5 and j.curves["own"][4] - j.curves["own"][0] == pytest.approx(4, abs=1e-5)


def test_edits_that_go_wrong():
    of = {name: judgement(made(), readings(), NAMES, S, name) for name in NAMES}
    assert of["against"].rank == pytest.approx(0) and of["none"].rank == 0
    assert of["noise"].rank == pytest.approx(0, abs=1e-9)
    backwards = judgement(made(), -readings(), NAMES, S, "own")
    assert backwards.rank == pytest.approx(-1) and backwards.moved == pytest.approx(-4, abs=1e-5)
    assert backwards.leakage["follows"] == pytest.approx(0.5, abs=1e-5)
    assert judgement(made("sefa0"), readings(), NAMES, S, None).factor == "own"  # changes most


def test_rank_correlation():
    generator = np.random.default_rng(0)
    for _ in range(5):
        row = generator.normal(size=len(STRENGTHS))
        assert rank_correlation(STRENGTHS, row) == pytest.approx(scipy.stats.spearmanr(STRENGTHS, row)[0])
    assert rank_correlation(S, np.array([0, 0, 0, 1, 1])) == pytest.approx(1)  # on once, as yes and no can only be
    assert rank_correlation(S, np.array([0, 1, 1, 1, 1])) == pytest.approx(1)
    assert rank_correlation(S, np.array([1, 1, 0, 0, 0])) == pytest.approx(-1)
    assert 0 < rank_correlation(S, np.array([0, 1, 0, 1, 1])) < 0.9
    assert rank_correlation(S, np.zeros(5)) == 0


class Colours:
    names = ("red", "unread", "green", "blue")
    deviation = torch.tensor([10.0, 1.0, 5.0, 2.0])
    quality = torch.tensor([0.9, 0.1, 0.8, 0.9])

    def __call__(self, images):
        red, green, blue = images.float().mean((2, 3)).unbind(1)
        return torch.stack([red, red * 0, green, blue], 1)


def test_judging_a_model():
    G, reader = tiny("stylegan2"), Colours()
    examples = sample_examples(G, reader, 300)
    found = supervised(G, examples, ["red", "green"], range(6), orthogonal_to=examples.names)
    ws = styles_of(G, range(8))
    steps = []
    judged = judge(G, found, reader, ws, strengths=S, progress=lambda done, total: steps.append((done, total)))
    assert [j.factor for j in judged] == ["red", "green"] and steps == [(40, 80), (80, 80)]
    first, last = (read_codes(G, reader, found["red"].apply(ws, s)).mean(0) for s in (-2, 2))
    assert judged[0].moved == pytest.approx(float(last[0] - first[0]) / 10, rel=1e-3)
    expected = abs(float(last[2] - first[2]) / 5 / judged[0].moved)
    assert judged[0].leakage["green"] == pytest.approx(expected, rel=1e-3)
    assert set(judged[0].leakage) == {"green", "blue"}  # what is read badly is not judged
    named = judge(G, sefa(G, range(6), 2), reader, ws, strengths=S, owners={"sefa1": "blue"})
    assert named[1].factor == "blue" and named[0].factor == max(
        named[0].curves, key=lambda n: abs(named[0].curves[n][-1] - named[0].curves[n][0])
    )


def test_what_cannot_be_judged():
    G, ws = tiny("stylegan2"), styles_of(tiny("stylegan2"), [0])
    with pytest.raises(UserError, match="'unread' cannot be read; these can: red, green, blue"):
        judge(G, [made()], Colours(), ws, owners={"own": "unread"})
    with pytest.raises(UserError, match="three strengths"):
        judge(G, [made()], Colours(), ws, strengths=[0, 1])
    blind = Colours()
    blind.quality = torch.zeros(4)
    with pytest.raises(UserError, match="reads no attribute"):
        judge(G, [made()], blind, ws)


def test_tables():
    judged = [judgement(made(n), readings(), NAMES, S, n) for n in ("own", "follows")]
    lines = markdown(judged).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| own | made | own | 1.00 | 1.00 | +4.00 sd | 0.13 |" in lines[2] and "own 2.00" in lines[3]
    matrix, factors = leakage_matrix(judged)
    assert factors == list(NAMES) and matrix.shape == (2, 5)
    assert matrix[0] == pytest.approx([1, 0.5, 0, 0, 0], abs=1e-5)
    assert matrix[1] == pytest.approx([2, 1, 0, 0, 0], abs=1e-5)
    assert leakage_matrix(judged, ["follows"])[0][:, 0] == pytest.approx([0.5, 1], abs=1e-5)
    as_dict = judged[0].as_dict()
    assert as_dict["leakage"]["follows"] == pytest.approx(0.5, abs=1e-5) and as_dict["direction"] == "own"
