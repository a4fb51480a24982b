"""Metrics of generators and of images: the numbers of the functions underneath, what is refused, and learned probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from frechet_helpers import Pixels, TinyG, dataset, random_images, values_of
from rank_helpers import as_two_ranks
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.by_images import (
    Diversity,
    Equivariance,
    PathLength,
    Separability,
    SlicedWassersteinMetric,
    attributes_of,
)
from stylegan_lightning.metrics.equivariance import KINDS, equivariance
from stylegan_lightning.metrics.images import GeneratedImages
from stylegan_lightning.metrics.metric import Metric, Subject
from stylegan_lightning.metrics.ms_ssim import diversity, ms_ssim
from stylegan_lightning.metrics.path_length import PRESETS, path_length
from stylegan_lightning.metrics.preset import Preset
from stylegan_lightning.metrics.sampling import NotFinite, label_sampler
from stylegan_lightning.metrics.separability import separability
from stylegan_lightning.metrics.sliced_wasserstein import sliced_wasserstein
from stylegan_lightning.networks import Generator, MappingNetwork, StyleGAN2Synthesis, StyleGAN3Synthesis

FEW = Preset("few", num_real=None, num_fake=7, batch_size=3, seed=1, truncation_psi=0.7)


class SquaredDistance:
    name, weights_hash = "squares", "abc"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).double().square().flatten(1).sum(1)


def smooth(n: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """Images of 4 x 4 colours."""
    return random_images(n, 4, 3, seed).repeat(size // 4, 2).repeat(size // 4, 3)


REALS = dataset(smooth(12), c_dim=3)


@pytest.fixture(scope="module")
def G() -> Generator:
    """Conditional, 16 x 16 pixels."""
    torch.manual_seed(0)
    synthesis = StyleGAN2Synthesis(16, 3, w_dim=8, channel_base=64, channel_max=8)
    net = Generator(synthesis, lambda **sizes: MappingNetwork(z_dim=8, c_dim=3, num_layers=2, **sizes))
    nn.init.normal_(net.mapping.w_avg)  # so that truncation matters
    return net


@pytest.fixture(scope="module")
def G3() -> Generator:
    """StyleGAN3-T, unconditional, 32 x 32 pixels."""
    torch.manual_seed(0)
    synthesis = StyleGAN3Synthesis(32, 3, w_dim=8, channel_base=512, channel_max=16, num_layers=6)
    net = Generator(synthesis, lambda **sizes: MappingNetwork(z_dim=8, c_dim=0, num_layers=2, **sizes))
    nn.init.normal_(net.mapping.w_avg)
    return net


def one_value(metric: Metric, subject: Subject) -> Any:
    (value,) = metric.measure(subject).values
    assert value.metric == metric.names[0] and value.seed == metric.preset.seed
    return value


# ------------------------------------------------------------------------------------------- path length


@pytest.mark.parametrize("kind", PRESETS)
def test_path_length(kind: str, G: Generator) -> None:
    value = one_value(PathLength(FEW, kind, SquaredDistance()), Subject(G, None, labels=REALS))
    options = replace(PRESETS[kind], num_pairs=7, seed=1)
    assert value.value == path_length(G, SquaredDistance(), options, label_sampler(REALS)).value > 0
    assert value.metric == f"{kind}_squares" and (value.num_real, value.num_fake) == (0, 7)
    assert value.truncation_psi == 1  # the definition knows no truncation
    assert value.comparable == "preset=few fake=7 seed=1 epsilon=0.0001 distance=squares-abc"


# ------------------------------------------------------------------------------------------ equivariance


@pytest.mark.parametrize("kind", KINDS)
def test_equivariance(kind: str, G3: Generator) -> None:
    subject = Subject(G3, None)
    value = one_value(Equivariance(FEW, kind), subject)
    z = torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        batches = [G3.mapping(part, None, truncation_psi=0.7) for part in z.split(4)]
    assert value.value == equivariance(G3.synthesis, batches, kinds=[kind], seed=1)[kind]
    assert value.comparable.endswith("images_per_move=4") and value.truncation_psi == 0.7
    assert value.value != one_value(Equivariance(replace(FEW, truncation_psi=1.0), kind), subject).value
    assert value.value != one_value(Equivariance(replace(FEW, seed=2), kind), subject).value


# ------------------------------------------------------------------------------------ sliced Wasserstein


def test_sliced_wasserstein_of_a_generator(G: Generator) -> None:
    found = SlicedWassersteinMetric(FEW).measure(Subject(G, REALS)).values
    chosen = torch.from_numpy(REALS.images[FEW.real_indices(12, most=7)])
    made = GeneratedImages(G, 7, 1, 0.7, label_sampler(REALS)).batch(torch.arange(7), "cpu")
    theirs = sliced_wasserstein([chosen], [made], 7, seed=1)
    assert {v.metric: v.value for v in found} == {"swd": theirs.average, "swd/16": pytest.approx(theirs.levels[16])}
    assert theirs.average > 0 and {(v.num_real, v.num_fake) for v in found} == {(7, 7)}
    assert values_of(SlicedWassersteinMetric(replace(FEW, batch_size=7)), Subject(G, REALS)) == pytest.approx(
        {v.metric: v.value for v in found}, rel=1e-5
    )


def test_equal_sets_have_no_sliced_wasserstein_distance() -> None:
    images, others = (dataset(smooth(9, 32, seed), str(seed)) for seed in (0, 1))
    copy, metric = dataset(images.images.copy(), "copy"), SlicedWassersteinMetric(replace(FEW, num_fake=50))
    assert values_of(metric, Subject(copy, images)) == {"swd": 0, "swd/32": 0, "swd/16": 0}
    values = values_of(metric, Subject(others, images))
    assert values["swd"] == pytest.approx((values["swd/32"] + values["swd/16"]) / 2) and values["swd"] > 0
    fewer = metric.measure(Subject(dataset(images.images[:5]), images)).values
    assert {(v.num_real, v.num_fake) for v in fewer} == {(5, 5)} and fewer[0].value == 0
    fewer = metric.measure(Subject(images, dataset(images.images[:5]))).values
    assert {(v.num_real, v.num_fake) for v in fewer} == {(5, 5)} and fewer[0].value == 0


def test_sliced_wasserstein_of_a_diverged_generator_is_refused() -> None:
    diverged = TinyG(bad=math.nan)
    diverged.forward = lambda z, c, **_: torch.full((len(z), 3, 16, 16), math.nan)  # type: ignore[method-assign]
    with pytest.raises(NotFinite):
        SlicedWassersteinMetric(FEW).measure(Subject(diverged, REALS))


# --------------------------------------------------------------------------------------------- diversity


def test_diversity_of_a_generator(G: Generator) -> None:
    value = one_value(Diversity(FEW), Subject(G, None, labels=REALS))
    theirs = diversity(G, 7, c_sampler=label_sampler(REALS), truncation_psi=0.7, seed=1)
    assert value.value == theirs.value < 1 and value.num_fake == 7
    assert value.comparable == "preset=few fake=7 seed=1 scales=1 within_class=True"


def test_diversity_of_stored_images() -> None:
    """Pairs are disjoint: of 9 images there are 4."""
    images = dataset(smooth(9, 32))
    value = one_value(Diversity(FEW), Subject(images, None))
    order = np.random.default_rng(1).permutation(9)
    first, second = (torch.from_numpy(images.images[order[rows]]) for rows in (slice(0, 4), slice(4, 8)))
    assert value.value == pytest.approx(float(ms_ssim(first, second).mean()), rel=1e-5) and value.value < 0.9
    assert value.num_fake == 4 and value.comparable == "preset=few fake=4 seed=1 scales=2 within_class=False"
    three = one_value(Diversity(replace(FEW, num_fake=3)), Subject(images, None))
    first, second = (torch.from_numpy(images.images[order[rows]]) for rows in (slice(0, 3), slice(3, 6)))
    assert three.value == pytest.approx(float(ms_ssim(first, second).mean()), rel=1e-5) and three.num_fake == 3
    alike = dataset(smooth(1, 32).repeat(6, 0))
    assert one_value(Diversity(FEW), Subject(alike, None)).value == pytest.approx(1)


# ------------------------------------------------------------------------------------------ separability


class Halves(nn.Module):
    """w = z; the upper half of the 4 x 4 picture is bright where z0 > 0, the lower where z0 z1 > 0: a plane through z
    tells the first and knows nothing of the second."""

    z_dim, c_dim, img_resolution = 3, 0, 4

    def mapping(self, z: Tensor, c: Tensor) -> Tensor:
        return z[:, None].expand(-1, 2, -1)

    def synthesis(self, ws: Tensor, *, noise_mode: str) -> Tensor:
        upper, lower = ws[:, 0, 0], ws[:, 0, 0] * ws[:, 0, 1]
        halves = torch.stack([upper, upper, lower, lower], 1).sign() * (0.5 + 0.1 * ws[:, 0, 2].tanh())[:, None]
        return halves[:, None, :, None].expand(-1, 1, 4, 4)


BRIGHT = np.random.default_rng(0).random((80, 2)) < 0.5


def halves(targets: np.ndarray | None = None, fingerprint: str = "halves", **options: Any) -> PreparedDataset:
    """Real images of the same kind, with noise."""
    means = np.where(BRIGHT, 190, 60).repeat(2, 1)[:, None, :, None]
    images = (means + np.random.default_rng(1).normal(0, 12, (80, 1, 4, 4))).clip(0, 255).astype(np.uint8)
    return dataset(images, fingerprint, targets=targets, **options)


def both() -> PreparedDataset:
    return halves(BRIGHT.astype(np.float32), label_names=["upper", "lower"])


def upper_is_bright(img: Tensor) -> Tensor:
    return img[:, 0, :2].mean((1, 2))[:, None]


def separable(space: Any = "z", n: int = 400, **options: Any) -> Separability:
    return Separability(replace(FEW, num_fake=n), space, Pixels(16), **options)


@pytest.mark.parametrize("space", ["z", "w"])
def test_separability_by_a_given_classifier(space: Any, G: Generator) -> None:
    def classifier(img: Tensor) -> Tensor:
        return img[:, :, 8, 8] - img[:, :, 3, 3]

    value = one_value(separable(space, 150, classifier=classifier), Subject(G, None, labels=REALS))
    options = {"num_images": 150, "seed": 1, "c_sampler": label_sampler(REALS)}
    theirs = separability(G, classifier, space=space, **options)
    assert value.value == theirs.value > 1 and value.metric == f"separability_{space}"
    assert value.comparable == "preset=few fake=150 seed=1 classifier=given kept=75" and value.truncation_psi == 1


def test_a_given_network_classifies_in_evaluation_mode() -> None:
    class Network(nn.Module):
        def forward(self, img: Tensor) -> Tensor:
            assert not self.training
            return upper_is_bright(img)

    given = one_value(separable(classifier=Network()), Subject(Halves(), None))
    assert given.value == one_value(separable(classifier=upper_is_bright), Subject(Halves(), None)).value < 1.05


def test_a_probe_learns_the_attributes_of_the_real_images() -> None:
    probe = separable().probe(Subject(Halves(), both()))
    z = torch.randn(200, 3, generator=torch.Generator().manual_seed(5))
    img = Halves().synthesis(Halves().mapping(z, z), noise_mode="const")
    truth = torch.stack([z[:, 0] > 0, z[:, 0] * z[:, 1] > 0], 1)
    assert torch.equal(probe(img) > 0, truth)
    mixed = halves(np.roll(BRIGHT, 1, 0).astype(np.float32))  # labels that have nothing to do with the images
    assert 0.2 < ((separable().probe(Subject(Halves(), mixed))(img) > 0) == truth).float().mean() < 0.8


def test_separability_by_a_learned_probe() -> None:
    """exp(0) for what a plane tells, exp(ln 2) for what it knows nothing of."""
    upper = halves(BRIGHT[:, :1].astype(np.float32))
    assert one_value(separable(n=2000), Subject(Halves(), upper)).value < 1.05
    value = one_value(separable(n=2000), Subject(Halves(), both()))
    assert value.value == pytest.approx(2, rel=0.03)
    assert value.comparable.endswith("classifier=probe-pixels-00000000 data=halves kept=1000")
    factors = halves(attributes={"upper": BRIGHT[:, 0] * 2.5, "lower": BRIGHT[:, 1] - 9.0})
    assert one_value(separable(n=2000), Subject(Halves(), factors)).value == value.value


def test_a_probe_is_learned_once_for_each_data_set() -> None:
    metric, img = separable(), torch.cat([torch.full((1, 1, 4, 4), v) for v in (0.5, -0.5)])
    for _ in range(2):
        metric.prepare(Subject(Halves(), both()))
        metric.measure(Subject(Halves(), both()))
    assert metric.extractor.seen == 80 + 2 * 400
    inverse = Subject(Halves(), halves(1 - BRIGHT.astype(np.float32), "inverse"))
    signs = [metric.probe(s)(img).sign().tolist() for s in (Subject(Halves(), both()), inverse)]
    assert signs == [[[1, 1], [-1, -1]], [[-1, -1], [1, 1]]]


def test_a_probe_is_learned_from_at_most_so_many_images() -> None:
    metric = separable(most_real=30)
    metric.prepare(Subject(Halves(), both()))
    assert metric.extractor.seen == 30


def test_attributes() -> None:
    targets = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]], np.float32)
    found = attributes_of(dataset(random_images(3), targets=targets, label_names=["all", "none", "some"]))
    assert {k: v.tolist() for k, v in found.items()} == {"some": [True, False, True]}
    factors = {"size": np.array([1.0, 5.0, 2.0]), "constant": np.ones(3)}
    for labels in (np.zeros((3, 0), np.float32), np.full((3, 1), 0.5, np.float32)):  # none, and vectors
        found = attributes_of(dataset(random_images(3), targets=labels, attributes=factors))
        assert {k: v.tolist() for k, v in found.items()} == {"size": [False, True, False]}


# ------------------------------------------------------------------------------------ ranks and refusals


@pytest.mark.parametrize(
    "build",
    [
        lambda: PathLength(FEW, "ppl2_wend", SquaredDistance()),
        lambda: SlicedWassersteinMetric(FEW),
        lambda: Diversity(FEW),
        lambda: Separability(replace(FEW, num_fake=51), "w", Pixels(16)),
    ],
    ids=["ppl", "swd", "ms_ssim", "separability"],
)
def test_two_ranks_equal_one(build: Callable[[], Metric], G: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    single = values_of(build(), Subject(G, REALS))
    shared = as_two_ranks(monkeypatch, lambda: values_of(build(), Subject(G, REALS)))
    steps = 1e-3 if isinstance(build(), PathLength) else 1e-5  # squares of differences over 1e-4, of float32 images
    assert shared == pytest.approx(single, rel=steps) and min(single.values()) > 0


def test_two_ranks_equal_one_where_the_second_has_no_images(G: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    metric, subject = SlicedWassersteinMetric(FEW), Subject(G, dataset(smooth(1), c_dim=3))
    single = values_of(metric, subject)
    assert as_two_ranks(monkeypatch, lambda: values_of(metric, subject)) == pytest.approx(single, rel=1e-5)


@pytest.mark.parametrize("count", [13, 3])
def test_two_ranks_equal_one_in_equivariance(count: int, G3: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """13 images are 4 batches; of the one batch of 3 the second rank has none."""
    metric = Equivariance(replace(FEW, num_fake=count), "eqt_frac")
    single = values_of(metric, Subject(G3, None))
    assert as_two_ranks(monkeypatch, lambda: values_of(metric, Subject(G3, None))) == pytest.approx(single, rel=1e-9)


def test_two_ranks_equal_one_for_stored_images(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(dataset(smooth(11, 16, seed=1), "fakes"), REALS)
    for metric in (Diversity(FEW), SlicedWassersteinMetric(FEW), SlicedWassersteinMetric(replace(FEW, batch_size=20))):
        single = values_of(metric, subject)
        shared = as_two_ranks(monkeypatch, lambda m=metric: values_of(m, subject))
        assert shared == pytest.approx(single, rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "fakes", "reals", "message"),
    [
        (PathLength(FEW, "ppl_zend", SquaredDistance()), "images", None, "ppl_zend_squares needs a generator; test is"),
        (Equivariance(FEW, "eqr"), "images", None, "eqr needs a generator; test is a set of images"),
        (Separability(FEW, "w", Pixels()), "images", REALS, "separability_w needs a generator"),
        (Equivariance(FEW, "eqt_int"), "G", None, "eqt_int moves the input .* which only StyleGAN3's models have"),
        (SlicedWassersteinMetric(FEW), "G", None, "swd needs real images: give reals=FOLDER"),
        (SlicedWassersteinMetric(FEW), "G", dataset(smooth(3, 8)), "at least 16 x 16 pixels; these have 8 x 8"),
        (SlicedWassersteinMetric(FEW), "small", REALS, "at least 16 x 16 pixels; these have 8 x 8"),
        (Diversity(FEW), "small", None, "at least 11 pixels; these have 8"),
        (Separability(FEW, "w", Pixels()), "G", None, "separability_w needs real images"),
        (Separability(FEW, "w", Pixels()), "G", dataset(smooth(3)), "test has neither labels nor known factors"),
        (Separability(FEW, "w", Pixels()), "G", TinyG(), "real images that are stored; the reals are a generator"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric: Metric, fakes: str, reals: Any, message: str, G: Generator) -> None:
    choices = {"G": G, "images": REALS, "small": dataset(smooth(3, 8))}
    with pytest.raises(UserError, match=message):
        metric.check(Subject(choices[fakes], reals))


def test_what_can_be_measured_is_not_refused(G: Generator, G3: Generator) -> None:
    for metric, fakes, reals in (
        (PathLength(FEW, "ppl_zend", SquaredDistance()), G, None),
        (Equivariance(FEW, "eqt_int"), G3, None),
        (SlicedWassersteinMetric(FEW), G, REALS),
        (SlicedWassersteinMetric(FEW), REALS, G),
        (Diversity(FEW), REALS, None),
        (Separability(FEW, "w", Pixels()), G, REALS),
        (separable(classifier=upper_is_bright), G, None),
    ):
        metric.check(Subject(fakes, reals))
