"""stylegan-lightning mix"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylegan_lightning.cli import common


def mix(
    model: common.Model,
    rows: Annotated[
        str, typer.Option(help="Seeds, or files of codes (FILE.safetensors, FILE.safetensors:NAME): a row each.")
    ] = "0-4",
    columns: Annotated[str, typer.Option(help="The same for the columns, which give the chosen layers.")] = "5-9",
    layers: Annotated[
        str, typer.Option(help="Layers taken from the columns: coarse, middle, fine, all, or numbers such as 0-3,7.")
    ] = "middle",
    out: Annotated[Path, typer.Option(help="A .png file.")] = Path("mix.png"),
    psi: common.Psi = 1.0,
    cutoff: common.Cutoff = None,
    label: common.Class = None,
    noise: common.Noise = "const",
    device: common.Device = "auto",
) -> None:
    """A table of pictures that take some of their layers from the row, the others from the column."""
    from stylegan_lightning.imaging import image_grid, save_png
    from stylegan_lightning.latent.codes import codes_of
    from stylegan_lightning.latent.mixing import mixing_table
    from stylegan_lightning.latent.ranges import parse_range

    common.check_png(out)
    own = common.parse_class(label)
    G = common.load_model(model, device)
    chosen = parse_range(layers, G.num_ws)
    left, top = (codes_of(G, points, label=own, psi=psi, cutoff=cutoff) for points in (rows, columns))
    table = mixing_table(G, left, top, chosen, noise_mode=noise, progress=common.progress("mixing"))
    save_png(out, image_grid(table, len(top) + 1))
    common.say_written(out)
