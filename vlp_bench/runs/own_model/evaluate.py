"""`vlp-bench evaluate`: models measured as they are, dense and pruned, each number a row of the results."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from vlp_bench.data.datasets.evaluated import FORMATS, Data, Place, fingerprint
from vlp_bench.models.checkpoints.hub import quietly
from vlp_bench.models.checkpoints.locations import HUB, content_hash
from vlp_bench.models.checkpoints.pretrained import MASK
from vlp_bench.models.foreign.loading import found_folder, load, skeleton
from vlp_bench.pruning.precision import slow_dtype
from vlp_bench.pruning.solution import Solution
from vlp_bench.results.pruner_names import named
from vlp_bench.results.row import OWN, Row
from vlp_bench.results.store import Store
from vlp_bench.runs.lock import exclusive
from vlp_bench.runs.own_model import screen
from vlp_bench.runs.own_model.evaluation_request import Evaluation
from vlp_bench.runs.own_model.prune import checked_device, prune
from vlp_bench.runs.own_model.request import Request
from vlp_bench.runs.own_model.writing import CONFIGURATION, beside
from vlp_bench.runs.progress import Evaluating
from vlp_bench.runs.provenance import origin
from vlp_bench.runs.prune_once import mask_hash
from vlp_bench.runs.pruned_model import check_zeros
from vlp_bench.runs.specification import digest, version
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.tasks.foreign.evaluate import check_fits, measured, place_of, task_of
from vlp_bench.tasks.foreign.task import Measured, Task
from vlp_bench.tasks.result_file import write_json

NO_NUMBER = "it is larger than any number; are the weights?"


@dataclass(frozen=True)
class Asked:
    """What is measured, read and checked: nothing has been computed yet."""

    evaluation: Evaluation
    task: Task
    place: Place
    data: Data

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides numbers but the model."""
        return {"task": self.evaluation.words.task, "options": _options(self.task), "data": fingerprint(self.data),
                "dtype": self.evaluation.words.dtype, "version": version()}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A model's folder and where it came from: the dense one by name and hash, and what was pruned of it.

    Attributes:
        weights: hash of the dense model's.
        own: hash of this one's weights and configuration.
        beside: hash of its tokenizer's and processor's files, which pruning copies.
    """

    folder: Path
    name: str
    weights: str
    own: str
    beside: str
    pruner: str = "dense"
    sparsity: float = 0.0
    seed: int = 0
    mask: str | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        """In words."""
        if not self.mask:
            return self.name
        return f"{self.name}, {named(self.pruner, self.settings)} at {100 * self.sparsity:g} %, seed {self.seed}"

    @classmethod
    def of(cls, place: str) -> Candidate:
        """That of a folder; one that `vlp-bench prune` wrote tells what it was. ValueError as `found_folder`."""
        folder = found_folder(place)
        weights, tokens = content_hash(folder), _hash_of(folder, beside(folder))
        own = digest([weights, _hash_of(folder, [Path(name) for name in CONFIGURATION])])
        if not (folder / MASK).is_file():
            return cls(folder, place if place.startswith(HUB) else folder.absolute().name, weights, own, tokens)
        solution = Solution.load(folder / MASK)
        told = solution.report
        return cls(
            folder=folder,
            name=str(told.get("model", folder.absolute().name)),
            weights=str(told.get("model_weights", weights)),
            own=own,
            beside=tokens,
            pruner=str(told.get("method", "unknown")),
            sparsity=float((told.get("sparsity") or {}).get("asked") or solution.sparsity),
            seed=int(told.get("seed", 0)),
            mask=mask_hash(solution),
            settings=told.get("settings"),
        )


def _hash_of(folder: Path, names: Sequence[Path]) -> str:
    """Of what files of a folder are called and hold; of one that isn't there of nothing."""
    files = [folder / name for name in names]
    return digest([[str(n), content_hash(f)] for n, f in zip(names, files, strict=True) if f.is_file()])


def ready(evaluation: Evaluation) -> Asked:
    """The task and its data, read.

    Raises:
        ValueError: a key of either that can't be, or files that are not there or wrong.
    """
    task = task_of(evaluation.words.task, evaluation.options)
    allowed = FORMATS[task.READS]
    if "format" not in evaluation.data and len(allowed) > 1:
        raise UserError(f"data.format= is missing: for task={evaluation.words.task} give one of {', '.join(allowed)}")
    place = place_of({"format": allowed[0], **evaluation.data})
    return Asked(evaluation, task, place, place.read(task.READS))


def check_skeleton(asked: Asked, place: str) -> None:
    """ValueError for a model that can't be asked, before its weights are read."""
    with quietly():
        check_fits(asked.task, skeleton(found_folder(place)), asked.evaluation.words.task)


def evaluate(evaluation: Evaluation, console: Console, asked: Asked | None = None) -> list[Row]:
    """Measure all models, store a row for each number, and show them side by side; those stored are not measured again.

    Raises:
        UserError, ValueError: says what was given, what is allowed, and what would mend it.
    """
    rows = rows_of(evaluation, console, asked or ready(evaluation))
    screen.side_by_side(console, [*_dense(Store(Path(evaluation.words.out) / "runs"), rows), *rows])
    screen.next_step(console, evaluation.words.out)
    return [row for own in rows for row in own]


def rows_of(evaluation: Evaluation, console: Console, asked: Asked) -> list[list[Row]]:
    """The rows of each model, in their order, measured and stored or stored already; raises as `evaluate`."""
    device = checked_device(evaluation.words.device)
    for place in evaluation.models:
        check_skeleton(asked, place)
    candidates = [Candidate.of(place) for place in evaluation.models]
    screen.evaluated_on(console, evaluation.words.task, asked.place, len(asked.data.records))
    return [_rows(asked, model, device, console) for model in candidates]


def prune_and_evaluate(
    request: Request, options: Mapping[str, Any], evaluation: Evaluation, console: Console
) -> list[Row]:
    """Prune a model, write it, and measure it before and after; what can't be measured is said before it is pruned."""
    asked = ready(evaluation)
    request.check_keeps(**{"data.root": asked.place.root, "results": evaluation.words.out})
    check_skeleton(asked, request.model)
    written = [str(folder) for _, folder in prune(request, options, console)]
    return evaluate(evaluation.of([request.model, *written]), console, asked)


def _dense(store: Store, rows: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """The stored rows of the dense model, where only pruned ones were asked for."""
    if any(row.pruner == "dense" for own in rows for row in own):
        return []
    setting = rows[0][0].setting
    runs = {row.run for row in store.rows() if row.setting == setting and row.pruner == "dense"}
    return [found for run in sorted(runs)[:1] if (found := store.last(run))]


def _rows(asked: Asked, model: Candidate, device: torch.device, console: Console) -> list[Row]:
    identity = _identity(asked, model)
    words = (asked.evaluation.name, OWN, model.pruner, f"{model.sparsity:g}", identity["run"])
    store, folder = Store(Path(asked.evaluation.words.out) / "runs"), "-".join(words)
    with exclusive(store.root / folder):
        if store.done(identity["run"], folder) and not asked.evaluation.words.force:
            console.print(f"{model.label}: stored already (force=true measures again)", soft_wrap=True, markup=False)
            return store.last(identity["run"], folder)
        provenance = origin(_config(asked, model), model.weights)
        found = _measured(asked, model, device, console, provenance)
        rows = _made(found, identity, provenance)
        if found.said:
            write_json(store.root / folder / "said.json", list(found.said))
        store.append(folder, rows)
    return rows


def _identity(asked: Asked, model: Candidate) -> dict[str, Any]:
    """Model and data by what they hold: a folder that is called otherwise is the same."""
    essence = asked.settings | {"exp": asked.evaluation.name, "model": model.weights, "beside": model.beside}
    own = {"pruner": model.pruner, "sparsity": model.sparsity, "mask": model.mask, "weights": model.own,
           "seed": model.seed}  # fmt: skip
    columns = {"exp": asked.evaluation.name, "model": model.name, "task": asked.evaluation.words.task, "benchmark": OWN}
    chosen = {"pruner": model.pruner, "sparsity": model.sparsity, "seed": model.seed}
    return columns | chosen | {"run": digest([essence, own]), "setting": digest(essence)}


def _config(asked: Asked, model: Candidate) -> dict[str, Any]:
    """What a row tells of its configuration."""
    return {
        "experiment": asked.evaluation.name,
        "model": {"name": model.name},
        "task": {"name": asked.evaluation.words.task, **_options(asked.task)},
        "data": asdict(asked.place),
        "pruner": dict(model.settings or {}),
        "sparsity": model.sparsity,
        "dtype": asked.evaluation.words.dtype,
    }


def _measured(
    asked: Asked, model: Candidate, device: torch.device, console: Console, provenance: dict[str, Any]
) -> Measured:
    began = time.monotonic()
    with quietly(), _enough_memory(device), Evaluating(console, what=model.label) as watch:
        own = load(model.folder, asked.evaluation.words.dtype)
        if model.mask:
            check_zeros(model.folder, dict(own.named_parameters()), Solution.load(model.folder / MASK))
        check_fits(asked.task, own, asked.evaluation.words.task)
        screen.hint(console, slow_dtype(own.dtype, device))
        found = measured(nn.Module.to(own, device), model.folder, asked.task, asked.data, watch.of)  # pyright: ignore
    known = {"data": fingerprint(asked.data), "mask": model.mask, "notes": dict(found.notes)}
    provenance.update(known | {"seconds": round(time.monotonic() - began, 3)})
    return found


@contextmanager
def _enough_memory(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(f"{device} is out of memory: give a smaller task.batch_size=, or dtype=bfloat16") from None


def _made(found: Measured, identity: Mapping[str, Any], provenance: dict[str, Any]) -> list[Row]:
    common = {**identity, "provenance": provenance, "rows": len(found.values), "split": "test"}
    return [_row(name, value, common) for name, value in found.values.items()]


def _row(name: str, value: float, common: dict[str, Any]) -> Row:
    if math.isfinite(value):
        return Row(metric=name, value=value, **common)
    return Row(metric=name, value=math.nan, status="ERR", message=f"{name}: {NO_NUMBER}", **common)


def _options(task: Any) -> dict[str, Any]:
    """The keys of a task, which is a dataclass."""
    return asdict(task)
