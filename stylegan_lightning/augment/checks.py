"""What augmentations refuse."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def check_name(what: str, name: str, choices: Iterable[str]) -> str:
    """`name`; raises ValueError unless it is among `choices`."""
    if name not in (known := list(choices)):
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")
    return name


def check_images(imgs: Tensor) -> None:
    """Raises ValueError unless imgs are floating-point [N, C, H, W] with C of 1, 3, 4 and sides of 2 pixels or more."""
    if imgs.ndim != 4 or imgs.shape[1] not in (1, 3, 4) or min(imgs.shape[2:]) < 2:
        raise ValueError(
            "augmentation takes images [N, C, H, W] with 1, 3 (RGB) or 4 (RGBA) channels and at least 2 x 2 pixels, "
            f"got {list(imgs.shape)}"
        )
    if not imgs.is_floating_point():
        raise ValueError(f"augmentation takes floating-point images, range [-1, 1], got {imgs.dtype}")
