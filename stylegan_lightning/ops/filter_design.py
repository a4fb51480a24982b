"""Design of low-pass filters for alias-free networks (StyleGAN3, section 3.2 and appendix C)."""

from __future__ import annotations

import numpy as np
import scipy.signal
import scipy.special
import torch
from torch import Tensor


def design_lowpass_filter(
    numtaps: int, cutoff: float, width: float, fs: float, *, radial: bool = False
) -> Tensor | None:
    """Kaiser-windowed low-pass filter whose taps sum to 1, float32: 1-D [numtaps], or 2-D [numtaps, numtaps]
    and radially symmetric with `radial`. None, the identity, for one tap.

    `cutoff` is the frequency of half amplitude, `width` that of the whole transition band and `fs` the sampling
    rate, all in the same unit. Ideal responses (appendix C, with fc = cutoff / fs and r in samples):

        h(x) = 2 fc sinc(2 fc x)          h(r) = fc J1(2 pi fc r) / r

    The window's shape is Kaiser's for the attenuation that numtaps and width allow. Raises ValueError unless
    numtaps >= 1 and 0 < cutoff <= fs / 2.
    """
    if numtaps < 1 or not 0 < cutoff <= fs / 2:
        raise ValueError(f"a filter needs numtaps >= 1 and 0 < cutoff <= fs / 2, got {numtaps=}, {cutoff=}, {fs=}")
    if numtaps == 1:
        return None
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(numtaps, width / (fs / 2)))
    window = np.kaiser(numtaps, beta)
    x = np.arange(numtaps) - (numtaps - 1) / 2
    if radial:
        taps = _jinc(np.hypot(x[:, None], x[None, :]), cutoff / fs) * np.outer(window, window)
    else:
        taps = np.sinc(2 * cutoff / fs * x) * window
    return torch.from_numpy((taps / taps.sum()).astype(np.float32))


def _jinc(r: np.ndarray, fc: float) -> np.ndarray:
    """fc J1(2 pi fc r) / r, the impulse response of a disc of radius fc; pi fc^2 in its centre."""
    safe = np.where(r == 0, 1.0, r)
    return np.where(r == 0, np.pi * fc**2, fc * scipy.special.j1(2 * np.pi * fc * safe) / safe)
