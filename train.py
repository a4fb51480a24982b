"""Train a model. `python train.py` runs the demo, `python train.py --help` says what else there is."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from stylegan_lightning import builders, launch, sweeps
from stylegan_lightning import trainer as parts
from stylegan_lightning.config_checks import raise_together, run_problems
from stylegan_lightning.data.datamodule import StageDataModule
from stylegan_lightning.data.levels import add_levels
from stylegan_lightning.data.summary import summary_text
from stylegan_lightning.outcome import failures_recorded, outcome_of
from stylegan_lightning.resume import start_config
from stylegan_lightning.training.checkpoint import Checkpoints

CONF = Path(__file__).parent / "conf"


def train(cfg: DictConfig) -> float | None:
    """One run; returns the best value of the metric (for sweeps)."""
    cfg, run_dir, resume = start_config(cfg)
    raise_together(run_problems(cfg))
    schedule = builders.build_schedule(cfg)
    parts.check_devices(cfg, schedule)
    launch.prepare_process(cfg)
    suite = builders.build_suite(cfg)
    dataset = builders.build_dataset(cfg, launch.show_progress("preparing images"))
    builders.fit_labels(cfg, dataset)
    add_levels(dataset, schedule.resolutions)
    module = builders.build_module(cfg, schedule)
    if cfg.init_from is not None and resume is None:
        launch.load_initial_weights(module, cfg.init_from)
    launch.announce(cfg, module, summary_text(dataset))

    data = StageDataModule(dataset, schedule, cfg.seed, cfg.data.num_workers, cfg.data.get("balance", False))
    callbacks = parts.default_callbacks(cfg, run_dir, dataset, suite)
    loggers = parts.build_loggers(cfg, run_dir, launch.kimg_of(resume))
    trainer = parts.build_trainer(cfg, run_dir, callbacks, loggers)
    OmegaConf.save(builders.to_plain(cfg), run_dir / "config.yaml")
    stopped = launch.fit(cfg, trainer, module, data, resume, run_dir)
    best = next(c for c in callbacks if isinstance(c, Checkpoints))
    outcome = outcome_of(
        "interrupted" if stopped else "finished", module.nimg / 1000, best.monitor, best.best_value, best.best_kimg
    )
    if trainer.is_global_zero:
        outcome.write(run_dir)
    return outcome.best_value


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def main(cfg: DictConfig) -> float | None:
    if sweeps.in_sweep():
        return sweeps.job(cfg, train)
    with launch.messages_for_users(), failures_recorded(Path(HydraConfig.get().runtime.output_dir), always=False):
        return train(cfg)


if __name__ == "__main__":
    launch.entry_point(main, CONF, "train")
