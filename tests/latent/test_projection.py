"""Projection: codes are found again, each by itself, in every space of every model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from latent_helpers import FAMILIES, STYLE_BASED, W, Z, tiny

from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_dynamic_range
from stylegan_lightning.latent.codes import label_of, noise_maps, render, sample_w, styles_of, synthesise
from stylegan_lightning.latent.degradations import Identity
from stylegan_lightning.latent.likeness import Likeness, noise_autocorrelation, normalised
from stylegan_lightning.latent.projection import Look, Settings, displayed, learning_rate, project
from stylegan_lightning.latent.spaces import StyleSpace, StyleStatistics, chosen_space, release_of
from stylegan_lightning.metrics.perceptual import EfficientNetPerceptual

PIXELS = Settings(steps=3, perceptual_weight=0, candidates=8, starts=1)
"""Quick: pixels alone."""


@pytest.fixture(scope="module")
def G():
    return tiny("stylegan2", resolution=16)


@pytest.fixture(scope="module")
def pictures(G):
    return render(G, styles_of(G, [3, 4]))


@pytest.fixture(scope="module")
def distance():
    return EfficientNetPerceptual((0, 2))


@pytest.mark.parametrize("space, least", [("w+", 40), ("w", 40), ("z", 35)])
def test_a_generated_picture_is_found_again(G, pictures, space, least):
    found = project(G, pictures, replace(PIXELS, space=space, steps=250, candidates=128, starts=2))
    assert found.psnr.min() > least
    assert torch.equal(found.images, render(G, found.codes.ws))


def test_with_the_default_distance_too(G, pictures):
    far = project(G, pictures[:1], Settings(steps=1, starts=1))
    near = project(G, pictures[:1], Settings(steps=60, starts=1))
    assert near.perceptual[0] < 0.3 * far.perceptual[0]
    assert near.psnr[0] > far.psnr[0] + 5


def test_rows_are_searches_of_their_own(G, pictures, distance):
    settings = Settings(steps=12, candidates=16, starts=2, jitter=0.2)
    both = project(G, pictures, settings, distance=distance)
    alone = project(G, pictures[1:], settings, distance=distance)
    torch.testing.assert_close(both.codes.ws[1:], alone.codes.ws, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(both.codes.ws[0], both.codes.ws[1], atol=0.05)


def test_the_same_again_and_no_trace_of_it(pictures):
    G = tiny("stylegan2").train().requires_grad_(True)
    settings, state = replace(PIXELS, starts=2, jitter=0.3), torch.random.get_rng_state()
    first = project(G, pictures, settings)
    assert torch.equal(first.codes.ws, project(G, pictures, settings).codes.ws)
    assert not torch.equal(first.codes.ws, project(G, pictures, replace(settings, seed=1)).codes.ws)
    assert torch.equal(state, torch.random.get_rng_state())
    assert G.training and all(p.requires_grad and p.grad is None for p in G.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_every_model_in_every_space(family, c_dim):
    G = tiny(family, c_dim=c_dim)
    label = 1 if c_dim else None
    target = render(G, styles_of(G, [0], label=label))
    for space in ("z", "w", "w+", "auto"):
        found = project(G, target, replace(PIXELS, space=space), label=label, names=["x"])
        assert found.codes.ws.shape == (1, G.num_ws, G.w_dim) and found.codes.names == ("x",)
        assert found.images.shape == target.shape and found.curves["loss"].shape == (3, 1)
        expected = {"w+": "w+" if family in STYLE_BASED else "w", "auto": "w+" if family in STYLE_BASED else "z"}
        assert found.space == expected.get(space, space)
        if space == "w" or found.space == "w":
            assert torch.equal(found.codes.ws, found.codes.ws[:, :1].expand_as(found.codes.ws))
        if c_dim and family not in STYLE_BASED:  # what the label put into w stays
            torch.testing.assert_close(found.codes.ws[..., Z:], styles_of(G, [5], label=1).cpu()[..., Z:])


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_pictures(channels, distance):
    G = tiny("stylegan2", channels=channels)
    target = render(G, styles_of(G, [0]))
    assert project(G, target, Settings(steps=2, starts=1), distance=distance).images.shape == target.shape


def test_a_network_that_still_grows():
    G = tiny("stylegan1", resolution=16)
    G.synthesis.grow_to(8, 0.5)
    target = render(G, styles_of(G, [0]))
    found = project(G, target, replace(PIXELS, optimise_noise=True, steps=5))
    assert found.images.shape == (1, 3, 8, 8)
    assert set(found.codes.noise) == {m.name for m in noise_maps(G)}
    with pytest.raises(UserError, match=r"3, 8, 8\]; got \[1, 3, 16, 16\]"):
        project(G, torch.zeros(1, 3, 16, 16), PIXELS)


# ------------------------------------------------------------------------------------------------- spaces


def test_z_stays_where_it_is_drawn():
    for family, lengths in (("progan", (Z**0.5, Z**0.5)), ("dcgan", (Z**0.5 - 2.13, Z**0.5 + 2.13))):
        G = tiny(family)
        found = project(G, torch.full((1, 3, 16, 16), 1.0), replace(PIXELS, space="z", steps=40, lr=1.0))
        assert lengths[0] - 1e-3 <= found.codes.ws.norm() <= lengths[1] + 1e-3


def test_coordinates_are_white_and_exact(G):
    statistics = StyleStatistics.of(G, None)
    w = sample_w(G, 6000, 5)
    u = statistics.coordinates(w)
    torch.testing.assert_close(statistics.points(u), w, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(u.T.cov(), torch.eye(W), atol=0.15, rtol=0)
    assert u.mean(0).abs().max() < 0.1


def test_layers_are_released_in_turn(G):
    statistics = StyleStatistics.of(G, None)
    point = StyleSpace(statistics.mean[None], G.num_ws, statistics, release_of(G, (0.2, 0.4, 0.6)))
    free = []
    for progress in (0.0, 0.3, 0.5, 0.7):
        point.settle(progress)
        free.append([p.requires_grad for p in point.parameters()])
    assert free == [[True] + [True] * k + [False] * (3 - k) for k in range(4)]
    point.own[2].data.fill_(1.0)
    ws = point.styles()[0]
    assert torch.equal(ws[0], ws[1]) and not torch.equal(ws[0], ws[-1])
    assert point.penalty()[1] > 0


def test_one_style_until_the_release(G, pictures):
    tied = project(G, pictures, replace(PIXELS, space="w+", release=(1.0, 1.0, 1.0), steps=4)).codes.ws
    assert torch.equal(tied, tied[:, :1].expand_as(tied))
    fine = project(G, pictures, replace(PIXELS, space="w+", release=(1.0, 1.0, 0.0), steps=4)).codes.ws
    assert torch.equal(fine[:, 0], fine[:, 1]) and not torch.equal(fine[:, 0], fine[:, -1])


def test_prior_and_tie_pull(G, pictures):
    settings = replace(PIXELS, space="w+", steps=40, release=(0.0, 0.0, 0.0))
    mean = StyleStatistics.of(G, None).mean

    def spread(s):
        ws = project(G, pictures, s).codes.ws
        return (ws - mean).norm(), (ws - ws.mean(1, keepdim=True)).norm()

    plain, prior, tie = (
        spread(s) for s in (settings, replace(settings, prior_weight=9), replace(settings, tie_weight=9))
    )
    assert prior[0] < 0.5 * plain[0] and tie[1] < 0.5 * plain[1]


def test_more_starts_are_never_worse(G, pictures):
    settings = replace(PIXELS, space="w", steps=20, candidates=32)
    losses = [project(G, pictures, replace(settings, starts=n)).curves["loss"][-1] for n in (1, 2, 4)]
    assert (losses[1] <= losses[0]).all() and (losses[2] <= losses[1]).all()


def test_learning_rate_goes_up_and_down():
    settings = Settings(steps=100, lr=0.5)
    rates = [learning_rate(settings, s) for s in range(100)]
    assert rates[0] < rates[2] < 0.5 and rates[50] == 0.5 and rates[99] < 0.01 and max(rates) == 0.5


# -------------------------------------------------------------------------------------------- noise maps


def test_noise_autocorrelation_laws():
    random = torch.Generator().manual_seed(0)
    white = normalised(torch.randn(2, 1, 64, 64, generator=random))
    smooth = normalised(torch.nn.functional.avg_pool2d(torch.randn(2, 1, 66, 66, generator=random), 3, 1))
    assert noise_autocorrelation(white).max() < 0.1 < 0.3 < noise_autocorrelation(smooth).min()
    for other in (-white, white.roll(8, 3), white.flip(2), white.transpose(2, 3)):
        torch.testing.assert_close(noise_autocorrelation(other)[0], noise_autocorrelation(white)[0], atol=2e-3, rtol=0)
    constant = torch.ones(1, 1, 8, 8)
    assert noise_autocorrelation(constant) == 2.0
    assert normalised(constant).abs().max() == 0
    torch.testing.assert_close(white.square().mean((1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("family", ["stylegan1", "stylegan2"])
def test_noise_maps_explain_more(family):
    G = tiny(family)
    other = {m.name: torch.randn(1, 1, *m.size, generator=torch.Generator().manual_seed(1)) for m in noise_maps(G)}
    target = render(G, styles_of(G, [0]), noise=other)
    settings = replace(PIXELS, space="w", steps=60, noise_weight=10)
    without, found = project(G, target, settings), project(G, target, replace(settings, optimise_noise=True))
    assert found.psnr[0] > without.psnr[0] + 1
    assert {n: tuple(t.shape[2:]) for n, t in found.codes.noise.items()} == {m.name: m.size for m in noise_maps(G)}
    for maps in found.codes.noise.values():
        torch.testing.assert_close(maps.square().mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert torch.equal(found.images, render(G, found.codes.ws, noise=found.codes.noise))


@pytest.mark.parametrize("family", ["dcgan", "stylegan3_t"])
def test_models_without_noise_say_so(family):
    with pytest.raises(UserError, match="no noise inputs"):
        project(tiny(family), torch.zeros(1, 3, 16, 16), replace(PIXELS, optimise_noise=True))


# ----------------------------------------------------------------------------------------------- likeness


def test_kept_features_give_the_distance_itself(pictures, distance):
    a, b = to_dynamic_range(pictures), to_dynamic_range(pictures.flip(0))
    likeness = Likeness(b, Identity(), distance)
    torch.testing.assert_close(likeness.perceptual(a), distance(a, b))
    torch.testing.assert_close(likeness.pixels(a), (a - b).square().mean((1, 2, 3)))
    assert likeness.psnr(b).isinf().all() and likeness.perceptual(b).max() < 1e-6
    off = likeness.psnr(b + 0.2)
    torch.testing.assert_close(off, torch.full((2,), 20.0), atol=1e-3, rtol=0)


def test_pictures_are_compared_as_they_are_displayed():
    img = torch.tensor([-3.0, -0.5, 0.5, 2.0], requires_grad=True)
    shown = displayed(img)
    assert torch.equal(shown, torch.tensor([-1.0, -0.5, 0.5, 1.0]))
    (shown - torch.tensor([-1.0, 0.0, 0.0, 0.0])).square().sum().backward()
    assert torch.equal(img.grad, torch.tensor([0.0, -1.0, 1.0, 2.0]))


# -------------------------------------------------------------------------------------- watching, stopping


def test_watching_and_stopping(G, pictures):
    looks: list[Look] = []
    settings = replace(PIXELS, steps=10, starts=2)
    project(G, pictures, settings, watch=looks.append, every=4)
    assert [look.step for look in looks] == [4, 8, 10, 14, 18, 20] and {look.steps for look in looks} == {20}
    assert looks[0].ws.shape == (2, G.num_ws, W) and not looks[0].img.requires_grad
    torch.testing.assert_close(looks[0].img, synthesise(G, looks[0].ws).clamp(-1, 1))
    ended = project(G, pictures, settings, watch=lambda look: look.step < 6, every=2)
    assert len(ended.curves["loss"]) == 6 and len(ended.images) == 2

    class Stopped(Exception): ...

    def stop(look: Look) -> None:
        raise Stopped

    G.train()
    with pytest.raises(Stopped):
        project(G, pictures, settings, watch=stop)
    assert G.training
    G.eval()


def test_progress_counts_all_steps(G, pictures):
    seen = []
    project(G, pictures, replace(PIXELS, starts=2), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "target, message",
    [
        (torch.zeros(1, 3, 8, 8), r"needs pictures \[N, 3, 16, 16\]; got \[1, 3, 8, 8\]"),
        (torch.zeros(1, 1, 16, 16), "got .1, 1, 16, 16"),
        (torch.zeros(3, 16, 16), "got .3, 16, 16"),
        (torch.zeros(0, 3, 16, 16), "got .0, 3"),
        (torch.full((1, 3, 16, 16), float("nan")), "or NaN"),
        (torch.full((1, 3, 16, 16), 255.0), "from -1 to 1"),
    ],
)
def test_targets_that_do_not_fit(G, target, message):
    with pytest.raises(UserError, match=message):
        project(G, target, PIXELS)


def test_settings_that_cannot_be(G):
    for wrong in ({"steps": 0}, {"lr": 0.0}, {"starts": 0}, {"starts": 17}, {"candidates": 1, "starts": 2}):
        with pytest.raises(UserError, match="got"):
            replace(PIXELS, **wrong)
    with pytest.raises(UserError, match="z, w, w"):
        chosen_space(G, "s")
    with pytest.raises(UserError, match="three shares"):
        project(G, torch.zeros(1, 3, 16, 16), replace(PIXELS, release=(0.1, 2.0, 0.3)))


def test_classes_are_needed_where_there_are_some():
    G = tiny("stylegan2", c_dim=3)
    assert label_of(G, 0) is not None
    for space in ("z", "w"):
        with pytest.raises(UserError, match="--class"):
            project(G, torch.zeros(1, 3, 16, 16), replace(PIXELS, space=space))
    with pytest.raises(UserError, match="without classes"):
        project(tiny("stylegan2"), torch.zeros(1, 3, 16, 16), PIXELS, label=1)
