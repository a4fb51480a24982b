"""What surrounds a run: errors as messages, resuming, settings of the process, the lines printed at the end."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stylegan_lightning import preflight
from stylegan_lightning.builders import build_discriminator, build_generator, checkpoint_config
from stylegan_lightning.config.arguments import argument, shell_argument
from stylegan_lightning.config_checks import check_command_line
from stylegan_lightning.errors import UserError, one_line
from stylegan_lightning.files import printable
from stylegan_lightning.resume import AUTO, for_resumed_run
from stylegan_lightning.training.callbacks import GracefulStop
from stylegan_lightning.training.checkpoint import LAST, Checkpoints, check_trainable, find_checkpoint, read_checkpoint
from stylegan_lightning.training.csv_logger import MetricsCSV
from stylegan_lightning.training.module import GAN
from stylegan_lightning.training.transfer import transfer_weights

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


@contextlib.contextmanager
def messages_for_users() -> Iterator[None]:
    """UserErrors and full or read-only disks become one message and exit status 2."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in _DISK or os.environ.get("HYDRA_FULL_ERROR"):
            raise
        message = f"cannot write {error.filename or ''}: {error.strerror}. Free some space or set run_dir=... elsewhere"
    except KeyboardInterrupt:
        print("\nstopped before training began; nothing was lost", file=sys.stderr)
        raise SystemExit(130) from None
    else:
        return
    with contextlib.suppress(ValueError, OSError):
        Path(HydraConfig.get().runtime.output_dir).rmdir()  # only if nothing is in it
    print("error: " + printable(message, keep="\n"), file=sys.stderr)
    raise SystemExit(2)


def entry_point(main: Callable[[], Any], conf_dir: Path, config_name: str) -> None:
    """Checks the command line before Hydra creates anything, then hands over to Hydra."""
    overrides = _overrides(sys.argv[1:])
    if {"-sc", "--shell-completion"} & set(sys.argv):
        main()
        return
    if any(o.startswith("resume=") and o not in ("resume=null", f"resume={AUTO}") for o in overrides):
        sys.argv[1:] = map(for_resumed_run, sys.argv[1:])
        overrides = _overrides(sys.argv[1:])
    with messages_for_users():
        check_command_line(conf_dir, config_name, overrides)
        place, resume = _given(overrides, "run_dir") or _given(overrides, "out_dir"), _given(overrides, "resume")
        if resume == AUTO and not place:
            raise UserError("resume=auto needs run_dir=FOLDER, where the run is or is to be")
        if resume and not place:
            place = str(_run_dir_of(find_checkpoint(str(resume))))
            sys.argv.append(argument("run_dir", place))
        _check_same_place_on_all_ranks(place, "run_dir" if config_name == "train" else "out_dir")
        if place:
            _check_writable(Path(str(place)).expanduser())
    try:
        main()
    except KeyboardInterrupt:  # of a sweep, whose jobs have said what there is to say
        raise SystemExit(130) from None


_TAKES_VALUE = {
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--config-dir",
    "-cd",
    "--info",
    "-i",
}


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The KEY=VALUE part of a command line, without Hydra's own flags and their values."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [a for before, a in pairs if not a.startswith("-") and before not in _TAKES_VALUE]


def _given(overrides: Sequence[str], key: str) -> Any:
    """The value of `key` on the command line, None when absent or null."""
    parsed = (OverridesParser.create().parse_override(o) for o in overrides if o.startswith(f"{key}="))
    values = [o.value() for o in parsed if not o.is_sweep_override()]
    value = values[-1] if values else None
    with contextlib.suppress(OmegaConfBaseException):  # of a reference to what only Hydra composes
        value = OmegaConf.create({key: value})[key] if isinstance(value, str) else value
    return value


def _check_same_place_on_all_ranks(place: Any, key: str) -> None:
    processes = max(int(os.environ.get(name, "1")) for name in ("SLURM_NTASKS", "WORLD_SIZE"))
    if processes > 1 and not place:
        raise UserError(
            f"{key}=FOLDER is needed: the {processes} processes of this run, started by torchrun or srun, must "
            "agree on it"
        )


def _check_writable(directory: Path) -> None:
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        kind = "is not writable" if existing.is_dir() else "is not a directory"
        raise UserError(f"the run needs to write into {directory}, but {existing} {kind}; set run_dir=... elsewhere")


def _run_dir_of(checkpoint: Path) -> Path:
    parent = checkpoint.absolute().parent
    return parent.parent if parent.name == "checkpoints" else parent


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Large tensors on the CPU come from memory that the process keeps, where the C library is glibc.

    By default each is returned to the system when freed, and its pages are zeroed and mapped again at the next
    step: a third of the time of a StyleGAN3 step on a CPU (benchmarks/keep_memory.py).
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_MMAP_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)


def prepare_process(cfg: DictConfig) -> None:
    """Settings of the whole process: precision of products, no denormals, memory, quiet libraries."""
    keep_freed_memory()
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    torch.set_float32_matmul_precision(cfg.precision.matmul)
    torch.backends.cudnn.allow_tf32 = cfg.precision.matmul != "highest"
    torch.set_flush_denormal(True)  # squared gradients of a settled mapping network underflow, 10x slower on CPUs
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        r"Found \d+ module\(s\) in eval mode",
        r"The .*dataloader.* does not have many workers",
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    ):
        warnings.filterwarnings("ignore", message=text)


def show_progress(what: str) -> Callable[[int, int], None]:
    """Progress of long preparations, on a terminal only."""
    from tqdm import tqdm

    bar: list[tqdm] = []

    def update(done: int, total: int) -> None:
        if not bar:
            bar.append(tqdm(total=total, desc=what, unit="img", leave=False, disable=not sys.stderr.isatty()))
        bar[0].update(done - bar[0].n)
        if done >= total:
            bar[0].close()

    return update


def load_initial_weights(module: GAN, path: str) -> None:
    """What fits of a checkpoint of the same family, and says what that is. Raises UserError as `transfer_weights`."""
    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file)
    check_trainable(checkpoint, file)
    cfg = checkpoint_config(checkpoint, file)
    with torch.device("meta"):
        G, D = build_generator(cfg), build_discriminator(cfg)
    rank_zero_only(print)(transfer_weights(module, checkpoint, G, D, str(shorter(file))))


def kimg_of(checkpoint: Path | None) -> float:
    return read_checkpoint(checkpoint)["progress"]["nimg"] / 1000 if checkpoint else 0.0


@rank_zero_only
def announce(cfg: DictConfig, module: GAN, data_summary: str) -> None:
    """What is about to be trained, on what."""
    print(data_summary)
    counts = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (module.G, module.D)]
    print(
        f"{cfg.model.name}: G {counts[0]:.2f} M parameters, D {counts[1]:.2f} M; phases "
        + ", ".join(p.name if p.interval == 1 else f"{p.name} every {p.interval}" for p in module.phases)
    )
    print("\n".join(preflight.memory_lines(cfg, module)))
    if cfg.precision.low_dtype == "float16" and preflight.device_of_run(cfg).type == "cpu":
        print("note: float16 is several times slower than float32 on a CPU; precision=fp32 or bf16 suit it better")
    if cfg.get("experiment_name") == "demo" and cfg.data.name != "faces":
        print("note: this is the demo's small network; for real training add experiment=auto (see README)")


def fit(
    cfg: DictConfig, trainer: L.Trainer, module: GAN, data: L.LightningDataModule, resume: Path | None, run_dir: Path
) -> str:
    """Trains to the end or to a signal, whose name it returns, and says where everything is.

    Raises UserError out of memory.
    """
    stop = next(c for c in trainer.callbacks if isinstance(c, GracefulStop))  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data, ckpt_path=str(resume) if resume else None)
        if trainer.is_global_zero:
            print(closing_lines(trainer, module, run_dir, stop.received), flush=True)
            if stop.received == "SIGUSR1":
                requeue()
        return stop.received
    except UserError:
        raise
    except Exception as error:
        message = preflight.out_of_memory(error, cfg, module, trainer.strategy.root_device, shorter(run_dir))
        message = message or lost_rank(error, trainer, run_dir) or not_restored(error, resume)
        if message is None:
            raise
        raise UserError(message) from error
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.finish()


def not_restored(error: BaseException, checkpoint: Path | None) -> str | None:
    """The message where `error` comes of a checkpoint that could not be taken up, None for anything else."""
    frames = traceback.extract_tb(error.__traceback__)
    if checkpoint is None or not any(frame.filename.endswith("checkpoint_connector.py") for frame in frames):
        return None
    return f"{checkpoint} is damaged, and cannot be gone on with: {one_line(error)} ({type(error).__name__})"


def lost_rank(error: BaseException, trainer: L.Trainer, run_dir: Path) -> str | None:
    """The message where `error` says that another process can no longer be reached, None for anything else."""
    text = str(error)
    if trainer.world_size == 1 or not (
        isinstance(error, torch.distributed.DistError) or "gloo" in text or "Connection" in text
    ):
        return None
    last = run_dir / "checkpoints" / LAST
    kept = (
        f"{shorter(last)} is whole: go on with {shell_argument('resume', shorter(run_dir))}"
        if last.exists()
        else "nothing was saved yet"
    )
    return f"another of the {trainer.world_size} processes of this run has ended ({text.splitlines()[0]}). {kept}"


def requeue() -> None:
    """Puts this SLURM job, or its element of an array, back into the queue; its command must say resume=auto."""
    array = [os.environ[k] for k in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID") if k in os.environ]
    job = "_".join(array) if len(array) == 2 else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        print(f"job {job} is queued again")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"job {job} could not be queued again: {getattr(error, 'stderr', None) or error}", file=sys.stderr)


def closing_lines(trainer: L.Trainer, module: GAN, run_dir: Path, interrupted: str) -> str:
    """Where everything is and what to do next."""
    shown = shorter(run_dir)
    saver = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    lines = [
        f"{'Stopped' if interrupted else 'Finished'} at {module.nimg / 1000:g} kimg." + _metric_line(trainer, saver)
    ]
    grids = sorted((run_dir / "samples").glob("fakes_*.png"))
    lines += [f"  samples      {shown / 'samples' / grids[-1].name}"] if grids else []
    checkpoint = "best" if (run_dir / "checkpoints" / "best.ckpt").exists() else "last"
    lines += [
        f"  checkpoints  {shown / 'checkpoints'} (last.ckpt, best.ckpt)",
        f"  curves       {shown / 'metrics.csv'}",
        "Next",
    ]
    resume = shell_argument("resume", shown)
    if interrupted or module.nimg < module.schedule.total_nimg:
        lines.append(f"  go on        python train.py {resume}")
    else:
        further = 2 * module.schedule.total_nimg / 1000
        lines.append(f"  train on     python train.py {resume} schedule.total_kimg={further:g}")
    best = shell_argument("ckpt", shown / "checkpoints" / f"{checkpoint}.ckpt")
    lines.append(f"  evaluate     python evaluate.py {best}")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and logger.experiment.offline:
            lines.append(f"  upload       wandb sync {shorter(Path(logger.experiment.dir).parent)}")
    return "\n".join(lines)


def _metric_line(trainer: L.Trainer, saver: Checkpoints) -> str:
    if saver.monitor is None or saver.best_value == float("inf"):
        return ""
    rows = next(x for x in trainer.loggers if isinstance(x, MetricsCSV)).rows
    values = [float(r[saver.monitor]) for r in rows if r.get(saver.monitor) not in (None, "")]
    name = saver.monitor.removeprefix("metric/")
    best = f"best {saver.best_value:.1f} at {saver.best_kimg:g} kimg"
    return f" {name}: {values[0]:.1f} at the start, {values[-1]:.1f} now, {best}."


def shorter(path: Path) -> Path:
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path
