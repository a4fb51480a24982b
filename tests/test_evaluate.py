"""evaluate.py on checkpoints, folders and archives, and metrics during training."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import stylegan_lightning
from stylegan_lightning import candidates, reports
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.faces import Faces
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.by_features import Kernel
from stylegan_lightning.metrics.features import EfficientNetLite0
from stylegan_lightning.metrics.gaussian import GaussianSums, frechet_distance
from stylegan_lightning.metrics.value import MetricValue
from tests.conftest import ROOT, command_environment, read_rows

OFFLINE = ("metrics.extractor=efflite0", "metrics.perceptual=efflite0", "metrics.num_fake=20")


def faces(seed: int, count: int = 30, resolution: int = 24) -> np.ndarray:
    source = Faces(resolution, size=count, seed=seed)
    return np.stack([source.read(i) for i in range(count)])


def write_images(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:03d}.png")
    return folder


def write_zip(path: Path, images: np.ndarray) -> Path:
    folder = write_images(path.with_suffix(""), images)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


def results(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())["results"]


def values(record: dict[str, Any]) -> dict[str, float]:
    return {m["metric"]: m["value"] for m in record["metrics"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, command, tiny) -> Path:
    """A run of two ticks that keeps the checkpoint of each."""
    place = tmp_path_factory.mktemp("trained") / "r"
    arguments = [a for a in tiny if a not in ("metrics=none", "data.resolution=8")]
    command("train.py", *arguments, "data.resolution=16", "metrics.num_fake=16", f"run_dir={place}",
            "callbacks.checkpoint.keep_every_ticks=1")  # fmt: skip
    return place


# ------------------------------------------------------------------------------------------------ both sides


def test_a_folder_against_an_archive(run, tmp_path):
    """Pixel for pixel what the files hold, at their own size."""
    fakes, reals = faces(5), faces(6)
    folder, archive = write_images(tmp_path / "fakes", fakes), write_zip(tmp_path / "reals.zip", reals)
    done = run("evaluate.py", f"fakes={folder}", f"reals={archive}", "metrics=[fd_efflite0,neighbours,swd,ms_ssim]",
               f"out_dir={tmp_path}/e")  # fmt: skip
    assert done.code == 0, done.err
    (record,) = results(tmp_path / "e")
    extractor = EfficientNetLite0()
    sums = [GaussianSums(112).update(extractor(torch.from_numpy(x))) for x in (reals, fakes)]
    expected = frechet_distance(*(m for s in sums for m in (s.mean(), s.covariance())))
    assert values(record)["fd_efflite0"] == pytest.approx(expected, rel=1e-6)
    assert {"swd", "ms_ssim", "memorised_efflite0", "copies_efflite0"} <= set(values(record))
    assert record["kimg"] is None and record["metrics"][0]["num_real"] == 30
    picture = np.asarray(Image.open(record["pictures"][0]))
    assert picture.shape == (6 * 48, 8 * 48, 3)  # three rows of eight fakes, a row of neighbours below each
    assert "needs more generated images than features" in done.out


def test_identical_sides_have_no_distance(run, tmp_path):
    folder = write_images(tmp_path / "x", faces(5))
    done = run("evaluate.py", f"fakes={folder}", f"reals={folder}", "metrics=[fd_efflite0,pr,swd,neighbours]",
               "metrics.extractor=efflite0", f"out_dir={tmp_path}/e")  # fmt: skip
    assert done.code == 0, done.err
    found = values(results(tmp_path / "e")[0])
    assert found["fd_efflite0"] == pytest.approx(0, abs=1e-6) and found["swd"] == 0
    assert found["precision_efflite0"] == found["recall_efflite0"] == found["copies_efflite0"] == 1


def test_checkpoints_folders_and_generators_as_either_side(run, trained, tmp_path):
    folder = write_images(tmp_path / "x", faces(5, resolution=16))
    done = run("evaluate.py", f"fakes=[{trained},{folder}]", f"reals={folder}", *OFFLINE, f"out_dir={tmp_path}/e")
    assert done.code == 0, done.err
    generated, stored = results(tmp_path / "e")
    assert generated["model"] == "stylegan2" and stored["model"] == "images"
    assert values(generated)["fd_efflite0"] > values(stored)["fd_efflite0"]
    done = run("evaluate.py", f"fakes={folder}", f"reals={trained}", *OFFLINE, f"out_dir={tmp_path}/f")
    assert done.code == 0, done.err
    assert values(results(tmp_path / "f")[0])["fd_efflite0"] > 100


def test_every_checkpoint_gives_curves_with_intervals(run, trained, tmp_path):
    done = run("evaluate.py", f"ckpt={trained}", "every_checkpoint=true", "metrics=[fd_efflite0,kid]", *OFFLINE,
               "metrics.bootstrap=5", f"out_dir={tmp_path}/e")  # fmt: skip
    assert done.code == 0, done.err
    first, second = results(tmp_path / "e")
    assert (first["kimg"], second["kimg"]) == (0.032, 0.064)
    for metric in first["metrics"]:
        assert metric["low"] < metric["value"] < metric["high"] and metric["level"] == 0.95
    for name in ("fd_efflite0", "kd_efflite0"):
        assert Image.open(tmp_path / f"e/curve_{name}.png").size == (900, 540)
    assert f"{first['metrics'][0]['value']:.3f} [{first['metrics'][0]['low']:.3f}, " in done.out


def test_truncation_sweep_ends_with_one_table_and_a_picture(command, trained, tmp_path):
    done = command("evaluate.py", "-m", f"ckpt={trained}", "truncation_psi=0.5,1", "metrics=[fd_efflite0,pr]",
                   *OFFLINE, f"hydra.sweep.dir={tmp_path}/m")  # fmt: skip
    half, whole = results(tmp_path / "m")
    assert (half["truncation_psi"], whole["truncation_psi"]) == (0.5, 1.0)
    assert values(half)["fd_efflite0"] != values(whole)["fd_efflite0"]
    picture = Image.open(tmp_path / "m/trade_off.png")
    assert picture.width > picture.height  # two rows of three panels: three values and recall over precision
    assert f"{tmp_path}/m/trade_off.png" in done.stdout and "| psi |" in done.stdout
    with open(tmp_path / "m/results.csv", newline="") as file:
        assert {r["truncation_psi"] for r in csv.DictReader(file)} == {"0.5", "1.0"}


def test_earlier_results_stand_in_the_same_table_if_they_compare(run, trained, tmp_path):
    assert run("evaluate.py", f"ckpt={trained}", *OFFLINE, f"out_dir={tmp_path}/a").code == 0
    done = run("evaluate.py", f"ckpt={trained}", *OFFLINE, f"compare=[{tmp_path}/a]", f"out_dir={tmp_path}/b")
    assert done.code == 0, done.err
    both = results(tmp_path / "b")
    assert len(both) == 2 and values(both[0]) == values(both[1])
    done = run("evaluate.py", f"ckpt={trained}", *OFFLINE[:2], "metrics.num_fake=21", f"compare=[{tmp_path}/a]",
               f"out_dir={tmp_path}/c")  # fmt: skip
    assert done.code == 2 and "quick_20" in done.err and "quick_21" in done.err and not (tmp_path / "c").exists()
    done = run("evaluate.py", f"ckpt={trained}", *OFFLINE, f"compare=[{tmp_path}/nothing]", f"out_dir={tmp_path}/c")
    assert done.code == 2 and "holds no results" in done.err


def test_values_are_added_to_the_run_that_wrote_the_checkpoint(run, trained, tmp_path):
    done = run("evaluate.py", f"ckpt={trained}", *OFFLINE, f"out_dir={tmp_path}/e")
    assert done.code == 0, done.err
    run_id = stylegan_lightning.training.checkpoint.read_checkpoint(trained / "checkpoints/last.ckpt")["config"][
        "run_id"
    ]
    (folder,) = (tmp_path / "e/wandb_additions").glob("*/wandb/offline-run-*")
    assert folder.name.endswith(run_id) and f"wandb sync {folder}" in done.out
    assert b"eval/fd_efflite0" in next(folder.glob("*.wandb")).read_bytes()
    done = run("evaluate.py", f"ckpt={trained}", *OFFLINE, "wandb=false", f"out_dir={tmp_path}/f")
    assert done.code == 0 and not (tmp_path / "f/wandb_additions").exists()


def test_a_checkpoint_from_elsewhere_does_not_choose_where_things_are_written(run, trained, tmp_path):
    """Prepared data, downloads, values of Weights & Biases."""
    checkpoint = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["config"]["data"]["cache_dir"] = checkpoint["config"]["cache_dir"] = str(tmp_path / "chosen")
    torch.save(checkpoint, tmp_path / "foreign.ckpt")
    done = run("evaluate.py", f"ckpt={tmp_path}/foreign.ckpt", *OFFLINE, f"out_dir={tmp_path}/e")
    assert done.code == 0, done.err
    assert not (tmp_path / "chosen").exists() and not (tmp_path / "e/wandb_additions").exists()
    assert "does not lie in the directory of the run" in done.out


def test_data_that_were_prepared_elsewhere_are_read_there(tmp_path):
    """As a checkpoint says; nothing is written there."""
    source = Faces(8, size=8)
    prepare(source, tmp_path / "stored")
    before = sorted(tmp_path.rglob("*"))
    found = prepare(source, tmp_path / "own", made_in=tmp_path / "stored")
    assert len(found.images) == 8 and sorted(tmp_path.rglob("*")) == before


def test_data_sets_are_not_downloaded_to_where_a_checkpoint_says(tmp_path, monkeypatch):
    source = {"_target_": "stylegan_lightning.data.torchvision_sets.TorchvisionImages", "name": "cifar10",
              "root": str(tmp_path / "chosen"), "resolution": 8, "download": True}  # fmt: skip
    cfg = OmegaConf.create({"data": {"name": "cifar10", "path": str(tmp_path / "chosen"), "source": source,
                                     "cache_dir": None, "mirror": False, "on_error": "skip"}})  # fmt: skip
    candidate = candidates.Candidate(tmp_path / "a.ckpt", torch.nn.Identity(), cfg)  # type: ignore[arg-type]
    given = OmegaConf.create({"data_path": None, "data_cache_dir": str(tmp_path / "own"), "cache_dir": None})
    with pytest.raises(UserError, match="CIFAR10 is not in"):
        candidates.training_data(candidate, given)
    assert not (tmp_path / "chosen").exists()


def test_two_processes_give_the_value_of_one(trained, tmp_path, shared_cache):
    """33 images do not divide by two."""
    chosen = "metrics=[fd_efflite0,kid,pr,neighbours,swd,ms_ssim,separability,ppl2_wend]"
    found = []
    for count in (1, 2):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--standalone"]
        done = subprocess.run(
            [*torchrun, str(ROOT / "evaluate.py"), f"ckpt={trained}", chosen, *OFFLINE[:2], "metrics.num_fake=33",
             "trainer=cpu", "wandb=false", f"out_dir={tmp_path}/{count}"],
            env=command_environment(shared_cache) | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            cwd=ROOT, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("| checkpoint") == 1
        found.append(values(results(tmp_path / str(count))[0]))
    assert len(found[0]) == 11 and found[1] == pytest.approx(found[0], rel=1e-6)


MISTAKES = {
    "no reals": (["fakes={images}"], "fd_efflite0 needs real images: give reals=FOLDER"),
    "no generator": (["fakes={images}", "reals={images}", "metrics=[ppl2_wend]", *OFFLINE], "needs a generator"),
    "no stylegan3": (["ckpt={run}", "metrics=[eqr]"], "only StyleGAN3's models have"),
    "too small": (["fakes={tiny}", "reals={tiny}", "metrics=[swd]"], "at least 16 x 16 pixels"),
    "nothing there": (["fakes=/nowhere.zip", "reals={images}"], "there is nothing at /nowhere.zip"),
    "both names": (["ckpt={run}", "fakes={images}"], "ckpt= and fakes= name the same side"),
    "kind": (["ckpt={run}", "+metrics.each.x={{kind: fidd, preset: quick, every_ticks: 1}}"], "kind must be one of"),
    "setting": (["ckpt={run}", "+metrics.each.fd_efflite0.presets=1"], "no setting 'presets'; did you mean preset"),
    "twice": (["ckpt={run}", "+metrics.each.x={{kind: frechet, extractor: efflite0, preset: nvidia, every_ticks: 1}}"],
              "fd_efflite0 would be measured twice"),
    "score": (["ckpt={run}", "metrics=[is]", "metrics.each.is.extractor=efflite0"], "extractor=efflite0 has none"),
    "preset": (["ckpt={run}", "metrics.preset=nvidea"], "metrics.preset must be one of quick, nvidia"),
    "several problems": (["ckpt={run}", "metrics=[eqr,eqt_int]"], "2 metrics cannot be measured"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_before_any_work(run, trained, tmp_path, case):
    arguments, words = MISTAKES[case]
    places = {"run": trained, "images": write_images(tmp_path / "x", faces(5, 4))}
    places["tiny"] = write_images(tmp_path / "small", faces(5, 4, resolution=8))
    done = run("evaluate.py", *(a.format(**places) for a in arguments), f"out_dir={tmp_path}/e")
    assert done.code == 2 and words in done.err and not (tmp_path / "e").exists(), done.err


# -------------------------------------------------------------------------------------------- during training


def test_a_metric_that_fails_is_reported_and_training_goes_on(run, tiny, tmp_path, monkeypatch):
    def broken(*_: Any) -> Any:
        raise RuntimeError("the kernel is out of order")

    monkeypatch.setattr(Kernel, "numbers", broken)
    arguments = [a for a in tiny if a != "metrics=none"]
    with pytest.warns(UserWarning, match="kd_efflite0 could not be computed: the kernel is out of order"):
        done = run("train.py", *arguments, "metrics=[kid,fd_efflite0]", *OFFLINE, "metrics.every_ticks=1",
                   "logger=csv", f"run_dir={tmp_path}/r")  # fmt: skip
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "r/metrics.csv")
    assert all(float(r["metric/fd_efflite0"]) > 0 for r in rows) and "metric/kd_efflite0" not in rows[0]


def test_metrics_are_measured_as_often_as_they_say(run, tiny, tmp_path):
    arguments = [a for a in tiny if a != "metrics=none"]
    done = run("train.py", *arguments, "metrics=[fd_efflite0,ms_ssim,neighbours]", "metrics.num_fake=16", "logger=csv",
               "data.resolution=16", "schedule.total_kimg=0.096", "metrics.each.ms_ssim.every_ticks=2",
               f"run_dir={tmp_path}/r")  # fmt: skip
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "r/metrics.csv")
    assert [bool(r["metric/fd_efflite0"]) for r in rows] == [True] * 4
    assert [bool(r["metric/ms_ssim"]) for r in rows] == [True, False, True, True]  # start, every second, end
    pictures = sorted(p.name for p in (tmp_path / "r/samples").glob("neighbours_*"))
    assert pictures == [f"neighbours_efflite0_{k}_kimg.png" for k in ("00000.000", "00000.096")]


def test_the_best_follows_the_chosen_value_and_starts_anew_when_it_is_measured_differently(run, tiny, tmp_path):
    arguments = [a for a in tiny if a not in ("metrics=none", "data.resolution=8")]
    both = ["data.resolution=16", "metrics=[fd_efflite0,ms_ssim]", "metrics.num_fake=16", "metrics.every_ticks=1"]
    done = run("train.py", *arguments, *both, "metrics.monitor=ms_ssim", "logger=csv", f"run_dir={tmp_path}/r")
    assert done.code == 0 and " ms_ssim: 0." in done.out, done.err
    with pytest.warns(
        UserWarning, match="metric/ms_ssim is measured in another way than before: best.ckpt starts anew"
    ):
        done = run("train.py", f"resume={tmp_path}/r", "schedule.total_kimg=0.096", "metrics.num_fake=17")
    assert done.code == 0, done.err
    done = run("train.py", *arguments, "metrics=[pr,fd_efflite0]", *OFFLINE, "metrics.monitor=precision_efflite0",
               f"run_dir={tmp_path}/s")  # fmt: skip
    assert done.code == 2 and "where lower is better: fd_efflite0; got precision_efflite0" in done.err
    assert not (tmp_path / "s").exists()


def test_missing_weights_are_named_before_training(run, tiny, tmp_path, monkeypatch):
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    arguments = [a for a in tiny if a != "metrics=none"]
    for metric, file, remedy in (
        ("kid", "pt_inception-2015-12-05-6726825d.pth", "metrics=fd_efflite0"),
        ("pr", "vgg16-397923af.pth", "metrics.extractor=efflite0"),
        ("ppl2_wend", "vgg16-397923af.pth", "metrics.perceptual=efflite0"),
    ):
        done = run("train.py", *arguments, f"metrics={metric}", f"run_dir={tmp_path}/r")
        assert done.code == 2 and file in done.err and "sha256" in done.err and remedy in done.err, done.err
        assert str(tmp_path / "hub") in done.err and not (tmp_path / "r").exists()


class Corners(torch.nn.Module):
    """A user's network."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return self.scale * img[:, :, ::4, ::4]  # averaged over the places


def test_any_module_gives_features_and_its_checkpoint_still_loads(run, tiny, tmp_path):
    arguments = [a for a in tiny if a != "metrics=none"]
    own = "metrics.each.fid.extractor={_target_: tests.test_evaluate.Corners}"
    done = run("train.py", *arguments, "metrics=[fid,fd_efflite0]", own, "metrics.num_fake=16", "metrics.preset=quick",
               "logger=csv", f"run_dir={tmp_path}/r")  # fmt: skip
    assert done.code == 0, done.err
    assert float(read_rows(tmp_path / "r/metrics.csv")[-1]["metric/fd_corners"]) > 0
    assert stylegan_lightning.load(tmp_path / "r").img_resolution == 8  # without running the user's code
    further = (f"resume={tmp_path}/r", "schedule.total_kimg=0.128")
    refused = run("train.py", *further)
    assert refused.code == 2 and f"'{own}'" in refused.err
    done = run("train.py", *further, own)
    assert done.code == 0, done.err
    assert float(read_rows(tmp_path / "r/metrics.csv")[-1]["metric/fd_corners"]) > 0


# ------------------------------------------------------------------------------------------------ tables, plots


def test_tables_refuse_files_that_are_none(tmp_path):
    (tmp_path / "results.json").write_text('{"results": [{"metrics": [{"value": 1}]}]}')
    with pytest.raises(UserError, match="holds no results of evaluate"):
        reports.read_records(tmp_path)


VALUE = MetricValue("fid", 1.5, "quick_20", "20 images", 20, 20, 0, 1.0).as_dict()
RECORD = {"checkpoint": "r/a.ckpt", "kimg": 1.0, "truncation_psi": None, "metrics": [VALUE]}


@pytest.mark.parametrize(
    "content",
    [
        {"results": {}}, [], {"results": [1]}, {"results": [{"metrics": []}]}, {"results": [RECORD | {"metrics": {}}]},
        *({"results": [RECORD | change]} for change in (
            {"checkpoint": 1}, {"kimg": "1"}, {"kimg": math.nan}, {"truncation_psi": [1]}, {"truncation_psi": True},
            {"metrics": [1]}, {"metrics": [{"comparable": "x"}]},
        )),
        *({"results": [RECORD | {"metrics": [VALUE | change]}]} for change in (
            {"value": None}, {"value": int("9" * 400)}, {"metric": []}, {"comparable": {}}, {"low": 1.0}, {"note": 1},
            {"num_real": "20"}, {"num_fake": -1}, {"std": "x"}, {"low": 1, "high": []}, {"extractor": 2},
        )),
    ],
)  # fmt: skip
def test_results_that_no_table_could_show_are_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"results\.json holds no results of evaluate"):
        reports.read_records(tmp_path)


def test_results_are_read_as_written_and_without_what_may_be_absent(tmp_path, monkeypatch):
    bare = {k: v for k, v in VALUE.items() if k in ("metric", "preset", "comparable", "num_real", "num_fake", "seed")}
    bare |= {"value": math.nan, "truncation_psi": 1}
    records = [RECORD, RECORD | {"metrics": [bare], "more": 1}]
    reports.write_json(tmp_path / "results.json", {"results": records})
    first, second = reports.read_records(tmp_path)
    assert {k: first[k] for k in RECORD} == RECORD and second["more"] == 1
    assert "nan" in reports.table([first, second]) and "fid" in reports.rows_of_values([first, second])
    monkeypatch.setattr(reports, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="at most 10 bytes"):
        reports.read_records(tmp_path)


def test_plots_are_whole_or_absent(tmp_path):
    def broken(axes: Any) -> None:
        raise RuntimeError("no ink")

    with pytest.raises(RuntimeError, match="no ink"):
        reports.save_plot(tmp_path / "x.png", broken)
    assert os.listdir(tmp_path) == []
