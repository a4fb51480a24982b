"""The pipe as a whole: probabilities, presets, reproducibility, derivatives, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from augment_helpers import only, seeded
from torch._subclasses.fake_tensor import FakeTensorMode

from stylegan_lightning.augment import PRESETS, AugmentParams, AugmentPipe, LocalRandom
from stylegan_lightning.losses import squared_gradient_norm

FULL = "bgcfnc"
SINGLE = PRESETS[FULL]


def rows(params: AugmentParams, index: list[int]) -> AugmentParams:
    return AugmentParams(**{k: v if v is None else v[index] for k, v in vars(params).items()})


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_at_p_0_nothing_happens(preset, channels):
    x = torch.randn(3, channels, 12, 10)
    assert torch.equal(AugmentPipe(preset)(x, seeded()), x)


@pytest.mark.parametrize("name", [name for name in SINGLE if name != "xint"])  # which is often by 0 pixels
def test_each_transformation_happens_with_probability_p_times_its_multiplier(name):
    x = torch.randn(1, 3, 4, 4).expand(1500, -1, -1, -1)
    pipe = AugmentPipe(p=0.8, **{name: 0.5})
    changed = (pipe(x, seeded()) != x).flatten(1).any(1).double().mean()
    visible = {"xflip": 1 / 2, "rotate90": 3 / 4, "lumaflip": 1 / 2, "imgfilter": (1 - 0.6**4) / 0.4}.get(name, 1.0)
    assert float(changed) == pytest.approx(0.4 * visible, abs=0.05)


def test_presets_are_sums_of_their_letters():
    letters = {"b": "blit", "g": "geom", "c": "color", "f": "filter", "n": "noise"}
    for name in ("bg", "bgc", "bgcf", "bgcfn"):
        assert PRESETS[name] == sum((PRESETS[letters[x]] for x in name), ())
    assert PRESETS["bgcfnc"] == PRESETS["bgcfn"] + PRESETS["cutout"]
    assert len(set(SINGLE)) == 15


def test_parts_that_never_happen_are_left_out():
    assert list(AugmentPipe("bgc").parts) == ["geometric", "color"]
    assert list(AugmentPipe("bgc", noise=0.5, xflip=0).parts) == ["geometric", "color", "noise"]
    assert not AugmentPipe().parts and not AugmentPipe("cutout", cutout=0).parts
    assert not AugmentPipe("filter", imgfilter_bands=[0, 0, 0, 0]).parts


def test_p_is_the_only_saved_state_and_is_changed_in_place():
    pipe = AugmentPipe("bgc", p=0.25)
    assert {k: float(v) for k, v in pipe.state_dict().items()} == {"p": 0.25} and pipe.p.dtype == torch.float32
    assert not list(pipe.parameters())
    other = AugmentPipe("bgc")
    other.load_state_dict(pipe.state_dict())
    assert other.p == 0.25
    x = torch.randn(4, 3, 8, 8)
    other.p.fill_(0)
    assert torch.equal(other(x), x)


def test_a_p_above_1_is_as_good_as_1():
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(AugmentPipe(FULL, p=1.5)(x, seeded()), AugmentPipe(FULL, p=1.0)(x, seeded()))


def test_the_same_numbers_give_the_same_images():
    pipe, x = AugmentPipe(FULL, p=0.7), torch.randn(4, 3, 10, 12)
    first = pipe(x, seeded(1))
    assert torch.equal(first, pipe(x, seeded(1))) and not torch.equal(first, pipe(x, seeded(2)))
    torch.manual_seed(5)
    default = pipe(x)
    torch.manual_seed(5)
    assert torch.equal(default, pipe(x, LocalRandom()))


def test_images_do_not_depend_on_their_neighbours():
    pipe, x = AugmentPipe(FULL, p=0.7), torch.randn(6, 3, 10, 12)
    params = pipe.draw(x.shape, seeded())
    whole = pipe.transform(x, params)
    for index in ([2], [5, 0, 3]):
        torch.testing.assert_close(pipe.transform(x[index], rows(params, index)), whole[index])


class Rank:
    """Rows `rank`, `rank` + 2, ... of numbers drawn for the batches of two ranks."""

    def __init__(self, rank: int) -> None:
        self.rank, self.whole = rank, seeded(3)

    def uniform(self, n, *shape):
        return self.whole.uniform(2 * n, *shape)[self.rank :: 2]

    def normal(self, n, *shape):
        return self.whole.normal(2 * n, *shape)[self.rank :: 2]


def test_two_ranks_see_what_one_would():
    pipe, x = AugmentPipe(FULL, p=0.7), torch.randn(6, 3, 8, 8)
    parts = [pipe(x[rank::2], Rank(rank)) for rank in (0, 1)]
    torch.testing.assert_close(torch.stack(parts, 1).flatten(0, 1), pipe(x, seeded(3)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes_types_and_layouts(channels):
    pipe, x = AugmentPipe(FULL, p=1.0), torch.randn(2, channels, 9, 14)
    out = pipe(x, seeded())
    assert out.shape == x.shape and out.isfinite().all()
    torch.testing.assert_close(pipe(x.contiguous(memory_format=torch.channels_last), seeded()), out)
    torch.testing.assert_close(pipe(x.double(), seeded()), out.double(), atol=1e-4, rtol=0)
    low = pipe(x.bfloat16(), seeded())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), pipe(x.bfloat16().float(), seeded()), atol=0.02, rtol=0.01)


def test_autocast_does_not_reach_the_pipe_and_r1_works_inside():
    pipe, x = AugmentPipe(FULL, p=1.0), torch.randn(2, 3, 8, 8)
    expected = pipe(x, seeded())
    penalty = squared_gradient_norm(lambda imgs: pipe(imgs, seeded()).pow(2).sum((1, 2, 3)), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pipe(x, seeded()), expected)
        inside = squared_gradient_norm(lambda imgs: pipe(imgs, seeded()).pow(2).sum((1, 2, 3)), x)
    torch.testing.assert_close(inside.float(), penalty, rtol=0.05, atol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_derivatives_to_second_order(channels):
    pipe = AugmentPipe(FULL, p=1.0)
    x = torch.randn(2, channels, 5, 4, dtype=torch.float64, requires_grad=True)
    params = pipe.draw(x.shape, seeded(4))
    assert torch.autograd.gradcheck(lambda x: pipe.transform(x, params), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: pipe.transform(x, params).pow(3), x, fast_mode=True)


def test_r1_through_the_pipe_equals_finite_differences():
    """d R1 / d w of a small critic, R1 itself from differences of its logits."""
    torch.manual_seed(0)
    pipe, w = AugmentPipe(FULL, p=1.0), torch.randn(4, 3, 3, 3, dtype=torch.float64) / 4
    x = torch.randn(1, 3, 6, 5, dtype=torch.float64)
    params = pipe.draw(x.shape, seeded(2))

    def critic(imgs, w):
        seen = pipe.transform(
            imgs, AugmentParams(**{k: v.expand(len(imgs), *v.shape[1:]) for k, v in vars(params).items()})
        )
        return torch.nn.functional.conv2d(seen, w).tanh().square().sum((1, 2, 3))

    def r1(w, step=1e-5):
        shifts = torch.eye(x.numel(), dtype=torch.float64).view(-1, *x.shape[1:]) * step
        slopes = (critic(x + shifts, w) - critic(x - shifts, w)) / (2 * step)
        return float(slopes.square().sum())

    w.requires_grad_()
    ours = squared_gradient_norm(lambda imgs: critic(imgs, w), x).sum()
    (slope,) = torch.autograd.grad(ours, w)
    w = w.detach()
    assert float(ours.detach()) == pytest.approx(r1(w), rel=1e-6)
    direction = torch.randn_like(w)
    numeric = (r1(w + 1e-4 * direction) - r1(w - 1e-4 * direction)) / 2e-4
    assert float((slope * direction).sum()) == pytest.approx(numeric, rel=1e-4)


def test_compiles_into_one_graph():
    """No branch on a value."""
    torch._dynamo.reset()
    pipe, x = AugmentPipe(FULL, p=0.5), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(pipe, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    expected = pipe(x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(x), expected)


def test_asks_for_no_value_in_forward_or_penalty():
    """Fake tensors have shapes only: whatever would wait for a value raises."""
    pipe = AugmentPipe(FULL)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 3, 9, 14)
        assert pipe(x).shape == x.shape
        assert squared_gradient_norm(lambda imgs: pipe(imgs).pow(2).sum((1, 2, 3)), x).shape == (2,)
        with pytest.raises(Exception, match="_local_scalar"):
            bool(pipe(x).sum() > 0)


def test_unknown_presets_name_the_choices():
    with pytest.raises(ValueError, match=r"preset must be one of blit, .*bgcfnc; got 'abc'"):
        AugmentPipe("abc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": -0.1}, "p must not be negative, got -0.1"),
        ({"xflip": -1.0}, "must not be negative, got {'xflip': -1.0}"),
        ({"imgfilter": 1.0, "imgfilter_bands": [1, 1, 1]}, "four octaves"),
        ({"imgfilter": 1.0, "imgfilter_bands": [1, 1, 1, -1]}, "four octaves"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentPipe(**options)


@pytest.mark.parametrize(
    ("imgs", "message"),
    [
        (torch.zeros(3, 8, 8), r"\[N, C, H, W\].*got \[3, 8, 8\]"),
        (torch.zeros(2, 2, 8, 8), r"1, 3 \(RGB\) or 4 \(RGBA\) channels.*got \[2, 2, 8, 8\]"),
        (torch.zeros(2, 3, 8, 1), r"2 x 2 pixels.*got \[2, 3, 8, 1\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"floating-point images.*uint8"),
    ],
)
def test_other_images_are_refused(imgs, message):
    with pytest.raises(ValueError, match=message):
        only("noise")(imgs)
