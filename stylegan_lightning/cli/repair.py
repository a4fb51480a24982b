"""stylegan-lightning repair"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylegan_lightning.cli import common
from stylegan_lightning.cli.project import (
    Batch,
    Crop,
    Images,
    Weights,
    check_folder,
    gather,
    in_parts,
    perceptual,
    write_results,
)
from stylegan_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from stylegan_lightning.latent.degradations import Degradation
    from stylegan_lightning.latent.repair import Repair
    from stylegan_lightning.networks import Generator

OPTIONS = {"inpaint": "mask", "upscale": "factor", "denoise": "sigma"}


def repair(
    model: common.Model,
    images: Images,
    task: Annotated[
        Literal["inpaint", "upscale", "denoise", "colourise"],
        typer.Option(help="Fill the white of --mask; enlarge --factor times; remove noise; give colours to grey."),
    ],
    mask: Annotated[Path | None, typer.Option(help="Of inpaint: a picture that is white where to repair.")] = None,
    factor: Annotated[
        int | None,
        typer.Option(help="Of upscale, default 4: pictures are taken to have 1 / factor of the model's pixels across."),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(help="Of denoise, default 25: the noise's standard deviation in grey levels, 0..255."),
    ] = None,
    out: Annotated[Path, typer.Option(help="A folder for pictures, codes and results.json.")] = Path("repaired"),
    space: Annotated[
        Literal["auto", "z", "w", "w+"] | None,
        typer.Option(help="Where to search, as in `project`; each task has a default."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each search.")] = 300,
    distance: Annotated[
        Literal["efflite0", "lpips_vgg16", "none"] | None,
        typer.Option(help="Perceptual distance; default efflite0, none for denoise."),
    ] = None,
    weights: Weights = None,
    label: common.Class = None,
    seed: Annotated[int, typer.Option(help="Of the pictures among which a search starts.")] = 0,
    crop: Crop = "center",
    batch: Batch = 8,
    device: common.Device = "auto",
) -> None:
    """Fill holes, enlarge, denoise, colour.

    The picture of the model is found that, damaged in the same way, is nearest to the one given, and what is known is
    put back: pixels outside the mask to the last bit, means of squares and brightness to rounding. NAME.png is the
    result, overview.png shows input and result side by side.
    """
    from stylegan_lightning.latent.codes import size_of
    from stylegan_lightning.latent.degradations import Downscale
    from stylegan_lightning.latent.repair import repair as mend
    from stylegan_lightning.latent.repair import settings_for

    check_folder(out)
    _check_options(task, {"mask": mask, "factor": factor, "sigma": sigma})
    own = common.parse_class(label)
    name = distance or ("none" if task == "denoise" else "efflite0")
    network = perceptual(name, weights)
    G = common.load_model(model, device)
    size = size_of(G)
    if task == "upscale":
        _, size, _ = Downscale(factor or 4).check(int(G.img_channels), size)
    pictures, names = gather(images, size, int(G.img_channels), crop)
    damage = _damage(G, task, mask, factor or 4, 25.0 if sigma is None else sigma)
    left = _left(G, pictures, damage)
    settings = replace(
        settings_for(damage(left)), steps=steps, seed=seed, perceptual_weight=0.0 if network is None else 1.0
    )
    settings = settings if space is None else replace(settings, space=space)
    found: list[Repair] = []
    for start, bar in zip(range(0, len(left), batch), in_parts("repairing", len(left), batch), strict=True):
        own_left, own_names = left[start : start + batch], names[start : start + batch]
        found.append(
            mend(G, own_left, damage(own_left), settings, names=own_names, distance=network, label=own, progress=bar)
        )
    _write(out, _shown(damage(left), left), found)
    about = {"model": str(model), "task": task, "space": found[0].projection.space, "distance": name}
    write_results(out, {**about, "settings": asdict(settings)}, [part.projection for part in found])


def _check_options(task: str, given: dict[str, object]) -> None:
    for owner, option in OPTIONS.items():
        if given[option] is not None and owner != task:
            raise UserError(f"--{option} belongs to --task {owner}; this is --task {task}")
    if task == "inpaint" and given["mask"] is None:
        raise UserError("--task inpaint needs --mask: a picture that is white where to repair")


def _damage(G: Generator, task: str, mask: Path | None, factor: int, sigma: float) -> Callable[[Tensor], Degradation]:
    """What happened to pictures, told what is left of them."""
    from stylegan_lightning.latent.codes import size_of
    from stylegan_lightning.latent.degradations import AddedNoise, Downscale, Grey, Mask

    if task == "inpaint":
        assert mask is not None
        hole = (common.read_mask(mask, size_of(G)) > 0.5).float()
        return lambda left: Mask(hole.to(left), left)
    damages: dict[str, Degradation] = {"upscale": Downscale(factor), "denoise": AddedNoise(sigma), "colourise": Grey()}
    return lambda left: damages[task]


def _left(G: Generator, pictures: Tensor, damage: Callable[[Tensor], Degradation]) -> Tensor:
    """float in [-1, 1] on G's device, checked; of pictures to be coloured, their luma."""
    from stylegan_lightning.imaging import to_dynamic_range
    from stylegan_lightning.latent.codes import size_of
    from stylegan_lightning.latent.degradations import Grey
    from stylegan_lightning.latent.projection import checked

    left = to_dynamic_range(pictures).to(next(G.parameters()))
    degradation = damage(left)
    if isinstance(degradation, Grey):
        degradation.check(int(G.img_channels), size_of(G))
        left = degradation.apply(left)
    return checked(G, left, degradation)


def _shown(degradation: Degradation, left: Tensor) -> Tensor:
    """What is left, as a picture; holes are grey."""
    from stylegan_lightning.latent.degradations import Mask

    return degradation.apply(left) if isinstance(degradation, Mask) else degradation.view(left)


def _write(out: Path, inputs: Tensor, found: list[Repair]) -> None:
    import torch
    import torch.nn.functional as F

    from stylegan_lightning.imaging import image_grid, save_png, to_uint8
    from stylegan_lightning.latent.codes import Codes
    from stylegan_lightning.latent.sampling import write_images

    codes = Codes.join([part.projection.codes for part in found])
    images = torch.cat([part.images for part in found])
    write_images(out, images, codes.names)
    shown = to_uint8(inputs).cpu()
    shown = F.interpolate(shown, size=images.shape[2:]).expand_as(images)
    pairs = torch.stack([shown, images], 1)
    save_png(out / "overview.png", image_grid(pairs.flatten(0, 1), 2 * min(4, len(pairs)), 96))
    codes.save(out / "codes.safetensors")
