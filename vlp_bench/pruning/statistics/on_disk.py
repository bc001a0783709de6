"""Statistics of a calibration on disk, so that another sparsity, pruner or seed needs no pass of its own.

One format: a safetensors file with a tensor for each statistic and layer, in the parameters' orientation. A folder of
statistics has a file for each statistic; a file of scores has all that one mask was made of.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vlp_bench import processes
from vlp_bench.pruning.masks.safetensors_files import read_tensors, write_tensors

log = logging.getLogger(__name__)
FORMAT = "vlp_bench statistics 2"
ByLayer = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class StoredStatistics:
    """What one model says about one set of batches.

    Attributes:
        tensors: by the statistic's name, by layer.
        data_hash: of the batches.
        losses: that were seen on the way.
        transposed: layers stored as (d_in, d_out).
        weights: the hash of the model's prunable weights; None where the file's place answers for them.
    """

    tensors: Mapping[str, ByLayer]
    data_hash: str | None
    losses: list[float] = field(default_factory=list)
    transposed: list[str] = field(default_factory=list)
    weights: str | None = None

    def load(self, name: str, shapes: Shapes, device: torch.device) -> StoredStatistics | None:
        """Itself, on `device`, with the statistic of that name alone, if it has these layers and shapes; else None."""
        by_layer = self.tensors.get(name)
        if by_layer is None or {layer: tuple(tensor.shape) for layer, tensor in by_layer.items()} != shapes:
            return None
        moved = {layer: tensor.to(device) for layer, tensor in by_layer.items()}
        return StoredStatistics({name: moved}, self.data_hash, self.losses)

    def save(self, name: str, stored: StoredStatistics) -> None:
        """A file that was read takes nothing new."""

    def write(self, path: str | Path) -> Path:
        """Whole or not at all. Raises OSError if it cannot."""
        flat = {f"{name}/{layer}": t for name, by_layer in self.tensors.items() for layer, t in by_layer.items()}
        index = {key: getattr(self, key) for key in ("data_hash", "losses", "transposed", "weights")}
        return write_tensors(path, flat, {"format": FORMAT, "index": json.dumps(index)})

    @classmethod
    def read(cls, path: str | Path, what: str, cure: str) -> StoredStatistics:
        """The content of a file; `what` it is called and the `cure` of a broken one stand in messages.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is broken, of another format, or holds NaN or infinity.
        """
        flat, header = read_tensors(path, FORMAT, what, cure)
        tensors: dict[str, ByLayer] = {}
        for key, tensor in flat.items():
            name, _, layer = key.partition("/")
            tensors.setdefault(name, {})[layer] = tensor
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{path} holds NaN or infinity: {cure}")
        try:
            return cls(tensors, **json.loads(header["index"]))
        except (ValueError, KeyError, TypeError) as reason:
            raise ValueError(f"{path} is a damaged {what} ({reason}): {cure}") from reason


class Store(Protocol):
    """Where a calibration finds statistics and leaves them."""

    def load(self, name: str, shapes: Shapes, device: torch.device) -> StoredStatistics | None: ...

    def save(self, name: str, stored: StoredStatistics) -> None: ...


@dataclass(frozen=True)
class StatisticsFolder:
    """A folder that stands for one model and one set of batches; one file for each statistic.

    Whoever names the folder answers for that: its name is a hash of the weights, the batches and the code's version.
    """

    folder: Path

    @property
    def known(self) -> bool:
        """Whether some statistics are there already."""
        return any(self.folder.glob("*"))

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def load(self, name: str, shapes: Shapes, device: torch.device) -> StoredStatistics | None:
        """What is stored, if it has these layers and shapes; else None. A broken file is reported and made again."""
        stored = self._read(name, shapes, device)
        if not processes.agreed(stored is not None):
            return None
        assert stored is not None, f"{self.file(name)} can be read by one process and not by another"
        return stored

    def _read(self, name: str, shapes: Shapes, device: torch.device) -> StoredStatistics | None:
        file = self.file(name)
        if not file.is_file():
            return None
        try:
            stored = StoredStatistics.read(file, "statistics file", "it is made again").load(name, shapes, device)
        except (ValueError, OSError) as error:
            log.warning("%s", error)
            return None
        if stored is None:
            log.warning("%s is of other layers: it is made again", file)
        return stored

    def save(self, name: str, stored: StoredStatistics) -> None:
        """Store a statistic, whole or not at all; of several processes the main one does. OSError if it cannot."""
        if processes.is_main():
            stored.write(self.file(name))
