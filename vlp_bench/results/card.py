"""The card of a pruned model: how it was pruned, how sparse it is, what it scores, and where all that comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vlp_bench.pruning.solution import Solution
from vlp_bench.results.pruner_names import named, pattern_of
from vlp_bench.results.row import REHEARSAL
from vlp_bench.results.tables import escaped


def model_card(
    name: str,
    solution: Solution,
    metrics: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    library: str = "vlp_bench",
    *,
    smaller: bool = False,
) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        name: of the model.
        solution: its masks and their report.
        metrics: by name; percentages as in result rows. None: it was not fine-tuned.
        provenance: of a result row (commit, versions, hardware, data, weights, command or configuration).
        library: whose `from_pretrained` reads the model.
        smaller: what was removed has been cut out, whole heads and neurons.
    """
    rehearsed = bool(((provenance or {}).get("config") or {}).get("rehearse"))
    front = _front(name, solution, None if rehearsed else metrics, library)
    body = _body(name, solution, metrics or {}, provenance or {}, smaller=smaller, rehearsed=rehearsed)
    return "\n".join([*front, "", *body, ""])


def _front(name: str, solution: Solution, metrics: Mapping[str, float] | None, library: str) -> Iterator[str]:
    method = str(solution.report.get("method", "unknown"))
    told = {"method": method, "pattern": pattern_of(solution.report.get("settings"))}
    told |= {"sparsity": round(solution.sparsity, 6), "kept": solution.kept}
    yield "---"
    yield f"library_name: {library}"
    yield f"tags: [pruning, sparse, {json.dumps(method)}]"
    yield f"pruning: {json.dumps({key: value for key, value in told.items() if value != ''})}"
    if metrics:
        results = [{"type": key, "value": round(value, 4)} for key, value in metrics.items()]
        yield f"model-index: {json.dumps([{'name': name, 'results': [{'metrics': results}]}])}"
    yield "---"


def _body(
    name: str,
    solution: Solution,
    metrics: Mapping[str, float],
    provenance: Mapping[str, Any],
    *,
    smaller: bool,
    rehearsed: bool,
) -> Iterator[str]:
    report = solution.report
    method = escaped(named(str(report.get("method", "unknown")), report.get("settings")))
    yield f"# {escaped(name)}"
    yield ""
    share = f"{100 * solution.sparsity:.2f} % of {solution.total:,} prunable weights"
    yield (
        f"{share}, whole attention heads and feed-forward neurons, were cut out by **{method}** with vlp_bench: "
        "this is a smaller dense model."
        if smaller
        else f"{share} are exactly zero, removed by **{method}** with vlp_bench. Zeros don't make dense matrix "
        "products faster; `vlp-bench export report` measures what they save on your machine."
    )
    yield from _new_values(solution)
    yield from ("", "## Sparsity", "", "| modality | weights | kept | sparsity |", "|---|---:|---:|---:|")
    rows = [row for row in solution.table() if not row.block] if report.get("layers") else []
    for row in rows:
        yield f"| {escaped(row.modality or 'all')} | {row.total:,} | {row.kept:,} | {100 * row.sparsity:.2f} % |"
    yield from ("", "## Metrics", "")
    if rehearsed:
        yield from (f"This is {REHEARSAL}.", "")
    if metrics:
        yield from ("| metric | value |", "|---|---:|")
        yield from (f"| {escaped(key)} | {value:.2f} |" for key, value in metrics.items())
    else:
        yield "None: the model was pruned and not fine-tuned."
    yield from ("", "## Provenance", "")
    known = {"settings": report.get("settings"), "hashes": report.get("hashes")} | dict(provenance)
    yield from ("```json", json.dumps(known, indent=2, default=str), "```")


def _new_values(solution: Solution) -> Iterator[str]:
    """That weights which stay, or biases, aren't those of the dense model, and what gave them their values."""
    settings = solution.report.get("settings") or {}
    part: Any = settings.get("values") or settings.get("solve") or ""
    by = str(part.get("_target_", "") if isinstance(part, Mapping) else part).rpartition(".")[2]
    told = f" by `{by}`" if by else ""
    if solution.weights:
        yield from ("", f"The weights that stay have new values in {len(solution.weights)} tensors, given{told} as "
                    "the model was pruned.")  # fmt: skip
    if solution.biases:
        yield from ("", f"{len(solution.biases)} biases were corrected{told}.")
