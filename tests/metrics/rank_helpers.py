"""Two ranks in one process, and in two."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor


def as_two_ranks(monkeypatch: pytest.MonkeyPatch, measure: Callable[[], Any]) -> Any:
    """What rank 1 of 2 returns, after rank 0: sums are kept from the first for the second."""
    sums: list[Tensor] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: sums.append(values.clone()))
    with contextlib.suppress(ValueError):  # where the rows of rank 1 are missing
        measure()
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.add_(sums.pop(0)))
    result = measure()
    assert not sums
    monkeypatch.undo()
    return result


def on_two_ranks(function: Callable[[Path], Any], folder: Path) -> list[Any]:
    """What `function(folder)` of a module returns on each rank of a gloo group of two processes.

    A rank that waits in vain for the other raises after a minute.
    """
    multiprocessing.set_forkserver_preload(["stylegan_lightning.metrics.suite"])  # imported once for all tests
    mp.start_processes(_run_rank, (function, folder), nprocs=2, start_method="forkserver")
    return [pickle.loads((folder / f"rank{rank}").read_bytes()) for rank in range(2)]


def _run_rank(rank: int, function: Callable[[Path], Any], folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    (folder / f"rank{rank}").write_bytes(pickle.dumps(function(folder)))
    torch.distributed.destroy_process_group()
