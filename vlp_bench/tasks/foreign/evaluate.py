"""`vlp_bench.evaluate`: what a model of transformers is worth as it is, dense or pruned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from vlp_bench.annotations import TARGET
from vlp_bench.construct import conf_folder, construct
from vlp_bench.data.datasets.evaluated import FORMATS, Data, Place
from vlp_bench.models.checkpoints.hub import quietly
from vlp_bench.models.foreign.inputs import Inputs
from vlp_bench.models.foreign.loading import found_folder, load
from vlp_bench.spelling import did_you_mean
from vlp_bench.tasks.foreign.task import Measured, Task, Watch, unwatched

PLACE = "vlp_bench.data.datasets.evaluated.Place"


def task_names() -> list[str]:
    """What can be measured: the files of conf/evaluation."""
    return sorted(file.stem for file in (conf_folder() / "evaluation").glob("*.yaml"))


def task_of(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """A task by its name, with some of its keys changed.

    Raises:
        ValueError: no such task, a key that it has not, or a value that can't be.
    """
    import yaml

    if name not in (known := task_names()):
        raise ValueError(f"task={name}: there is no such task; allowed: {', '.join(known)}{did_you_mean(name, known)}")
    told = yaml.safe_load((conf_folder() / "evaluation" / f"{name}.yaml").read_text(encoding="utf-8"))
    return construct(told | dict(options or {}), "task")


def check_fits(task: Task, model: PreTrainedModel, name: str) -> None:
    """ValueError for a model that the task can't ask; says which it is for, and what the model can be asked."""
    if not task.fits(model):
        own = [other for other in task_names() if task_of(other).fits(model)]
        instead = f"; {type(model).__name__} can be asked: {', '.join(own)}" if own else ""
        raise ValueError(f"task={name} is for {task.NEEDS}, and this is a {type(model).__name__}{instead}")


def measured(model: PreTrainedModel, folder: Path, task: Task, data: Data, watch: Watch = unwatched) -> Measured:
    """A task's numbers; the model is put in evaluation mode meanwhile. `folder`: where its processor lies."""
    training = model.training
    try:
        with quietly():
            return task.measure(model.eval(), Inputs(model, folder), data, watch)
    finally:
        model.train(training)


def evaluate(
    model: PreTrainedModel | str | Path,
    task: str,
    data: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    *,
    folder: str | Path | None = None,
) -> Measured:
    """Measures a model of transformers as it is, dense or pruned.

    Args:
        model: a model, or the folder of one (or hf:owner/name).
        task: retrieval, vqa, captioning, perplexity, multiple_choice or classification.
        data: where the data lie, the arguments of `data.datasets.evaluated.Place`: at least root and format.
        options: keys of the task, see conf/evaluation.
        folder: where tokenizer and processor of a model in memory lie; where it was loaded from, unless told.

    Raises:
        ValueError: says what was given, what is allowed, and what would mend it.
    """
    asked = task_of(task, options)
    read = place_of(data).read(asked.READS)
    if isinstance(model, str | Path):
        folder = found_folder(str(model))
        model = load(folder)
    folder = folder or model.name_or_path
    if not folder:
        raise ValueError("folder= is missing: give the folder where the model's tokenizer or processor lies")
    check_fits(asked, model, task)
    return measured(model, Path(folder), asked, read)


def place_of(data: Mapping[str, Any]) -> Place:
    """The arguments of `Place`, checked. ValueError for one that it has not, or of another kind."""
    return construct({TARGET: PLACE, **data}, "data", [PLACE])


def formats_of(task: str) -> tuple[str, ...]:
    """The formats of a task's data."""
    return tuple(FORMATS[task_of(task).READS])
