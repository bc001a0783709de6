"""W&B from stored rows: what is sent is what is stored, and offline files hold it."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.results.test_report import MASKS, PUBLISHED, fill
from vlp_bench.commands import wandb_sync
from vlp_bench.results.report import material, page
from vlp_bench.results.store import Store
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.runs.terminal.key_value import parse
from vlp_bench.sweeps import wandb_workspace


@pytest.fixture
def study(tmp_path):
    fill(tmp_path)
    [study] = material.studies(Store(tmp_path / "runs"))
    return study


def test_history_is_the_runs_curves(study):
    assert list(wandb_sync.history(study, "omp-0.5-0")) == [
        (1, {"train/loss": 9.0}),
        (2, {"train/loss": 5.0, "val/txt_r1": 60.0}),
    ]
    assert list(wandb_sync.history(study, "lost")) == []


def test_a_summary_holds_every_number_and_its_origin(study):
    found = wandb_sync.summary(study, "omp-0.5-1")
    assert (found["test/txt_r1"], found["test/img_r1"], found["mask/seconds"]) == (61.0, 59.0, 2.0)
    assert found["origin"]["data"] == "d"
    lost = wandb_sync.summary(study, "lost")
    assert (lost["status"], lost["message"]) == ("ERR", "no number")
    assert not [name for name in lost if name.startswith("test/")]


@pytest.mark.parametrize(("word", "said"), [("online=yes", "true or false"), ("projekt=x", "a key of out, project")])
def test_a_mistyped_request_is_explained(word, said):
    with pytest.raises(UserError, match=said):
        parse(wandb_sync.Request, [word])


def test_a_request_is_read():
    request = parse(wandb_sync.Request, ["online=true", "entity=team", "out=o"])
    assert (request.online, request.entity, request.out, request.project) == (True, "team", "o", "vlp_bench")


def records(file):
    """The records of an offline file: seven bytes of head, then a LevelDB log (blocks of 32 KiB)."""
    from wandb.proto import wandb_internal_pb2 as pb

    data, at, parts = file.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # the rest of a block is padding
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            yield pb.Record.FromString(b"".join(parts))
            parts = []


@pytest.fixture
def chapter(study):
    return page.chapter(study, PUBLISHED, baseline="omp")


def keys(panels):
    return [key for panel in panels for key in panel.keys]


def test_a_dashboard_shows_keys_that_are_sent_and_no_others(chapter):
    study = chapter.study
    curves = wandb_sync._curves(study)
    assert curves == ["train/loss", "val/txt_r1"]
    found = {section.name: section.panels for section in wandb_workspace.sections(chapter, curves)}
    assert list(found) == ["Test, mean over seeds", "Cost and quality", "Training", "Report"]
    sent = wandb_sync.summary(study, "omp-0.5-1")
    assert set(keys([*found["Test, mean over seeds"], *found["Cost and quality"]])) == {*sent} - {
        "status", "message", "origin"
    }  # fmt: skip
    assert keys(found["Training"]) == curves
    assert keys(found["Report"])[:3] == ["report", "cells", "Difference to omp"]
    whole = json.loads(wandb_workspace.definition(chapter, curves))
    assert whole["sections"][0]["panels"][0] == {"kind": "bar", "title": "test/txt_r1", "keys": ["test/txt_r1"]}


def test_a_saved_workspace_needs_an_extra_and_says_so(chapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"vlp_bench\[dashboards\]"):
        wandb_workspace.workspace(wandb_workspace.definition(chapter, []), "team", "project")


def test_the_definition_becomes_a_workspace_of_wandbs_package(chapter, tmp_path, monkeypatch):
    ws = pytest.importorskip("wandb_workspaces.workspaces", reason="needs the extra 'dashboards'")
    content = wandb_workspace.definition(chapter, ["train/loss"])
    made = wandb_workspace.workspace(content, "team", "project")
    wanted = [[panel["kind"] for panel in section["panels"]] for section in json.loads(content)["sections"]]
    kinds = {"line": "LinePlot", "bar": "BarPlot", "scatter": "ScatterPlot", "media": "MediaBrowser",
             "table": "WeavePanelSummaryTable"}  # fmt: skip
    assert [[type(panel).__name__ for panel in section.panels] for section in made.sections] == [
        [kinds[kind] for kind in section] for section in wanted
    ]
    spec = made._to_model().model_dump_json()  # what would be sent
    assert all(word in spec for word in ("train/loss", "test/txt_r1", "mask/seconds", "report"))
    saved = []
    monkeypatch.setattr(ws.Workspace, "save", lambda self: saved.append(self))
    monkeypatch.setattr(ws.Workspace, "url", property(lambda self: "https://wandb.ai/team/project?nw=1"))
    monkeypatch.setattr(ws.Workspace, "from_url", classmethod(lambda cls, url: saved[0]))
    for _ in range(2):
        wandb_workspace.save(content, "team", "project", tmp_path / "w.json")
    assert saved[0] is saved[1]  # the second call changed the first's
    assert json.loads((tmp_path / "w.json").read_text())["url"].startswith("https://")


def test_trouble_with_the_workspace_stops_nothing(chapter, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    run = SimpleNamespace(entity="team", project="p")
    wandb_sync._save_workspace(run, chapter, "{}", wandb_sync.Request(out=str(tmp_path), online=True))
    assert "no workspace was saved" in capsys.readouterr().err


def test_the_stored_masks_of_a_study_are_one_artifact(chapter, tmp_path):
    file = tmp_path / "xvlm_mini-omp-0.5-0123456789.safetensors"
    file.write_bytes(b"bits")
    study, sent = replace(chapter.study, masks=[replace(MASKS[0], file=file), MASKS[1]]), []
    wb = SimpleNamespace(log=lambda content: None, log_artifact=sent.append)
    wandb_sync._log_study(wb, replace(chapter, study=study), {"index.html": ""}, wandb_sync.Request(str(tmp_path)))
    assert [(artifact.type, sorted(artifact.manifest.entries)) for artifact in sent] == [
        ("report", ["index.html"]), ("masks", [file.name])
    ]  # fmt: skip


@pytest.mark.slow
def test_offline_files_hold_runs_tables_and_artifacts(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_sync, "settings", lambda study, run: {"id": run, "name": run, "group": f"g{run[:-2]}"})
    root = fill(tmp_path).root
    for folder in root.iterdir():  # one run and one that failed are enough here
        if folder.name not in ("omp-0.5-0", "lamp-0.5-0", "lost"):
            shutil.rmtree(folder)
    assert wandb_sync.sync(wandb_sync.Request(out=str(tmp_path))) == 4  # three runs and the study
    files = (tmp_path / "wandb_sync").glob("wandb/offline-run-*/run-*.wandb")
    found = {file.stem.removeprefix("run-"): list(records(file)) for file in files}
    assert len(found) == 4
    kinds = [record.WhichOneof("record_type") for record in found["omp-0.5-0"]]
    assert kinds.count("history") == 2
    [first, *_] = [record.run for record in found["omp-0.5-0"] if record.WhichOneof("record_type") == "run"]
    assert (first.run_id, first.run_group) == ("omp-0.5-0", "gomp-0.5")
    [study] = [each for name, each in found.items() if name.startswith("study-")]
    text = "".join(str(record) for record in study)
    assert "report-" in text
    assert "table-file" in text
    assert "html-file" in text
    assert "workspace.json" in text  # among the files of the report's artifact
