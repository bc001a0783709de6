"""Every task that shares its evaluation: two gloo processes measure, write and keep what one does, to the last bit."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment  # pyright: ignore[reportPrivateImportUsage]

from tests.support.forked import together
from tests.tasks import test_captioning, test_classification, test_pairs, test_vqa
from tests.tasks.worlds import captions, questions
from vlp_bench import processes
from vlp_bench.tasks.classification import Classification


def classified() -> tuple[Any, Any]:
    return Classification(test_classification.dino(), classes=48), test_classification.data()


TASKS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "vqa": lambda: (test_vqa.task(), questions()),
    "captioning": lambda: (test_captioning.task(), captions()),
    "classification": classified,
    "pairs": lambda: (test_pairs.task(), test_pairs.data()),
}
FILES = {"vqa": "answers.json", "captioning": "captions.json"}


def measured(name: str, count: int, folder: Path) -> dict[str, Any]:
    """The metrics of the test split and the values of single examples, on this process."""
    for message in (".*does not have many workers.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message=message)
    ranks = {"RANK": processes.rank(), "LOCAL_RANK": processes.rank(), "NODE_RANK": 0, "WORLD_SIZE": count}
    os.environ.update({key: str(value) for key, value in ranks.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    task, data = TASKS[name]()
    trainer = Trainer(
        accelerator="cpu", strategy="ddp", devices=count, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=str(folder),
        plugins=[LightningEnvironment()],
    )  # fmt: skip
    [metrics] = trainer.test(task, data, verbose=False)
    return {"metrics": metrics, "examples": task.examples if processes.is_main() else {}}


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_measure_what_one_does(name: str, tmp_path: Path) -> None:
    [alone] = together(1, lambda: measured(name, 1, tmp_path / "one"), tmp_path / "1")
    shared = together(2, lambda: measured(name, 2, tmp_path / "two"), tmp_path / "2")
    assert alone["metrics"]
    assert [part["metrics"] for part in shared] == [alone["metrics"]] * 2
    assert alone["examples"].keys() == shared[0]["examples"].keys()
    assert all(torch.equal(each, shared[0]["examples"][key]) for key, each in alone["examples"].items())
    if name in FILES:
        one, two = (json.loads((tmp_path / side / FILES[name]).read_text()) for side in ("one", "two"))
        assert one == two
