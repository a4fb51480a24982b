from __future__ import annotations

import itertools
import math

import pytest
from omegaconf import OmegaConf

from stylegan_lightning import recipes
from stylegan_lightning.schedule import FixedSchedule, ProgressiveSchedule, ends_tick, kimg_to_nimg, tick_of
from tests.conftest import ROOT


def test_fixed_schedule_is_the_same_everywhere():
    schedule = FixedSchedule(32, 10, 2, 16, 0.002, 0.003)
    assert {schedule.at(n) for n in range(0, 10_000, 97)} == {schedule.at(0)}
    assert schedule.at(0).g_lr == 0.002 and schedule.at(0).d_lr == 0.003 and schedule.at(0).alpha == 1.0


@pytest.mark.parametrize(("total", "tick", "batch"), [(10, 2, 16), (1, 0.3, 7), (0.05, 4, 8), (1, 0.004, 16)])
def test_ticks_partition_a_run(total, tick, batch):
    schedule = FixedSchedule(32, total, tick, batch, 1e-3, 1e-3)
    nimg, ends = 0, []
    while nimg < schedule.total_nimg:
        before, nimg = nimg, nimg + batch
        if ends_tick(schedule, before, nimg):
            ends.append(nimg)
    assert ends[-1] == nimg >= schedule.total_nimg
    assert nimg - schedule.total_nimg < batch
    for a, b in itertools.pairwise([0, *ends[:-1]]):
        assert tick_of(schedule, b) > tick_of(schedule, a)


def test_kimg():
    assert kimg_to_nimg(0.064) == 64


PUBLISHED = {  # resolution -> (batch, gamma, ema kimg) for 1, 2, 4 and 8 GPUs
    64: [(32, 0.0256, 10), (64, 0.0128, 20), (64, 0.0128, 20), (64, 0.0128, 20)],
    128: [(32, 0.1024, 10), (64, 0.0512, 20), (64, 0.0512, 20), (64, 0.0512, 20)],
    256: [(16, 0.8192, 5), (32, 0.4096, 10), (64, 0.2048, 20), (64, 0.2048, 20)],
    512: [(8, 6.5536, 2.5), (16, 3.2768, 5), (32, 1.6384, 10), (64, 0.8192, 20)],
    1024: [(4, 52.4288, 1.25), (8, 26.2144, 2.5), (16, 13.1072, 5), (32, 6.5536, 10)],
}


@pytest.mark.parametrize("resolution", PUBLISHED)
def test_auto_formulas_give_the_published_table(resolution):
    for gpus, (batch, gamma, ema) in zip((1, 2, 4, 8), PUBLISHED[resolution], strict=True):
        ours = recipes.auto_batch(resolution, gpus)
        assert ours == batch
        assert recipes.auto_gamma(resolution, ours) == pytest.approx(gamma)
        assert recipes.auto_ema_kimg(ours) == pytest.approx(ema)
        assert recipes.auto_mbstd(resolution, gpus) == 4
    assert recipes.auto_lr(resolution) == (0.002 if resolution == 1024 else 0.0025)


def test_blur_fades_linearly():
    schedule = FixedSchedule(32, 10, 2, 16, 1e-3, 1e-3, blur_sigma=10.0, blur_fade_kimg=2.0)
    assert [schedule.at(n).blur_sigma for n in (0, 500, 1999, 2000, 9000)] == pytest.approx([10, 7.5, 0.005, 0, 0])
    assert FixedSchedule(32, 10, 2, 16, 1e-3, 1e-3).at(0).blur_sigma == 0


def grow(**changes):
    options = {
        "resolution": 32,
        "start_resolution": 4,
        "total_kimg": 12,
        "tick_kimg": 1,
        "stabilise_kimg": 1.5,
        "fade_kimg": 0.5,
        "batch_size": 16,
        "g_lr": 1e-3,
        "d_lr": 2e-3,
    }
    return ProgressiveSchedule(**(options | changes))


def original_run(schedule, resolution, start, stabilise, fade, batches, rates, base_lr, repeats):
    """(nimg, what the published loop trains with) for every batch, by its level-of-detail formula."""
    nimg, run = 0, []
    while nimg < schedule.total_nimg:
        phase = nimg // (stabilise + fade)
        lod = math.log2(resolution) - math.log2(start) - phase
        if fade > 0:
            lod -= max(nimg - phase * (stabilise + fade) - stabilise, 0.0) / fade
        lod = max(lod, 0.0)
        now = 2 ** (int(math.log2(resolution)) - math.floor(lod))
        lr = rates.get(now, base_lr)
        for _ in range(repeats):
            run.append((nimg, now, 1 - lod % 1, batches[now], lr))
            nimg += batches[now]
    return run


PRESETS = sorted(p.stem for p in (ROOT / "conf" / "schedule").glob("progressive_*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("resolution", "start"), [(1024, 4), (256, 8)])
def test_presets_follow_the_original_level_of_detail_formula_over_a_whole_run(preset, resolution, start):
    table = OmegaConf.merge(
        OmegaConf.load(ROOT / "conf/schedule/progressive.yaml"), OmegaConf.load(ROOT / f"conf/schedule/{preset}.yaml")
    )
    keys = [k for k in table if k not in ("object", "defaults")]
    options = OmegaConf.to_container(OmegaConf.masked_copy(table, keys))
    schedule = ProgressiveSchedule(resolution, g_lr=1e-3, d_lr=1e-3, **{**options, "start_resolution": start})
    original = original_run(
        schedule, resolution, start, 600_000, 600_000, options["batch_sizes"], options["lrs"], 1e-3, 4
    )
    assert original[-1][0] > 11_900_000
    changes = [i for i, (a, b) in enumerate(itertools.pairwise(original)) if (a[1], a[2] < 1) != (b[1], b[2] < 1)]
    near = {j for i in changes for j in range(i - 20, i + 20)}
    for i, (nimg, now, alpha, batch, lr) in enumerate(original):
        if i % 97 and i not in near:
            continue
        stage = schedule.at(nimg)
        assert (stage.resolution, stage.batch_size, stage.g_lr, stage.d_lr) == (now, batch, lr, lr), nimg
        assert stage.alpha == pytest.approx(alpha, abs=1e-9), nimg


@pytest.mark.parametrize("repeats", [1, 3, 4])
@pytest.mark.parametrize("fade", [0, 500, 1234])
@pytest.mark.parametrize("batches", [{4: 64, 8: 32, 16: 7, 32: 5}, {4: 5000, 8: 30, 16: 64, 32: 16}])
def test_a_schedule_of_any_lengths_follows_the_formula(repeats, fade, batches):
    schedule = grow(fade_kimg=fade / 1000, batch_sizes=batches, minibatch_repeats=repeats)
    for nimg, now, alpha, batch, _ in original_run(schedule, 32, 4, 1500, fade, batches, {}, 1e-3, repeats):
        stage = schedule.at(nimg)
        assert (stage.resolution, stage.batch_size) == (now, batch), nimg
        assert stage.alpha == pytest.approx(alpha, abs=1e-9), nimg


def test_fades_rise_from_nothing_to_one_at_each_resolution():
    schedule = grow()
    stages = [schedule.at(n) for n in range(0, 12_000, 16)]
    assert [s.resolution for s in stages] == sorted(s.resolution for s in stages)
    assert {s.resolution for s in stages} == {4, 8, 16, 32}
    for resolution in (8, 16, 32):
        alphas = [s.alpha for s in stages if s.resolution == resolution]
        assert alphas == sorted(alphas) and alphas[0] < 0.05 and alphas[-1] == 1 and 0.9 < alphas[30] < 1
    assert all(s.alpha == 1 for s in stages if s.resolution == 4)
    assert (stages[0].g_lr, stages[0].d_lr) == (1e-3, 2e-3)


def test_tables_by_resolution():
    schedule = grow(batch_sizes={4: 64, 8: 32, 16: 16, 32: 8, 64: 4}, lrs={16: 0.01})
    assert schedule.batch_sizes == (64, 32, 16, 8) and schedule.resolutions == (4, 8, 16, 32)
    assert (schedule.at(0).batch_size, schedule.at(11_000).batch_size) == (64, 8)
    assert [schedule.at(n).d_lr for n in (0, 5000, 11_000)] == [2e-3, 0.01, 2e-3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": {4: 16, 32: 16}}, "it lacks 8, 16"),
        ({"start_resolution": 64}, "at most the final resolution 32"),
        ({"start_resolution": 12}, "divided by a power of two"),
        ({"stabilise_kimg": 0, "fade_kimg": 0}, "must be positive"),
    ],
)
def test_impossible_growth_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        grow(**changes)
