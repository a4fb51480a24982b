"""The published choices that are formulas. Registered as OmegaConf resolvers, so that configs can name them."""

from __future__ import annotations

from typing import Any


def auto_batch(resolution: int, gpus: int = 1) -> int:
    """Batch over all devices of StyleGAN2-ADA's `auto` configuration."""
    return max(min(gpus * min(4096 // resolution, 32), 64), gpus)


def auto_mbstd(resolution: int, gpus: int = 1) -> int:
    return min(auto_batch(resolution, gpus) // gpus, 4)


def auto_channel_base(resolution: int) -> int:
    return 32768 if resolution >= 512 else 16384


def auto_lr(resolution: int) -> float:
    return 0.002 if resolution >= 1024 else 0.0025


def auto_gamma(resolution: int, batch: int, factor: float = 0.0002) -> float:
    """R1 weight: factor * resolution^2 / batch; 0.0002 is the published factor."""
    return factor * resolution**2 / batch


def auto_ema_kimg(batch: int) -> float:
    return batch * 10 / 32


def auto_blur_kimg(batch: int) -> float:
    """Over which the blur of StyleGAN3-R's discriminator disappears."""
    return batch * 200 / 32


def by_size(resolution: int, small: float, large: float) -> float:
    """`small` up to 32 pixels, `large` above: settings of short runs."""
    return small if resolution <= 32 else large


def fp16_clamp(low_dtype: str | None) -> float | None:
    """Limit of activations that the published float16 training needs."""
    return 256.0 if low_dtype == "float16" else None


def if_tuned(init_from: str | None, tuned: Any, anew: Any) -> Any:
    """`tuned` for a run that starts from the weights of another one, `anew` for one from fresh networks."""
    return anew if init_from is None else tuned


def times(value: float, factor: float) -> float:
    """Whole where `value` is and the product is."""
    product = value * factor
    return round(product) if isinstance(value, int) and product == round(product) else product


def zero_layer_w_dim(z_dim: int, c_dim: int, label_dim: int = 32) -> int:
    """Width of ws when the mapping has no layers: z, and beside it the label where there is one."""
    return z_dim + (label_dim if c_dim else 0)


RESOLVERS = {
    "auto_batch": auto_batch,
    "auto_mbstd": auto_mbstd,
    "auto_channel_base": auto_channel_base,
    "auto_lr": auto_lr,
    "auto_gamma": auto_gamma,
    "auto_ema_kimg": auto_ema_kimg,
    "auto_blur_kimg": auto_blur_kimg,
    "by_size": by_size,
    "fp16_clamp": fp16_clamp,
    "if_tuned": if_tuned,
    "times": times,
    "zero_layer_w_dim": zero_layer_w_dim,
}
