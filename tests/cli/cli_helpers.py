"""Models in files, and the command inside this process."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from typer.testing import CliRunner, Result

from stylegan_lightning import builders
from stylegan_lightning.cli.main import app
from stylegan_lightning.training.checkpoint import EXPORT_FORMAT

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "mlp": ["model.z_dim=16", "model.g_hidden=16"],
    "dcgan": ["model.z_dim=16", "model.channel_base=64", "model.channel_max=16"],
    "wgan_gp": ["model.z_dim=16", "model.channel_base=64", "model.channel_max=16"],
    "progan": ["model.z_dim=16", "model.channel_base=64", "model.channel_max=16"],
    "stylegan1": ["model.z_dim=16", "model.w_dim=16", "model.channel_base=64", "model.channel_max=16"],
    "stylegan2": ["model.z_dim=16", "model.w_dim=16", "model.channel_base=64", "model.channel_max=16"],
    "stylegan3_t": ["model.z_dim=16", "model.w_dim=16", "model.channel_base=64", "model.channel_max=16"],
    "stylegan3_r": ["model.z_dim=16", "model.w_dim=16", "model.channel_base=64", "model.channel_max=16"],
}


def exported(path: Path, model: str = "stylegan2", *overrides: str, resolution: int = 16) -> Path:
    """An exported generator of the demo's settings made small, with weights filled at random."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "train",
            [
                f"model={model}",
                f"data.resolution={resolution}",
                *SMALL[model],
                "run_dir=x",
                "model.c_dim=0",
                *overrides,
            ],
        )
    torch.manual_seed(0)
    G = builders.build_generator(cfg)
    if model == "dcgan":  # whose pictures are all but grey at the start
        for weight in (p for p in G.synthesis.parameters() if p.ndim == 4):
            torch.nn.init.kaiming_normal_(weight)
    if hasattr(G.synthesis, "grow_to"):
        G.synthesis.grow_to(resolution, 1.0)  # type: ignore[operator]
    weights = {name: t.contiguous() for name, t in G.state_dict().items()}
    config = json.dumps(OmegaConf.to_container(cfg, resolve=True))
    safetensors.torch.save_file(weights, path, {"format": EXPORT_FORMAT, "config": config, "nimg": "1000"})
    return path


def call(*arguments: object) -> Result:
    """stylegan-lightning ARGUMENTS; a UserError is the result's `exception`."""
    return CliRunner().invoke(app, [str(a) for a in arguments])


def fails(*arguments: object) -> str:
    """The message of the UserError."""
    result = call(*arguments)
    assert type(result.exception).__name__ == "UserError", result.output
    return str(result.exception)
