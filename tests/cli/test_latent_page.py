"""docs/latent.md: its commands are commands, its pictures are there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

from stylegan_lightning.cli.main import app

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    from latent_pictures import PAGE, PICTURES, commands, pictures
finally:
    sys.path.pop(0)

COMMANDS = commands(PAGE.read_text())
VERBS = typer.main.get_command(app).commands


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda a: " ".join(a[1:4]))
def test_every_command_is_understood(arguments):
    program, verb, *rest = arguments
    assert program == "stylegan-lightning"
    context = VERBS[verb].make_context(verb, list(rest))
    assert str(context.params["model"]) == "runs/demo"
    if "out" in context.params:
        assert str(context.params["out"]) in arguments, "the page says where its results are"


def test_every_verb_has_a_section():
    text = PAGE.read_text()
    assert {a[1] for a in COMMANDS} == set(VERBS) - {"export"}
    for verb in VERBS:
        assert f"\n## {verb}\n" in text


def test_every_picture_is_there():
    names = pictures(PAGE.read_text())
    assert len(names) > 10
    for name in names:
        assert (PICTURES / name).stat().st_size > 500, f"run benchmarks/latent_pictures.py for {name}"
