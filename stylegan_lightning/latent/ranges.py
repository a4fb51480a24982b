"""Which of a generator's styles: all, the named thirds of the papers, or any numbers."""

from __future__ import annotations

import math

from stylegan_lightning.errors import UserError

PRESETS = ("all", "coarse", "middle", "fine")


def parse_range(text: str, num_ws: int) -> list[int]:
    """ "coarse", "middle", "fine", "all", or numbers and ranges such as "0-3,7" -> indices of styles in 0..num_ws - 1.

    The papers' split of 18 styles is 0-3, 4-7, 8-17 (StyleGAN, figure 3); other numbers of styles are split in the
    same proportion, rounded up. Raises UserError for anything else, and for a part of a model that has one style.
    """
    if text == "all":
        return list(range(num_ws))
    if num_ws == 1:
        raise UserError(f"this model has one style, which makes the whole picture: layers {text!r} cannot be chosen")
    coarse, middle = math.ceil(num_ws * 4 / 18), math.ceil(num_ws * 8 / 18)
    named = {"coarse": range(coarse), "middle": range(coarse, middle), "fine": range(middle, num_ws)}
    if text in named:
        return list(named[text])
    layers: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise UserError(f"layers are {', '.join(PRESETS)}, or numbers and ranges such as 0-3,7; got {text!r}")
        first, last = int(low), int(high or low)
        if not first <= last < num_ws:
            raise UserError(f"layers are 0..{num_ws - 1} for this model, ranges upwards; got {part.strip()!r}")
        layers.update(range(first, last + 1))
    return sorted(layers)
