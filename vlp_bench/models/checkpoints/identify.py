"""Which model a weight file is of, what it lacks and what it has too much; nothing is built but on the meta device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vlp_bench.models.blip.towers import BLIPConfig
from vlp_bench.models.checkpoints.families import FAMILIES, Config, Family, family_of
from vlp_bench.models.checkpoints.hub import KINDS, model_type, read_reported
from vlp_bench.models.checkpoints.locations import content_hash, initialisation, located, weight_file
from vlp_bench.models.checkpoints.read_write import CheckpointError, read_config, read_released, resized, tensors_of


@dataclass(frozen=True)
class Finding:
    """What was found in a file. `config` is the one it was held against; all is well if the lists are empty."""

    path: Path
    hash: str
    model: str
    origin: str
    config: Config | None
    tensors: int
    numbers: int
    dtypes: tuple[str, ...]
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether the file can be loaded as it is."""
        return self.faults == 0

    @property
    def faults(self) -> int:
        """How many names stand against it."""
        return sum(map(len, (self.missing, self.unexpected, self.misshapen, self.not_finite)))


def identify(place: Path | str, configs: Sequence[Config] | None = None) -> Finding:
    """Hold a file against every model, and keep the one it fits best; a folder in the hub's layout against itself.

    configs: the sizes that released files are held against; None: the papers'. ValueError if the file is missing,
    broken, or holds no tensors.
    """
    if model_type(located(place)) in KINDS:
        return _folder(place)
    path = weight_file(place)
    if not path.is_file():
        raise CheckpointError(path, "no such file", "check the path")
    ours = _ours(path)
    candidates = [ours] if ours else list(configs or _papers())
    read = cache(lambda roots: read_released(path, roots))
    findings = [_held_against(path, read(family_of(config).roots), config, ours is not None) for config in candidates]
    best = min(findings, key=lambda found: found.faults)
    other = f"`vlp-bench model show {place}` says what `vlp-bench prune` would prune of another model of transformers"
    foreign = [other] if model_type(located(place)) and not best.fits else []
    return replace(best, notes=[*best.notes, *_told(place), *foreign])


def _folder(place: Path | str) -> Finding:
    """What transformers says of a folder in the hub's layout: read as its config.json has it, in the stored dtype."""
    folder = located(place)
    name, kind = KINDS[model_type(folder) or ""]
    model, wrong = read_reported(kind, folder, dtype="auto")
    weights = dict(model.named_parameters())
    return Finding(
        path=folder,
        hash=content_hash(folder),
        model=name,
        origin=f"a folder for transformers' {kind.__name__}",
        config=None,
        tensors=len(weights),
        numbers=sum(weight.numel() for weight in weights.values()),
        dtypes=tuple(sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()})),
        missing=wrong.get("missing", []),
        unexpected=wrong.get("unexpected", []),
        misshapen=wrong.get("mismatched", []),
        not_finite=sorted(name for name, weight in weights.items() if not bool(weight.isfinite().all())),
        notes=list(_told(place)),
    )


def _told(place: Path | str) -> Iterator[str]:
    if told := initialisation(place):
        yield told
    if kind := model_type(located(place)):
        yield f"a folder in the hub's layout, model_type {kind}"


def _papers() -> Iterator[Config]:
    for family in FAMILIES:
        yield family.config()
        if family.config is BLIPConfig:
            yield BLIPConfig(decoder=False)


def _ours(path: Path) -> Config | None:
    """The configuration in the header of a file of ours; None for a released one."""
    if path.suffix != ".safetensors":
        return None
    try:
        return read_config(path)
    except CheckpointError as error:
        if "truncated" in str(error) or "another version" in str(error):
            raise
        return None


def _held_against(path: Path, given: dict[str, Tensor], config: Config, ours: bool) -> Finding:
    family, state, refused = family_of(config), given, ""
    if not ours:
        try:
            state = family.key_map(dict(state))
        except ValueError as error:
            refused = str(error)
    wanted = _wanted(family, config)
    fresh = set(family.fresh) - state.keys()
    state = {n: resized(t, config.tokens) if n in family.positions else t for n, t in state.items()}
    return Finding(
        path=path,
        hash=content_hash(path),
        model=family.name + (" for retrieval, without a decoder" if config == BLIPConfig(decoder=False) else ""),
        origin=f"written by vlp_bench ({family.format})" if ours else "released",
        config=config,
        tensors=len(given),
        numbers=sum(tensor.numel() for tensor in given.values()),
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in given.values()})),
        missing=sorted(wanted.keys() - state.keys() - fresh),
        unexpected=sorted(state.keys() - wanted.keys()),
        misshapen=sorted(_misshapen(state, wanted)),
        not_finite=sorted(n for n, t in given.items() if t.is_floating_point() and not bool(t.isfinite().all())),
        notes=([refused] if refused else []) + ([f"begins anew: {', '.join(sorted(fresh))}"] if fresh else []),
    )


def _wanted(family: Family, config: Config) -> dict[str, Tensor]:
    with torch.device("meta"):
        return tensors_of(family.model(config))


def _misshapen(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> Iterator[str]:
    for name in state.keys() & wanted.keys():
        if state[name].shape != wanted[name].shape:
            yield f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}"
