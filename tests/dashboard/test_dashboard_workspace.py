"""The view in Weights & Biases, without a network."""

from __future__ import annotations

import importlib.util

import pytest
from dashboard_helpers import make_run

from stylegan_lightning.dashboard import workspace
from stylegan_lightning.dashboard.runs import read_runs
from stylegan_lightning.errors import UserError


def panels_of(view):
    spec = view._to_model().spec.model_dump(by_alias=True, exclude_none=True)
    return {s["name"]: s["panels"] for s in spec["section"]["panelBankConfig"]["sections"]}, spec["section"]


def test_view_of_two_runs(tmp_path):
    pytest.importorskip("wandb_workspaces", reason="needs stylegan_lightning[dashboards]")
    make_run(tmp_path / "a"), make_run(tmp_path / "b", r1_gamma=5.0, augment="ada")
    view = workspace.build("me", "faces", "Two runs", read_runs([tmp_path]), "metric/fid")
    assert (view.entity, view.project, view.name) == ("me", "faces", "Two runs")
    panels, section = panels_of(view)
    assert list(panels) == ["Best", "Metrics", "Samples", "Parameters", "Training"]
    assert section["settings"]["xAxis"] == "progress/kimg"
    curve = panels["Metrics"][0]["config"]
    assert (curve["xAxis"], curve["metrics"]) == ("progress/kimg", ["metric/fid"])
    assert panels["Best"][0]["config"]["metrics"] == ["summary_metrics.best/fid"]
    assert panels["Samples"][0]["config"]["mediaKeys"] == ["samples/fakes"]
    parallel, importance, _ = panels["Parameters"]
    assert [c["accessor"] for c in parallel["config"]["columns"]] == [
        "config:model.value.r1_gamma", "config:augment.value.name", "summary:best/fid",
    ]  # fmt: skip
    assert importance["config"]["targetKey"] == "best/fid"
    assert [p["config"]["metrics"] for p in panels["Training"]] == [["loss/G"], ["speed/img_per_s"]]


def test_view_without_a_metric(tmp_path):
    pytest.importorskip("wandb_workspaces", reason="needs stylegan_lightning[dashboards]")
    make_run(tmp_path / "a", [])
    panels, _ = panels_of(workspace.build("me", "faces", "t", read_runs([tmp_path]), None))
    assert [p["viewType"] for p in panels["Parameters"]] == ["Run Comparer"]


@pytest.mark.parametrize("place", ["project", "/project", "entity/", "a/b/c"])
def test_a_place_is_an_entity_and_a_project(place):
    with pytest.raises(UserError, match="ENTITY/PROJECT"):
        workspace.checked(place)


def test_what_to_do_without_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"stylegan_lightning\[dashboards\].*local report needs none"):
        workspace.checked("me/faces")


def test_what_to_do_without_a_login():
    import wandb

    class View:
        entity, project = "me", "faces"

        def save(self):
            raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.\nmore")

    with pytest.raises(UserError, match=r"me/faces: No API key.*wandb login.*local report needs none") as error:
        workspace.save(View())
    assert "\n" not in str(error.value)


def test_runs_of_a_project(monkeypatch):
    import wandb

    class Online:
        name, config, summary = "x", {"model": {"r1_gamma": 1.0}, "seed": 0}, {"metric/fid": 3.0, "best/fid": 2.0}

    class Api:
        def runs(self, path, **options):
            return [Online()] * (3 if path == "me/faces" else 0)

    monkeypatch.setattr(wandb, "Api", Api)
    runs = workspace.online_runs("me", "faces")
    assert len(runs) == 3 and runs[0].config == {"model.r1_gamma": 1.0, "seed": 0} and "metric/fid" in runs[0].curves
    with pytest.raises(UserError, match="has no runs"):
        workspace.online_runs("me", "other")
