"""Inception score on class scores whose answer is known, and the split conventions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.inception_score import fidelity_order, inception_score


def test_sure_and_varied_classes_reach_the_number_of_classes() -> None:
    p = F.one_hot(torch.arange(40) % 4, 4).double()
    result = inception_score(p, probabilities=True)
    assert (result.mean, result.std) == (pytest.approx(4), pytest.approx(0, abs=1e-12))
    assert inception_score(100 * p).mean == pytest.approx(4)


@pytest.mark.parametrize("scores", [torch.zeros(20, 7), torch.randn(1, 7).expand(20, 7)])
def test_pictures_that_are_all_alike_score_one(scores) -> None:
    assert inception_score(scores).mean == pytest.approx(1)


def test_by_hand() -> None:
    """Rows (1, 0) and (1/2, 1/2), mean (3/4, 1/4): mean divergence (ln 4/3 + (ln 2/3 + ln 2) / 2) / 2."""
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    expected = math.exp((math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2)
    assert inception_score(p, probabilities=True, splits=1).mean == pytest.approx(expected)


def test_logits_and_probabilities_agree() -> None:
    logits = torch.randn(33, 9)
    a, b = inception_score(logits), inception_score(logits.double().softmax(1), probabilities=True)
    assert (a.mean, a.std) == (pytest.approx(b.mean, rel=1e-12), pytest.approx(b.std, rel=1e-9))


def test_parts() -> None:
    """12 pictures in 5 parts: 2, 2, 3, 2, 3 evenly; as chunks of ceil(12 / 5) = 3 there are only 4."""
    logits = 3 * torch.randn(12, 5)
    whole = [inception_score(logits[a:b], splits=1).mean for a, b in ((0, 2), (2, 4), (4, 7), (7, 9), (9, 12))]
    even = inception_score(logits, splits=5)
    assert even.mean == pytest.approx(sum(whole) / 5)
    thirds = torch.tensor([inception_score(part, splits=1).mean for part in logits.split(3)])
    chunks = inception_score(logits, splits=5, chunks=True, correction=1)
    assert (chunks.mean, chunks.std) == (pytest.approx(float(thirds.mean())), pytest.approx(float(thirds.std())))


def test_order_decides_the_parts_but_not_the_whole() -> None:
    logits, order = 3 * torch.randn(40, 5), fidelity_order(40)
    assert sorted(order.tolist()) == list(range(40)) and order.tolist() == fidelity_order(40).tolist()
    shuffled = inception_score(logits, order=order)
    assert shuffled.mean == pytest.approx(inception_score(logits[order]).mean)
    assert shuffled.mean != pytest.approx(inception_score(logits).mean, rel=1e-6)
    assert inception_score(logits, splits=1, order=order).mean == pytest.approx(inception_score(logits, splits=1).mean)


def test_too_few_pictures() -> None:
    with pytest.raises(UserError, match=r"each of 10 splits; got \[9, 4\]"):
        inception_score(torch.zeros(9, 4))
