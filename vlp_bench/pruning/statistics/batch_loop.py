"""Passes over calibration batches: what a model does with them is watched, and the model is left as it was."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vlp_bench import processes
from vlp_bench.pruning.adapter import Adapter, adapter_for
from vlp_bench.pruning.checks import Compat, check_choice
from vlp_bench.pruning.layers import Layer, find_layers
from vlp_bench.pruning.precision import SLOW, Precision, cast, casts_kept, check_device, multiplies_bf16, products_in
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.statistics.around import Around, rewind, shown
from vlp_bench.pruning.statistics.batch_errors import named
from vlp_bench.pruning.statistics.batches import (
    RandomState,
    Snapshot,
    as_released,
    fingerprints,
    moved_to,
    numbers_on_host,
    parts_of,
)
from vlp_bench.pruning.statistics.data_parallel import Event, Relay
from vlp_bench.pruning.statistics.gradients import GradientStatistic, Reach, backward, calls_seen, gradients_taken
from vlp_bench.pruning.statistics.inputs import InputNorms, InputStatistic, InputWatch, by_first_reader
from vlp_bench.pruning.statistics.protocol import Sums
from vlp_bench.pruning.statistics.token_masks import TokenMasks
from vlp_bench.pruning.statistics.uncalled import READ_UNCALLED, read_uncalled
from vlp_bench.pruning.statistics.unseen import Unseen

log = logging.getLogger(__name__)
UNREACHED = (
    "no calibration batch reaches {name!r}: its adapter's encode() sends no token there that counts; give batches that "
    "do, leave it out in prunable(), or use a pruner without activations"
)
EXPERT = re.compile(r"\bexperts\b")  # in the name of a weight
NO_GRADIENT = "its gradient is zero"
SHORT = 1 << 14  # numbers of a tensor that is looked at together with others


def check_batches(batches: Any) -> None:
    """Raises ValueError unless it is None or can be gone through several times, batch by batch."""
    if isinstance(batches, Iterator):
        raise ValueError("calibration batches can be read only once: pass a list or a DataLoader, not an iterator")
    several = isinstance(batches, Iterable) or hasattr(type(batches), "__getitem__")
    if batches is not None and (isinstance(batches, Mapping | Tensor | str | bytes) or not several):
        raise ValueError(
            f"calibration batches are of type {type(batches).__name__}: pass a list of batches or a DataLoader, "
            "[batch] for a single one"
        )


@dataclass
class Seen:
    """What one calibration and those made of it have learnt about the batches."""

    data_hash: str | None = None


class Passes:
    """Runs a model over calibration batches, forwards or backwards; modes, gradients, hooks and random state stay.

    Args: as those of `Calibration`, which remembers the answers.
    """

    is_pruned = False
    """Whether the model was pruned in part: by steps of a schedule, or blocks before these layers in a sweep."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any] | None,
        adapter: Adapter | None,
        seed: int,
        num_batches: int | None,
        first_batch: int,
        shared: bool,
        precision: Precision = "fp32",
    ) -> None:
        check_choice("precision", precision, get_args(Precision))
        if num_batches is not None and num_batches < 1:
            raise ValueError(f"num_batches must be at least 1, got {num_batches}")
        check_batches(batches)
        self.model, self.batches, self.adapter = model, batches, adapter_for(model, adapter)
        self.seed, self.num_batches, self.first_batch = seed, num_batches, first_batch
        self.shared = shared and processes.size() > 1
        self.precision: Precision = precision
        self.layers: dict[str, Layer] = find_layers(model, self.adapter)
        check_device("precision", precision, self._device, "fp32 or bf16")
        self.losses: list[float] = []  # of the last gradient pass, one per part, in order
        self._seen = Seen()

    @property
    def data_hash(self) -> str | None:
        """SHA-256 over samples of the batches that were seen; None before the first pass."""
        return self._seen.data_hash

    def order(self) -> list[str]:
        """The layers in the order in which the first batch reaches them; those it doesn't reach come last."""
        reached: dict[str, None] = {}
        watch = InputWatch(self.layers.values(), (), lambda event: reached.setdefault(event.layer))
        with watch.watching(), self._undisturbed(), torch.no_grad():
            named(self.model, self._encode_all)(*next(self._parts()))
        return [*reached, *(name for name in self.layers if name not in reached)]

    def count(self) -> tuple[int, int]:
        """The number of batches, and the rows of the first: images, over all its parts."""
        rows, batches = 0, 0
        with self._undisturbed():
            for _, parts in self._parts():
                rows = rows or sum(self.adapter.rows(part) for part in parts)
                batches += 1
        return batches, rows

    def gradients_of_batches(self, *, training: bool = False) -> Iterator[dict[str, Tensor]]:
        """For every batch the gradients of its loss (the mean over its parts), by layer, in the parameters' shapes.

        A layer the loss doesn't reach is missing. The dictionary is emptied before the next batch. The weights may be
        changed in between; `training` asks in training mode (dropout).
        """
        gradients: Sums = {}

        def take(name: str, gradient: Tensor) -> None:
            gradients[name] = gradients[name].add_(gradient) if name in gradients else gradient

        for number in self._backwards(take, training=training):
            refuse_infinite(gradients, f"the gradients of {{}} in calibration batch {number}")
            yield gradients
            gradients.clear()

    def losses_of_batches(self, batches: int) -> Iterator[Callable[[], float]]:
        """For each of the first `batches` batches a function that computes its loss at the weights as they are.

        Every call starts from the same random state, and leaves buffers and what is frozen beside trained parameters
        as they were (queues, momentum copies; a copy of them is kept meanwhile).

        Raises:
            ValueError: a loss that isn't finite.
        """
        limit = batches if self.num_batches is None else min(batches, self.num_batches)
        with self._undisturbed(), torch.no_grad():
            kept = Snapshot(self.side_states())
            for number, parts in self._parts(limit):
                state = RandomState(next(iter(self.layers.values())).weight.device)
                own = [self._on_device(part) for part in parts]
                yield lambda number=number, parts=own, state=state: self._loss(parts, number, state, kept)
                state.restore()

    def side_states(self) -> list[Tensor]:
        """What a loss may change on the side: buffers, and frozen parameters unless all are."""
        prunable = {id(layer.parameter) for layer in self.layers.values()}
        frozen = [p for p in self.model.parameters() if not p.requires_grad and id(p) not in prunable]
        all_frozen = not any(p.requires_grad for p in self.model.parameters())
        return [*self.model.buffers(), *([] if all_frozen else frozen)]

    def _loss(self, parts: list[Any], number: int, state: RandomState, kept: Snapshot) -> float:
        state.restore()
        try:
            loss = sum(float(self._loss_of(part, number)) / len(parts) for part in parts)
        finally:
            kept.restore()
        check_loss(loss, number)
        return loss

    def _loss_of(self, part: Any, number: int) -> Tensor:
        """The adapter's; raises ValueError for a label that is no class."""
        try:
            with cast(self.precision, self._device):
                return self.adapter.loss(self.model, part)
        except IndexError as reason:
            if not str(reason).startswith("Target "):  # torch's words
                raise
            raise ValueError(
                f"calibration batch {number} has a label that the model doesn't know ({reason}): labels go from 0 to "
                "the number of classes less 1, or are -100 where they don't count"
            ) from reason

    def input_statistics(self, statistics: Sequence[InputStatistic]) -> list[Sums]:
        """Their tensors by layer, from one pass of forwards; all have the same `compat`.

        Raises:
            ValueError: no batches, inputs that aren't finite or can't be seen, a layer that no batch reaches.
        """
        running, compat = [(statistic, statistic.start()) for statistic in statistics], statistics[0].compat
        rows, tokens = Counter[str](), Counter[str]()
        latest: dict[int, tuple[Tensor | None, Tensor, Tensor]] = {}  # a sum, what was added, and what came of it

        def take(event: Event) -> None:
            rows[event.layer] += int(event.numbers[0])
            tokens[event.layer] += int(event.numbers[1])
            for i, ((statistic, sums), term) in enumerate(zip(running, event.tensors, strict=True)):
                own = sums.get(event.layer)
                if i in latest and latest[i][0] is own and latest[i][1] is term:
                    sums[event.layer] = latest[i][2]  # layers that read the same tensors have one sum
                    continue
                statistic.add(sums, event.layer, term)
                latest[i] = (own, term, sums[event.layer])
                if own is sums[event.layer]:  # in place
                    del latest[i]

        for number in self._forwards(statistics, compat, take):
            latest.clear()
            for statistic, sums in running:
                told = {name: statistic.telling(total) for name, total in sums.items()}
                refuse_infinite(told, f"the inputs of {{}} in calibration batch {number}")
        for name in self._by_size(statistics, [sums for _, sums in running], tokens):
            rows[name], tokens[name] = 1, self.layers[name].matrix.shape[1]
        self.check_reached(rows if compat == "official" else tokens)
        return [statistic.result(self.layers, sums, rows) for statistic, sums in running]

    def _by_size(
        self, statistics: Sequence[InputStatistic], found: Sequence[Sums], tokens: Mapping[str, int]
    ) -> list[str]:
        """Lost experts are seen as if each feature came once, alone: what tells their weights apart is their size."""
        lost = self.lost_experts(tokens, "its weights are told apart by size alone")
        for name in lost:
            weight = self.layers[name].matrix
            each = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)[None]
            for statistic, sums in zip(statistics, found, strict=True):
                statistic.add(sums, name, statistic.measure(each, None))
        return lost

    def lost_experts(self, counts: Mapping[str, int], so: str) -> list[str]:
        """Those without a count, which nothing comes to any more since other weights are pruned; warns what follows."""
        lost = [name for name in self.layers if not counts.get(name) and EXPERT.search(name)]
        if not self.is_pruned or not lost or self.read_uncalled(lost):
            return []
        others = f" (and to {len(lost) - 1} more experts)" if len(lost) > 1 else ""
        said = f"no token comes to {lost[0]!r}{others} any more, as weights before it are pruned"
        warn_once(log, self.model, f"{said}: {so}; more calibration batches would reach it")
        return lost

    def reach_experts(self) -> None:
        """Batches run forwards until a token that counts has come to every expert, as a rule one or two.

        Raises:
            ValueError: none comes to an expert.
        """
        tokens = Counter({name: 0 for name in self.layers if EXPERT.search(name)})

        def take(event: Event) -> None:
            if event.layer in tokens:
                tokens[event.layer] += int(event.numbers[1])

        if tokens:
            for _ in self._forwards([InputNorms()], "corrected", take):
                if all(tokens.values()):
                    return
            self.check_reached(dict.fromkeys(self.layers, 1) | tokens)

    def check_reached(self, counts: Mapping[str, int]) -> None:
        """Raises ValueError for a layer without a count, or Unseen for those that are read without being called."""
        missing = [name for name in self.layers if not counts.get(name)]
        if read := self.read_uncalled(missing):
            raise Unseen(read, READ_UNCALLED)
        check_reached(missing, counts)

    def read_uncalled(self, names: Sequence[str]) -> list[str]:
        """Of some layers those whose weight the first batch reads without calling a module that it is of."""
        answers: Any = self.adapter
        while isinstance(answers, Around):  # of a pass that stops before the end
            answers = answers.answers

        def run(number: int, parts: list[Any]) -> None:
            for part in parts:
                with cast(self.precision, self._device):
                    answers.encode(self.model, self._on_device(part))

        if not names:
            return []
        with self._undisturbed(), torch.no_grad():
            number, parts = next(self._parts())
            layers = [self.layers[name] for name in names]
            return read_uncalled(layers, lambda: named(self.model, run)(number, parts))

    def _forwards(
        self, statistics: Sequence[InputStatistic], compat: Compat, take: Callable[[Event], None]
    ) -> Iterator[int]:
        """The number of every batch, once what reaches the layers in it has been taken."""
        relay = self.relay(take)
        layers = self.layers.values()
        one_reader = compat == "official" and statistics[0].one_reader
        watch = InputWatch(by_first_reader(layers) if one_reader else layers, statistics, relay)

        def begin(part: Any) -> None:
            shown = as_released(part) if compat == "official" else part
            watch.new_part(TokenMasks(self.adapter, self.model, shown))

        with casts_kept(self.precision):
            yield from self.forwards(relay, watch.watching(), begin)

    def run_through(self) -> None:
        """One pass of forwards that nobody watches."""
        for _ in self.forwards(self.relay(lambda event: None), nullcontext(), lambda part: None):
            pass

    def relay(self, take: Callable[[Event], None]) -> Relay:
        """Hands on what hooks see, in the batches' order."""
        return Relay(take, list(self.layers), self._device, self.shared)

    def forwards(
        self, relay: Relay, watching: AbstractContextManager[Any], begin: Callable[[Any], None]
    ) -> Iterator[int]:
        """The number of every batch, once what the relay was told in its forward pass has been taken.

        Args:
            relay: for the hooks.
            watching: sets hooks and takes them away.
            begin: gets every part of a batch before it is encoded, its whole numbers on the processor: what is asked
                about them there waits for no device.
        """

        def run(number: int, parts: list[Any]) -> None:
            for part in parts:
                told = numbers_on_host(part)
                begin(told)
                shown(self.adapter, told, number)
                self._encode(part)

        with watching, self._undisturbed(), torch.no_grad():
            yield from relay.through(self._parts(), named(self.model, run))

    def gradient_statistics(self, statistics: Sequence[GradientStatistic]) -> list[Sums]:
        """Their tensors by layer, from one pass of backwards.

        Raises:
            ValueError: no batches, a loss or gradient that isn't finite, a layer that no batch reaches.
        """
        running = [(statistic, statistic.start()) for statistic in statistics]
        of_parts = [(statistic, sums) for statistic, sums in running if statistic.linear]
        of_batches = [(statistic, sums) for statistic, sums in running if not statistic.linear]
        gradients, batches = dict[str, Tensor](), 0
        one_taker = len(of_parts) + bool(of_batches) == 1

        def take(name: str, gradient: Tensor) -> None:
            for statistic, sums in of_parts:  # each may keep what it is given, and write into it
                given = gradient if one_taker else gradient.clone()
                statistic.add(sums, name, statistic.measure(self.layers[name], given))
            if of_batches:
                gradients[name] = gradients[name].add_(gradient) if name in gradients else gradient

        for number in self._backwards(take, shared=self._shares_gradients):
            latest = gradients if of_batches else of_parts[0][1]
            refuse_infinite(latest, f"the gradients of {{}} in calibration batch {number}")
            for name in list(gradients):
                gradient = gradients.pop(name)
                for statistic, sums in of_batches:
                    statistic.add(sums, name, statistic.measure(self.layers[name], gradient))
            batches += 1
        taken = running[0][1]
        for name in self.lost_experts(dict.fromkeys(taken, 1), NO_GRADIENT):
            gradient = torch.zeros_like(self.layers[name].weight, dtype=torch.float32)
            for statistic, sums in running:
                statistic.add(sums, name, statistic.measure(self.layers[name], gradient))
        counts = dict.fromkeys(self.layers, batches)
        results = [statistic.result(self.layers, sums, counts) for statistic, sums in running]
        for statistic, result in zip(statistics, results, strict=True):
            refuse_infinite(result, f"the {type(statistic).__name__} of {{}}")
        return results

    @property
    def _shares_gradients(self) -> bool:
        """A loss with a memory (queues, momentum copies) must see the batches one after the other, on every process."""
        return self.shared and not any(state.is_floating_point() for state in self.side_states())

    def _backwards(
        self, take: Callable[[str, Tensor], None], *, training: bool = False, shared: bool = False
    ) -> Iterator[int]:
        """The number of every batch, once the gradients of its parts have been taken, in float32.

        `shared` is for weights that stay as they are meanwhile. Raises ValueError after the last batch if none reaches
        a layer.
        """
        if torch.is_inference_mode_enabled():
            raise ValueError("inside torch.inference_mode() nothing has a gradient: prune outside of it")
        self.losses, reach = [], Reach(self.layers)

        def take_event(event: Event) -> None:
            if not event.layer:
                self.losses.append(event.numbers[0])
            elif event.tensors:
                reach.gradient(event.layer, event.tensors[0])
                take(event.layer, event.tensors[0])
            else:
                reach.call(event.layer, bool(event.numbers[0]))

        relay = Relay(take_event, list(self.layers), self._device, shared)

        def run(number: int, parts: list[Any]) -> None:
            for part in parts:
                loss = self._loss_of(self._on_device(part), number) / len(parts)
                backward(loss, self.layers)
                value = float(loss.detach())  # the one wait for the device
                check_loss(value, number)
                relay(Event("", (value, 0)))

        with (
            self._undisturbed(training=training),
            gradients_taken(self.model, self.layers, lambda name, gradient: relay(Event(name, (0, 0), (gradient,)))),
            calls_seen(self.layers, lambda name, has_rows: relay(Event(name, (has_rows, 0)))),
            torch.enable_grad(),
        ):
            yield from relay.through(self._parts(), named(self.model, run))
        reach.check(self.lost_experts(reach.reached(), NO_GRADIENT))

    @contextmanager
    def _undisturbed(self, *, training: bool = False) -> Iterator[None]:
        """Evaluation (or training) mode and an own random stream; both are as before afterwards.

        Attention takes no fast path meanwhile, on which `nn.TransformerEncoder` packs what isn't padding, and what is
        compiled runs as it is written: no hook is compiled with it. DDP waits for no gradient of its own.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        device, fast = self._device, torch.backends.mha.get_fastpath_enabled()
        eager = torch.compiler.set_stance("force_eager") if is_compiled(self.model) else nullcontext()
        own = products_in(self.precision)
        if self.precision == "bf16" and not multiplies_bf16(device):
            warn_once(log, self.model, f"pruning_precision=bf16: {SLOW}; fp32 is faster here")
        with (
            processes.apart(),
            eager,
            own,
            unsynchronised(self.model),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            seed_draws(self.seed, device)
            self.model.train(training)
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                yield
            finally:
                torch.backends.mha.set_fastpath_enabled(fast)
                for module, training in modes:
                    module.training = training

    @property
    def _device(self) -> torch.device:
        return next(iter(self.layers.values())).weight.device

    def _on_device(self, part: Any) -> Any:
        return moved_to(part, self._device)

    def _encode(self, part: Any) -> None:
        with cast(self.precision, self._device):
            self.adapter.encode(self.model, self._on_device(part))

    def _encode_all(self, number: int, parts: list[Any]) -> None:
        for part in parts:
            self._encode(part)

    def _parts(self, limit: int | None = None) -> Iterator[tuple[int, list[Any]]]:
        """The number and the parts of every batch (of the first `limit`), where they lie."""
        if self.batches is None:
            raise ValueError("this pruner asks the data: pass calibration=batches")
        rewind(self.adapter)
        device = self._device
        count = self.num_batches if limit is None else limit
        last = None if count is None else self.first_batch + count
        digest, seen = hashlib.sha256(), 0
        for number, batch in enumerate(islice(self.batches, self.first_batch, last), self.first_batch):
            if not (parts := parts_of(batch)):
                raise ValueError(f"calibration batch {number} is an empty list of parts")
            if self._seen.data_hash is None:
                for print_ in fingerprints(parts):
                    digest.update(print_)
            drawing = RandomState(device)
            seed_draws(self.seed + 1_000_003 * number, device)
            yield number, parts
            drawing.restore()  # what a batch's losses draw is its own affair, whoever computes the ones before it
            seen += 1
        if not seen:
            where = f" after the first {self.first_batch} batches" if self.first_batch else ""
            raise ValueError(f"the calibration set is empty{where}: at least one batch is needed")
        if limit is None and count is not None and seen < count:
            warn_once(log, self.model, f"{count} calibration batches were asked for, the set has only {seen}")
        self._seen.data_hash = self._seen.data_hash or digest.hexdigest()


def seed_draws(seed: int, device: torch.device) -> None:
    """Seeds the processor and a device; `torch.manual_seed` keeps a traceback for each kind of device not in use."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@contextmanager
def unsynchronised(model: nn.Module) -> Iterator[None]:
    """Without DDP's sum over processes, which fails where not every parameter gets a gradient."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.parallel.DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` was called for a part of it."""
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())


def check_reached(layers: Iterable[str], counts: Mapping[str, int], told: str = UNREACHED) -> None:
    """Raises ValueError, `told` of its name, with the first layer that has no count: of tokens, or of what is said."""
    for name in layers:
        if not counts.get(name):
            raise ValueError(told.format(name=name))


def check_loss(loss: float, number: int) -> None:
    """Raises ValueError unless the loss of the batch of that number is finite."""
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss of calibration batch {number} is {loss}: leave the batch out if it has no rows or labels, "
            "else look for inputs or weights that are out of all proportion"
        )


def refuse_infinite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raises ValueError with the first name in place of `{}` if a tensor isn't finite; one look at the device."""
    if tensors and not _are_finite(list(tensors.values())):
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{what.format(repr(name))} hold NaN or infinity, or overflow: leave the batch out, "
                    "or look for weights that are out of all proportion"
                )


def _are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether their sums are: what is short is added up side by side."""
    short = [tensor.reshape(-1) for tensor in tensors if tensor.numel() <= SHORT]
    sums = [tensor.sum().float() for tensor in tensors if tensor.numel() > SHORT]
    sums += [torch.cat(short).sum().float()] if short else []
    return bool(torch.isfinite(torch.stack(sums)).all())
