"""Bilinear sampling: against PyTorch's, as a linear map, and to second order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stylegan_lightning import ops


def points(n, h, w, dtype=torch.float64, reach=1.3):
    """Some of them outside the picture."""
    return (torch.rand(n, h, w, 2, dtype=dtype) * 2 - 1) * reach


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def plain(x, grid):
    """Pixel by pixel: the weights of the four neighbours, of which those outside count as 0."""
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, *grid.shape[1:3])
    for i, row, column in torch.cartesian_prod(*(torch.arange(s) for s in grid.shape[:3])).tolist():
        gx, gy = ((grid[i, row, column].double() + 1) * torch.tensor([w, h]) / 2 - 0.5).tolist()
        for y in range(h):
            for x_ in range(w):
                weight = max(0.0, 1 - abs(gx - x_)) * max(0.0, 1 - abs(gy - y))
                out[i, :, row, column] += weight * x[i, :, y, x_]
    return out


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_the_plain_version_and_pytorch(layout):
    x, grid = torch.randn(2, 3, 5, 7, dtype=torch.float64).contiguous(memory_format=layout), points(2, 4, 6)
    y = ops.grid_sample(x, grid)
    torch.testing.assert_close(y, plain(x, grid))
    torch.testing.assert_close(y, F.grid_sample(x, grid, align_corners=False))
    assert y.is_contiguous(memory_format=layout)


def test_first_derivative_equals_pytorch():
    x, grid = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True), points(2, 4, 6)
    dy = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad(f(x, grid), x, dy)[0]
        for f in (ops.grid_sample, lambda x, g: F.grid_sample(x, g, align_corners=False))
    )
    torch.testing.assert_close(ours, theirs)


def test_derivatives_to_second_order():
    x, grid = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True), points(2, 3, 4)
    assert torch.autograd.gradcheck(lambda x: ops.grid_sample(x, grid), x)
    assert torch.autograd.gradgradcheck(lambda x: ops.grid_sample(x, grid).pow(3), x)


def test_keeps_a_picture_sampled_at_its_own_pixels():
    x = torch.randn(1, 2, 6, 9, dtype=torch.float64)
    grid = F.affine_grid(torch.eye(2, 3, dtype=torch.float64)[None], [1, 2, 6, 9], align_corners=False)
    torch.testing.assert_close(ops.grid_sample(x, grid), x)


def test_computes_in_the_type_of_the_points():
    x = torch.randn(1, 2, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    y = ops.grid_sample(x, points(1, 3, 3, torch.float32))
    assert y.dtype == torch.float32
    assert torch.autograd.grad(y.sum(), x)[0].dtype == torch.bfloat16


def test_points_that_want_a_gradient_are_refused():
    with pytest.raises(ValueError, match="detach the grid"):
        ops.grid_sample(torch.zeros(1, 1, 4, 4), points(1, 2, 2).requires_grad_())
