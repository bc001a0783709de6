"""Which tokens a layer's statistics are made of: functions of a calibration; any score and solver can use their choice.

A choice is made for every part of every batch, and with `sweep=block_by_block` anew for every block, behind the blocks
that are pruned already: one more pass over the batches.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vlp_bench.pruning.adapter import Adapter
from vlp_bench.pruning.checks import NotNegative
from vlp_bench.pruning.layers import Layer
from vlp_bench.pruning.said_once import warn_once
from vlp_bench.pruning.solution import Solved
from vlp_bench.pruning.statistics.around import Around, with_outputs
from vlp_bench.pruning.statistics.attention import AttentionWatch
from vlp_bench.pruning.statistics.block_gradients import holders
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import in_rows
from vlp_bench.pruning.statistics.similarities import (
    masks_of,
    normalised,
    outputs_seen,
    similarities,
)
from vlp_bench.pruning.sweep import Solve

log = logging.getLogger(__name__)
Choice = list[dict[str, list[Tensor | None]]]
"""For every part in order, by layer, for each time that it reads: (rows, tokens) bool; None: all count."""
Select = Callable[[Calibration], Choice]
Changes = tuple[Tensor, Tensor, Tensor]  # (rows, tokens) of a block's call: 1 - cos, which are the image's, which words
NEIGHBOURS = 3
FADING = 0.2  # how fast a chosen token's claim on its neighbours fades with their distance
LIKENESS = 0.1  # how like all tokens the chosen ones must be, where nothing is dense


def chosen(select: Select, solve: Solve) -> Solve:
    """The solver with statistics of the chosen tokens; for a calibration whose batches no processes share."""

    def solved(calibration: Calibration, budgets: dict[str, int]) -> Solved:
        adapter = _Choosing(calibration.adapter, select(calibration.subset(calibration.layers)))
        return solve(calibration.subset(calibration.layers, adapter=adapter), budgets)

    return solved


class _Choosing(Around):
    """Other tokens don't count."""

    def __init__(self, adapter: Adapter, choice: Choice) -> None:
        super().__init__(adapter)
        self._choice, self._part = choice, -1
        self._read = Counter[str]()  # how often each layer has read in this part

    def rewind(self) -> None:
        super().rewind()
        self._part = -1

    def encode(self, model: nn.Module, batch: Any) -> None:
        self._part += 1
        self._read.clear()
        super().encode(model, batch)

    def chosen_tokens(self, name: str) -> Tensor | None:
        """What was chosen for this reading of a layer, which is asked for once."""
        own, number = self._choice[self._part].get(name, []), self._read[name]
        self._read[name] += 1
        return own[number] if number < len(own) else None


def atv(calibration: Calibration, *, alpha: NotNegative = 1.0) -> Choice:
    """All words, and of the image's tokens those that a block changes most (ATV-Pruning, CVPR 2026).

    A token's change is 1 - cos of what goes into the block and what comes out. Of each sample as many stay as it has
    words, times α times the mean change of all image tokens, at most as many as there are. A block that sees one
    modality alone has all its tokens counted, and so has a layer outside all blocks.
    """
    held = holders(calibration.model, calibration.layers, calibration.before_sweep.layers)
    around = {module: block for block in held for module in block.modules() if module is not block}
    blocks = {block: held[block] for block in dict.fromkeys(around.values())}
    calls: list[dict[nn.Module, list[Changes | None]]] = []
    reads: list[list[tuple[str, nn.Module | None, int]]] = []  # by part: which layer, in which call of which block

    def read(name: str, module: nn.Module) -> None:
        block = around.get(module)
        reads[-1].append((name, block, 0 if block is None else len(calls[-1][block])))

    def begin(part: Any) -> None:
        calls.append({block: [] for block in blocks})
        reads.append([])

    def end(block: nn.Module, given: Tensor, output: Tensor, part: Any) -> None:
        calls[-1][block].append(_changes(calibration, blocks[block][-1].name, given, output, part))

    with _readings_seen(calibration.layers.values(), read):
        _run_blocks(calibration, blocks, begin, end)
    masks: dict[tuple[int, nn.Module | None, int], Tensor] = {}
    for block, own in blocks.items():
        seen = {(i, block, j): one for i, part in enumerate(calls) for j, one in enumerate(part[block]) if one}
        masks |= dict(zip(seen, _most_changed(list(seen.values()), alpha, own[-1].name), strict=True))
    return [
        _by_layer((name, masks.get((i, block, call))) for name, block, call in part) for i, part in enumerate(reads)
    ]


def _changes(calibration: Calibration, name: str, given: Tensor, output: Tensor, part: Any) -> Changes | None:
    """What a call of the block of the layer `name` changes; None where it sees no image."""
    if given.shape != output.shape or given.ndim != 3:
        return None
    kept, image = masks_of(calibration.adapter, calibration.model, part, name, output)
    changes = 1 - F.cosine_similarity(given.float(), output.float(), dim=-1)
    return (changes, kept & image, kept & ~image) if image.any() else None


def _by_layer(chosen: Iterable[tuple[str, Tensor | None]]) -> dict[str, list[Tensor | None]]:
    """The choices of each layer, in order, of those that have any."""
    found: dict[str, list[Tensor | None]] = {}
    for name, mask in chosen:
        found.setdefault(name, []).append(mask)
    return {name: own for name, own in found.items() if any(mask is not None for mask in own)}


@contextmanager
def _readings_seen(layers: Iterable[Layer], tell: Callable[[str, nn.Module], None]) -> Iterator[None]:
    """`tell(layer, module)` whenever one of its readers is about to be called."""
    with ExitStack() as undo:
        for layer in layers:
            for reader in layer.readers:
                hook = lambda module, args, name=layer.name: tell(name, module)  # noqa: E731
                undo.callback(reader.module.register_forward_pre_hook(hook).remove)
        yield


def _most_changed(found: list[Changes], alpha: float, name: str) -> list[Tensor]:
    """The tokens that count in each call of one block."""
    if not found:
        return []
    mean = float(torch.cat([changes[image] for changes, image, _ in found]).double().mean())
    share, masks, kept = max(0.0, min(1.0, alpha * mean)), list[Tensor](), list[int]()
    for changes, image, words in found:
        count = torch.minimum(image.sum(1), (share * words.sum(1)).round().long())
        ranks = changes.masked_fill(~image, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        masks.append(words | (image & (ranks < count[:, None])))
        kept += count.tolist()
    log.info("%s: %.1f image tokens of a sample count", name, sum(kept) / len(kept))
    return masks


def amia(calibration: Calibration) -> Choice:
    """Few tokens that stand for all, those first that are paid attention to (TAMP's AMIA, Findings of ACL 2025).

    For each layer and sample: see `representatives`. Attention is the last token's, in the layer's block; where none is
    seen all tokens count alike.
    """
    blocks = holders(calibration.model, calibration.layers, calibration.before_sweep.layers)
    choice: list[list[tuple[str, Tensor | None]]] = []
    outputs: list[tuple[str, Tensor]] = []
    attention = AttentionWatch()

    def end(block: nn.Module, given: Tensor, output: Tensor, part: Any) -> None:
        inside = {layer.name for layer in blocks[block]}
        for name, own in outputs:  # some were read outside all calls of blocks, or are an expert's without tokens
            chosen = name in inside and own.numel()
            choice[-1].append(
                (name, _representatives(calibration, name, own, attention.seen, part) if chosen else None)
            )
        outputs.clear()
        attention.seen.clear()

    def begin(part: Any) -> None:
        choice.append([])
        outputs.clear()
        attention.seen.clear()

    with attention, outputs_seen(calibration.layers.values(), lambda *seen: outputs.append(seen)):
        _run_blocks(calibration, blocks, begin, end)
    return [_by_layer(part) for part in choice]


def _representatives(calibration: Calibration, name: str, own: Tensor, attention: list[Tensor], part: Any) -> Tensor:
    """(rows, tokens) bool, of what one reading of a layer gives (rows, tokens, d_out)."""
    tokens = in_rows(own, calibration.adapter.rows(part))
    kept, image = masks_of(calibration.adapter, calibration.model, part, name, tokens)
    paid = _last_attention(attention, kept)
    return torch.stack([representatives(*one) for one in zip(normalised(tokens), kept, image, paid, strict=True)])


def representatives(tokens: Tensor, kept: Tensor, image: Tensor, paid: Tensor) -> Tensor:
    """(t,) bool: tokens chosen one by one until they are distributed as all are.

    A token's claim is the attention paid to it and, fading with their distance 1 - cos, to its 3 nearest neighbours;
    whoever is chosen lowers its neighbours' claims. It ends when the squared maximum mean discrepancy to all (with a
    Gaussian kernel of width 1) is below 0.1 · √(1 - density), the density the mean of the `similarities`.

    Args:
        tokens: (t, d) of length 1.
        kept: (t,) bool, those that count.
        image: (t,) bool, those of the image.
        paid: (t,) attention.
    """
    among = kept.nonzero().view(-1)
    if len(among) < 2:
        return kept.clone()
    density = similarities(tokens, kept, image)
    limit = LIKENESS * max(0.0, 1 - float(density[~density.isnan()].mean())) ** 0.5
    x = tokens[among].double()
    result = torch.zeros_like(kept)
    result[among[_greedy(1 - x @ x.t(), paid[among].double(), limit)]] = True
    return result


def _greedy(distances: Tensor, paid: Tensor, limit: float) -> Tensor:
    """(t,) bool of those chosen."""
    kernel, others = (-distances).exp(), distances.clone().fill_diagonal_(torch.inf)
    near = others.topk(min(NEIGHBOURS, len(paid) - 1), largest=False).indices
    claims = paid + (paid[near] * (-distances.gather(1, near)).exp()).sum(1)
    taken, to_all = torch.zeros_like(paid, dtype=torch.bool), kernel.mean(0)
    among_all, across, within = float(kernel.mean()), 0.0, 0.0
    for count in range(1, len(paid) + 1):
        best = int(claims.argmax())
        claims[near[best]] -= (-FADING * distances[best, near[best]]).exp() * claims[best].clamp_min(0)
        within += float(2 * kernel[best, taken].sum() + kernel[best, best])
        across += float(to_all[best])
        taken[best] = True
        claims[taken] = claims.min() - 1
        if among_all + within / count**2 - 2 * across / count < limit:
            break
    return taken


def _last_attention(seen: list[Tensor], kept: Tensor) -> Tensor:
    """(rows, tokens) what the last token that counts pays attention to; the same for all if nobody was seen to."""
    rows, tokens = kept.shape
    for attention in seen:
        if attention.shape[0] == rows and attention.shape[2] == tokens:
            queries = attention.shape[1]
            counts = kept if queries == tokens else kept.new_ones(rows, queries)
            last = (counts * torch.arange(1, queries + 1, device=kept.device)).argmax(1)
            return attention[torch.arange(rows, device=kept.device), last].to(kept.device)
    return torch.full((rows, tokens), 1 / tokens, device=kept.device)


def _run_blocks(
    calibration: Calibration,
    blocks: Mapping[nn.Module, list[Layer]],
    begin: Callable[[Any], None],
    end: Callable[[nn.Module, Tensor, Tensor, Any], None],
) -> None:
    """One pass; `end` gets every block that was run with what went in, what came out, and the part of the batch."""
    now, called = [None], set[nn.Module]()

    def new(part: Any) -> None:
        now[0] = part
        begin(part)

    def over(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given, gives = (
            [leaf for leaf in tree_leaves(item) if isinstance(leaf, Tensor)] for item in ((args, kwargs), output)
        )
        called.add(block)
        if given and gives:
            end(block, given[0], gives[0], now[0])

    @contextmanager
    def watching() -> Iterator[None]:
        with ExitStack() as undo:
            for block in blocks:
                undo.callback(block.register_forward_hook(over, with_kwargs=True).remove)
            yield

    with with_outputs(calibration.adapter):
        for _ in calibration.forwards(calibration.relay(lambda event: None), watching(), new):
            pass
    for block, own in blocks.items():
        if block not in called:
            said = f"no batch calls the block of {own[0].name} as a module, so no tokens are chosen for it: all count"
            warn_once(log, calibration.model, said)
