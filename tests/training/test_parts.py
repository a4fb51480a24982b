"""EMA, lazy Adam, phases, statistics, checkpoint files, metrics.csv."""

from __future__ import annotations

import copy
import errno
import math

import pytest
import torch
from torch import nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.losses import R1, PathLength
from stylegan_lightning.training import checkpoint as files
from stylegan_lightning.training.csv_logger import KIMG, MetricsCSV
from stylegan_lightning.training.distributed import finish_gradients
from stylegan_lightning.training.ema import ema_beta, update_ema
from stylegan_lightning.training.phases import LatentStream, Objectives, build_phases, lazy_adam_settings
from stylegan_lightning.training.stats import RunningMeans


def test_ema_half_life():
    beta = ema_beta(batch_size=16, nimg=10**9, ema_kimg=2.0, rampup=None)
    assert beta ** (2000 / 16) == pytest.approx(0.5)
    assert ema_beta(16, 10_000, 2.0, 0.05) == pytest.approx(0.5 ** (16 / 500))
    assert ema_beta(16, 0, 2.0, 0.05) == 0.0  # the average starts as a copy
    assert ema_beta(16, 0, 2.0, None) == beta


def test_update_ema_lerps_parameters_and_copies_buffers():
    a, b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    b.weight.data.fill_(3.0)
    b.running_mean.fill_(5.0)
    update_ema(a, b, 0.75)
    torch.testing.assert_close(a.weight.data, torch.full((3,), 1.5))
    assert a.running_mean.tolist() == [5.0] * 3
    before = copy.deepcopy(a.state_dict())
    update_ema(a, a, 0.3)
    torch.testing.assert_close(a.state_dict(), before)


def test_lazy_adam_correction():
    assert lazy_adam_settings((0.0, 0.99), [1, 16]) == (16 / 17, (0.0, 0.99 ** (16 / 17)))
    assert lazy_adam_settings((0.0, 0.99), [1]) == (1.0, (0.0, 0.99))


def _phases(r1_interval, pl_interval):
    penalties = ({"pl": PathLength(interval=pl_interval)}, {"r1": R1(1.0, interval=r1_interval)})
    return build_phases(Objectives(nn.Identity(), nn.Identity(), None), *penalties)


def test_phases_in_the_published_order():
    assert [(p.name, p.optimizer, p.interval) for p in _phases(16, 4)] == [
        ("G", 0, 1), ("G/pl", 0, 4), ("D", 1, 1), ("D/r1", 1, 16),
    ]  # fmt: skip
    assert [p.name for p in _phases(1, 4)] == ["G", "G/pl", "D"]


def test_crossover_is_uniform_over_layers_and_absent_with_the_rest():
    stream = LatentStream(torch.Generator().manual_seed(0))
    cuts = [int(stream.crossover(6, 0.9)) for _ in range(4000)]
    share = [cuts.count(i) / 4000 for i in range(8)]
    assert share[0] == share[7] == 0
    assert share[6] == pytest.approx(0.1, abs=0.02)
    assert share[1:6] == pytest.approx([0.18] * 5, abs=0.03)
    assert all(int(stream.crossover(6, 0.0)) == 6 for _ in range(50))


def test_ranks_draw_disjoint_rows_of_one_batch():
    whole = LatentStream(torch.Generator().manual_seed(1)).z(6, 4)
    parts = [LatentStream(torch.Generator().manual_seed(1), r, 2).z(3, 4) for r in (0, 1)]
    torch.testing.assert_close(torch.stack(parts, 1).flatten(0, 1), whole)


def test_gradient_guard():
    p = nn.Linear(1, 4, bias=False)
    p.weight.grad = torch.tensor([[math.nan], [math.inf], [-math.inf], [2.0]])
    finish_gradients(p)
    assert p.weight.grad.flatten().tolist() == [0.0, 1e5, -1e5, 2.0]


def test_running_means_survive_a_checkpoint():
    means = RunningMeans()
    means.add_mean("a", torch.tensor([1.0, 3.0]))
    other = RunningMeans()
    other.load(means.state())
    for m in (means, other):
        m.add_mean("a", torch.tensor(5.0))
    assert means.compute() == other.compute() == {"a": 3.5}
    means.reset()
    assert means.compute() == {}


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    files.write_atomically(path, {"x": torch.ones(3)})
    good = path.read_bytes()

    def full(*args):
        args[1].write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.torch, "save", full)
    with pytest.raises(UserError, match=r"No space left.*whole and kept"):
        files.write_atomically(path, {"x": torch.zeros(3)})
    assert path.read_bytes() == good and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_damaged_checkpoints_are_one_message(tmp_path, content):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or is not a checkpoint"):
        files.read_checkpoint(path)


def test_truncated_foreign_missing_and_malicious_checkpoints(tmp_path):
    path = tmp_path / "x.ckpt"
    files.write_atomically(path, {"state_dict": {"a": torch.ones(1000)}, "config": {}, "progress": {}})
    files.read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(UserError, match="damaged"):
        files.read_checkpoint(path)
    torch.save({"model": torch.ones(2)}, path)
    with pytest.raises(UserError, match="not written by stylegan_lightning"):
        files.read_checkpoint(path)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"state_dict": Evil(), "config": {}, "progress": {}}, path)
    with pytest.raises(UserError, match="damaged or is not a checkpoint"):
        files.read_checkpoint(path)
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(UserError, match="no checkpoint"):
        files.read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match=r"holds no checkpoints/last\.ckpt"):
        files.find_checkpoint(tmp_path)


def test_metrics_csv_grows_columns_and_drops_rows_past_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = MetricsCSV(path)
    logger.log_metrics({KIMG: 1.0, "a": 2})
    logger.log_metrics({KIMG: 2.0, "a": 3, "b": 4})
    assert path.read_text().split() == [f"{KIMG},a,b", "1.0,2,", "2.0,3,4"]
    resumed = MetricsCSV(path, start_kimg=1.0)
    resumed.log_metrics({KIMG: 2.0, "a": 5})
    assert path.read_text().split() == [f"{KIMG},a,b", "1.0,2,", "2.0,5,"]
    fresh = MetricsCSV(path)
    fresh.log_metrics({KIMG: 0.0})
    assert path.read_text().split() == [KIMG, "0.0"]
