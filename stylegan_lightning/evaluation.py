"""Measuring and sampling checkpoints and folders of images, from nothing but these."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
import torchmetrics
from omegaconf import DictConfig, OmegaConf
from torch import nn

import stylegan_lightning
from stylegan_lightning import builders, reports
from stylegan_lightning.candidates import Candidate, candidate_paths, device_of, load_candidate, reals_for
from stylegan_lightning.config.stored import check_stored
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import safe_name
from stylegan_lightning.imaging import image_grid, save_png
from stylegan_lightning.metrics.metric import Subject
from stylegan_lightning.metrics.sampling import place
from stylegan_lightning.metrics.suite import Suite
from stylegan_lightning.metrics.value import check_comparable
from stylegan_lightning.training.checkpoint import read_checkpoint
from stylegan_lightning.training.samples import class_picture, sample_fixed


def evaluate_all(cfg: DictConfig, out_dir: Path) -> tuple[list[reports.Record], list[reports.Record]]:
    """A record for each candidate, alone and after those of `compare=`; writes grids, plots, results.json, .csv and
    .md into `out_dir`.

    In a torch.distributed run all ranks call it, and rank 0 writes.
    """
    paths = candidate_paths(cfg.fakes if cfg.fakes is not None else cfg.ckpt, cfg.every_checkpoint)
    earlier = [record for file in cfg.compare for record in reports.read_records(Path(file).expanduser())]
    suite = builders.build_suite(cfg, float(cfg.truncation_psi))
    _check_presets(earlier, suite)
    candidates = [load_candidate(path, cfg) for path in paths]
    other = load_candidate(candidate_paths(cfg.reals)[0], cfg) if cfg.reals is not None else None
    device, subject, new = device_of(cfg), None, []
    for number, candidate in enumerate(candidates):
        reals, labels = reals_for(candidate, other, cfg)
        if candidate.G is not None:
            candidate.G.to(device)
        if isinstance(reals, nn.Module):
            reals.to(device)
        subject = _subject(subject, candidate, reals, labels, device, builders.cache_dir(cfg) / "statistics")
        new.append(_evaluate(candidate, suite, subject, cfg, out_dir, number))
    records = [*earlier, *new]
    check_comparable(value for record in records for value in record["metrics"])
    if place()[0] == 0:
        reports.write_json(out_dir / "results.json", {"results": records, "versions": versions()})
        reports.write_text(out_dir / "results.csv", reports.rows_of_values(records))
        reports.write_text(out_dir / "results.md", reports.table(records) + "\n")
        reports.plot_over_kimg(records, out_dir)
    return new, records


def _check_presets(earlier: Sequence[reports.Record], suite: Suite) -> None:
    """Raises UserError, before anything is measured, where earlier values are of other presets."""
    now = {name: metric.preset.name for metric in suite.metrics for name in metric.names}
    for value in (m for record in earlier for m in record["metrics"]):
        if value["preset"] != now.get(value["metric"], value["preset"]):
            raise UserError(
                f"compare=: {value['metric']} was measured with preset {value['preset']} there and is now asked for "
                f"with {now[value['metric']]}, which do not compare. Choose the same metrics.preset and numbers"
            )


def _subject(
    before: Subject | None,
    candidate: Candidate,
    reals: nn.Module | PreparedDataset | None,
    labels: PreparedDataset | None,
    device: torch.device,
    statistics: Path,
) -> Subject:
    """The subject before, with other fakes, where the reals are the same: their features are known."""
    known = getattr(before.reals, "fingerprint", None) if before is not None else None
    if before is not None and known is not None and known == getattr(reals, "fingerprint", None):
        before.labels = labels or before.labels
        before.turn_to(candidate.fakes)
        return before
    return Subject(candidate.fakes, reals, labels=labels, device=device, cache_dir=statistics)


def _evaluate(
    candidate: Candidate, suite: Suite, subject: Subject, cfg: DictConfig, out_dir: Path, number: int
) -> reports.Record:
    suite.check(subject)
    suite.prepare(subject)
    name = safe_name(f"{number:02d}_{candidate.path.stem}")
    record: reports.Record = {
        "checkpoint": str(candidate.path),
        "kimg": candidate.kimg,
        "model": candidate.model,
        "run_id": candidate.cfg.get("run_id") if candidate.cfg is not None else None,
        "data": getattr(subject.reals, "name", None) or "generated",
        "data_fingerprint": getattr(subject.reals, "fingerprint", None),
        "truncation_psi": float(cfg.truncation_psi) if candidate.G is not None else None,
        **_draw(candidate, subject, cfg, out_dir, name),
        "pictures": [],
        "settings": {n: m.preset.settings() for m in suite.metrics for n in m.names},
        "metrics": [],
    }
    for _, found in suite.measure(subject):
        record["metrics"] += [value.as_dict() for value in found.values]
        for picture_name, picture in found.pictures.items():
            file = out_dir / f"{safe_name(f'{picture_name}_{name}')}.png"
            if place()[0] == 0:
                save_png(file, picture)
            record["pictures"].append(str(file))
    return record


def _draw(candidate: Candidate, subject: Subject, cfg: DictConfig, out_dir: Path, name: str) -> dict[str, Any]:
    """Grids of samples of a generator."""
    G, labels = candidate.G, subject.labels
    if G is None or labels is None or place()[0] != 0:
        return {"grid": None, "class_grid": None, "grid_seed": None}
    options = (cfg.seed, cfg.truncation_psi, subject.device)
    imgs = sample_fixed(G, labels, cfg.rows * cfg.columns, *options)
    grid, class_grid = out_dir / f"samples_{name}.png", out_dir / f"classes_{name}.png"
    save_png(grid, image_grid(imgs, cfg.columns))
    by_class = class_picture(G, labels, cfg.columns, *options)
    if by_class is not None:
        save_png(class_grid, by_class)
    return {
        "grid": str(grid),
        "class_grid": str(class_grid) if by_class is not None else None,
        "grid_seed": cfg.seed,
    }


def attach_to_runs(records: Sequence[reports.Record], out_dir: Path) -> list[str]:
    """Adds the values of each checkpoint to the Weights & Biases run that wrote it, as eval/METRIC over kimg.

    Returns what the user must know: for runs kept offline, the commands that upload the additions. A run that cannot
    be reached is named; the results on disk stay.
    """
    import wandb

    notes = []
    for record in records:
        path = Path(record["checkpoint"])
        own = load_logger(path)
        if own is None or not record["metrics"] or not record["run_id"]:
            continue
        if not _logged_here(path, record["run_id"]):
            notes.append(f"{path} does not lie in the directory of the run that it names: nothing was added to that")
            continue
        place = out_dir / "wandb_additions" / safe_name(path.stem)
        place.mkdir(parents=True, exist_ok=True)
        try:
            run = wandb.init(
                project=own.project,
                entity=own.entity,
                id=record["run_id"],
                resume="allow",
                dir=place,
                mode=own.mode,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            notes.append(f"the values could not be added to the run {record['run_id']}: {error}")
            continue
        run.define_metric("progress/kimg")
        run.define_metric("eval/*", step_metric="progress/kimg")
        values = {f"eval/{m['metric']}": m["value"] for m in record["metrics"]}
        pictures = {f"eval/{Path(p).stem}": wandb.Image(p) for p in [record["grid"], *record["pictures"]] if p}
        run.log({"progress/kimg": record["kimg"], **values, **pictures})
        run.summary.update({f"eval/{m['metric']}_preset": m["preset"] for m in record["metrics"]})
        offline, folder = run.offline, Path(run.dir).parent
        run.finish()
        if offline:
            notes.append(f"wandb sync {folder}")
    return notes


def _logged_here(checkpoint: Path, run_id: str) -> bool:
    """Whether this machine has logged the run: a file from elsewhere does not choose where values are sent."""
    runs = checkpoint.absolute().parent.parent / "wandb"
    return any(folder.name.endswith(f"-{run_id}") for folder in runs.glob("*run-*"))


def load_logger(path: Path) -> DictConfig | None:
    """How the run of a checkpoint logged to Weights & Biases; None where it did not."""
    if path.suffix != ".ckpt":
        return None
    cfg = OmegaConf.create(check_stored(read_checkpoint(path)["config"], path))
    return cfg.logger if OmegaConf.select(cfg, "logger.wandb") else None


@contextmanager
def ranks_of_torchrun() -> Iterator[None]:
    """A process group where torchrun or srun has started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.distributed.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def versions() -> dict[str, str]:
    return {
        "stylegan_lightning": stylegan_lightning.__version__,
        "torch": str(torch.__version__),
        "torchmetrics": str(torchmetrics.__version__),
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }
