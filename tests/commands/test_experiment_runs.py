"""An experiment from sweep.yaml to its report, and the ridge chosen on the way, with a model of 30,000 weights."""

import json

import pytest
from rich.console import Console

from vlp_bench.commands import experiment, ridge
from vlp_bench.commands.report import Request as ReportRequest
from vlp_bench.commands.report import chapters
from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.run import Helpers, run
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.sweeps import comparison as cells
from vlp_bench.sweeps import plans

pytestmark = pytest.mark.slow


@pytest.fixture
def computed(monkeypatch):
    """Cells are computed in this process; the list names them."""
    names, objects = [], ObjectCache()

    def compute(todo, workers, *, fresh_statistics=False):
        cells.prune(todo, fresh_statistics=fresh_statistics)
        for cell in todo:
            names.append(cell.name.rpartition("-")[0])
            run(cell, Helpers(objects, Console(quiet=True)))
        return {}

    monkeypatch.setattr(cells, "compute", compute)
    monkeypatch.setattr(ridge, "VALUES", (0.1, 10.0))
    return names


def sweep(monkeypatch, text):
    monkeypatch.setattr(plans, "load", lambda name: plans.parse(text))


def test_dense_is_planned_the_ridge_chosen_and_the_report_written(tiny, tmp_path, monkeypatch, computed):
    part = "{exp: [xvlm_itr], pruner: [omp, chita], sparsity: [0.5], seed: [0], ridge: chosen}"
    sweep(monkeypatch, f"parts: [{part}]")
    words = [word for word in tiny if not word.startswith(("+exp", "recipe.epochs"))]
    request = experiment.Request.parse(["table08_edges_nodes", *words, "recipe.epochs=1"])
    folder = experiment.perform(request)
    first = "xvlm_itr-mini-"
    assert computed[:2] == [f"{first}chita-0.63-seed0"] * 2
    assert sorted(computed[2:]) == [f"{first}chita-0.5-seed0", f"{first}dense-0-seed0", f"{first}omp-0.5-seed0"]
    [stored] = (tmp_path / "out" / "ridge").glob("*.json")
    choice = json.loads(stored.read_text())
    assert choice["average_r1"][f"{choice['ridge']:g}"] == max(choice["average_r1"].values())
    text = (folder / "report.md").read_text(encoding="utf-8")
    shown = [line.split(" | ")[0] for line in text.splitlines() if line.startswith(("| dense", "| omp", "| chita"))]
    assert shown[:3] == ["| dense", "| chita", "| omp"]
    computed.clear()
    experiment.perform(request)
    assert computed == []  # everything is stored, the choice as well


def test_an_experiment_without_a_folder_is_refused():
    """A variable of the shell that is not set: masks made alone would lie in /table07_runtimes."""
    with pytest.raises(UserError, match=r"^paths\.out=: expected a file or folder"):
        experiment.perform(experiment.Request.parse(["table07_runtimes", "paths.out=", "dry=true"]))


def test_a_dry_run_computes_nothing(tiny, monkeypatch, computed, capsys):
    sweep(monkeypatch, "parts: [{exp: [xvlm_itr, not_there], pruner: [omp], sparsity: [0.5], seed: [0, 1]}]")
    words = [word for word in tiny if not word.startswith("+exp")]
    assert experiment.perform(experiment.Request.parse(["x", *words, "dry=true"])) is None
    said = capsys.readouterr().out
    assert "not_there is not in conf/exp yet" in said
    assert "4 runs: 0 stored already, 4 to compute" in " ".join(said.split())
    assert computed == []


def test_masks_made_alone_are_a_report_of_their_own(tiny, tmp_path, monkeypatch, computed):
    part = "{exp: [xvlm_itr], pruner: [snip], sparsity: [0.5], seed: [0], dense: false"
    sweep(monkeypatch, f"parts: [{part}}}, {part}, fresh_statistics: true}}]")
    words = [word for word in tiny if not word.startswith("+exp")]
    folder = experiment.perform(experiment.Request.parse(["table07_runtimes", *words]))
    assert len(computed) == 2  # one mask in out/, another in out/table07_runtimes/
    for report in (folder, folder / "alone"):
        assert "| snip |" in (report / "report.md").read_text(encoding="utf-8")
    [chapter] = chapters(ReportRequest(str(tmp_path / "out")))
    assert [mask.file for mask in chapter.study.masks] == [*(tmp_path / "out" / "masks").glob("*.safetensors")]
    assert [*(tmp_path / "out").glob("statistics/*/gradients.safetensors")]  # the next mask is spared the pass ...
    assert not [*(tmp_path / "out" / "table07_runtimes").glob("statistics/*/*")]  # ... but not where seconds are asked
