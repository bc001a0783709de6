"""What the user sees of a run, from the header to the last table."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from vlp_bench.results import recorded
from vlp_bench.results.plot import plot_sparsity
from vlp_bench.results.pruner_names import named
from vlp_bench.results.row import REHEARSAL
from vlp_bench.results.store import Store, matching
from vlp_bench.results.tables import (
    LABELS,
    metrics_table,
    missing_references,
    reference_values,
    sparsity_table,
    spread,
    test_values,
)
from vlp_bench.runs.object_cache import task_class
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.prune_once import Pruned
from vlp_bench.runs.specification import Specification, own_data
from vlp_bench.runs.terminal.conf import blurb, choices


def header(console: Console, specification: Specification) -> None:
    """Which benchmark (and which other there is), model, data, pruner, sparsity and seed run, and where results go."""
    c, chosen = specification.config, specification.choices
    name, says = c["benchmark"]["name"], c["benchmark"]["says"]
    if own := own_data(c):
        shown = f"{own}, calibrated on {_calibrated_on(c['data'])}"
        console.print(f"[bold]data={chosen['data']}[/]: {escape(shown)} (sizes of benchmark={name})", soft_wrap=True)
    else:
        console.print(f"[bold]benchmark={name}[/]: {escape(says)} ({escape(_others(name))})", soft_wrap=True)
    console.print(f"model {chosen['model']}, data {chosen['data']}, task {chosen['task']}")
    pruner = named(chosen["pruner"], c["pruner"])
    console.print(f"pruner [bold]{escape(pruner)}[/], sparsity [bold]{c['sparsity']:g}[/], seed {c['seed']}")
    console.print(f"results in {escape(str(specification.folder))}", soft_wrap=True)


def _calibrated_on(data: Mapping[str, Any]) -> str:
    """The files that a pruner is shown, of data that lie in files."""
    source, apart = data.get("source") or data, data.get("calibration_source") or {}
    return str(apart.get("root") or source.get("general") or "its training split")


def _others(name: str) -> str:
    others = [other for other in choices("benchmark") if other != name]
    return "; ".join(f"benchmark={other} runs {blurb('benchmark', other).split(';')[0]}" for other in others)


@contextmanager
def step(console: Console, what: str) -> Iterator[None]:
    """Say that something is being done while it is."""
    with console.status(f"{what} ..."):
        yield


def plan(console: Console, specification: Specification, plan: Plan) -> None:
    """Say how many examples a device takes at a time where it is not what the configuration says."""
    given = specification.config["data"].get("batch_size")
    if plan.batch_size != given:
        target = specification.config["recipe"]["target_batch"]
        who = f"each of {plan.world} devices" if plan.world > 1 else "the device"
        console.print(
            f"{who} takes {plan.batch_size} examples at a time, not data.batch_size={given}: "
            f"a step sees {target}, the target batch",
            soft_wrap=True,
        )


def say(console: Console, line: str) -> None:
    """A line, if there is one."""
    if line:
        console.print(escape(line), soft_wrap=True)


def pruned(console: Console, found: Pruned) -> None:
    """Sparsity by modality and block, with the time it took or the file it came from."""
    seconds = found.solution.report["seconds"]
    seconds = f"{seconds:.1f} s" + ("" if found.solution.report.get("alone", True) else ", beside statistics of others")
    how = f"pruned in {seconds}" if found.fresh else f"mask read from {found.file}, made in {seconds}"
    removed = f"{100 * found.solution.sparsity:.2f} % of the prunable weights removed"
    console.print(f"[bold]{removed}[/], {escape(how)}", soft_wrap=True)
    console.print(sparsity_table(found.solution.table()))


def already_done(console: Console, specification: Specification, store: Store) -> None:
    """Say that a stored result is shown, where it came from and how to compute it again."""
    origin = store.last(specification.run, specification.name)[0].provenance
    commit = f", commit {origin['commit'][:8]}" if origin["commit"] else ""
    console.print(
        f"already done on {origin['time'][:16]} in {origin['seconds']:.0f} s{commit}: the stored result is shown; "
        "force=true computes it again",
        soft_wrap=True,
    )


def result(console: Console, specification: Specification, store: Store) -> None:
    """Test metrics beside dense and OMP, what the first means, a picture, and what was unreadable."""
    if console.quiet:
        return
    row, frame, shipped = specification.identity(), store.query(), _recorded(specification)
    legend = task_class(specification.config).LEGEND
    if specification.config["rehearse"]:
        console.print(f"[yellow]{REHEARSAL}[/]", soft_wrap=True)
    console.print(f"[bold]test, {escape(legend)}[/] (change: points, same seed)", soft_wrap=True)
    console.print(metrics_table(frame, row, shipped, named(row["pruner"], specification.config["pruner"])))
    for name, note in _notes(store, specification).items():
        console.print(f"{escape(name)}: {escape(note)}", soft_wrap=True)
    if not shipped.empty:
        _compared(console, specification, frame, shipped)
    for name in missing_references(frame, row):
        command = specification.command(pruner=name, **({"sparsity": 0} if name == "dense" else {}))
        console.print(f"no row of {name} of your own yet; make it with: {escape(command)}", soft_wrap=True)
    console.print(f"rows in {escape(str(store.file(specification.name)))}", soft_wrap=True)
    for problem in store.problems:
        console.print(f"[yellow]{escape(problem)}[/]", soft_wrap=True)


def _recorded(specification: Specification) -> pd.DataFrame:
    """The shipped rows that this run may stand beside: it is the experiment as it is shipped, but for its pruner."""
    if not specification.as_shipped:
        return pd.DataFrame()
    return recorded.recorded(specification.config["experiment"], specification.weights, specification.benchmark)


def _compared(console: Console, specification: Specification, frame: pd.DataFrame, shipped: pd.DataFrame) -> None:
    """What the first number means beside the dense model's, where recorded rows come from, and the picture."""
    row = specification.identity()
    own = test_values(frame, run=row["run"])
    metrics = [m for m in task_class(specification.config).HEADLINES if m in own and m in set(shipped["metric"])]
    if not metrics:  # a failed run
        return
    dense = reference_values(frame, row, "dense") or test_values(matching(shipped, seed=row["seed"]), pruner="dense")
    first, label = metrics[0], LABELS.get(metrics[0], metrics[0])
    if row["pruner"] != "dense" and first in dense:
        blind = own.get("majority", 0.0)
        verdict = recorded.verdict(own[first], dense[first], blind)
        console.print(f"{label} {own[first]:.2f}, dense {dense[first]:.2f}: {verdict}", soft_wrap=True)
        if recorded.collapsed(own[first], dense[first], blind) and specification.benchmark != recorded.READABLE:
            elsewhere = recorded.readable(row["exp"], row["pruner"], first)
            say(console, elsewhere and f"{elsewhere}: {specification.command(benchmark=recorded.READABLE)}")
    if levels := recorded.levels(shipped, row["pruner"], first):
        console.print(f"recorded for {escape(row['pruner'])}, mean over seeds: {levels}", soft_wrap=True)
    console.print(f"recorded rows are shipped, not of this machine: {recorded.told(shipped)}", soft_wrap=True)
    picture = specification.folder / "sparsity.png"
    beside = recorded.replaced(shipped, matching(frame, setting=row["setting"], split="test"))
    pruners = list(dict.fromkeys([*recorded.SHOWN, row["pruner"]]))
    title = f"{row['exp']}, the embedded world: test; recorded runs (mean ± std over seeds) and your own"
    plot_sparsity(spread(matching(beside, pruner=pruners), metrics), pruners, metrics, title, [picture])
    console.print(f"metric against sparsity in {escape(str(picture))}", soft_wrap=True)


def _notes(store: Store, specification: Specification) -> dict[str, str]:
    """What a run says beside its numbers: what was not computed and why."""
    rows = store.last(specification.run, specification.name)
    return rows[0].provenance.get("notes", {}) if rows else {}
