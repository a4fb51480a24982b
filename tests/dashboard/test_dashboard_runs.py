"""Run directories as values, whatever state they are in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dashboard_helpers import make_run, rows, write_result, write_rows

from stylegan_lightning.dashboard import runs
from stylegan_lightning.dashboard.runs import FILES, find_runs, read_run, read_runs
from stylegan_lightning.errors import UserError


def test_a_whole_run(tmp_path):
    run = read_run(make_run(tmp_path / "a"), "a")
    assert run.config["model.r1_gamma"] == 1.0 and run.config["model.g_betas"] == [0.0, 0.99]
    assert run.curves["metric/fid"] == [(0, 9), (2, 5), (4, 4), (6, 3), (8, 3.5)]
    assert set(run.curves) == {"metric/fid", "loss/G", "speed/img_per_s"}
    assert sorted(run.samples) == [0, 4, 8] and run.samples[4].name == "fakes_00004.000_kimg.png"
    assert run.reals is not None and run.checkpoint == tmp_path / "a/checkpoints/best.ckpt"
    assert (run.status, run.kimg, run.notes) == ("finished", 8.0, [])


def test_found_at_any_depth_but_not_inside_runs(tmp_path):
    for name in ("one", "sweeps/x/10", "sweeps/x/2"):
        make_run(tmp_path / name)
    for trap in ("one/wandb/run-1/files", "one/deeper", "sweeps/.hydra"):
        make_run(tmp_path / trap)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.yaml").write_text("a: 1\n")
    found = find_runs([tmp_path, tmp_path / "one"])
    assert [str(f.relative_to(tmp_path)) for f in found] == ["one", "sweeps/x/2", "sweeps/x/10"]


def test_names_tell_runs_apart(tmp_path):
    make_run(tmp_path / "hair/run"), make_run(tmp_path / "smile/run")
    assert [r.name for r in read_runs([tmp_path])] == ["hair/run", "smile/run"]
    assert [r.name for r in read_runs([tmp_path / "hair"])] == ["run"]


@pytest.mark.parametrize("there", [True, False])
def test_nothing_found(tmp_path, there):
    with pytest.raises(UserError, match="no runs in" if there else "is not a directory"):
        find_runs([tmp_path if there else tmp_path / "absent"])


def test_a_failed_run_needs_no_more_than_its_reason(tmp_path):
    write_result(
        tmp_path / "3", status="failed", reason="out of memory", kimg=0, overrides=["+model.r1_gamma=5", "seed"]
    )
    run = read_run(tmp_path / "3", "3")
    assert (run.status, run.result.reason, run.checkpoint) == ("failed", "out of memory", None)
    assert run.config["model.r1_gamma"] == 5 and run.notes == ["no metrics.csv: nothing was measured"]


def test_status_is_inferred_without_result(tmp_path):
    make_run(tmp_path / "a", total_kimg=100.0)
    assert read_run(tmp_path / "a", "a").status == "unfinished"
    write_result(tmp_path / "a", status="running")
    assert read_run(tmp_path / "a", "a").status == "running"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"model: [1, {"),
        ("config.yaml", b"a: ${nothing}\n- b"),
        (
            "config.yaml",
            b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
        ),
        ("config.yaml", b"[" * 1500),
        ("result.json", b"[" * 100_000),
        ("result.json", b'{"status": "fin'),
        ("result.json", b"[1, 2]"),
        ("metrics.csv", b"\xff\xfe\0\x01 binary"),
    ],
)
def test_a_damaged_file_is_a_note(tmp_path, name, content):
    folder = make_run(tmp_path / "a")
    (folder / name).write_bytes(content + b"\nx\n")
    run = read_run(folder, "a")
    assert any(name in note for note in run.notes), run.notes
    assert len(run.samples) == 3


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_too_large_or_none_is_a_note(tmp_path, name, monkeypatch):
    folder = make_run(tmp_path / "a")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert any(name in note for note in read_run(folder, "a").notes)
    (folder / name).unlink()
    (folder / name).write_bytes(b" " * 100_000)
    monkeypatch.setattr(runs, "MOST_BYTES", 99_999)
    assert any(f"{name}" in note and "at most" in note for note in read_run(folder, "a").notes)


def test_numbers_without_end_are_left_out(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "result.json").write_text(f'{{"status": "finished", "kimg": {"9" * 4000}, "best_value": 1e999}}')
    assert read_run(folder, "a").status == "finished"


def test_what_a_damaged_table_still_holds(tmp_path):
    table = rows([9, "nan", "broken", 3])
    write_rows(tmp_path, [*table, {"progress/kimg": "?"}, {**table[3], "metric/fid": 2}])
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("8.0,4\n7.0,1,2,3,4,5,6,7\n")
    run = read_run(tmp_path, "a")
    assert run.curves["metric/fid"] == [(0, 9), (6, 2), (7, 2)]  # of one kimg the later row
    assert run.notes == ["metrics.csv is damaged: 1 row without progress/kimg from 0 to 1e+12 left out"]


def test_values_of_the_wrong_kind_are_left_out(tmp_path):
    write_result(tmp_path, status=3, best_value="x", metric=["m"], unknown=1)
    assert read_run(tmp_path, "a").result.best_value is None


def test_a_run_of_train_py(tmp_path, run, tiny):
    """The files are as train.py writes them."""
    folder = tmp_path / "real"
    assert run("train.py", *tiny, f"run_dir={folder}", "logger=csv").code == 0
    (read,) = read_runs([tmp_path])
    assert read.path == Path(folder) and read.status == "finished" and read.kimg == pytest.approx(0.064)
    assert len(read.samples) == 3 and read.reals and read.checkpoint and not read.notes
    assert len(read.curves["loss/G"]) == 2 and read.config["model.z_dim"] == 8


DOUBLED = "[" + ",".join(["&a0 [x,x]"] + [f"&a{i} [*a{i - 1},*a{i - 1}]" for i in range(1, 40)]) + "]"


@pytest.mark.parametrize("text", [DOUBLED, "[" * 20_000, "0x" + "f" * 9_000, "x" * 20_000])
def test_overrides_that_are_no_plain_values_stay_text(tmp_path, text):
    write_result(tmp_path, overrides=[f"a.k={text}", "a.l=[1, 2]"])
    config = read_run(tmp_path, "a").config
    assert config["a.k"] == text and config["a.l"] == [1, 2]


def test_kimg_that_no_run_reaches_are_left_out(tmp_path):
    rest = [{"progress/kimg": k, "metric/fid": 1} for k in (-1, 1e13, "1e300")]
    write_rows(tmp_path, [*rows([9, 3]), *rest])
    write_result(tmp_path, kimg=1e17, best_kimg=-3, best_value=3)
    run = read_run(tmp_path, "a")
    assert run.curves["metric/fid"] == [(0, 9), (2, 3)] and run.kimg == 2 and run.result.best_kimg is None
    assert any("3 rows" in note for note in run.notes)


@pytest.mark.parametrize("name", [*FILES, "samples", "samples/reals.png", "samples/fakes_00004.000_kimg.png"])
def test_links_that_lead_out_of_a_run_are_left_out(tmp_path, name):
    folder = make_run(tmp_path / "runs/a")
    write_result(folder)
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    run = read_run(folder, "a")
    assert any(name in note and "leads out of the run" in note for note in run.notes), run.notes
    pictures = [*run.samples.values(), *([run.reals] if run.reals else [])]
    assert len(pictures) == (0 if name == "samples" else 3 if "/" in name else 4)
    found = {"config.yaml": run.config, "metrics.csv": run.curves, "result.json": run.result.status == "finished"}
    assert sum(map(bool, found.values())) == 2 + ("/" in name or name == "samples")


def test_links_inside_of_a_run_and_runs_that_are_links_work(tmp_path):
    folder = make_run(tmp_path / "elsewhere/a")
    for name in ("config.yaml", "samples/fakes_00004.000_kimg.png", "checkpoints/best.ckpt"):
        inside = folder / name.replace("/", "_").replace("config", "other")
        (folder / name).rename(inside)
        (folder / name).symlink_to(inside)
    (tmp_path / "runs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "one").symlink_to(folder)
    for place in (tmp_path / "runs", tmp_path / "one"):
        (run,) = read_runs([place])
        assert len(run.samples) == 3 and run.config and run.curves and run.reals and run.checkpoint
        assert not any("leads out" in note for note in run.notes)
