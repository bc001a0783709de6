"""Several pruners and seeds of one model that is a folder: `vlp-bench compare` of a row of conf/evaluation/exp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from rich.console import Console

from vlp_bench.results.row import Row
from vlp_bench.runs.own_model.evaluate import check_skeleton, evaluate, ready
from vlp_bench.runs.own_model.evaluation_request import preset_in, split
from vlp_bench.runs.own_model.prune import prune
from vlp_bench.runs.own_model.request import listed, request_of
from vlp_bench.runs.terminal.errors import UserError

LISTS = ("pruner", "seed")


def compare(words: Sequence[str], console: Console) -> list[Row]:
    """Prune with each pruner and seed, write each to a folder below `out`, and measure all beside the dense model.

    Raises:
        UserError, ValueError: as `prune_and_evaluate`; no word is wrong once anything is pruned.
    """
    parts = [split(own) for own in cells(words)]
    requests = [request_of(pruning) for pruning, _ in parts]
    request, evaluation = requests[0][0], parts[0][1]
    assert evaluation is not None, "a preset says what is measured"
    asked = ready(evaluation)
    check_skeleton(asked, request.model)
    written = [str(folder) for one, options in requests for _, folder in prune(one, options, console)]
    return evaluate(evaluation.of([request.model, *written]), console, asked)


def cells(words: Sequence[str]) -> Iterator[list[str]]:
    """The command line of each: the pruner that the preset names keeps the preset's options of it."""
    given = {key: word.partition("=")[2] for word in words if (key := word.partition("=")[0]) in (*LISTS, "out")}
    rest = [word for word in words if word.partition("=")[0] not in given]
    published = dict(word.split("=", 1) for word in preset_in(words)[1])["pruner"]
    if not given.get("out"):
        raise UserError("out= is missing: give the folder that the pruned models are written below")
    lists = [listed(given.get(key, default)) for key, default in zip(LISTS, (published, "0"), strict=True)]
    for pruner, seed in product(*lists):
        own = [] if pruner == published else [f"pruner={pruner}"]
        yield [*rest, *own, f"seed={seed}", f"out={Path(given['out']) / f'{pruner}-seed{seed}'}"]
