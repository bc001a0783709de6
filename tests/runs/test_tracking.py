"""Weights & Biases: one run per seed, grouped; what goes wrong in it stops nothing; runs are always closed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlp_bench.runs.finetune import _finish
from vlp_bench.runs.tracking import CarefulWandb, KeepArtifacts, labels


class Run:
    """What the logger asks of a W&B run."""

    def __init__(self, broken=False):
        self.broken, self.logged, self.artifacts, self.finished = broken, [], [], 0

    def log(self, metrics, **_):
        if self.broken:
            raise ConnectionError("the service has gone")
        self.logged.append(metrics)

    def log_artifact(self, artifact):
        self.artifacts.append((artifact.type, artifact.name, artifact.files))

    def finish(self):
        self.finished += 1
        if self.broken:
            raise ConnectionError("the service has gone")


class Artifact:
    def __init__(self, name, type):
        self.name, self.type, self.files = name, type, []

    def add_file(self, file):
        self.files.append(file)


@pytest.fixture
def logger(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Artifact=Artifact))
    monkeypatch.setattr(CarefulWandb, "experiment", property(lambda self: self._experiment))  # no service is started
    logger = CarefulWandb(save_dir=str(tmp_path), offline=True)
    logger._experiment = Run()
    return logger


def test_wandb_is_told_nothing_that_it_warns_of(tmp_path, monkeypatch):
    """`anonymous`, which Lightning hands on whether it is given or not."""
    asked = {}
    monkeypatch.setattr("wandb.init", lambda **given: asked.update(given) or SimpleNamespace())
    assert CarefulWandb(save_dir=str(tmp_path), project="mine", offline=True).experiment is not None
    assert asked["project"] == "mine"
    assert "anonymous" not in asked


def test_runs_that_differ_in_the_seed_alone_share_a_group(specified):
    found = [specified(*words) for words in (["seed=0"], ["seed=1"], ["seed=0", "sparsity=0.5"], ["task.k_test=3"])]
    told = [labels(run.folder, run.config) for run in found]
    assert told[0]["group"] == told[1]["group"]
    assert len({one["group"] for one in told}) == 3
    assert len({one["name"] for one in told}) == 4
    assert {one["job_type"] for one in told} == {"finetune"}
    tested = specified("recipe.epochs=0")
    assert labels(tested.folder, tested.config)["job_type"] == "evaluate"


def test_masks_and_results_are_artifacts(logger, tmp_path):
    mask = tmp_path / "mask.safetensors"
    mask.touch()
    trainer = SimpleNamespace(loggers=[logger], is_global_zero=True, callback_metrics={"test/r_mean": 12.5})
    KeepArtifacts(mask).on_test_end(trainer, None)
    (_, _, [results]), (kind, name, files) = logger._experiment.artifacts
    assert (kind, name, files) == ("mask", "mask-mask", [str(mask)])
    assert '"test/r_mean": 12.5' in Path(results).read_text()


def test_what_breaks_is_told_once_and_left_out(logger, capsys):
    logger.log_metrics({"a": 1.0}, step=1)
    logger._experiment.broken = True
    logger.log_metrics({"a": 2.0}, step=2)
    logger.log_metrics({"a": 3.0}, step=3)
    assert [found["a"] for found in logger._experiment.logged] == [1.0]
    assert capsys.readouterr().err.count("stopped working") == 1
    logger.log_hyperparams({"a": 1})
    logger.finalize("success")


def test_a_run_is_closed_whatever_happens(logger, capsys):
    _finish(logger)
    assert logger._experiment.finished == 1
    logger._experiment.broken = True
    _finish(logger)
    assert logger._experiment.finished == 2
    assert "the service has gone" in capsys.readouterr().err
    _finish(SimpleNamespace())
