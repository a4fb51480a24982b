from __future__ import annotations

import itertools

import pytest

from stylegan_lightning import recipes
from stylegan_lightning.schedule import FixedSchedule, ends_tick, kimg_to_nimg, tick_of


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
