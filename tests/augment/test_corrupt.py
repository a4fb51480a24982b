"""Band amplification, noise and cutout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from augment_helpers import only, seeded

from stylegan_lightning.augment.corrupt import cut_out, filter_bands
from stylegan_lightning.augment.wavelets import SYM2, SYM6, octave_filters

BANK = octave_filters()
FILTERS = torch.from_numpy(BANK)
POWER = torch.tensor([10.0, 1, 1, 1]) / 13


@pytest.mark.parametrize("taps", [SYM2, SYM6])
def test_wavelets_are_orthogonal_with_all_vanishing_moments(taps):
    """The conditions that define them: orthogonality to even shifts, and len / 2 zeros at the Nyquist frequency."""
    h = np.array(taps)
    products = [h[2 * m :] @ h[: len(h) - 2 * m] for m in range(len(h) // 2)]
    np.testing.assert_allclose(products, [1] + [0] * (len(products) - 1), atol=1e-9)
    signs = (-1.0) ** np.arange(len(h))
    k = np.arange(len(h)) / len(h)
    np.testing.assert_allclose([h @ (signs * k**m) for m in range(len(h) // 2)], 0, atol=1e-9)


def test_bands_are_octaves_that_add_up_to_the_identity():
    assert BANK.shape == (4, 43)
    np.testing.assert_allclose(BANK.sum(0), np.eye(43)[21], atol=1e-12)
    np.testing.assert_allclose(BANK, BANK[:, ::-1], atol=1e-12)
    edges = [0, 1 / 8, 1 / 4, 1 / 2, 1]
    for band in range(4):
        middle = math.pi * (edges[band] + edges[band + 1]) / 2
        response = BANK @ np.cos(middle * (np.arange(43) - 21))
        assert response.argmax() == band and response[band] > 0.7


@pytest.mark.parametrize("band", range(4))
def test_amplifying_one_band_keeps_the_expected_power(band):
    chosen = [float(b == band) for b in range(4)]
    gains = only("imgfilter", imgfilter_bands=chosen).draw((4000, 3, 8, 8), seeded()).gains
    torch.testing.assert_close((POWER * gains.square()).sum(1), torch.ones(4000))
    other = gains[:, (band + 1) % 4]
    assert float((gains[:, band] / other).log2().std()) == pytest.approx(1, rel=0.05)


def test_equal_gains_scale_and_white_noise_gets_each_band_s_power():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 256, 256, dtype=torch.float64)
    torch.testing.assert_close(filter_bands(x, torch.full((1, 4), 1.5), FILTERS), x * 1.5**2)
    for gains in torch.eye(4)[:, None]:
        expected = float((gains.double() @ FILTERS).square().sum() ** 2)
        assert float(filter_bands(x, gains, FILTERS).square().mean()) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("size", [(24, 30), (3, 7), (2, 44)])
def test_filtering_reflects_at_the_borders(size):
    torch.manual_seed(0)
    x, gains = torch.randn(2, 3, *size, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)
    index = [torch.arange(-21, s + 21).remainder(2 * (s - 1)) for s in size]
    index = [torch.where(i < s, i, 2 * (s - 1) - i) for i, s in zip(index, size, strict=True)]
    padded = x[:, :, index[0]][:, :, :, index[1]]
    for i, taps in enumerate(gains @ FILTERS):
        kernel = torch.outer(taps, taps).expand(3, 1, 43, 43)
        expected = F.conv2d(padded[i : i + 1], kernel, groups=3)
        torch.testing.assert_close(filter_bands(x, gains, FILTERS)[i : i + 1], expected)


def test_noise_has_a_half_normal_strength():
    noise = only("noise").draw((4000, 1, 8, 8), seeded()).noise
    assert float(noise.square().mean()) == pytest.approx(0.01, rel=0.1)
    sigma = noise.flatten(1).std(1)
    assert float(sigma.mean()) == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)
    assert float((noise[:, 0, 0, 0] * noise[:, 0, 0, 1]).mean()) == pytest.approx(0, abs=1e-3)


def test_cutout_area_and_place():
    x = torch.ones(1, 3, 16, 24)
    y = cut_out(x, torch.tensor([[0.5, 0.5, 0.5]]))
    assert y[0, :, 4:12, 6:18].abs().sum() == 0 and y.sum() == 3 * 16 * 24 * 3 / 4
    corner = cut_out(x, torch.tensor([[0.0, 1.0, 0.5]]))
    assert corner[0, :, 12:, :6].abs().sum() == 0 and corner.sum() == 3 * 16 * 24 * 15 / 16
    assert torch.equal(cut_out(x, torch.tensor([[0.3, 0.3, 0.0]])), x)


def test_cutout_hides_every_place_alike():
    hidden = 1 - only("cutout")(torch.ones(4000, 1, 8, 8), seeded()).mean(0)[0]
    torch.testing.assert_close(hidden[2:6, 2:6], torch.full((4, 4), 0.25), atol=0.03, rtol=0)
    assert float(hidden[0, 0]) == pytest.approx((0.25 + 1 / 16) ** 2, abs=0.02)  # half of the rectangle outside
