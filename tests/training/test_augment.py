"""The controls of augmentation strength, alone and in a run."""

from __future__ import annotations

import pytest
import torch

from stylegan_lightning.training.augment import AdaptiveStrength, ScheduledStrength
from stylegan_lightning.training.checkpoint import read_checkpoint
from tests.conftest import read_rows
from tests.test_train import assert_same_training


@pytest.mark.parametrize(("logits", "direction"), [([3.0, 1.0, 2.0, 1.0], 1), ([3.0, -1.0, 2.0, -1.0], -1)])
def test_p_moves_towards_the_target_at_its_speed(logits, direction):
    """r_t is 1 or 0; 64 images per step of p, 1 per 10 kimg."""
    control, p = AdaptiveStrength(target=0.6, interval=4, kimg=10.0), torch.tensor(0.5)
    for batch in range(1, 9):
        control.observe(torch.tensor(logits)[:, None])
        control.step(p, batch, 16 * batch, 16)
        assert float(p) == pytest.approx(0.5 + direction * 0.0064 * (batch // 4))
    assert float(control.r_t) == (direction + 1) / 2


def test_p_stays_between_zero_and_its_ceiling():
    control, p = AdaptiveStrength(kimg=0.01, max_p=0.7), torch.zeros(())
    for sign, expected in ((-1.0, 0.0), (1.0, 0.7)):
        for batch in range(1, 9):
            control.observe(torch.full((4, 1), sign))
            control.step(p, batch, 0, 4)
        assert float(p) == pytest.approx(expected)


def test_schedules_of_p():
    constant = ScheduledStrength(0.3)
    assert constant.start == constant.at(0) == constant.at(10**7) == 0.3
    line = ScheduledStrength(0.4, start=0.2, kimg=10)
    assert [line.at(n) for n in (0, 5000, 10_000, 20_000)] == pytest.approx([0.2, 0.3, 0.4, 0.4])
    cosine = ScheduledStrength(0.4, kimg=10, shape="cosine")
    assert [cosine.at(n) for n in (0, 2500, 5000, 10_000)] == pytest.approx([0, 0.4 * (0.5 - 0.125**0.5), 0.2, 0.4])
    with pytest.raises(ValueError, match="linear or cosine"):
        ScheduledStrength(0.4, shape="step")  # type: ignore[arg-type]


ADA = ("augment=ada", "augment.kimg=0.2", "augment.target=-1", "logger=csv")


def test_a_run_logs_p_and_resumes_between_two_of_its_steps(tiny, run, tmp_path):
    """Two batches after a step of p, so that the sum of signs has to be carried over."""
    options = (*tiny, *ADA, "schedule.tick_kimg=0.048", "schedule.total_kimg=0.096", "augment.start=0.1")
    assert run("train.py", *options, f"run_dir={tmp_path}/straight").code == 0
    assert run("train.py", *options, "schedule.total_kimg=0.048", f"run_dir={tmp_path}/r").code == 0
    signs = read_checkpoint(tmp_path / "r/checkpoints/last.ckpt")["state_dict"]["strength.signs"]
    assert float(signs[1]) == 16
    assert run("train.py", f"resume={tmp_path}/r", "schedule.total_kimg=0.096").code == 0
    assert_same_training(tmp_path / "r/checkpoints/last.ckpt", tmp_path / "straight/checkpoints/last.ckpt")
    rows = read_rows(tmp_path / "straight/metrics.csv")
    assert [float(r["augment/p"]) for r in rows[1:]] == pytest.approx([0.1 + 0.16, 0.1 + 3 * 0.16])
    assert -1 <= float(rows[-1]["augment/r_t"]) <= 1


def test_saturation_is_said_once(tiny, run, tmp_path):
    with pytest.warns(UserWarning, match="augment.max_p=0.2") as caught:
        outcome = run("train.py", *tiny, *ADA, "augment.target=-1", "augment.start=0.2", "augment.max_p=0.2",
                      "augment.kimg=1e9", f"run_dir={tmp_path}/r")  # fmt: skip
    assert outcome.code == 0 and sum("max_p" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("choice", ["ada_fixed", "diffaug"])
def test_other_augmentations_train(tiny, run, tmp_path, choice):
    assert run("train.py", *tiny, f"augment={choice}", "logger=csv", f"run_dir={tmp_path}/r").code == 0
    state = read_checkpoint(tmp_path / "r/checkpoints/last.ckpt")["state_dict"]
    if choice == "ada_fixed":
        assert float(state["augment.p"]) == pytest.approx(0.2)
