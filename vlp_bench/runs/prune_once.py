"""Prunes once: masks are stored by content and shared by every run that asks for the same."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench import processes
from vlp_bench.construct import construct
from vlp_bench.pruning import another_sparsity as stored_scores
from vlp_bench.pruning.needs import needs_of
from vlp_bench.pruning.precision import Precision, resolved, without_effect
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.on_disk import StatisticsFolder
from vlp_bench.runs.device import peak
from vlp_bench.runs.lock import join
from vlp_bench.runs.object_cache import TaskData
from vlp_bench.runs.specification import Specification, digest, version
from vlp_bench.runs.terminal.console import stderr

CPU = torch.device("cpu")
Watch = Callable[[Iterable[Any], int | None], Iterable[Any]]
"""Calibration batches, and how many of them are used -> the same batches."""


def _unwatched(batches: Iterable[Any], _: int | None) -> Iterable[Any]:
    return batches


@dataclass(frozen=True)
class Pruned:
    """The mask of a specification, where it lies, and whether it was made just now."""

    solution: Solution
    file: Path
    fresh: bool


@dataclass
class PruneOnce:
    """Called on the model when the task is built: installs the stored mask, or prunes and stores it.

    After the call `pruned` is what was installed.
    """

    specification: Specification
    data: TaskData
    device: torch.device
    again: bool = False
    watch: Watch = _unwatched
    pruned: Pruned | None = field(default=None, init=False)

    def __call__(self, model: nn.Module) -> None:
        [found] = prune_once([self.specification], model, self.data, self.device, again=self.again, watch=self.watch)
        processes.check_same(mask_hash(found.solution), "mask")
        self.pruned = found
        found.solution.install(model, other_weights="allow")


def prune_once(
    specifications: Iterable[Specification],
    model: nn.Module,
    data: TaskData,
    device: torch.device,
    *,
    again: bool = False,
    fresh_statistics: bool = False,
    watch: Watch = _unwatched,
) -> Iterator[Pruned]:
    """The masks of specifications that differ in pruner, sparsity and seed alone: stored ones, or made and stored.

    They share the statistics of one pass; each pruner is called once for all its sparsities. Every mask comes once,
    and is on disk, with what its scores are made of where the specification says so, when it does.

    Args:
        model: the pre-trained one; it stays as it is.
        again: stored masks are not used.
        fresh_statistics: nor are stored statistics, and none are kept: a mask's seconds are its own.
        watch: sees the calibration batches.
    """
    groups = list(by_pruner(specifications).values())
    shared: dict[Any, Calibration] = {}
    for group in groups:
        files = {mask_file(one, data, device): one for one in group}
        stored = {file: None if again or _lacks_scores(one, file) else load_mask(file) for file, one in files.items()}
        usable = {file: not processes.largest(solution is None) for file, solution in stored.items()}
        todo = {file: one for file, one in files.items() if not usable[file]}
        yield from (Pruned(found, file, fresh=False) for file, found in stored.items() if usable[file] and found)
        if todo:
            asked = _statistics(group[0], model.to(device), data, device, shared, fresh_statistics, watch)
            alone = len(groups) == 1 and (fresh_statistics or not _known(group[0], data, device))
            yield from _made(todo, model, asked, device, alone=alone)


def _made(
    todo: Mapping[Path, Specification], model: nn.Module, shared: Calibration, device: torch.device, *, alone: bool
) -> Iterator[Pruned]:
    """One pruner's masks, made and stored; the memory they took is known where no other has left statistics behind.

    `alone` in a report: whether its seconds hold all that its mask took, the pass over the calibration data included.
    """
    levels = {file: one.config["sparsity"] for file, one in todo.items()}
    config = next(iter(todo.values())).config
    pruner = construct(config["pruner"], "pruner", config["allow"])
    asked = pruner.focus(shared)
    with peak(device) as memory:
        solutions = pruner.prune(model, list(levels.values()), asked)
    whole = alone and len(levels) == 1 and not asked.borrowed
    for file, level in levels.items():
        solutions[level].report["alone"] = whole
        solutions[level].report["peak_gb"] = memory.gigabytes if alone else None
        if processes.is_main():
            if config["scores"]:
                stored_scores.write(scores_file(file), asked)
            solutions[level].save(file)
        yield Pruned(solutions[level], file, fresh=True)


def _statistics(
    one: Specification,
    model: nn.Module,
    data: TaskData,
    device: torch.device,
    shared: dict[Any, Calibration],
    fresh: bool,
    watch: Watch,
) -> Calibration:
    """Those of all pruners that use as many batches; scores on disk are a pruner's own, so that it asks by itself."""
    batches, seed = one.config["pruner"].get("num_batches"), one.config.get("pruning_seed", 0)
    precision = precision_of(one, device)
    key = (batches, precision, digest(pruner_essence(one.config)) if one.config["scores"] else None)
    if key not in shared:
        kept = statistics_folder(one, data, batches, seed, precision)
        shared[key] = calibration(model, data, device, None if fresh else kept, batches, seed, watch, precision)
    return shared[key]


def precision_of(one: Specification, device: torch.device) -> Precision:
    """Of the passes over calibration data of a specification's pruner on a device."""
    config = one.config
    return resolved(config.get("pruning_precision", "auto"), str(config["pruner"].get("name")), device)


def about_pruning_precision(config: Mapping[str, Any]) -> str:
    """That what was asked for has no effect, where that is so; else empty."""
    asked = config.get("pruning_precision", "auto")
    if asked == "auto":
        return ""
    pruner = replace(construct(config["pruner"], "pruner", config["allow"]), modality=None, num_batches=None)
    with suppress(ValueError):  # a pruner that refuses the network on which it is tried
        return without_effect(asked, str(config["pruner"].get("name")), needs_of(pruner).reads)
    return ""


def _known(one: Specification, data: TaskData, device: torch.device) -> bool:
    """Whether statistics of the model on these batches are on disk."""
    batches, seed = one.config["pruner"].get("num_batches"), one.config.get("pruning_seed", 0)
    folder = statistics_folder(one, data, batches, seed, precision_of(one, device))
    return folder is not None and folder.known


def by_pruner(specifications: Iterable[Specification]) -> dict[str, list[Specification]]:
    """Those whose pruner has the same options (a seed among them, for the random one)."""
    groups: dict[str, list[Specification]] = {}
    for one in specifications:
        groups.setdefault(digest(pruner_essence(one.config)), []).append(one)
    return groups


def _lacks_scores(specification: Specification, mask: Path) -> bool:
    return specification.config["scores"] and not scores_file(mask).is_file()


def calibration(
    model: nn.Module,
    data: TaskData,
    device: torch.device,
    kept: StatisticsFolder | None = None,
    num_batches: int | None = None,
    seed: int = 0,
    watch: Watch = _unwatched,
    precision: Precision = "fp32",
) -> Calibration:
    """Statistics of the model on the data's calibration batches; nothing is computed before a pruner asks.

    All processes of a run must ask the same. `kept` is where statistics lie that were computed before.
    """
    batches = watch(data.calibration(), num_batches)
    given: dict[str, Any] = {"seed": seed, "num_batches": num_batches, "precision": precision}
    return Calibration(model, batches, shared=True, stored=kept, **given)


def statistics_folder(
    specification: Specification,
    data: TaskData,
    num_batches: int | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
) -> StatisticsFolder | None:
    """Where the statistics lie of a model on calibration batches, whatever the pruner; None where all is made again.

    From here on this process counts as one that writes statistics and masks.
    """
    if processes.is_main():
        out = specification.out
        join(out, [out / "masks", *(out / "statistics").glob("*")])
    config = specification.config
    essence = {
        "model": config["model"] | {"weights": specification.weights},
        "data": data.calibration_fingerprint(),
        "batches": num_batches,
        "seed": seed,
        "version": version(),
    } | _said(precision)
    folder = specification.out / "statistics" / f"{specification.choices['model']}-{digest(essence)}"
    return None if config["force"] else StatisticsFolder(folder)


def _said(precision: Precision) -> dict[str, str]:
    """What a precision adds to what decides a mask: fp32, which all had before there was a choice, nothing."""
    return {} if precision == "fp32" else {"precision": precision}


def mask_file(specification: Specification, data: TaskData, device: torch.device = CPU) -> Path:
    """Where the mask of a specification lies: its name is a hash of all that decides it, and of nothing else."""
    config = specification.config
    essence = {
        "model": config["model"] | {"weights": specification.weights},
        "pruner": pruner_essence(config),
        "sparsity": config["sparsity"],
        "data": data.calibration_fingerprint(),
        "version": version(),
    } | _said(precision_of(specification, device))
    chosen = specification.choices
    words = (chosen["model"], chosen["pruner"], f"{config['sparsity']:g}", digest(essence))
    return specification.out / "masks" / f"{'-'.join(words)}.safetensors"


def pruner_essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a pruner's masks depend on. Its `seed` is that of a calibration it would make itself; here it is given one.

    (The seeds of its parts, those of random scores and directions, stay.)
    """
    return {key: _decisive(value) for key, value in config["pruner"].items() if key not in ("seed", "name")}


def _decisive(content: Any) -> Any:
    """A part without the options that say where things are kept meanwhile."""
    if not isinstance(content, Mapping):
        return content
    return {key: _decisive(value) for key, value in content.items() if key not in ("keep_in", "memory_gb")}


def scores_file(mask: Path) -> Path:
    """Where a run stores what the scores of a mask are made of."""
    return mask.with_name(f"{mask.stem}.scores.safetensors")


def load_mask(file: Path) -> Solution | None:
    """The stored solution; None if there is none, or if the file is broken (which is reported)."""
    if not file.is_file():
        return None
    try:
        return Solution.load(file)
    except ValueError as error:
        stderr.print(f"[yellow]{file} cannot be used and is made again:[/] {error}")
        return None


def mask_hash(solution: Solution) -> str:
    """First 16 hex digits of the SHA-256 over names and kept positions, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(solution.masks):
        total.update(name.encode())
        total.update(solution.masks[name].cpu().numpy().tobytes())
    return total.hexdigest()[:16]


def assert_zeros(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Our own check at the end of every run: what was pruned is still exactly zero."""
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        alive = int(weight.masked_select(~mask.to(weight.device)).count_nonzero())
        assert alive == 0, f"{alive} pruned weights of {name} came back to life"
