"""Two ranks in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
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
