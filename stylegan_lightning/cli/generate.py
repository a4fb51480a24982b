"""stylegan-lightning generate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylegan_lightning.cli import common
from stylegan_lightning.errors import UserError


def generate(
    model: common.Model,
    seeds: common.Seeds = "0-15",
    out: Annotated[
        Path, typer.Option(help="A folder or a .zip for single pictures; a .png for one picture of all, as a grid.")
    ] = Path("generated.png"),
    psi: Annotated[
        str,
        typer.Option(
            help="Truncation: 1 as drawn, smaller is closer to the mean. Several, 0,0.5,1: a grid, a row for each seed."
        ),
    ] = "1",
    cutoff: common.Cutoff = None,
    label: common.Class = None,
    noise: common.Noise = "const",
    columns: Annotated[int | None, typer.Option(min=1, help="Pictures in a row of the grid.")] = None,
    dataset: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Export N labelled pictures with dataset.json and their w, from the first seed on."
        ),
    ] = None,
    device: common.Device = "auto",
) -> None:
    """Pictures of seeds.

    The picture of a seed is always the same, whatever is drawn beside it.
    """
    from stylegan_lightning.imaging import image_grid, save_png
    from stylegan_lightning.latent import sampling
    from stylegan_lightning.latent.codes import parse_seeds

    numbers, psis, own = parse_seeds(seeds), _psis(psi), common.parse_class(label)
    if len(psis) > 1 and (dataset or out.suffix != ".png"):
        raise UserError("several --psi make one picture: give --out a .png, without --dataset")
    if dataset and out.suffix == ".png":
        raise UserError("--dataset needs a folder or a .zip as --out")
    G = common.load_model(model, device)
    options = {"label": own, "cutoff": cutoff, "noise_mode": noise, "progress": common.progress("drawing")}
    if dataset:
        sampling.export_dataset(G, out, dataset, first_seed=numbers[0], psi=psis[0], **options)  # type: ignore[arg-type]
    elif out.suffix == ".png":
        if len(psis) > 1:
            images, row = sampling.psi_sweep(G, numbers, psis, **options), len(psis)  # type: ignore[arg-type]
        else:
            images, row = sampling.generate(G, numbers, psi=psis[0], **options)[0], min(len(numbers), 8)  # type: ignore[arg-type]
        save_png(out, image_grid(images, columns or row))
    else:
        images = sampling.generate(G, numbers, psi=psis[0], **options)[0]  # type: ignore[arg-type]
        sampling.write_images(out, images, [f"seed{s:07d}" for s in numbers])
    common.say_written(out)


def _psis(text: str) -> list[float]:
    try:
        return [float(x) for x in text.split(",")]
    except ValueError:
        raise UserError(f"--psi must be a number, or several joined by commas; got {text!r}") from None
