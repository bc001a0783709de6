"""What the user sees of a run, from the header to the last table."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from vlp_bench.results.store import Store
from vlp_bench.results.tables import metrics_table, missing_references, sparsity_table
from vlp_bench.runs.conf import blurb, choices
from vlp_bench.runs.object_cache import task_class
from vlp_bench.runs.process_plan import Plan
from vlp_bench.runs.prune_once import Pruned
from vlp_bench.runs.specification import Specification


def header(console: Console, specification: Specification) -> None:
    """Which benchmark (and which other there is), model, data, pruner, sparsity and seed run, and where results go."""
    c, chosen = specification.config, specification.choices
    name, says = c["benchmark"]["name"], c["benchmark"]["says"]
    if own := c["data"].get("says"):
        shown = f"{own}, calibrated on {c['data'].get('general') or 'its training split'}"
        console.print(f"[bold]data={chosen['data']}[/]: {escape(shown)} (sizes of benchmark={name})", soft_wrap=True)
    else:
        console.print(f"[bold]benchmark={name}[/]: {escape(says)} ({escape(_others(name))})", soft_wrap=True)
    console.print(f"model {chosen['model']}, data {chosen['data']}, task {chosen['task']}")
    console.print(f"pruner [bold]{chosen['pruner']}[/], sparsity [bold]{c['sparsity']:g}[/], seed {c['seed']}")
    console.print(f"results in {escape(str(specification.folder))}", soft_wrap=True)


def _others(name: str) -> str:
    others = [other for other in choices("benchmark") if other != name]
    return "; ".join(f"benchmark={other} runs {blurb('benchmark', other).split(';')[0]}" for other in others)


@contextmanager
def step(console: Console, what: str) -> Iterator[None]:
    """Say that something is being done while it is."""
    with console.status(f"{what} ..."):
        yield


def plan(console: Console, specification: Specification, plan: Plan) -> None:
    """Say what each of several devices does where it is not what the configuration says."""
    given = specification.config["data"].get("batch_size")
    if plan.batch_size != given:
        target = specification.config["recipe"]["target_batch"]
        console.print(
            f"each of {plan.world} devices takes {plan.batch_size} examples at a time, not data.batch_size={given}: "
            f"a step sees {target}, the target batch",
            soft_wrap=True,
        )


def pruned(console: Console, found: Pruned) -> None:
    """Sparsity by modality and block, with the time it took or the file it came from."""
    seconds = found.solution.report["seconds"]
    how = f"pruned in {seconds:.1f} s" if found.fresh else f"mask read from {found.file}, made in {seconds:.1f} s"
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
    """Test metrics with the change against dense and OMP, the commands for missing rows, and what was unreadable."""
    if console.quiet:
        return
    row, frame = specification.identity(), store.query()
    legend = task_class(specification.config).LEGEND
    console.print(f"[bold]test, {escape(legend)}[/] (change: points, same seed)", soft_wrap=True)
    console.print(metrics_table(frame, row))
    for name, note in _notes(store, specification).items():
        console.print(f"{escape(name)}: {escape(note)}", soft_wrap=True)
    for name in missing_references(frame, row):
        command = specification.command(pruner=name, **({"sparsity": 0} if name == "dense" else {}))
        console.print(f"no row of {name} to compare with yet; make it with: {escape(command)}", soft_wrap=True)
    console.print(f"rows in {escape(str(store.file(specification.name)))}", soft_wrap=True)
    for problem in store.problems:
        console.print(f"[yellow]{escape(problem)}[/]", soft_wrap=True)


def _notes(store: Store, specification: Specification) -> dict[str, str]:
    """What a run says beside its numbers: what was not computed and why."""
    rows = store.last(specification.run, specification.name)
    return rows[0].provenance.get("notes", {}) if rows else {}
