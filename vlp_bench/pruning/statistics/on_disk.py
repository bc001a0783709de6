"""Statistics of a calibration on disk, so that another sparsity, pruner or seed needs no pass of its own."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlp_bench import processes
from vlp_bench.pruning.masks.safetensors_files import read_tensors, write_tensors

log = logging.getLogger(__name__)
FORMAT = "vlp_bench statistics 1"


@dataclass(frozen=True)
class Statistic:
    """One statistic by layer, the hash of the batches it was made of and the losses that were seen on the way."""

    tensors: dict[str, Tensor]
    data_hash: str | None
    losses: list[float]


@dataclass(frozen=True)
class StatisticsFolder:
    """A folder that stands for one model and one set of batches; one safetensors file for each statistic.

    Whoever names the folder answers for that: its name is a hash of the weights, the batches and the code's version.
    """

    folder: Path

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def load(self, name: str, shapes: dict[str, torch.Size], device: torch.device) -> Statistic | None:
        """What is stored, if it has these layers and shapes; else None. A broken file is reported and made again."""
        found = self._read(name, shapes)
        if not processes.agreed(found is not None):
            return None
        assert found is not None, f"{self.file(name)} can be read by one process and not by another"
        return Statistic({n: t.to(device) for n, t in found.tensors.items()}, found.data_hash, found.losses)

    def _read(self, name: str, shapes: dict[str, torch.Size]) -> Statistic | None:
        file = self.file(name)
        if not file.is_file():
            return None
        try:
            tensors, header = read_tensors(file, FORMAT, "statistics file", "it is made again")
            report = json.loads(header["report"])
            if {n: t.shape for n, t in tensors.items()} != shapes:
                raise ValueError(f"{file} is of other layers: it is made again")
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
                raise ValueError(f"{file} holds NaN or infinity: it is made again")
            return Statistic(tensors, report["data_hash"], report["losses"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            log.warning("%s", error)
            return None

    def save(self, name: str, statistic: Statistic) -> None:
        """Store a statistic, whole or not at all; of several processes the main one does. OSError if it cannot."""
        if processes.is_main():
            report = {"data_hash": statistic.data_hash, "losses": statistic.losses}
            header = {"format": FORMAT, "report": json.dumps(report)}
            write_tensors(self.file(name), statistic.tensors, header)
