"""Orthogonal wavelets (Daubechies' least asymmetric family) and the filter bank made of them (ADA, appendix B)."""

from __future__ import annotations

import numpy as np

SYM2 = (-0.12940952255126037, 0.22414386804201339, 0.83651630373780790, 0.48296291314453416)
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""Low-pass taps h: sum_k h[k] h[k + 2m] = 1 for m = 0 and 0 otherwise, so enlarging by 2 with h and reducing by 2
with h reversed gives a signal back exactly."""


def octave_filters(taps: tuple[float, ...] = SYM2) -> np.ndarray:
    """[4, L] symmetric filters that add up to the identity, lowest frequencies first: below 1/8 of the Nyquist
    frequency, 1/8 to 1/4, 1/4 to 1/2, above 1/2.

    With H(z) the low-pass and G(z) = H(-z) the high-pass filter, P(z) = H(z) H(1/z) / 2 and Q(z) = G(z) G(1/z) / 2
    add up to 1. Band j from above is Q(z^s) P(z^(s/2)) ... P(z) with s = 2^j, the lowest P(z^4) P(z^2) P(z).
    """
    low = np.array(taps)
    high = low * (-1.0) ** np.arange(len(low))
    p, q = (np.convolve(f, f[::-1]) / 2 for f in (low, high))
    bands, below = [], np.ones(1)
    for octave in range(3):
        bands.append(np.convolve(_spread(q, 2**octave), below))
        below = np.convolve(_spread(p, 2**octave), below)
    bands.append(below)
    return np.stack([np.pad(b, (len(below) - len(b)) // 2) for b in reversed(bands)])


def _spread(f: np.ndarray, step: int) -> np.ndarray:
    """f(z^step): step - 1 zeros between the taps."""
    out = np.zeros((len(f) - 1) * step + 1)
    out[::step] = f
    return out
