"""Directions from attributes: what each method minimises, what it leaves alone, and how far a step goes."""

from __future__ import annotations

import pytest
import torch
from latent_helpers import FAMILIES, W, tiny

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.attributes import Examples, read_codes, sample_examples
from stylegan_lightning.latent.codes import styles_of
from stylegan_lightning.latent.supervised import LONGEST_STEP, METHODS, POWERS, groups, logistic, ridge, supervised

STYLES = 6


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def population(n=4000, mixed=True):
    """w of unequal, correlated variance; `tall` is linear in style 2 (or in w), `wide` shares half of its cause,
    `old` is a yes or no, `luck` has nothing to do with w."""
    mixing = torch.eye(W) + 0.3 * normal(W, W, seed=1)
    ws = normal(n, STYLES, W, seed=2) @ mixing if mixed else normal(n, W, seed=2) @ mixing
    causes = normal(3, W, seed=3)
    seen = ws[:, 2] if mixed else ws
    tall = seen @ causes[0] + 0.5 * normal(n, seed=4)
    wide = seen @ (causes[0] + causes[1]) + 0.5 * normal(n, seed=5)
    old = (seen @ causes[2] + 0.3 * normal(n, seed=6) > 0).float()
    return Examples(ws, ("tall", "wide", "old", "luck"), torch.stack([tall, wide, old, normal(n, seed=7)], 1)), causes


@pytest.fixture(scope="module")
def G():
    return tiny("stylegan2")


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), 0))


def covariance(examples):
    rows = examples.ws.double()
    return torch.cov((rows.flatten(0, 1) if rows.ndim == 3 else rows).t(), correction=0)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_each_method_finds_its_own_optimum(G, method, mixed):
    """The steepest, the likeliest, or the one between: v ~ S^p b."""
    examples, causes = population(mixed=mixed)
    found = supervised(G, examples, ["tall", "old"], range(STYLES), method=method)
    values, basis = torch.linalg.eigh(covariance(examples))
    power = (basis * values ** POWERS[method]) @ basis.t()
    for name, cause in (("tall", causes[0]), ("old", causes[2])):
        d = found[name]
        v = d.vector[2] if mixed else d.vector
        assert cosine(v, power @ cause.double()) > (0.93 if method == "logistic" else 0.97)
        assert d.method == method and d.layers == tuple(range(STYLES))
        if mixed:
            assert d.vector[2].norm() > 5 * d.vector[[0, 1, 3, 4, 5]].norm(dim=1).max()


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_other_attributes_are_left_alone(G, method, mixed):
    examples, _ = population(mixed=mixed)
    x = examples.ws.double().flatten(1)
    b = ridge(x - x.mean(0), examples.values.double() - examples.values.double().mean(0))

    def change(d):
        return b.t() @ (d.vector.double().flatten() * d.scale)

    free = change(supervised(G, examples, ["tall"], range(STYLES), method=method)["tall"])
    held = change(supervised(G, examples, ["tall"], range(STYLES), method=method, orthogonal_to=examples.names)["tall"])
    deviation = examples.values.std(0)
    assert free[1] > 0.3 * deviation[1]  # wide grows with tall
    assert held[0] == pytest.approx(float(deviation[0]), rel=1e-3)
    assert (held[1:].abs() < 1e-4 * deviation[1:]).all()


@pytest.mark.parametrize("method", ["ridge", "balanced", "pattern"])
def test_the_correction_is_the_smallest(G, method):
    """Any other move that changes the attributes as much is larger, measured by v . S^-p v."""
    examples, _ = population(mixed=False)
    x = examples.ws.double() - examples.ws.double().mean(0)
    y = examples.values.double() - examples.values.double().mean(0)
    b = ridge(x, y)[:, :3]
    v = supervised(G, examples, ["tall"], [0], method=method, orthogonal_to=["wide", "old"])["tall"].vector.double()
    values, basis = torch.linalg.eigh(covariance(examples))
    metric = (basis * values ** -POWERS[method]) @ basis.t()
    for seed in range(20):
        u = normal(W, seed=seed).double()
        u = u - b @ torch.linalg.solve(b.t() @ b, b.t() @ u)
        other = v + 0.1 * u
        assert torch.allclose(b.t() @ other, b.t() @ v, atol=1e-6)
        assert other @ metric @ other > v @ metric @ v


def test_steps(G):
    examples, _ = population()
    x = examples.ws.double().flatten(1)
    b = ridge(x - x.mean(0), examples.values.double() - examples.values.double().mean(0))
    inverse = torch.linalg.inv(covariance(examples))

    def changes(e, **options):
        found = supervised(G, e, ["tall", "old", "luck"], range(STYLES), **options)
        return [float(b[:, examples.names.index(d.name)] @ d.vector.double().flatten() * d.scale) for d in found]

    tall, old, luck = changes(examples)
    assert tall == pytest.approx(float(examples.values[:, 0].std()), rel=1e-3)
    assert old == pytest.approx(1, rel=1e-3) and luck < 0.5
    other = Examples(examples.ws, examples.names, examples.values, torch.tensor([3.0, 1.0, 9.0, 1.0]))
    assert changes(other)[:2] == pytest.approx([3, 1], rel=1e-3)  # a deviation of real pictures; yes or no as before
    d = supervised(G, examples, ["luck"], range(STYLES))["luck"]
    step = d.vector.double() * d.scale
    assert float(torch.einsum("li,ij,lj->l", step, inverse, step).max()) ** 0.5 == pytest.approx(LONGEST_STEP, rel=1e-3)


def test_only_the_layers_asked_for(G):
    examples, causes = population()
    d = supervised(G, examples, ["tall"], [1, 2])["tall"]
    assert d.layers == (1, 2) and d.vector.shape == (6, W)
    assert not d.vector[[0, 3, 4, 5]].any() and cosine(d.vector[2], causes[0]) > 0.8
    assert float(d.vector[[1, 2]].square().sum(1).mean()) == pytest.approx(1, rel=1e-4)
    plain = supervised(G, population(mixed=False)[0], ["tall"], [1, 2])["tall"]
    assert plain.layers == (1, 2) and plain.vector.shape == (W,)
    assert float(plain.vector.norm()) == pytest.approx(1, rel=1e-4)


def test_what_cannot_be_learnt(G):
    examples, _ = population(200, mixed=False)

    def fails(why, names=("tall",), values=None, **options):
        e = examples if values is None else Examples(examples.ws, ("tall", "twin"), values)
        with pytest.raises(UserError, match=why):
            supervised(G, e, list(names), range(STYLES), **options)

    fails("no attribute 'tail'; there are tall", names=["tail"])
    fails("no attribute 'thin'", orthogonal_to=["thin"])
    tall = examples.values[:, 0]
    fails("one value of 'twin'", ["twin"], torch.stack([tall, torch.zeros(200)], 1))
    fails("nothing of 'tall' is left", values=torch.stack([tall, 2 * tall], 1), orthogonal_to=["twin"])
    held = torch.stack([tall, torch.zeros(200)], 1)  # what never changes needs no holding
    free, kept = (
        supervised(G, Examples(examples.ws, ("tall", "flat"), held), ["tall"], range(STYLES), orthogonal_to=o)["tall"]
        for o in ([], ["flat"])
    )
    assert torch.equal(free.vector, kept.vector)
    one = torch.zeros(200).index_fill(0, torch.tensor([5]), 1.0)
    for method in ("means", "logistic"):
        fails("at least two pictures", ["twin"], torch.stack([tall, one], 1), method=method)
    with pytest.raises(ValueError):
        Examples(examples.ws, ("tall",), examples.values)


# ------------------------------------------------------------------------------------------------- fits


def test_groups_are_yes_and_no_or_the_outer_quarters():
    low, high = groups(torch.tensor([0.0, 1, 1, 0]))
    assert low.tolist() == [True, False, False, True] and (low ^ high).all()
    low, high = groups(torch.arange(100.0))
    assert low[:25].all() and high[75:].all() and int((low | high).sum()) == 50
    low, high = groups(torch.cat([torch.zeros(80), torch.linspace(0.1, 1, 20)]))  # the upper quarter begins among zeros
    assert int(low.sum()) == 80 and int(high.sum()) == 20


def test_ridge_is_least_squares_where_there_is_no_noise_and_shrinks_where_there_is():
    x = normal(300, 8).double()
    x = x - x.mean(0)
    truth = normal(8, 2, seed=1).double()
    assert torch.allclose(ridge(x, x @ truth), truth, rtol=1e-3)
    x, fresh = normal(60, 50, seed=2).double(), normal(1000, 50, seed=3).double()
    x = x - x.mean(0)
    truth = normal(50, 1, seed=4).double()
    y = x @ truth + 20 * normal(60, 1, seed=5).double()
    b, plain = ridge(x, y - y.mean(0)), torch.linalg.lstsq(x, y - y.mean(0)).solution
    assert (fresh @ (b - truth)).square().mean() < 0.5 * (fresh @ (plain - truth)).square().mean()
    assert torch.isfinite(ridge(normal(5, 40).double(), normal(5, 1).double())).all()  # fewer pictures than dimensions


def test_logistic_regression_ends_where_its_gradient_does():
    x = normal(400, 5).double()
    has = (x @ torch.tensor([1.0, 0, 2, 0, 0]).double() + normal(400, seed=1)) > 0.5
    w = logistic(x, has)
    assert float(w.norm()) == pytest.approx(1) and cosine(w, torch.tensor([1.0, 0, 2, 0, 0])) > 0.97
    assert cosine(w, logistic(x * 7, has)) == pytest.approx(1, abs=1e-5)
    flipped = logistic(x, ~has)
    assert torch.allclose(w, -flipped, atol=1e-4)


# -------------------------------------------------------------------------------------- on real networks


class Brightness:
    """Reads the mean of the picture and of its left half less the right one."""

    names = ("bright", "left")
    deviation = torch.tensor([5.0, 5.0])
    quality = torch.tensor([1.0, 0.9])

    def __call__(self, images):
        mean = images.float().mean((1, 2))
        half = images.shape[3] // 2
        return torch.stack([mean.mean(1), mean[:, :half].mean(1) - mean[:, half:].mean(1)], 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_is_edited(family):
    """Directions found with a reader of pictures change what they are for."""
    G, reader = tiny(family), Brightness()
    examples = sample_examples(G, reader, 400, seed=1)
    found = supervised(G, examples, ["bright", "left"], range(G.num_ws), orthogonal_to=["bright", "left"])
    assert found.check_fits(G)["bright"].vector.ndim == (2 if G.num_ws > 1 else 1)
    ws = styles_of(G, range(40, 60))
    for k, d in enumerate(found):
        down, up = (read_codes(G, reader, d.apply(ws, s)).mean(0)[k] for s in (-0.5, 0.5))
        assert up - down > 0.2 * examples.values[:, k].std(), d.name
