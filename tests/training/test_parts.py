"""EMA, lazy Adam, phases, statistics, checkpoint files, metrics.csv."""

from __future__ import annotations

import copy
import errno
import math
from functools import partial

import pytest
import torch
from torch import nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.losses import R1, GradientPenalty, PathLength
from stylegan_lightning.networks import Generator, MappingNetwork, StyleGAN2Synthesis
from stylegan_lightning.ops import blur2d
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


def test_critic_steps_and_main_objectives_are_not_lazy_phases():
    penalties = ({}, {"gp": GradientPenalty(10.0), "r1": R1(1.0, interval=16)})
    phases = build_phases(Objectives(nn.Identity(), nn.Identity(), None), *penalties, g_interval=5)
    assert [(p.name, p.interval, p.is_lazy) for p in phases] == [
        ("G", 5, False), ("D", 1, False), ("D/r1", 16, True),
    ]  # fmt: skip


class Spy:
    """Takes the place of loss, critic and penalties; notes what reaches it."""

    def __init__(self, needs=True, interval=1):
        self.needs_reals = self.needs_fakes = needs
        self.interval, self.seen = interval, []

    def generator(self, fake_logits, real_logits=None):
        self.seen.append((fake_logits, real_logits))
        return fake_logits.mean()

    def discriminator(self, real_logits, fake_logits):
        self.seen.append((real_logits, fake_logits))
        return fake_logits.mean() - real_logits.mean()

    def __call__(self, critic, reals, fakes):
        self.seen.append((critic(reals), reals, fakes))
        return torch.zeros(()) + 7.0


def _objectives(loss):
    synthesis = StyleGAN2Synthesis(8, 1, w_dim=4, channel_base=32, channel_max=4)
    G = Generator(synthesis, partial(MappingNetwork, z_dim=4, num_layers=1))
    values = {}
    judge = lambda img, c: img.mean((1, 2, 3))[:, None]  # noqa: E731
    return Objectives(G, judge, loss, record=values.__setitem__), values


def test_penalties_of_every_step_see_the_fakes_of_the_main_objective():
    loss, penalty = Spy(), Spy()
    objectives, values = _objectives(loss)
    _, d_phase = build_phases(objectives, {}, {"gp": penalty})
    reals, c = torch.ones(4, 1, 8, 8), torch.zeros(4, 0)
    value = d_phase.objective(reals, c, c)
    ((real_logits, fake_logits),), ((_, seen_reals, fakes),) = loss.seen, penalty.seen
    assert seen_reals is reals and torch.equal(fakes.mean((1, 2, 3))[:, None], fake_logits)
    torch.testing.assert_close(value, fake_logits.mean() - real_logits.mean() + 7.0)
    assert float(values["penalty/gp"]) == 7.0 and not fakes.requires_grad


def test_a_lazy_penalty_counts_its_interval_times_and_draws_its_own_fakes():
    penalty = Spy(interval=4)
    objectives, _ = _objectives(Spy())
    phase = build_phases(objectives, {}, {"r2": penalty})[-1]
    c = torch.zeros(4, 0)
    assert phase.name == "D/r2" and float(phase.objective(torch.ones(4, 1, 8, 8), c, c)) == 28.0
    assert penalty.seen[0][2].shape == (4, 1, 8, 8)


@pytest.mark.parametrize("needs", [True, False])
def test_the_generator_sees_reals_only_where_its_loss_compares(needs):
    loss = Spy(needs)
    objectives, _ = _objectives(loss)
    c = torch.zeros(4, 0)
    build_phases(objectives, {}, {})[0].objective(torch.full((4, 1, 8, 8), 3.0), c, c)
    ((_, real_logits),) = loss.seen
    assert real_logits.tolist() == [[3.0]] * 4 if needs else real_logits is None


def test_blur_reaches_every_judgement():
    loss, penalty = Spy(), Spy()
    objectives, _ = _objectives(loss)
    phases = build_phases(objectives, {}, {"gp": penalty})
    reals, c = torch.zeros(4, 1, 8, 8), torch.zeros(4, 0)
    reals[..., 0, 0] = 64.0  # part of the blurred point falls outside the picture
    objectives.blur_sigma = 2.0
    for phase in phases:
        phase.objective(reals, c, c)
    expected = blur2d(reals, 2.0).mean((1, 2, 3))[:, None]
    assert float(expected[0]) < 0.8
    for seen in (loss.seen[0][1], loss.seen[1][0], penalty.seen[0][0]):
        torch.testing.assert_close(seen, expected)


def test_crossover_is_uniform_over_layers_and_absent_with_the_rest():
    stream = LatentStream(torch.Generator().manual_seed(0))
    cuts = [int(stream.crossover(6, 0.9)) for _ in range(4000)]
    share = [cuts.count(i) / 4000 for i in range(8)]
    assert share[0] == share[7] == 0
    assert share[6] == pytest.approx(0.1, abs=0.02)
    assert share[1:6] == pytest.approx([0.18] * 5, abs=0.03)
    assert all(int(stream.crossover(6, 0.0)) == 6 for _ in range(50))


def test_ranks_draw_disjoint_rows_of_one_batch():
    whole = LatentStream(torch.Generator().manual_seed(1)).normal(6, 4)
    parts = [LatentStream(torch.Generator().manual_seed(1), r, 2).normal(3, 4) for r in (0, 1)]
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
    files.write_atomically(path, {"state_dict": {"a": torch.ones(1000)}, "config": {}, "progress": {"nimg": 0}})
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
