"""Pure tensor functions. The plain version of each is the specification and the oracle of every faster one."""

from stylegan_lightning.ops.bias_act import ACTIVATIONS, bias_act
from stylegan_lightning.ops.blur import blur2d
from stylegan_lightning.ops.conv import autocast_device, conv2d, conv_transpose2d
from stylegan_lightning.ops.conv_resample import conv2d_resample
from stylegan_lightning.ops.filter_design import design_lowpass_filter
from stylegan_lightning.ops.filtered_lrelu import filtered_lrelu
from stylegan_lightning.ops.fir import downsample2d, setup_filter, upfirdn2d, upfirdn2d_ref, upsample2d
from stylegan_lightning.ops.fused_scale import conv2d_downscale, upscale_conv2d
from stylegan_lightning.ops.grid_sample import grid_sample
from stylegan_lightning.ops.modulated_conv import demod_coefficients, modulated_conv2d, modulated_conv2d_ref
from stylegan_lightning.ops.normalize import minibatch_std, pixel_norm

__all__ = [
    "ACTIVATIONS",
    "autocast_device",
    "bias_act",
    "blur2d",
    "conv2d",
    "conv2d_downscale",
    "conv2d_resample",
    "conv_transpose2d",
    "demod_coefficients",
    "design_lowpass_filter",
    "downsample2d",
    "filtered_lrelu",
    "grid_sample",
    "minibatch_std",
    "modulated_conv2d",
    "modulated_conv2d_ref",
    "pixel_norm",
    "setup_filter",
    "upfirdn2d",
    "upfirdn2d_ref",
    "upsample2d",
    "upscale_conv2d",
]
