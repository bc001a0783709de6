"""Several pruners and seeds on one model that is a folder: `vlp-bench compare` of a row of conf/evaluation/exp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from rich.console import Console

from vlp_bench.results import compared
from vlp_bench.results.report.material import studies
from vlp_bench.results.row import Row
from vlp_bench.results.store import Store
from vlp_bench.runs.own_model import screen
from vlp_bench.runs.own_model.evaluate import check_skeleton, ready, rows_of
from vlp_bench.runs.own_model.evaluation_request import Evaluation, check_given, preset_in, split
from vlp_bench.runs.own_model.prune import prune
from vlp_bench.runs.own_model.request import lacking, listed, request_of
from vlp_bench.runs.specification import digest
from vlp_bench.runs.terminal.errors import UserError

LISTS = ("pruner", "seed")
DENSE = "dense"  # is measured in any case


def compare(words: Sequence[str], console: Console) -> list[Row]:
    """Prune with each pruner and seed, write each to a folder below `out`, and show mean ± std beside the dense model.

    Raises:
        UserError, ValueError: as `prune_and_evaluate`; no word is wrong once anything is pruned.
    """
    check_given("compare", words)
    parts = [split(own) for own in cells(words)]
    requests = [request_of(pruning) for pruning, _ in parts]
    request, evaluation = requests[0][0], parts[0][1]
    assert evaluation is not None, "a preset says what is measured"
    asked = ready(evaluation)
    check_skeleton(asked, request.model)
    written = [str(folder) for one, options in requests for _, folder in prune(one, options, console)]
    rows = rows_of(evaluation.of([request.model, *written]), console, asked)
    _show(evaluation, [own[0] for own in rows], console)
    return [row for own in rows for row in own]


def cells(words: Sequence[str]) -> Iterator[list[str]]:
    """The command line of each: the pruner that the preset names keeps the preset's options of it."""
    given = {key: word.partition("=")[2] for word in words if (key := word.partition("=")[0]) in (*LISTS, "out")}
    rest = [word for word in words if word.partition("=")[0] not in given]
    published = dict(word.split("=", 1) for word in preset_in(words)[1])["pruner"]
    if not given.get("out"):
        raise lacking("out")
    lists = [_each_once(key, given.get(key, default)) for key, default in zip(LISTS, (published, "0"), strict=True)]
    for pruner, seed in product(*lists):
        own = [] if pruner == published else [f"pruner={pruner}"]
        yield [*rest, *own, f"seed={seed}", f"out={Path(given['out']) / f'{pruner}-seed{seed}'}"]


def _each_once(key: str, text: str) -> list[str]:
    """The values of a list, dense left out. UserError for none, or one that stands there twice."""
    found = listed(text)
    if len(set(found)) < len(found) or not set(found) - {DENSE}:
        beside = f" beside {DENSE}" if DENSE in found else ""
        raise UserError(f"{key}={text}: give at least one{beside}, and each once")
    return [own for own in found if own != DENSE]


def _show(evaluation: Evaluation, firsts: Sequence[Row], console: Console) -> None:
    """A table a metric and the picture; `firsts`: the first row of each model."""
    out, runs = Path(evaluation.words.out), {row.run for row in firsts}
    [study] = studies(Store(out / "runs"), runs)
    title = compared.title_of(f"{study.exp}, {study.model}", sorted({row.seed for row in firsts if row.sparsity}))
    folder = out / "compare" / f"{study.exp}-{study.benchmark}-{digest(sorted(runs))}"
    compared.show(console, study.frame, study.pruners, study.sparsities, study.metrics, title, folder)
    screen.notes(console, firsts)
    screen.next_step(console, evaluation.words.out)
