"""Pure tensor functions. The plain version of each is the specification and the oracle of every faster one."""

from stylegan_lightning.ops.bias_act import ACTIVATIONS, bias_act
from stylegan_lightning.ops.conv import conv2d, conv_transpose2d
from stylegan_lightning.ops.conv_resample import conv2d_resample
from stylegan_lightning.ops.fir import downsample2d, setup_filter, upfirdn2d, upfirdn2d_ref, upsample2d
from stylegan_lightning.ops.modulated_conv import demod_coefficients, modulated_conv2d, modulated_conv2d_ref
from stylegan_lightning.ops.normalize import minibatch_std, pixel_norm

__all__ = [
    "ACTIVATIONS",
    "bias_act",
    "conv2d",
    "conv2d_resample",
    "conv_transpose2d",
    "demod_coefficients",
    "downsample2d",
    "minibatch_std",
    "modulated_conv2d",
    "modulated_conv2d_ref",
    "pixel_norm",
    "setup_filter",
    "upfirdn2d",
    "upfirdn2d_ref",
    "upsample2d",
]
