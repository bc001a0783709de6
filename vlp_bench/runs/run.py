"""The whole sentence: build the model, prune it once, fine-tune what is left, test once, store the numbers."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import Callback, seed_everything
from rich.console import Console

from vlp_bench import processes
from vlp_bench.construct import maker
from vlp_bench.data import checking
from vlp_bench.models.speed import prepare
from vlp_bench.results import examples
from vlp_bench.results.row import OWN, Row
from vlp_bench.results.store import Store
from vlp_bench.runs import screen
from vlp_bench.runs.checkpointing import write_whole
from vlp_bench.runs.device import about_precision, root_device, training_precision
from vlp_bench.runs.finetune import LAST, finetune
from vlp_bench.runs.lock import exclusive
from vlp_bench.runs.object_cache import ObjectCache, monitored
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.progress import Pruning
from vlp_bench.runs.provenance import origin
from vlp_bench.runs.prune_once import PruneOnce, about_pruning_precision, assert_zeros, mask_hash
from vlp_bench.runs.specification import Specification
from vlp_bench.runs.suitability import inspect
from vlp_bench.runs.terminal.console import console as terminal
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.runs.tracking import KeepArtifacts
from vlp_bench.tasks.optimisation import Diverged

DATA = "data.hash"  # beside the checkpoint of a run that is not done: hashes of what it is trained on, a line each


@dataclass
class Helpers:
    """What a run is given by whoever starts it: shared objects, a console, callbacks that watch it.

    `masks_are_new`: whoever starts it has just made the masks, and under force=true they are not made a second time.
    """

    objects: ObjectCache = field(default_factory=ObjectCache)
    console: Console = terminal
    watchers: Sequence[Callback] = ()
    masks_are_new: bool = False


def run(specification: Specification, helpers: Helpers | None = None) -> None:
    """Perform a specification, or show its result if it is stored already. Of several processes the main one writes.

    Raises:
        Diverged: the loss or a metric is no longer a number; rows with status ERR are stored.
        ValueError: something the user can mend.
        OSError: the disk refuses.
    """
    helpers = helpers or Helpers()
    store = Store(specification.out / "runs")
    with exclusive(specification.folder) if processes.is_main() else nullcontext():
        done = store.done(specification.run, specification.name) and not specification.config["force"]
        if processes.agreed(done):
            _leave_no_checkpoint(specification)  # of a run that was killed between its rows and its end
            screen.header(helpers.console, specification)
            screen.already_done(helpers.console, specification, store)
            _say_changed(specification, helpers, store)
        else:
            _perform(specification, helpers, store)
    screen.result(helpers.console, specification, store)


def _perform(specification: Specification, helpers: Helpers, store: Store) -> None:
    provenance = origin(specification.config, specification.weights)
    began = time.monotonic()
    try:
        metrics = _metrics(specification, helpers, provenance)
        _check_finite(metrics)
    except Diverged as error:
        provenance["seconds"] = round(time.monotonic() - began, 3)
        if processes.is_main():
            store.append(specification.name, [_failure(specification, provenance, str(error))])
        raise
    provenance["seconds"] = round(time.monotonic() - began, 3)
    if processes.is_main():
        store.append(specification.name, _rows(specification, provenance, metrics))
    _leave_no_checkpoint(specification)
    processes.wait()


def _leave_no_checkpoint(specification: Specification) -> None:
    if processes.is_main():
        for name in (LAST, DATA):
            (specification.folder / name).unlink(missing_ok=True)


def _say_changed(specification: Specification, helpers: Helpers, store: Store) -> None:
    """Say so if a stored result is of one's own data as they were before."""
    config = specification.config
    if specification.benchmark != OWN:
        return
    with suppress(ValueError):  # data that are gone are no others
        now = helpers.objects.data(Plan.of(specification).fit(config), config["allow"]).fingerprint()
        if now != store.last(specification.run, specification.name)[0].provenance["data"]:
            screen.say(
                helpers.console, f"but {config['data'].get('root', 'its data')} has changed since: see force=true"
            )


def _check_data(specification: Specification, data: Any, now: str, console: Console) -> None:
    """Note on what a run is trained, beside its checkpoint: the hash of its annotations, those of one's own images.

    Raises:
        UserError: it was interrupted, and the annotations or the sizes of images have changed since.
    """
    folder = specification.folder
    note, resumed = folder / DATA, (folder / LAST).is_file() and not specification.config["force"]
    said = [now, *(checking.stamps(data) if specification.benchmark == OWN else ())]
    before = note.read_text(encoding="utf-8").split() if resumed and note.is_file() else said
    changed = [one != other for one, other in zip(before, said)]  # an earlier version noted annotations alone
    if any(changed[:2]):
        what, other = ("data", "annotations") if changed[0] else ("images", "files (their sizes differ)")
        raise UserError(
            f"{folder} was interrupted, and its {what} have changed since: put back the {other} it was trained on, or "
            "begin anew with force=true"
        )
    if any(changed):
        written = "its image files were written anew since it was interrupted"
        screen.say(console, f"{written}: if they are others, begin anew with force=true")
    if processes.is_main():
        write_whole(note, "\n".join(said).encode())


def _metrics(specification: Specification, helpers: Helpers, provenance: dict[str, Any]) -> dict[str, float]:
    """All numbers of a run by 'split/metric'; fills in the data and the mask of its provenance."""
    config, allow = specification.config, specification.config["allow"]
    seed_everything(config["seed"], workers=True, verbose=False)
    with screen.step(helpers.console, "reading the weights and preparing the data"):
        plan = Plan.of(specification)
        model, data = helpers.objects.model(config, allow), helpers.objects.data(plan.fit(config), allow)
        inspect(model, data, config)
        provenance["data"] = data.fingerprint()
        _check_data(specification, data, provenance["data"], helpers.console)
    screen.header(helpers.console, specification)
    screen.plan(helpers.console, specification, plan)
    screen.say(helpers.console, about_precision(config))
    screen.say(helpers.console, about_pruning_precision(config))
    provenance["precision"] = training_precision(config)
    again = config["force"] and not helpers.masks_are_new
    with Pruning(helpers.console, specification.folder) as watch:
        prune = PruneOnce(specification, data, root_device(config), again, watch)
        task = maker(config["task"], "task", allow)(model=model, pruner=prune)
    assert prune.pruned is not None, "the task did not call the pruner it was handed"
    solution = prune.pruned.solution
    provenance["mask"] = mask_hash(solution) if solution.masks else None
    provenance["pruning_precision"] = solution.report.get("precision", "fp32")
    screen.pruned(helpers.console, prune.pruned)
    prepare(task.model, compiled=config["compile"], recomputed=config["recompute"])
    if (specification.folder / LAST).is_file() and not config["force"]:
        helpers.console.print("an interrupted run is there: it goes on from its last checkpoint")
    metrics = finetune(
        specification,
        task,
        data,
        solution,
        [*helpers.watchers, KeepArtifacts(prune.pruned.file)],
        batch_size=data.batch_size,
        bar=not helpers.console.quiet,
    )
    assert_zeros(task.model, task.task_masks(solution.masks))
    provenance["notes"] = dict(task.notes)
    if processes.is_main():
        examples.write(specification.folder, getattr(task, "examples", {}))
    report = solution.report
    names = {"seconds": "seconds" if report.get("alone") else "shared_seconds", "peak_gb": "peak_gb"}
    cost = {f"mask/{name}": float(report[key]) for key, name in names.items() if report.get(key) is not None}
    return metrics | {"mask/sparsity": solution.sparsity} | cost


def _check_finite(metrics: dict[str, float]) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise Diverged(f"{', '.join(bad)} is not a number at the end of the run; lower task.lr")


def _rows(specification: Specification, provenance: dict[str, Any], metrics: dict[str, float]) -> list[Row]:
    common = specification.identity() | {"provenance": provenance, "rows": len(metrics)}
    parts = [(name.partition("/"), value) for name, value in metrics.items()]
    return [Row(metric=metric, value=value, split=split, **common) for (split, _, metric), value in parts]


def _failure(specification: Specification, provenance: dict[str, Any], message: str) -> Row:
    common = specification.identity() | {"provenance": provenance, "rows": 1}
    metric = monitored(specification.config)
    return Row(metric=metric, value=math.nan, split="test", status="ERR", message=message, **common)
