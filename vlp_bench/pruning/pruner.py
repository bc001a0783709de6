"""The pruning sentence: allocate × solve × schedule × sweep, and the one function that says it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import partial
from inspect import signature
from itertools import product
from numbers import Real
from operator import length_hint
from typing import Any, Self, overload

from torch import Tensor, nn

from vlp_bench.models.offloading import offloaded
from vlp_bench.models.stacks import parameters_of
from vlp_bench.pruning.adapter import Adapter, linear_parameters
from vlp_bench.pruning.allocation.budgets import Allocate, check_budgets, may_differ, together
from vlp_bench.pruning.allocation.uniform import Dense
from vlp_bench.pruning.calls import check_calls
from vlp_bench.pruning.checks import check_sparsity, name_of
from vlp_bench.pruning.foreign_parts import weights_unchanged
from vlp_bench.pruning.layers import give_back, preserve_weights
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.schedule import Reviving, Schedule, one_shot
from vlp_bench.pruning.selection.patterns import check_share, check_steps, pattern_of
from vlp_bench.pruning.selection.thresholds import counts
from vlp_bench.pruning.solution import Solution, Solutions, Solved, check_solved, check_values, layer_report
from vlp_bench.pruning.statistics.batches import Snapshot
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.unseen import Unseen
from vlp_bench.pruning.sweep import Solve, Sweep, at_once, is_at_once, written_by_solvers
from vlp_bench.pruning.tokens import Select, chosen
from vlp_bench.pruning.values import Fit, fitted
from vlp_bench.pruning.weights_hash import hash_of_weights
from vlp_bench.spelling import count_of, did_you_mean

log = logging.getLogger(__name__)
Tensors = Mapping[str, Tensor]  # by layer
NONE_RETURNED = (
    "no removed weight came back in any step, so the schedule did as one that never revives: a score of the weights as "
    "they are sees zeros there; force's remembers what they were"
)


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """A pruning method as a composition. Options of a method belong to its parts.

    Args:
        allocate: how many weights each layer keeps.
        solve: which ones, and their new values.
        schedule: in how many steps; each step sees the model as the step before left it.
        sweep: in what order.
        tokens: which of the tokens that reach a layer its statistics are made of; None: all that count.
        values: new values of the weights that `solve` keeps, in place of its own; None: as `solve` leaves them.
        name: what reports call it.
        modality: prune the layers of this one only, and count the sparsity among them; None: all layers.
        num_batches: how many calibration batches to use; None: all. Not for a ready-made `Calibration`.
        batches_per_step: step t sees its own batches, t·n to (t + 1)·n; None: every step sees all.
        seed: owner of the random draws of data loading and losses. Not for a ready-made `Calibration`.
    """

    allocate: Allocate
    solve: Solve
    schedule: Schedule = one_shot
    sweep: Sweep = at_once
    tokens: Select | None = None
    values: Fit | None = None
    name: str = "custom"
    modality: str | None = None
    num_batches: int | None = None
    batches_per_step: int | None = None
    seed: int = 0

    def __new__(cls, **given: Any) -> Self:
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in given if name not in names]:
            raise ValueError(
                f"{cls.__name__} has no {', '.join(unknown)}: it has {', '.join(names)}"
                f"{did_you_mean(unknown[0], names)}; what a method can be told belongs to its part, "
                "as in solve=Chita(ridge=0.1)"
            )
        if missing := [field.name for field in fields(cls) if field.default is MISSING and field.name not in given]:
            raise ValueError(f"{cls.__name__} lacks {', '.join(missing)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for count in ("num_batches", "batches_per_step"):
            value = getattr(self, count)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{count} must be a whole number of at least 1, or None; got {value!r}")
        for part in ("allocate", "solve", "schedule", "sweep", "tokens", "values"):
            given = getattr(self, part)
            if not callable(given) and (part not in ("tokens", "values") or given is not None):
                raise ValueError(f"{part} must be a function or an object that can be called: {given!r}")
        check_calls(self)

    @property
    def compat(self) -> str:
        """What the parts follow: "corrected", "official", or "mixed"; "corrected" if none of them has a choice."""
        parts = (self.allocate, self.solve, self.schedule, self.sweep, self.values)
        found = {compat for part in parts for compat in _compats(part)}
        return found.pop() if len(found) == 1 else "mixed" if found else "corrected"

    @overload
    def prune(
        self, model: nn.Module, sparsity: float, calibration: Any = None, adapter: Adapter | None = None
    ) -> Solution: ...

    @overload
    def prune(
        self, model: nn.Module, sparsity: Iterable[float], calibration: Any = None, adapter: Adapter | None = None
    ) -> Solutions: ...

    def prune(
        self,
        model: nn.Module,
        sparsity: float | Iterable[float],
        calibration: Calibration | Iterable[Any] | None = None,
        adapter: Adapter | None = None,
    ) -> Solution | Solutions:
        """Finds the sparse model or models; `model` is the same before and after.

        Args:
            model: any module.
            sparsity: share of the prunable weights to remove, in [0, 1); a sequence gives a solution for each.
            calibration: batches, or a `Calibration` of this model, which several pruners may share.
            adapter: the six answers about the model; None: its own, or a plain one's.

        Raises:
            ValueError: says what was given and what is allowed.
        """
        several = isinstance(sparsity, Iterable) and not isinstance(sparsity, str) and getattr(sparsity, "ndim", 1) > 0
        given: Any = sparsity if several else [sparsity]
        targets = [check_sparsity(s) for s in given]
        if not targets:
            raise ValueError("no sparsity was given: at least one number in [0, 1) is needed")
        if not isinstance(model, nn.Module):
            raise ValueError(f"model is of type {type(model).__name__}: a torch.nn.Module is needed")
        paths = self.check_sparsities(targets)
        self._check_offloaded(model)
        asked = self.focus(self._calibration(model, calibration, adapter))
        self._check_batches(asked, max(map(len, paths.values())))
        self._check_alike(asked, targets)
        solutions = self._of_what_is_seen(asked, paths)
        return Solutions(solutions) if several else solutions[targets[0]]

    def check_sparsities(self, sparsities: Iterable[float]) -> dict[float, list[float]]:
        """The sparsities of every step, by the target. No model is needed.

        Raises:
            ValueError: schedule, allocator or the solver's n:m pattern can't have one of them.
        """
        check, paths = getattr(self.allocate, "check_sparsity", None), dict[float, list[float]]()
        patterns = [] if isinstance(self.allocate, Dense) else _patterns(self.solve)
        for sparsity in sparsities:
            paths[sparsity] = path = check_path(self.schedule, self.schedule(sparsity), sparsity)
            if check is not None:
                for target in path:
                    check(target)
            for within in patterns:
                check_share(within, sparsity)
                check_steps(within, path)
        return paths

    def _check_alike(self, asked: Calibration, sparsities: Iterable[float]) -> None:
        """Raises ValueError where layers will keep different shares, and an n:m pattern gives all the same."""
        groups = [within for within in _patterns(self.solve) if ":" in within]
        if groups and any(may_differ(self.allocate, asked, sparsity) for sparsity in sparsities):
            raise ValueError(
                f"{self.name}: {groups[0]} keeps the same share of every layer, and the budgets of "
                f"{name_of(self.allocate)} differ from layer to layer: use pruner/allocate=uniform, or no n:m pattern"
            )

    def _check_groups(self, stage: Calibration, budgets: Mapping[str, int]) -> None:
        """Raises ValueError for a layer that can't have the solver's n:m pattern, before any is solved."""
        for within, (name, kept) in product(_patterns(self.solve), budgets.items()):
            pattern_of(within, stage.layers[name], kept)

    def _check_offloaded(self, model: nn.Module) -> None:
        """Raises ValueError for a model whose weights come block by block, unless the sweep does too, in one step."""
        if offloaded(model) is not None and (is_at_once(self.sweep) or self.schedule is not one_shot):
            raise ValueError(
                f"{self.name} looks at all weights at once, and those of an offloaded model come block by block: use "
                "wanda, sparsegpt or ecoflap, or load the model whole"
            )

    def _check_batches(self, asked: Calibration, steps: int) -> None:
        """Raises ValueError where steps see batches of their own and the last ones would see none."""
        own, there = self.batches_per_step, length_hint(asked.batches, 0) - asked.first_batch
        if own is None or there < 1 or (steps - 1) * own < there:  # what has no length is not known
            return
        raise ValueError(
            f"{self.name}: {steps} steps, each with {count_of(own, 'batch', 'batches')} of its own, need "
            f"{steps * own}, and there are {there}: at most {-(-there // own)} steps, or batches_per_step=null, so "
            "that each sees all"
        )

    def _of_what_is_seen(self, asked: Calibration, paths: Mapping[float, list[float]]) -> dict[float, Solution]:
        """The solutions; layers of which the method can't learn what it asks stay dense, unless nothing is left."""
        unseen: dict[str, list[str]] = {}
        while True:
            try:
                solutions = self._solutions(asked, paths)
                break
            except Unseen as found:
                left = [name for name in asked.layers if name not in found.layers]
                if not left:
                    raise
                unseen.setdefault(found.reason, []).extend(found.layers)
                asked = asked.subset(left)
        for reason, names in unseen.items():
            named = ", ".join(parameters_of(names))
            warn_once(log, asked.model, f"what reaches {named} can't be seen, so it stays dense: {reason}")
        return solutions

    def _solutions(self, asked: Calibration, paths: Mapping[float, list[float]]) -> dict[float, Solution]:
        weights = hash_of_weights(asked.model, {name: layer.weight for name, layer in asked.layers.items()})
        once = self.batches_per_step is None and all(len(path) == 1 for path in paths.values())
        targets = list(paths)
        allocate = together(self.allocate, targets) if once else self.allocate
        solve: Solve = self.solve
        whole = once and is_at_once(self.sweep) and self.tokens is None
        if whole and hasattr(solve, "expects_masks"):
            solve.expects_masks(asked)
        if whole and len(targets) > 1:
            allocate = _remembered(allocate)
            solve = self._solve_together(allocate, targets)
        drifting = self.compat == "official" and asked.batches is not None  # from one sparsity to the next, as released
        side_states = Snapshot(asked.side_states() if drifting else [])
        try:
            return {target: self._at(asked, target, path, allocate, solve, weights) for target, path in paths.items()}
        finally:
            side_states.restore()

    def focus(self, calibration: Calibration) -> Calibration:
        """The calibration if it is of the modality's layers only, else one of these.

        Raises:
            ValueError: the model has no layer of the modality.
        """
        modalities = {name: layer.place.modality for name, layer in calibration.layers.items()}
        own = [name for name, modality in modalities.items() if self.modality in (None, modality)]
        if not own:
            known = list(dict.fromkeys(modalities.values()))
            allowed = f"{', '.join(known)}, or None{did_you_mean(self.modality, known)}"
            raise ValueError(f"the model has no layer of modality {self.modality!r}: use one of {allowed}")
        return calibration if len(own) == len(modalities) else calibration.subset(own)

    def _calibration(
        self, model: nn.Module, given: Calibration | Iterable[Any] | None, adapter: Adapter | None
    ) -> Calibration:
        if not isinstance(given, Calibration):
            return Calibration(model, given, adapter, seed=self.seed, num_batches=self.num_batches)
        if given.model is not model:
            raise ValueError("the Calibration was made for another model")
        if adapter is not None and adapter is not given.adapter:
            raise ValueError("the Calibration has an adapter already: pass it there")
        if self.num_batches not in (None, given.num_batches):
            raise ValueError(
                f"num_batches is {self.num_batches} for the pruner and {given.num_batches} for its Calibration"
            )
        return given

    def _solve_together(self, allocate: Allocate, sparsities: Sequence[float]) -> Solve:
        """The solver; one that has `for_all(calibration, list of budgets)` answers for all sparsities at once.

        `allocate` gives the same budgets whenever it is asked for them.
        """
        for_all = getattr(self.solve, "for_all", None)
        if for_all is None:
            return self.solve
        solved: list[tuple[dict[str, int], Solved]] = []

        def one_of_them(calibration: Calibration, budgets: dict[str, int]) -> Solved:
            if not solved:
                several = [allocate(calibration, sparsity) for sparsity in sparsities]
                for sparsity, own in zip(sparsities, several, strict=True):
                    check_budgets(self.allocate, own, calibration, sparsity)
                solved.extend(zip(several, for_all(calibration, several), strict=True))
            return next(answer for own, answer in solved if own == budgets)

        return one_of_them

    def _at(
        self,
        calibration: Calibration,
        sparsity: float,
        path: list[float],
        allocate: Allocate,
        solve: Solve,
        weights_hash: str,
    ) -> Solution:
        started = time.perf_counter()
        asks = self.compat != "official" and calibration.batches is not None
        side_states = Snapshot(calibration.side_states() if asks else [])
        try:
            solved, kept_of, data_hash = self._follow(path, calibration, allocate, solve)
        finally:
            side_states.restore()
        layers, kept = layer_report(calibration.layers, kept_of), sum(kept_of.values())
        report = {
            "method": self.name,
            "compat": self.compat,
            "settings": describe(self),
            "sparsity": {"asked": sparsity, "achieved": 1 - kept / calibration.total},
            "kept": kept,
            "total": calibration.total,
            "seconds": time.perf_counter() - started,
            "precision": calibration.precision,
            "hashes": {"weights": weights_hash, "calibration": data_hash},
            "layers": layers,
            "dense": [name for name in linear_parameters(calibration.model) if name not in layers],
        }
        if solved.permutations:
            report["permutations"] = {name: order.tolist() for name, order in solved.permutations.items()}
        return Solution(solved.masks, solved.weights, report, solved.biases)

    def _follow(
        self, path: list[float], calibration: Calibration, allocate: Allocate, solve: Solve
    ) -> tuple[Solved, dict[str, int], str | None]:
        """Takes the steps of a schedule; returns the last one's answer, what it keeps and the hash of what it saw."""
        stage, solved, kept = calibration, Solved({}, {}), dict[str, int]()
        revives, returned = isinstance(self.schedule, Reviving), 0
        with preserve_weights(calibration.layers if len(path) > 1 else {}) as originals:
            for step, target in enumerate(path):
                before, alive = solved.masks, {} if revives else solved.masks
                stage = self._stage(calibration, alive, originals if revives else {}, step, len(path))
                with weights_unchanged(self, calibration.model):
                    budgets = allocate(stage, target)
                    check_budgets(self.allocate, budgets, stage, target)
                    self._check_groups(stage, budgets)
                    apart = self.tokens is not None or _in_every_process(self.solve)
                    asked = stage.in_every_process() if apart else stage
                    solved = self.sweep(self._solve(solve), asked, budgets)
                kept = check_solved(self.solve, solved, budgets, stage.layers)
                check_values(self.values or self.solve, solved, stage.layers)
                if revives:
                    returned += sum(counts([solved.masks[name] & ~mask for name, mask in before.items()]))
                if step + 1 < len(path):
                    give_back(calibration.layers, originals if revives else {})
                    solved.install(written_by_solvers(calibration))
        if revives and kept and not returned:
            warn_once(log, calibration.model, NONE_RETURNED)
        return solved, kept, stage.data_hash

    def _solve(self, solve: Solve) -> Solve:
        """The solver with the values and the tokens that are asked for."""
        solve = solve if self.values is None else fitted(self.values, solve)
        return solve if self.tokens is None else chosen(self.tokens, solve)

    def _stage(
        self, calibration: Calibration, masks: Tensors, originals: Tensors, step: int, steps: int
    ) -> Calibration:
        """The statistics step `step` sees: the shared ones if it is the only step, else fresh ones."""
        if steps == 1 and self.batches_per_step is None:
            return calibration
        layers = calibration.layers
        alive = {name: layers[name].from_stored(mask) for name, mask in masks.items()}
        originals = {name: layers[name].from_stored(weight) for name, weight in originals.items()}
        return calibration.stage(step, self.batches_per_step, alive, originals)


def _remembered(allocate: Allocate) -> Allocate:
    """An allocator that is asked once for each sparsity of one calibration."""
    budgets: dict[float, dict[str, int]] = {}

    def told(calibration: Calibration, sparsity: float) -> dict[str, int]:
        if sparsity not in budgets:
            budgets[sparsity] = allocate(calibration, sparsity)
        return budgets[sparsity]

    return told


def check_path(schedule: Schedule, path: Any, sparsity: float) -> list[float]:
    """What a schedule gives: at least one sparsity, each of [0, 1], the last the one that is asked for.

    A schedule with `compat="official"` may end elsewhere, as released.

    Raises:
        ValueError: it is something else; names the schedule.
    """
    numbers = (
        isinstance(path, Sequence) and len(path) > 0 and all(isinstance(s, Real) and 0 <= float(s) <= 1 for s in path)
    )
    if not numbers or (path[-1] != sparsity and "official" not in _compats(schedule)):
        wanted = f"a list of sparsities in [0, 1] that ends with {sparsity:g}"
        raise ValueError(f"the schedule {name_of(schedule)} gives {path!r} for {sparsity:g}: {wanted} is needed")
    return [float(s) for s in path]


def describe(value: Any) -> Any:
    """A plain, JSON-ready description of how an object was built: constructor, partial, function or scalar."""
    if isinstance(value, partial):
        return {"_target_": _path(value.func), **{key: describe(entry) for key, entry in value.keywords.items()}}
    if is_dataclass(value):
        given = {f.name: getattr(value, f.name) for f in fields(value) if not _left_out(value, f)}
        return {"_target_": _path(type(value)), **{name: describe(own) for name, own in given.items()}}
    if callable(value):
        return _path(value)
    if isinstance(value, Mapping):
        return {key: describe(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [describe(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _compats(part: Any) -> Iterator[str]:
    """Every `compat` that a part or something in it was given, or has by default."""
    if is_dataclass(part):
        given = {field.name: getattr(part, field.name) for field in fields(part)}
    elif callable(part):
        given = {name: parameter.default for name, parameter in signature(part).parameters.items()}
    else:
        return
    for name, value in given.items():
        if name == "compat":
            yield str(value)
        elif value is not part:
            yield from _compats(value)


def _patterns(part: Any) -> list[str]:
    """Among what the weights compete for a solver and the solvers in it, where that is the same in every layer."""
    if not is_dataclass(part):
        return []
    given = {field.name: getattr(part, field.name) for field in fields(part)}
    own = [given["within"]] if isinstance(given.get("within"), str) else []
    return own + [within for value in given.values() for within in _patterns(value)]


def _in_every_process(part: Any) -> bool:
    """Whether a solver, or one in it, has to run every batch in every process."""
    inside = [getattr(part, field.name) for field in fields(part)] if is_dataclass(part) else []
    return getattr(part, "in_every_process", False) or any(map(_in_every_process, inside))


def _left_out(value: Any, field: Field[Any]) -> bool:
    """Whether an option that is None by default is None."""
    return field.default is None and getattr(value, field.name) is None


def _path(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
