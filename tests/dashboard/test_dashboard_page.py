"""What goes into the page, and the commands that make it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dashboard_helpers import config, make_run, rows, write_result, write_rows
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from stylegan_lightning.dashboard import pictures
from stylegan_lightning.dashboard.__main__ import main
from stylegan_lightning.dashboard.page import commands, content, page, thinned
from stylegan_lightning.dashboard.runs import Run, read_runs
from stylegan_lightning.imaging import save_png


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_page_of_a_folder(tmp_path, capsys):
    make_run(tmp_path / "a"), make_run(tmp_path / "b", [9, 2], r1_gamma=5.0)
    write_result(tmp_path / "c", status="failed", reason="no memory")
    main([str(tmp_path), "--out", str(tmp_path / "x/page.html"), "--title", "Two & more"])
    assert capsys.readouterr().out == f"3 runs: {tmp_path}/x/page.html\n"
    text = (tmp_path / "x/page.html").read_text()
    assert "<h1>Two &amp; more</h1>" in text and not list(tmp_path.glob("x/*.tmp"))
    data = data_of(text)
    assert [(r["name"], r["status"], r["best"], r["values"]) for r in data["runs"]] == [
        ("b", "unfinished", 2, [5]), ("a", "finished", 3, [1]), ("c", "failed", None, [None]),
    ]  # fmt: skip
    assert data["keys"] == ["model.r1_gamma"] and data["runs"][1]["samples"][1]["value"] == 4


def test_everything_from_files_is_text(tmp_path):
    evil = "<script>alert(1)<"
    make_run(tmp_path / evil, model={"name": "</script><img src=x>", "note": "&<b>"})
    make_run(tmp_path / "b", model={"note": "c"})
    write_result(tmp_path / "c", status="failed", reason="</script><script>alert(2)</script>")
    text = page(read_runs([tmp_path]), "metric/fid", evil)
    assert text.count("<script") == 2 and text.count("</script") == 2 and "<img" not in text
    assert {r["name"] for r in data_of(text)["runs"]} == {evil, "b", "c"}


def test_nothing_is_requested(tmp_path):
    make_run(tmp_path / "a")
    text = page(read_runs([tmp_path]), "metric/fid", "t")
    assert not re.findall(r"""(?:src|href)=["']|@import|url\(|https?://(?!www\.w3\.org/)""", text)
    assert "default-src 'none'" in text


def test_runs_without_metrics_or_samples(tmp_path):
    make_run(tmp_path / "a", [], pictures=())
    data = content(read_runs([tmp_path]), None)
    assert data["metric"] is None and data["moments"] == [] and data["runs"][0]["best"] is None


def test_moments_are_shared_where_they_nearly_agree(tmp_path):
    make_run(tmp_path / "a", pictures=(0, 50, 100)), make_run(tmp_path / "b", pictures=(0, 51, 98))
    runs = read_runs([tmp_path])
    assert pictures.moments(runs) == [0, 51, 100]
    assert [pictures.nearest(runs[1], k) for k in (0, 51, 100)] == [0, 51, 98]
    make_run(tmp_path / "c", pictures=range(0, 200, 5))
    assert len(found := pictures.moments(read_runs([tmp_path]))) == 12 and (found[0], found[-1]) == (0, 195)


def test_pictures_shrink_to_their_budget(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 1200, 4), np.uint8)
    save_png(tmp_path / "a.png", noise)
    notes: list[str] = []
    sizes = [len(pictures.embed(tmp_path / "a.png", most, notes) or "") for most in (1e9, 200_000, 0)]
    assert sizes[0] > 200_000 >= sizes[1] > sizes[2] > 1000 and notes == []
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    assert pictures.embed(tmp_path / "b.png", 1e9, notes) is None and "b.png cannot be read" in notes[0]


def test_reals_that_are_the_same_are_shown_once(tmp_path):
    for name in "abc":
        make_run(tmp_path / name)
    save_png(tmp_path / "c/samples/reals.png", np.zeros((16, 32, 3), np.uint8))
    shown = content(read_runs([tmp_path]), "metric/fid")["reals"]
    assert [r["of"] for r in shown] == [["a", "b"], ["c"]]


def test_long_curves_keep_their_extremes():
    values = np.random.default_rng(0).normal(size=5000)
    values[1234], values[4321] = 50, -50
    found = thinned([(float(i), float(v)) for i, v in enumerate(values)])
    assert len(found) <= 402 and (1234, 50) in found and (4321, -50) in found and found[-1][0] == 4999
    assert thinned([(1.0, 2.0), (3.0, 4.0)]) == [(1, 2), (3, 4)]


def test_commands_are_for_a_shell_and_hydra(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs/plain"), make_run(tmp_path / "runs/it's, two", total_kimg=100.0)
    odd, plain = (commands(r) for r in read_runs([tmp_path]))
    assert [c["text"] for c in plain] == [
        "python train.py resume=runs/plain schedule.total_kimg=16",
        "python evaluate.py ckpt=runs/plain/checkpoints/best.ckpt",
    ]
    assert shlex.split(odd[0]["text"])[2:] == [r"resume='runs/it\'s, two'"]


NASTY = [
    "12", "1_000", "null", "1e5", "true", "é", "a,b", "[a]", "{a: b}", "a=b", "it's", "$(ls)", "???", "a\nb",
    "${oc.env:HOME}", "\\${oc.env:HOME}", "\\\\${x}", "${", "a\\", "a\\'b", "a\\'${y}'\\", "'", '"',
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_hydra_reads_the_very_path(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    resume, ckpt = commands(Run(tmp_path.resolve() / name, "a", checkpoint=tmp_path.resolve() / name / "a.ckpt"))
    for command, path in ((resume, Path(name)), (ckpt, Path(name) / "a.ckpt")):
        (argument,) = shlex.split(command["text"])[2:]
        override = OverridesParser.create().parse_override(argument)
        cfg = OmegaConf.create({"resume": None, "ckpt": None})
        OmegaConf.update(cfg, override.key_or_group, override.value())
        found = cfg[override.key_or_group]
        assert isinstance(found, str) and Path(found) == path


def test_numbers_near_and_beyond_the_end_of_floats(tmp_path):
    largest, long = 1.7976931e308, int("9" * 400)
    for i in range(3):
        make_run(tmp_path / str(i), [largest, largest, -largest], total_kimg=1e308)
        write_rows(tmp_path / str(i), [r | {"speed/img_per_s": largest} for r in rows([largest, largest])])
        cfg = config(**{"seed": i, "model": {"size": long + i, "wide": 2**64 + i, "far": float("inf")}})
        (tmp_path / str(i) / "config.yaml").write_text(OmegaConf.to_yaml(cfg) + f"more: 0x{'f' * 9000}{i}\n")
    data = data_of(page(read_runs([tmp_path]), "metric/fid", "a\udcff"))
    assert data["runs"][0]["best"] == largest and data["runs"][0]["speed"] == largest
    values = dict(zip(data["keys"], data["runs"][0]["values"], strict=True))
    assert values["model.wide"] == str(2**64) and len(values["more"]) == 9003 and values["seed"] == 0


def test_jobs_of_a_sweep_say_what_they_are(tmp_path):
    make_run(tmp_path / "0", r1_gamma=0.5), make_run(tmp_path / "1", r1_gamma=2.0)
    OmegaConf.save(config(r1_gamma=2.0, augment="ada"), tmp_path / "1/config.yaml")
    assert [r["hint"] for r in content(read_runs([tmp_path]), None)["runs"]] == [
        "r1_gamma=0.5 augment=none", "r1_gamma=2 augment=ada",
    ]  # fmt: skip


def test_errors_of_the_command(tmp_path, capsys):
    assert "RUN_OR_FOLDER" not in fails(capsys) and "no runs in" in fails(capsys, tmp_path)
    make_run(tmp_path / "a")
    assert "Did you mean 'metric/fid'?" in fails(capsys, tmp_path, "--metric", "fidd")
    (tmp_path / "file").touch()
    assert "--out" in fails(capsys, tmp_path, "--out", tmp_path / "file/x.html")
    assert "ENTITY/PROJECT" in fails(capsys, tmp_path, "--wandb", "project")


def test_help():
    done = subprocess.run(
        [sys.executable, "-m", "stylegan_lightning.dashboard", "--help"], capture_output=True, text=True, check=True
    )
    assert "examples" in done.stdout and "--wandb ENTITY/PROJECT" in done.stdout
