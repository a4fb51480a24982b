"""State -> picture, as the verbs draw it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.explore.state import Abilities, Picture, Point
from stylegan_lightning.explore.store import Store
from stylegan_lightning.imaging import image_grid, to_pil
from stylegan_lightning.latent.codes import Codes, device_of, noise_maps, own_noise, render, size_of, styles_of
from stylegan_lightning.latent.directions import Direction, Directions, sefa
from stylegan_lightning.latent.walking import slerp
from stylegan_lightning.networks import Generator

CLOSED_FORM = 8
"""How many directions there are where no file is given."""
LEAST_FRAME = 256
PNG_LEVEL = 1
"""A quarter of the default's time, a tenth more bytes."""


class Painter:
    """Draws pictures of one model; in one thread at a time."""

    def __init__(self, G: Generator, directions: Sequence[Direction], store: Store) -> None:
        self.G, self.store = G, store
        self.directions = {d.name: d for d in directions}
        self.can = Abilities(int(G.active_ws), int(G.c_dim), tuple(self.directions))
        self.size = size_of(G)
        self.has_noise = bool(noise_maps(G))

    def code(self, picture: Picture) -> Codes:
        """The styles that the picture is drawn from, as one code. Raises UserError for a code that is not kept."""
        start = self._point(picture.a, picture)
        ws, noise = start.ws, start.noise
        if picture.b is not None and picture.mix:
            end = self._point(picture.b, picture)
            ws = self._blend(ws, end.ws, picture.mix)
            noise = self._blend_noise(start, end, sum(picture.mix) / len(picture.mix))
        for name, strength in picture.moves:
            ws = self.directions[name].apply(ws, strength)
        return Codes(ws, (picture.text(),), noise)

    def draw(self, picture: Picture) -> Tensor:
        """uint8 [C, H, W]"""
        code, seed = self.code(picture), picture.a.seed or 0
        own = code.noise if picture.noise == "const" else None
        return render(self.G, code.ws, noise_mode=picture.noise, seeds=[seed], noise=own)[0]

    def frame(self, picture: Picture) -> np.ndarray:
        """uint8 [H, W, C]; small pictures are enlarged by whole factors."""
        return image_grid(self.draw(picture)[None], 1, LEAST_FRAME)

    @property
    def frame_size(self) -> int:
        return self.size * max(LEAST_FRAME // self.size, 1)

    def _point(self, point: Point, picture: Picture) -> Codes:
        """Truncation is for seeds; kept codes are taken as they are."""
        if point.code is not None:
            code = self.store.get(point.code)
            return Codes(code.ws.to(device_of(self.G)), code.names, code.noise)
        assert point.seed is not None
        ws = styles_of(self.G, [point.seed], label=point.label, psi=picture.psi, cutoff=picture.cutoff)
        return Codes(ws, (point.text(),))

    def _blend(self, ws: Tensor, other: Tensor, mix: Sequence[float]) -> Tensor:
        """Style by style, straight; where the one style is z itself, along the great circle. 0 and 1 are exact."""
        filled = [*mix, *[mix[-1]] * (ws.shape[1] - len(mix))]  # styles to which a growing network has not grown
        t = torch.tensor(filled, dtype=ws.dtype, device=ws.device)[None, :, None]
        between = slerp(ws, other, t) if self.G.num_ws == 1 else torch.lerp(ws, other, t)
        return torch.where(t == 0, ws, torch.where(t == 1, other, between))

    def _blend_noise(self, start: Codes, end: Codes, t: float) -> dict[str, Tensor]:
        if not start.noise and not end.noise:
            return {}
        own = {name: maps.cpu() for name, maps in own_noise(self.G).items()}
        return {name: torch.lerp(start.noise.get(name, b), end.noise.get(name, b), t) for name, b in own.items()}


def encode(image: Tensor, size: int | None = None) -> bytes:
    """uint8 [C, H, W] -> PNG; larger ones are reduced to `size` pixels."""
    picture = to_pil(image.permute(1, 2, 0).contiguous().numpy())
    if size is not None and picture.width > size:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=2)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def choose_directions(G: Generator, files: Sequence[Path]) -> list[Direction]:
    """Of the files, checked, or the closed-form ones of the model; none where it has one style.

    Names that two files share get the file's name before them. Raises UserError for a file that does not fit.
    """
    if not files:
        if G.num_ws == 1:
            return []
        return list(sefa(G, range(int(G.active_ws)), min(CLOSED_FORM, int(G.w_dim))))
    sets = [(path, Directions.load(path).check_fits(G, path)) for path in files]
    names = [name for _, found in sets for name in found.names]
    chosen = [
        Direction(
            d.name if names.count(d.name) == 1 else f"{path.stem} {d.name}", d.vector, d.layers, d.scale, d.method
        )
        for path, found in sets
        for d in found
    ]
    if len({d.name for d in chosen}) < len(chosen):
        raise UserError(f"two of the files are alike: {', '.join(str(p) for p in files)}; leave one out")
    return chosen
