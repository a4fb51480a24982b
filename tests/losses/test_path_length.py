"""Path length against closed forms and finite differences."""

from __future__ import annotations

import torch

from stylegan_lightning.losses import PathLength, path_lengths


class LinearSynthesis:
    """img = A ws, so that the path length is |A^T y| whatever ws is."""

    def __init__(self, a):
        self.a = a  # [pixels, num_ws, w_dim]

    def __call__(self, ws, noise_mode="random"):
        return torch.einsum("plw,nlw->np", self.a, ws).view(len(ws), 1, 2, 2)


def test_path_length_of_a_linear_generator():
    a, y = torch.randn(4, 3, 5), torch.randn(6, 1, 2, 2)
    gradient = torch.einsum("plw,np->nlw", a, y.flatten(1))
    expected = gradient.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(path_lengths(LinearSynthesis(a), torch.randn(6, 3, 5), lambda imgs: 2 * y), expected)


def test_path_length_mean_follows_and_penalises_the_deviation():
    torch.manual_seed(0)
    penalty, synthesis, ws = (
        PathLength(weight=2.0, decay=0.25),
        LinearSynthesis(torch.randn(4, 3, 5)),
        torch.randn(8, 3, 5),
    )
    torch.manual_seed(1)
    lengths = path_lengths(synthesis, ws)
    torch.manual_seed(1)
    value = penalty(synthesis, ws)
    mean = lengths.mean() * 0.25
    torch.testing.assert_close(penalty.pl_mean, mean)
    torch.testing.assert_close(value, 2.0 * (lengths - mean).square().mean())


def test_path_length_gradient_equals_finite_differences():
    torch.manual_seed(0)
    a = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    ws, y = torch.randn(3, 2, 3, dtype=torch.float64), torch.randn(3, 1, 2, 2, dtype=torch.float64)

    class Tanh(LinearSynthesis):
        def __call__(self, ws, noise_mode="random"):
            return torch.tanh(super().__call__(ws))

    assert torch.autograd.gradcheck(lambda a: path_lengths(Tanh(a), ws, lambda imgs: y), a)
