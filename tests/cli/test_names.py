"""Names that files bring along never lead out of the place that was asked for."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from cli_helpers import call, exported
from PIL import Image

import stylegan_lightning
from stylegan_lightning.cli.project import gather
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import safe_name
from stylegan_lightning.latent.codes import Codes, styles_of
from stylegan_lightning.latent.directions import Directions, sefa
from stylegan_lightning.latent.sampling import write_images
from tests.test_files import NAMES

NAMES = [name for name in NAMES if name.isprintable() or "\0" in name or "\n" in name] + ["a/b", "a\\b", "../x/../y"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("models") / "G.safetensors", resolution=8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder in which a command may write, below one in which nothing else may appear."""
    (tmp_path / "deep/er/here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/er/here")
    return tmp_path


def outside(place: Path) -> list[Path]:
    return [p for p in place.rglob("*") if p.is_file() and place / "deep/er/here" not in p.parents]


def is_one_file(name: str) -> bool:
    return not set(name) & set("/\\:") and len(name.encode()) <= 255 and name.isprintable() and name[0] != "."


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def write_codes(path: Path, G, names: list[str]) -> None:
    """As another program may have written it, names as they are."""
    about = {"format": "stylegan_lightning codes 1", "names": json.dumps(names)}
    safetensors.torch.save_file({"ws": styles_of(G, range(len(names))).contiguous()}, path, about)


def write_directions(path: Path, G, names: list[str]) -> None:
    found = sefa(G, range(int(G.num_ws)), len(names))
    rows = [{"name": n, "layers": d.layers, "scale": d.scale, "method": "m"} for n, d in zip(names, found, strict=True)]
    about = {"format": "stylegan_lightning directions 1", "sizes": json.dumps([found.num_ws, found.w_dim]),
             "directions": json.dumps(rows), "about": "{}"}  # fmt: skip
    safetensors.torch.save_file({n: d.vector for n, d in zip(names, found, strict=True)}, path, about)


@pytest.mark.parametrize("out", ["out", "out.zip"])
def test_codes_of_any_name_are_edited_in_place(out, model, place):
    names = [n for n in NAMES if "\ud800" not in n and "\udcff" not in n]  # which JSON cannot carry as UTF-8
    write_codes(Path("codes.safetensors"), stylegan_lightning.load(model), names)
    result = call("edit", model, "codes.safetensors", "--style", "1", "--out", out, "--codes", "kept.safetensors")
    assert result.exit_code == 0, result.output
    assert not outside(place)
    made = files_below(Path(out)) if out == "out" else zipfile.ZipFile(out).namelist()
    assert len(made) == len(names) and all(map(is_one_file, made))
    assert all(safe_name(n) == n for n in Codes.load(Path("kept.safetensors")).names)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a\nb", "x" * 240])
def test_a_code_is_chosen_by_its_safe_name(name, model, place):
    write_codes(Path("codes.safetensors"), stylegan_lightning.load(model), [name, "anna"])
    chosen = safe_name(name)
    result = call("edit", model, f"codes.safetensors:{chosen}", "--style", "1", "--out", "out")
    assert result.exit_code == 0, result.output
    assert len(files_below(Path("out"))) == 1 and not outside(place)


def test_directions_of_any_name_are_drawn_in_place(model, place):
    G = stylegan_lightning.load(model)
    names = [n for n in NAMES if "\ud800" not in n and "\udcff" not in n and "\0" not in n][: int(G.w_dim)]
    write_directions(Path("found.safetensors"), G, names)
    found = Directions.load(Path("found.safetensors"))
    assert len(set(found.names)) == len(names) and all(safe_name(n) == n for n in found.names)
    found.save(Path("again.safetensors"))
    assert Directions.load(Path("again.safetensors")).names == found.names
    moved = call("edit", model, "0", "--direction", f"found.safetensors:{found.names[0]}=1", "--out", "out")
    assert moved.exit_code == 0 and not outside(place), moved.output


def test_attributes_of_any_name_give_strips_in_place(model, place):
    rows = ["seed,../../up,a/b,a:b", *(f"{s},{s % 2},{s % 3},{s % 5}" for s in range(40))]
    Path("a.csv").write_text("\n".join(rows))
    result = call("directions", model, "--method", "means", "--attributes", "a.csv", "--strips", "strips",
                  "--out", "d.safetensors", "--strengths=-1,0,1", "--orthogonal-to", "none")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert files_below(Path("strips")) == ["_.._up.png", "a_b.png", "a_b_2.png"] and not outside(place)
    assert Directions.load(Path("d.safetensors")).names == ("_.._up", "a_b", "a_b_2")


@pytest.mark.parametrize("task", [["project", "--steps", "2", "--distance", "none"], ["repair", "--task", "denoise"]])
def test_photos_of_any_name_are_written_in_place(task, model, place):
    pixels = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    os.makedirs("in")
    pixels.save(f"in/{'x' * 250}.png")
    pixels.save("in/overview.png")
    pixels.save("in/a:b.png")
    with zipfile.ZipFile("in.zip", "w") as file:
        for name in ("../../hidden.png", "/abs.png", "a\nb.png", "con.png", "CON.png", f"{'y' * 300}.png"):
            file.write("in/a:b.png", name)
    verb, *options = task
    result = call(
        verb, model, "in", "in.zip", *options, *(["--steps", "2"] if verb == "repair" else []), "--out", "out"
    )
    assert result.exit_code == 0, result.output
    pictures = [n for n in files_below(Path("out")) if n not in ("overview.png", "curve.png") and n.endswith(".png")]
    assert len(pictures) == 8 and all(map(is_one_file, pictures)) and not outside(place)
    assert len(json.loads(Path("out/results.json").read_text())["pictures"]) == 8


def test_as_many_pictures_are_written_as_there_are_names(place):
    images = torch.zeros(len(NAMES), 3, 2, 2, dtype=torch.uint8)
    write_images(Path("out"), images, NAMES)
    write_images(Path("out.zip"), images, NAMES)
    assert files_below(Path("out")) == sorted(zipfile.ZipFile("out.zip").namelist())
    assert len(files_below(Path("out"))) == len(NAMES) and not outside(place)


def test_names_of_photos_are_made_apart(place):
    for name in ("a,b", "a_b", "A_b", "overview"):
        Image.new("RGB", (8, 8)).save(f"{name}.png")
    paths = [Path(f"{n}.png") for n in ("a,b", "a_b", "A_b", "overview")]
    assert gather(paths, 8, 3, "center")[1] == ["a_b", "a_b_2", "A_b_3", "overview_2"]


BROKEN = {
    "sizes": ["5", "[]", "[1]", "[[1], 2]", '["a", 2]', "null", "[1e400, 2]", "[NaN, 2]", "{", "[" * 10_000],
    "directions": ["5", "null", "[5]", '["a"]', "[{}]", "{", '[{"name": "b"}]', "[" * 10_000],
    "about": ["5", "null", "[]", '"a"', "{"],
    "layers": [5, None, "a", [100], [-1], [], [float("inf")], [[1]]],
    "scale": ["a", None, float("nan"), float("inf"), [1]],
    "vector": ["nan", "inf", "int", "shape", "bool"],
}


@pytest.mark.parametrize(("part", "value"), [(p, v) for p, values in BROKEN.items() for v in values], ids=ascii)
def test_broken_files_of_directions_are_one_message(part, value, model, place):
    G = stylegan_lightning.load(model)
    (d,) = sefa(G, range(int(G.num_ws)), 1)
    row = {
        "name": "d",
        "layers": d.layers,
        "scale": d.scale,
        "method": "m",
        **({part: value} if part in row_parts else {}),
    }
    about = {"format": "stylegan_lightning directions 1", "sizes": json.dumps([int(G.num_ws), int(G.w_dim)]),
             "directions": json.dumps([row]), "about": "{}"}  # fmt: skip
    about |= {part: value} if part in about else {}
    broken = {"nan": d.vector * torch.nan, "inf": d.vector / 0, "int": d.vector.int(), "shape": d.vector[None, None],
              "bool": d.vector > 0}  # fmt: skip
    vector = broken[value] if part == "vector" else d.vector
    safetensors.torch.save_file({"d": vector.contiguous()}, "d.safetensors", about)
    with pytest.raises(UserError, match=r"^d\.safetensors") as caught:
        Directions.load(Path("d.safetensors")).check_fits(G, "d.safetensors")
    assert "\n" not in str(caught.value)


row_parts = ("layers", "scale")
