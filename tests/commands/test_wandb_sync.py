"""W&B from stored rows: what is sent is what is stored, and offline files hold it."""

import shutil

import pytest

from tests.results.test_report import fill
from vlp_bench.commands import wandb_sync
from vlp_bench.commands.errors import UserError
from vlp_bench.results.report import material
from vlp_bench.results.store import Store


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
        wandb_sync.Request.parse([word])


def test_a_request_is_read():
    request = wandb_sync.Request.parse(["online=true", "entity=team", "out=o"])
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
