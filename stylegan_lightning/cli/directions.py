"""stylegan-lightning directions"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylegan_lightning.cli import common
from stylegan_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from stylegan_lightning.latent.attributes import Examples
    from stylegan_lightning.latent.directions import Directions
    from stylegan_lightning.latent.face_regressor import FaceRegressor
    from stylegan_lightning.latent.judging import Judgement
    from stylegan_lightning.latent.supervised import Method
    from stylegan_lightning.networks import Generator

FACES = "faces"
STEERED = "steered"
DEFAULT_NAMES = ("yaw", "smile", "glasses", "hair_melanin", "light_azimuth")
OTHERS, NONE = "others", "none"
STRIP_ROWS = 4


def directions(
    model: common.Model,
    method: Annotated[
        Literal["sefa", "pca", "steered", "balanced", "pattern", "ridge", "logistic", "means"],
        typer.Option(
            help="Without attributes: closed-form factorisation or PCA of w. With attributes: the others; steered, "
            "the best, for faces."
        ),
    ] = "sefa",
    out: Annotated[Path, typer.Option(help="A .safetensors file.")] = Path("directions.safetensors"),
    attributes: Annotated[
        str | None,
        typer.Option(
            metavar="faces|FILE",
            help="Read by a regressor of drawn faces (models of data=faces), or a .csv or .json with a column `seed` "
            "and one for each attribute of that seed's picture.",
        ),
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Attributes to find directions for; all of a file.")
    ] = None,
    orthogonal_to: Annotated[
        str | None,
        typer.Option(metavar="others|none|NAME,NAME", help="Attributes that a direction leaves as they are. [others]"),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Of sefa and pca: how many directions. [8]")] = None,
    layers: Annotated[
        str, typer.Option(help="Where they act: coarse, middle, fine, all, or numbers such as 0-3,7.")
    ] = "all",
    samples: Annotated[
        int | None, typer.Option(min=2, help="Pictures that are read (faces), or w (pca). [20000, 10000]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random samples.")] = 0,
    plain: Annotated[
        bool, typer.Option("--plain", help="With faces: sample one w for all layers, not one for each layer.")
    ] = False,
    regressor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.safetensors",
            help="Of faces: taken from here, or trained (90 s) and kept here; "
            "that of --report in FILE.judge.safetensors.",
        ),
    ] = None,
    strips: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a picture of each direction, NAME.png.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With faces: a .md table or a .json of what each direction changes."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Pictures that the report moves; strips show the first four.")] = "0-31",
    strengths: Annotated[
        str, typer.Option(help="How far strips and report move them; --strengths=-2,0,2.")
    ] = "-2,-1.5,-1,-0.5,0,0.5,1,1.5,2",
    psi: Annotated[float, typer.Option(help="Truncation of the pictures that strips and report move.")] = 0.7,
    label: common.Class = None,
    device: common.Device = "auto",
) -> None:
    """Find directions of change; draw them; measure what they change."""
    from stylegan_lightning.latent.codes import label_of, parse_seeds
    from stylegan_lightning.latent.directions import check_ending
    from stylegan_lightning.latent.ranges import parse_range

    check_ending(out)
    supervised = method not in ("sefa", "pca")
    _check_options(supervised, method, attributes, names, orthogonal_to, count, samples, plain, regressor, report)
    steps, moved, own = _strengths(strengths), parse_seeds(seeds), common.parse_class(label)
    G = common.load_model(model, device)
    where = parse_range(layers, G.num_ws)
    if own is not None:
        label_of(G, own)
    reader = _reader(G, regressor) if attributes == FACES else None
    if supervised:
        examples = _examples(G, attributes or "", reader, samples, seed, plain, own)
        wanted = _wanted(names, examples, reader)
        regression: Method = "balanced" if method == STEERED else method  # type: ignore[assignment]
        found = _supervised(G, examples, wanted, where, regression, orthogonal_to)
        if method == STEERED and reader is not None:
            found = _steered(G, reader, found, _kept(orthogonal_to, examples), own, seed)
    else:
        found = _unsupervised(G, where, method, count or 8, samples, seed, own)
    found.save(out)
    written = [out]
    if strips is not None:
        written += _strips(G, found, _codes(G, moved[:STRIP_ROWS], own, psi), steps, moved[:STRIP_ROWS], strips)
    if report is not None and reader is not None:
        judge = _judge(G, regressor) if supervised else reader
        written.append(_report(G, found, judge, _codes(G, moved, own, psi), steps, report))
    common.say_written(*written)


def _check_options(
    supervised: bool,
    method: str,
    attributes: str | None,
    names: str | None,
    orthogonal_to: str | None,
    count: int | None,
    samples: int | None,
    plain: bool,
    regressor: Path | None,
    report: Path | None,
) -> None:
    """Raises UserError for what is missing, and for what would do nothing."""
    if supervised and attributes is None:
        raise UserError(f"--method {method} learns from attributes: give --attributes faces, or a .csv or .json file")
    if method == STEERED and attributes != FACES:
        raise UserError(
            "--method steered learns from pictures as they are moved, which a file cannot tell: "
            "give --attributes faces, or choose --method balanced"
        )
    if not supervised and attributes not in (None, FACES):
        raise UserError(f"--method {method} looks at no attributes; leave the file out, or choose --method balanced")
    faces = attributes == FACES
    useless = {
        "--names": names is not None and not supervised,
        "--orthogonal-to": orthogonal_to is not None and not supervised,
        "--count": count is not None and supervised,
        "--samples": samples is not None and method != "pca" and not (supervised and faces),
        "--plain": plain and not (supervised and faces),
        "--regressor": regressor is not None and not faces,
    }
    for option in (name for name, given in useless.items() if given):
        what = f"with --attributes {attributes}" if attributes else "without --attributes faces"
        raise UserError(f"{option} does nothing for --method {method} {what}: leave it out")
    if report is not None and not faces:
        raise UserError("--report measures pictures with the regressor of faces: give --attributes faces")
    if report is not None and report.suffix not in (".md", ".json"):
        raise UserError(f"--report must be a .md or a .json file; got {report}")
    if not supervised and faces and report is None:
        raise UserError(f"--method {method} uses --attributes faces for a --report only: give one, or leave it out")


def _strengths(text: str) -> list[float]:
    try:
        found = [float(x) for x in text.split(",")]
    except ValueError:
        raise UserError(f"--strengths must be numbers joined by commas; got {text!r}") from None
    if len(found) < 3 or found != sorted(set(found)):
        raise UserError(f"--strengths must be at least three numbers that go upwards; got {text}")
    return found


def _reader(G: Generator, path: Path | None) -> FaceRegressor:
    from stylegan_lightning.latent.face_regressor import face_regressor_for

    return face_regressor_for(G, path, progress=common.progress("training the regressor", "step"))


def _judge(G: Generator, path: Path | None) -> FaceRegressor:
    """Another regressor than the one that directions were found with: what fools that one must not count."""
    from stylegan_lightning.latent.face_regressor import face_regressor_for

    own = None if path is None else path.with_suffix(".judge.safetensors")
    return face_regressor_for(G, own, seed=1, progress=common.progress("training the judge", "step"))


def _examples(
    G: Generator,
    attributes: str,
    reader: FaceRegressor | None,
    samples: int | None,
    seed: int,
    plain: bool,
    label: int | list[float] | None,
) -> Examples:
    from stylegan_lightning.latent.attributes import examples_of_file, sample_examples

    if reader is None:
        return examples_of_file(G, Path(attributes), label)
    bar = common.progress("reading pictures")
    return sample_examples(G, reader, samples or 20_000, seed=seed, mixed=not plain, label=label, progress=bar)


def _wanted(names: str | None, examples: Examples, reader: FaceRegressor | None) -> list[str]:
    if names is not None:
        wanted = _listed(names)
        unread = [n for n in wanted if reader is not None and n in reader.names and n not in examples.names]
        if unread:
            raise UserError(
                f"{unread[0]} cannot be read from pictures of this size; these can: {', '.join(examples.names)}"
            )
        return list(examples.only(wanted).names)
    return list(examples.names) if reader is None else [n for n in DEFAULT_NAMES if n in examples.names]


def _supervised(
    G: Generator, examples: Examples, names: list[str], layers: list[int], method: Method, orthogonal_to: str | None
) -> Directions:
    from dataclasses import replace

    from stylegan_lightning.latent.supervised import supervised

    keep = _kept(orthogonal_to, examples)
    found = supervised(G, examples, names, layers, method=method, orthogonal_to=keep)
    about = {"pictures": str(len(examples.ws)), "orthogonal_to": ",".join(keep) or NONE}
    return replace(found, about=about)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _kept(orthogonal_to: str | None, examples: Examples) -> list[str]:
    text = orthogonal_to or OTHERS
    return {OTHERS: list(examples.names), NONE: []}.get(text, _listed(text))


def _steered(
    G: Generator, reader: FaceRegressor, found: Directions, keep: list[str], label: int | list[float] | None, seed: int
) -> Directions:
    from stylegan_lightning.latent.steering import Steering, steered

    bar = common.progress("steering", "step")
    return steered(G, reader, found, keep, Steering(seed=seed), label=label, progress=bar)


def _unsupervised(
    G: Generator,
    layers: list[int],
    method: str,
    count: int,
    samples: int | None,
    seed: int,
    label: int | list[float] | None,
) -> Directions:
    from stylegan_lightning.latent.directions import pca, sefa

    if method == "sefa":
        return sefa(G, layers, count, label=label)
    return pca(G, layers, count, samples or 10_000, seed, label=label)


def _codes(G: Generator, seeds: Sequence[int], label: int | list[float] | None, psi: float) -> Tensor:
    from stylegan_lightning.latent.attributes import codes_in_turn

    return codes_in_turn(G, seeds, label, psi)


def _strips(
    G: Generator, found: Directions, ws: Tensor, strengths: list[float], seeds: Sequence[int], folder: Path
) -> list[Path]:
    from stylegan_lightning.files import distinct_names
    from stylegan_lightning.imaging import save_png
    from stylegan_lightning.latent.directions import strip

    bar, paths = common.progress("drawing", "strip"), []
    for k, (direction, file) in enumerate(zip(found, distinct_names(found.names), strict=True), 1):
        paths.append(folder / f"{file}.png")
        names = [f"{direction.name} seed {s}" for s in seeds]
        save_png(paths[-1], strip(G, direction, ws, strengths, names=names))
        bar(k, len(found))
    return paths


def _report(
    G: Generator, found: Directions, reader: FaceRegressor, ws: Tensor, strengths: list[float], path: Path
) -> Path:
    from stylegan_lightning.files import replacing
    from stylegan_lightning.latent.judging import judge, markdown

    judged: list[Judgement] = judge(
        G, found, reader, ws, strengths=strengths, progress=common.progress("measuring", "img")
    )
    table = markdown(judged)
    text = table if path.suffix == ".md" else json.dumps([j.as_dict() for j in judged], indent=1)
    with replacing(path) as temporary:
        temporary.write_text(text)
    print(table)
    return path
