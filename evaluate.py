"""Measure and sample checkpoints. `python evaluate.py ckpt=runs/NAME` is all that is needed."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from stylegan_lightning import launch
from stylegan_lightning.config_checks import evaluation_problems, raise_together
from stylegan_lightning.evaluation import attach_to_runs, evaluate_all, ranks_of_torchrun
from stylegan_lightning.metrics.sampling import place
from stylegan_lightning.reports import table

CONF = Path(__file__).parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(cfg: DictConfig) -> float | None:
    """Returns the first value, for sweeps."""
    with launch.messages_for_users():
        raise_together(evaluation_problems(cfg))
        launch.prepare_process(cfg)
        out_dir = Path(HydraConfig.get().runtime.output_dir)
        with ranks_of_torchrun():
            new, records = evaluate_all(cfg, out_dir)
            if place()[0] == 0:
                print(table(records))
                print(f"details and sample grids: {launch.shorter(out_dir)}")
                for note in attach_to_runs(new, out_dir) if cfg.wandb else []:
                    print(f"Weights & Biases: {note}")
        values = [m["value"] for r in new for m in r["metrics"]]
        return values[0] if values else None


if __name__ == "__main__":
    launch.entry_point(main, CONF, "evaluate")
