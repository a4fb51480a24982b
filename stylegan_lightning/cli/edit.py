"""stylegan-lightning edit"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylegan_lightning.cli import common
from stylegan_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from stylegan_lightning.latent.codes import Codes
    from stylegan_lightning.networks import Generator


def edit(
    model: common.Model,
    codes: Annotated[
        str,
        typer.Argument(metavar="CODES", help="Seeds, or files of codes such as `project` writes, joined by commas."),
    ],
    direction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE:NAME=STRENGTH",
            help="Move along a direction of a file that `directions` wrote; repeat for several. "
            "Several strengths, NAME=-2,0,2, give a column each.",
        ),
    ] = None,
    style: Annotated[
        str | None, typer.Option(metavar="CODE", help="Take --layers of this seed or FILE.safetensors:NAME.")
    ] = None,
    layers: Annotated[
        str, typer.Option(help="Of --style: coarse, middle, fine, all, or numbers such as 0-3,7.")
    ] = "fine",
    mask: Annotated[
        Path | None,
        typer.Option(help="A picture that is white where the edit shows; the border is blended by the network."),
    ] = None,
    feather: Annotated[float, typer.Option(min=0, help="Width of the mask's border, in pixels of the model.")] = 2.0,
    photo: Annotated[
        Path | None,
        typer.Option(help="With --mask: the photo that CODES was found for, whose own pixels stay outside."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="A .png (before and after, a row each), or a folder or .zip of the pictures.")
    ] = Path("edit.png"),
    save_codes: Annotated[
        Path | None,
        typer.Option("--codes", metavar="FILE.safetensors", help="Also keep the edited codes (without --mask)."),
    ] = None,
    psi: common.Psi = 1.0,
    label: common.Class = None,
    device: common.Device = "auto",
) -> None:
    """Move codes along directions, give them layers of another picture, in whole or inside a mask only."""
    from stylegan_lightning.latent.codes import codes_of

    if not direction and style is None:
        raise UserError("nothing to edit: give --direction FILE:NAME=STRENGTH, --style CODE, or both")
    if mask is None and photo is not None:
        raise UserError("--photo keeps the pixels outside a --mask: give one")
    if mask is not None and save_codes is not None:
        raise UserError(
            "inside a mask the picture has two codes, so that --codes cannot keep it: leave one of them out"
        )
    own = common.parse_class(label)
    G = common.load_model(model, device)
    before = codes_of(G, codes, label=own, psi=psi)
    ws = before.ws.to(next(G.parameters()))
    if style is not None:
        ws = _with_style(G, ws, codes_of(G, style, label=own, psi=psi), layers)
    variants = _moved(G, ws, direction or [])
    region = None if mask is None else _region(G, mask, feather)
    original = None if photo is None else _photo(G, photo, len(before))
    images = _draw(G, before, variants, region, original)
    _write(out, images, before, len(variants))
    if save_codes is not None:
        _keep(save_codes, before, variants)
    common.say_written(out, *([save_codes] if save_codes else []))


def _with_style(G: Generator, ws: Tensor, other: Codes, layers: str) -> Tensor:
    from stylegan_lightning.latent.mixing import take_layers
    from stylegan_lightning.latent.ranges import parse_range

    if len(other) != 1:
        raise UserError(f"--style takes one code; it names {len(other)}")
    return take_layers(ws, other.ws, parse_range(layers, G.num_ws))


def _moved(G: Generator, ws: Tensor, directions: list[str]) -> list[Tensor]:
    """`ws` moved along all directions, for each of the strengths given."""
    parsed = [_parse_direction(G, text) for text in directions]
    counts = {len(strengths) for _, strengths in parsed} - {1}
    if len(counts) > 1:
        raise UserError(f"directions must have one strength, or one number of them; they have {sorted(counts)}")
    variants = []
    for i in range(max(counts, default=1)):
        moved = ws
        for direction, strengths in parsed:
            moved = direction.apply(moved, strengths[min(i, len(strengths) - 1)])
        variants.append(moved)
    return variants


def _parse_direction(G: Generator, text: str):  # type: ignore[no-untyped-def]
    from stylegan_lightning.latent.directions import Directions

    place, equals, strengths = text.rpartition("=")
    file, colon, name = place.rpartition(":")
    try:
        numbers = [float(x) for x in strengths.split(",")]
    except ValueError:
        numbers = []
    if not (equals and colon and numbers):
        raise UserError(f"--direction must be FILE:NAME=STRENGTH, such as faces.safetensors:smile=2; got {text!r}")
    return Directions.load(Path(file)).check_fits(G, file)[name], numbers


def _region(G: Generator, path: Path, border: float) -> Tensor:
    from stylegan_lightning.latent.codes import size_of
    from stylegan_lightning.latent.editing import feather

    return feather(common.read_mask(path, size_of(G)), border)


def _photo(G: Generator, path: Path, count: int) -> Tensor:
    from stylegan_lightning.latent.codes import size_of

    if count != 1:
        raise UserError(f"--photo belongs to one code; CODES names {count}")
    return common.read_picture(path, size_of(G), G.img_channels)


def _draw(
    G: Generator, before: Codes, variants: list[Tensor], mask: Tensor | None, photo: Tensor | None
) -> list[Tensor]:
    """uint8 [N, C, H, W] of the codes as they were, or of the photo, then of each variant."""
    from stylegan_lightning.latent.codes import render
    from stylegan_lightning.latent.editing import edit_region, keep_outside

    bar = common.progress("drawing")
    images = [render(G, before.ws, noise=before.noise) if photo is None else photo]
    for number, ws in enumerate(variants):
        if mask is None:
            images.append(render(G, ws, noise=before.noise))
        else:
            edited = edit_region(G, before.ws.to(ws), ws, mask, noise=before.noise)
            images.append(edited if photo is None else keep_outside(photo, edited, mask))
        bar(number + 1, len(variants))
    return images


def _write(out: Path, images: list[Tensor], codes: Codes, variants: int) -> None:
    import torch

    from stylegan_lightning.imaging import image_grid, save_png
    from stylegan_lightning.latent.sampling import write_images

    if out.suffix == ".png":
        save_png(out, image_grid(torch.stack(images, 1).flatten(0, 1), len(images)))
        return
    names = [n.replace(" ", "_") for n in codes.names]
    numbered = [n if variants == 1 else f"{n}_{v}" for v in range(variants) for n in names]
    write_images(out, torch.cat(images[1:]), numbered)


def _keep(path: Path, before: Codes, variants: list[Tensor]) -> None:
    from stylegan_lightning.latent.codes import Codes

    many = len(variants) > 1
    parts = [
        Codes(ws, tuple(f"{n} {v}" if many else n for n in before.names), before.noise) for v, ws in enumerate(variants)
    ]
    Codes.join(parts).save(path)
