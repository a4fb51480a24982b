"""What differs, which is best, what seems to matter."""

from __future__ import annotations

import pytest
from dashboard_helpers import config, make_run, write_result
from omegaconf import OmegaConf

from stylegan_lightning.dashboard import compare
from stylegan_lightning.dashboard.runs import flat, read_runs
from stylegan_lightning.errors import UserError


def keys(*configs, overrides=()):
    return compare.differing_keys([flat(OmegaConf.to_container(c)) for c in configs], overrides)


@pytest.mark.parametrize(
    ("column", "lower"),
    [
        ("metric/fid", True), ("metric/fd_efflite0/class/a", True), ("metric/isotropy", True), ("metric/kid", True),
        ("metric/precision_vgg16", False), ("metric/recall", False), ("metric/is", False), ("metric/eqt_int", False),
        ("metric/density_efflite0", False), ("metric/coverage", False), ("metric/eqr", False),
    ],
)  # fmt: skip
def test_direction(column, lower):
    assert compare.lower_is_better(column) == lower


def test_best_first(tmp_path):
    make_run(tmp_path / "a", [9, 7]), make_run(tmp_path / "b", [9, 2, 8]), make_run(tmp_path / "c", [])
    write_result(tmp_path / "d", metric="metric/fid", best_value=5.0, best_kimg=4.0)
    runs = compare.ranked(read_runs([tmp_path]), "metric/fid")
    assert [r.name for r in runs] == ["b", "d", "a", "c"]
    assert compare.best(runs[0], "metric/fid") == compare.Best(2, 2)
    assert compare.best(runs[1], "metric/fid") == compare.Best(5, 4) and compare.best(runs[3], "metric/fid") is None


def test_higher_is_better_for_precision(tmp_path):
    for name, values in {"a": [0.1, 0.3], "b": [0.1, 0.6, 0.2]}.items():
        make_run(tmp_path / name, values, column="metric/precision")
    runs = compare.ranked(read_runs([tmp_path]), "metric/precision")
    assert [r.name for r in runs] == ["b", "a"] and compare.best(runs[0], "metric/precision") == compare.Best(0.6, 2)


def test_metric_is_chosen(tmp_path):
    make_run(tmp_path / "a", column="metric/precision"), make_run(tmp_path / "b"), make_run(tmp_path / "c")
    runs = read_runs([tmp_path])
    assert compare.choose_metric(runs) == "metric/fid"
    assert compare.choose_metric(runs[:1]) == "metric/precision"
    assert compare.choose_metric(runs, "precision") == "metric/precision"
    write_result(tmp_path / "c", metric="metric/kid")
    assert compare.choose_metric(read_runs([tmp_path])) == "metric/kid"
    with pytest.raises(UserError, match="Did you mean 'metric/precision'"):
        compare.choose_metric(runs, "metric/precison")
    assert compare.choose_metric([]) is None
    with pytest.raises(UserError, match="measured a metric"):
        compare.choose_metric([], "fid")


def test_only_what_was_chosen_differs():
    assert keys(config(), config()) == []
    assert keys(config(r1_gamma=1.0), config(r1_gamma=2.0), config(g_lr=0.1)) == ["model.r1_gamma", "model.g_lr"]
    assert keys(config(), config(total_kimg=9.0)) == ["schedule.total_kimg"]
    named = "model.d_penalties.r1.gamma"
    assert keys(config(), config(r1_gamma=2.0), overrides=[f"+{named}=2"]) == ["model.r1_gamma", named]


def test_what_only_another_kind_has_is_left_out():
    assert keys(config(), config(augment="diffaug")) == ["augment.name"]
    wasserstein = {"_target_": "stylegan_lightning.losses.Wasserstein", "drift": 0.001}
    assert keys(config(), config(model={"loss": wasserstein})) == ["model.loss._target_"]
    assert keys(config(), config(model={"extra": 1})) == ["model.extra"]  # nothing else explains it
    growing = {"object": {"_target_": "a.ProgressiveSchedule"}, "fade_kimg": 600}
    assert keys(config(), config(schedule=growing)) == ["schedule.object._target_"]
    shown = {"augment.name": "augment", "model.loss._target_": "model.loss", "schedule.object._target_": "schedule"}
    assert [compare.shown_key(k) for k in shown] == list(shown.values()) and compare.shown_key("seed") == "seed"


def test_values_that_do_not_compare_are_named(tmp_path):
    make_run(tmp_path / "a"), make_run(tmp_path / "b", data={"resolution": 16})
    assert compare.other_data(read_runs([tmp_path])) == ["data.resolution"]


def test_importance(tmp_path):
    for i, gamma in enumerate([0.1, 1.0, 10.0, 100.0]):
        make_run(tmp_path / str(i), [9, 8 - i], r1_gamma=gamma, g_lr=[0.1, 0.3, 0.2, 0.1][i], augment="ab"[i % 2])
    runs = read_runs([tmp_path])
    found = compare.importance(runs, compare.swept_keys(runs), "metric/fid")
    assert [(i.key, i.runs) for i in found] == [("model.r1_gamma", 4), ("model.g_lr", 4)]
    assert found[0].rho == pytest.approx(-1) and abs(found[1].rho) < 0.5
    assert compare.importance(runs[:2], ["model.r1_gamma"], "metric/fid") == []


def test_importance_leaves_out_what_is_no_float(tmp_path):
    for i in range(4):
        make_run(tmp_path / str(i), [9, 8 - i])
    runs = read_runs([tmp_path])
    for i, run in enumerate(runs):
        run.config |= {"a": int("9" * 400) + i, "b": i}
    assert [i.key for i in compare.importance(runs, ["a", "b"], "metric/fid")] == ["b"]
