"""stylegan-lightning project"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylegan_lightning.cli import common
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import distinct_names, replacing

if TYPE_CHECKING:
    from torch import Tensor

    from stylegan_lightning.latent.likeness import LayeredDistance
    from stylegan_lightning.latent.projection import Projection

Images = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Pictures of any size, folders or .zip files.")]
Crop = Annotated[
    Literal["center", "stretch", "pad"], typer.Option(help="How pictures become square, as data.crop of the training.")
]
Batch = Annotated[int, typer.Option(min=1, help="Pictures searched for side by side.")]
Weights = Annotated[
    Path | None, typer.Option(help="Of --distance lpips_vgg16: the file of VGG16, unless torch hub has it.")
]
FILE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".zip", ".safetensors", ".json")
RESERVED = ("overview", "curve")


def project(
    model: common.Model,
    images: Images,
    out: Annotated[Path, typer.Option(help="A folder for codes, pictures, curve and results.json.")] = Path(
        "projected"
    ),
    space: Annotated[
        Literal["auto", "z", "w", "w+"],
        typer.Option(help="Where to search; auto is w+ for style-based models, z for others."),
    ] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each search.")] = 300,
    lr: Annotated[float, typer.Option(help="Learning rate, in standard deviations of w.")] = 0.1,
    schedule: Annotated[
        str,
        typer.Option(help="Of w+: shares of the steps from which coarse, middle, fine layers have their own style."),
    ] = "0.1,0.2,0.3",
    starts: Annotated[
        int, typer.Option(min=1, help="Searches for each picture, from different starts; the best is kept.")
    ] = 2,
    candidates: Annotated[
        int, typer.Option(min=1, help="Random pictures, the nearest of which are starts beside the mean.")
    ] = 256,
    jitter: Annotated[float, typer.Option(min=0, help="Noise on the code in the first three quarters.")] = 0.0,
    prior: Annotated[float, typer.Option(min=0, help="Pull of w and w+ towards the mean.")] = 0.0,
    noise_maps: Annotated[bool, typer.Option("--noise-maps", help="Search for noise maps too.")] = False,
    distance: Annotated[
        Literal["efflite0", "lpips_vgg16", "none"], typer.Option(help="Perceptual distance; none compares pixels only.")
    ] = "efflite0",
    weights: Weights = None,
    label: common.Class = None,
    seed: Annotated[int, typer.Option(help="Of the candidates and the jitter.")] = 0,
    crop: Crop = "center",
    batch: Batch = 8,
    device: common.Device = "auto",
) -> None:
    """Find the codes of real pictures.

    codes.safetensors has them by the names of the files, for `edit`, `mix` and `walk`. NAME.png shows each picture
    before and after, overview.png all of them, curve.png how the searches went, results.json how near they came.
    """
    from stylegan_lightning.imaging import to_dynamic_range
    from stylegan_lightning.latent.codes import size_of
    from stylegan_lightning.latent.degradations import Identity
    from stylegan_lightning.latent.projection import Settings, checked
    from stylegan_lightning.latent.projection import project as search

    check_folder(out)
    own = common.parse_class(label)
    network = perceptual(distance, weights)
    settings = Settings(
        space=space,
        steps=steps,
        lr=lr,
        perceptual_weight=0.0 if network is None else 1.0,
        prior_weight=prior,
        jitter=jitter,
        candidates=candidates,
        starts=starts,
        release=_shares(schedule),
        optimise_noise=noise_maps,
        seed=seed,
    )
    G = common.load_model(model, device)
    targets, names = gather(images, size_of(G), int(G.img_channels), crop)
    checked(G, targets, Identity())
    bar = in_parts("projecting", len(targets), batch)
    found = [
        search(G, part, settings, names=own_names, distance=network, label=own, progress=progress)
        for part, own_names, progress in zip(targets.split(batch), _split(names, batch), bar, strict=True)
    ]
    _write(out, to_dynamic_range(targets), found)
    about = {"model": str(model), "space": found[0].space, "distance": distance, "settings": asdict(settings)}
    write_results(out, about, found)


def perceptual(name: str, weights: Path | None) -> LayeredDistance | None:
    """None for "none". Raises UserError where weights are missing, or given for what needs none."""
    from stylegan_lightning.metrics.perceptual import load_distance

    if weights is not None and name != "lpips_vgg16":
        raise UserError(f"--weights is the file of VGG16, for --distance lpips_vgg16; got --distance {name}")
    return None if name == "none" else load_distance(name, weights)  # type: ignore[return-value]


def check_folder(out: Path) -> None:
    """Raises UserError for what is a file, or looks like one."""
    if out.suffix.lower() in FILE_ENDINGS or (out.exists() and not out.is_dir()):
        raise UserError(f"--out is a folder here; got {out}")


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--schedule must be numbers joined by commas, such as 0.1,0.2,0.3; got {text!r}") from None


def gather(paths: Sequence[Path], resolution: int, channels: int, crop: str) -> tuple[Tensor, list[str]]:
    """uint8 [N, C, R, R] of files, folders and archives, and a name for each, no two alike. Raises UserError."""
    import torch

    from stylegan_lightning.data.base import ImageError
    from stylegan_lightning.data.containers import OutsideLinks
    from stylegan_lightning.data.image_folder import ImageFolder

    pictures, stems = [], []
    for path in paths:
        if not path.is_dir() and path.suffix.lower() != ".zip":
            pictures.append(common.read_picture(path, resolution, channels, crop))
            stems.append(path.stem)
            continue
        try:
            source = ImageFolder(path, resolution, channels, crop)
        except OutsideLinks as error:
            raise UserError(f"{error.what}. Give what links lead to by itself, or a folder without them") from None
        for index, name in enumerate(source.names):
            try:
                pictures.append(torch.from_numpy(source.read(index))[None])
            except ImageError as error:
                raise UserError(f"{path}: {error}; repair or remove this image") from None
            stems.append(Path(name).stem)
    return torch.cat(pictures), _apart(stems)


def _apart(stems: Iterable[str]) -> list[str]:
    """Names of files without what separates codes on the command line, numbered where they would be alike."""
    return distinct_names((stem.replace(",", "_") for stem in stems), RESERVED)


def _split(names: list[str], size: int) -> list[list[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


def in_parts(what: str, count: int, size: int) -> list[common.Progress]:
    """A progress for each part of `count` pictures, which together move one bar of steps."""
    bar, parts = common.progress(what, "step"), -(-count // size)

    def of(part: int) -> common.Progress:
        return lambda done, total: bar(part * total + done, parts * total)

    return [of(part) for part in range(parts)]


def _write(out: Path, targets: Tensor, found: list[Projection]) -> None:
    import torch

    from stylegan_lightning.imaging import image_grid, save_png, to_uint8
    from stylegan_lightning.latent.codes import Codes

    codes = Codes.join([part.codes for part in found])
    pairs = torch.stack([to_uint8(targets), torch.cat([part.images for part in found])], 1)
    for name, pair in zip(codes.names, pairs, strict=True):
        save_png(out / f"{name}.png", image_grid(pair, 2))
    save_png(out / "overview.png", image_grid(pairs.flatten(0, 1), 2 * min(4, len(pairs)), 96))
    codes.save(out / "codes.safetensors")
    _curve(out / "curve.png", torch.cat([part.curves["loss"] for part in found], 1), codes.names)


def _curve(path: Path, losses: Tensor, names: Sequence[str]) -> None:
    """losses [steps, N]"""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, column in zip(names, losses.T, strict=True):
        axes.semilogy(range(1, len(column) + 1), column, label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    if len(names) <= 10:
        axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def write_results(out: Path, about: dict[str, Any], found: Sequence[Projection]) -> None:
    """results.json, and a line for each picture."""
    pictures = {}
    for part in found:
        for i, name in enumerate(part.codes.names):
            near = None if part.perceptual is None else float(part.perceptual[i])
            psnr = float(part.psnr[i])
            pictures[name] = {"psnr": psnr if math.isfinite(psnr) else None, "perceptual": near}
            print(f"{name}: {psnr:.1f} dB" + ("" if near is None else f", perceptual distance {near:.3f}"))
    table = {**about, "seconds": round(sum(part.seconds for part in found), 3), "pictures": pictures}
    with replacing(out / "results.json") as temporary:
        temporary.write_text(json.dumps(table, indent=2))
    common.say_written(out)
