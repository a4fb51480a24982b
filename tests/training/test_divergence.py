"""Runs that go wrong are stopped or rewound at the end of the tick, and nothing good is overwritten."""

from __future__ import annotations

import math

import pytest
import torch

from stylegan_lightning.training.checkpoint import read_checkpoint
from stylegan_lightning.training.module import GAN
from stylegan_lightning.training.stats import RunningMeans
from tests.conftest import read_rows

BREAK_AT = 40  # images: in the second tick of the tiny run


def break_once(monkeypatch, ruin, times=1):
    """`ruin(gan)` before the step at BREAK_AT images, the first `times` times that the run comes by."""
    step, left = GAN.training_step, [times]

    def broken(self, batch, batch_idx):
        if self.nimg == BREAK_AT and left[0]:
            left[0] -= 1
            ruin(self)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(GAN, "training_step", broken)


def nan_weight(gan):
    with torch.no_grad():
        gan.D.epilogue.out.weight.fill_(math.nan)


def huge_logits(gan):
    with torch.no_grad():
        gan.D.epilogue.out.bias.fill_(1e7)


@pytest.mark.parametrize(
    ("ruin", "symptom"), [(nan_weight, "is not finite in"), (huge_logits, r"is .*e\+06 in the mean of the tick")]
)
def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(tiny, run, tmp_path, monkeypatch, ruin, symptom):
    break_once(monkeypatch, ruin)
    outcome = run("train.py", *tiny, "logger=csv", f"run_dir={tmp_path}/r")
    assert outcome.code == 2
    assert "training diverged by 0.064 kimg" in outcome.err and "model.r1_gamma" in outcome.err
    import re

    assert re.search(symptom, outcome.err), outcome.err
    saved = read_checkpoint(tmp_path / "r/checkpoints/last.ckpt")
    assert saved["progress"]["nimg"] == 32
    assert all(v.isfinite().all() for v in saved["state_dict"].values() if isinstance(v, torch.Tensor))


def test_rewind_goes_back_and_on_with_other_numbers(tiny, run, tmp_path, monkeypatch):
    options = (*tiny, "logger=csv", "on_divergence=rewind")
    assert run("train.py", *options, f"run_dir={tmp_path}/undisturbed").code == 0
    break_once(monkeypatch, nan_weight)
    with pytest.warns(UserWarning, match="Back at 0.032 kimg"):
        outcome = run("train.py", *options, f"run_dir={tmp_path}/r")
    assert outcome.code == 0, outcome.err
    a, b = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt") for d in ("undisturbed", "r"))
    assert b["progress"] == {"nimg": 64, "batches": 8, "rewinds": 1} and a["progress"]["rewinds"] == 0
    name = "G.mapping.layers.0.weight"
    assert b["state_dict"][name].isfinite().all() and not torch.equal(a["state_dict"][name], b["state_dict"][name])
    assert [float(r["progress/kimg"]) for r in read_rows(tmp_path / "r/metrics.csv")] == [0.0, 0.032, 0.064]


def test_rewinds_are_limited(tiny, run, tmp_path, monkeypatch):
    break_once(monkeypatch, nan_weight, times=9)
    with pytest.warns(UserWarning, match="Back at"):
        outcome = run(
            "train.py", *tiny, "logger=csv", "on_divergence=rewind", "callbacks.divergence.max_rewinds=2",
            f"run_dir={tmp_path}/r",
        )  # fmt: skip
    assert outcome.code == 2 and "after 2 rewinds" in outcome.err


def test_single_bad_values_do_not_hide_the_mean():
    means = RunningMeans()
    for value in (1.0, math.nan, 3.0, math.inf):
        means.add_mean("a", torch.tensor(value))
    assert means.compute() == {"a": 2.0} and means.finite == {"a": 0.5}
    other = RunningMeans()
    other.load(means.state())
    assert other.compute() == {"a": 2.0}
    means.reset()
    means.add_mean("a", torch.tensor(math.nan))
    assert math.isnan(means.compute()["a"]) and means.finite == {"a": 0.0}
