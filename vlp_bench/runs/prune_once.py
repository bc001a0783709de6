"""Prunes once: masks are stored by content and shared by every run that asks for the same."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlp_bench import processes
from vlp_bench.construct import construct
from vlp_bench.pruning import another_sparsity as stored_scores
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.on_disk import StatisticsFolder
from vlp_bench.runs.console import stderr
from vlp_bench.runs.lock import join
from vlp_bench.runs.object_cache import TaskData
from vlp_bench.runs.peak_memory import peak
from vlp_bench.runs.specification import Specification, digest, version


@dataclass(frozen=True)
class OnDevice:
    """A re-iterable of batches (or lists of parts) that moves each to a device."""

    batches: Iterable[Any]
    device: torch.device

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            parts = (
                [part.to(self.device) for part in batch] if isinstance(batch, list | tuple) else batch.to(self.device)
            )
            yield parts


@dataclass
class PruneOnce:
    """Called on the model when the task is built: installs the stored mask, or prunes and stores it.

    After the call `solution` is what was installed, `file` where it lies and `fresh` whether it was computed now.
    """

    specification: Specification
    data: TaskData
    device: torch.device
    again: bool = False
    solution: Solution | None = field(default=None, init=False)
    fresh: bool = field(default=False, init=False)

    @property
    def file(self) -> Path:
        return mask_file(self.specification, self.data)

    def __call__(self, model: nn.Module) -> None:
        lacking = self.specification.config["scores"] and not scores_file(self.file).is_file()
        stored = None if self.again or lacking else load_mask(self.file)
        self.fresh = not processes.agreed(stored is not None)
        if self.fresh or stored is None:
            stored = self._prune(model)
        processes.check_same(mask_hash(stored), "mask")
        self.solution = stored
        self.solution.install(model)

    def _prune(self, model: nn.Module) -> Solution:
        model.to(self.device)
        config = self.specification.config
        pruner = construct(config["pruner"], "pruner", config["allow"])
        batches = config["pruner"].get("num_batches")
        seed = config.get("pruning_seed", 0)
        kept = statistics_folder(self.specification, self.data, batches, seed)
        asked = pruner.focus(calibration(model, self.data, self.device, kept, batches, seed))
        with peak(self.device) as memory:
            solution = pruner.prune(model, config["sparsity"], asked)
        solution.report["peak_gb"] = memory.gigabytes
        if processes.is_main():
            if config["scores"]:
                stored_scores.write(scores_file(self.file), asked)
            solution.save(self.file)
        return solution


def calibration(
    model: nn.Module,
    data: TaskData,
    device: torch.device,
    kept: StatisticsFolder | None = None,
    num_batches: int | None = None,
    seed: int = 0,
) -> Calibration:
    """Statistics of the model on the data's calibration batches; nothing is computed before a pruner asks.

    All processes of a run must ask the same. `kept` is where statistics lie that were computed before.
    """
    batches = OnDevice(data.calibration(), device)
    return Calibration(model, batches, seed=seed, num_batches=num_batches, shared=True, stored=kept)


def statistics_folder(
    specification: Specification, data: TaskData, num_batches: int | None = None, seed: int = 0
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
    }
    folder = specification.out / "statistics" / f"{specification.choices['model']}-{digest(essence)}"
    return None if config["force"] else StatisticsFolder(folder)


def mask_file(specification: Specification, data: TaskData) -> Path:
    """Where the mask of a specification lies: its name is a hash of all that decides it, and of nothing else."""
    config = specification.config
    essence = {
        "model": config["model"] | {"weights": specification.weights},
        "pruner": pruner_essence(config),
        "sparsity": config["sparsity"],
        "data": data.calibration_fingerprint(),
        "version": version(),
    }
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
