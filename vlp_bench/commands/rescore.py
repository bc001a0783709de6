"""METEOR and SPICE for the captions of finished runs.

And words cut as the papers' are, for runs that were scored without Java.

    vlp-bench rescore                      # every captioning run in outputs
    vlp-bench rescore out=FOLDER exp=xvlm_ic benchmark=mini corenlp_dir=FOLDER

Nothing is trained or generated: a run's captions.json is compared with the references again, and its rows are stored
anew with the metrics beside them. It needs Java and the extra `caption`. Options: out, exp and benchmark (filters),
corenlp_dir (CoreNLP 3.6.0's two jars, for SPICE), force (true: also runs that have these metrics), files (folders,
with commas between, whose files the rows may name beside those below the working folder and out).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp_bench.runs.terminal.console import console, stderr, warn
from vlp_bench.runs.terminal.errors import FAILED, UserError
from vlp_bench.runs.terminal.key_value import perform

if TYPE_CHECKING:
    from vlp_bench.metrics.caption_scores import Scores
    from vlp_bench.metrics.captions import CaptionScores
    from vlp_bench.results.row import Row
    from vlp_bench.results.store import Store

SHOWN = ("bleu4", "meteor", "cider", "spice")
NOTE = "computed from the run's captions after it had ended"


@dataclass(frozen=True)
class Request:
    """Which runs, and where SPICE's jars lie."""

    out: str = "outputs"
    exp: str = ""
    benchmark: str = ""
    corenlp_dir: str = ""
    force: bool = False
    files: str = ""


def main() -> None:
    """Score the runs of the command line."""
    perform(Request, rescore, __doc__)


def rescore(request: Request) -> int:
    """Score the stored captions of all runs that lack a metric; returns how many runs that were.

    Raises:
        UserError: no stored run fits the request.
        ValueError: Java, pycocoevalcap or a jar is missing.
        SystemExit(1): captions of some runs could not be scored; stderr says which and why.
    """
    from vlp_bench.metrics.captions import CaptionScores
    from vlp_bench.results.store import Store
    from vlp_bench.runs.object_cache import ObjectCache

    store = Store(Path(request.out) / "runs")
    runs = dict(_captioned(store, request))
    warn(store.problems)
    if not runs:
        raise UserError(f"no finished captioning run under {store.root} fits; name another folder with out=")
    scorer = CaptionScores(corenlp_dir=request.corenlp_dir or None)
    wanted = {"meteor", "spice"} if request.corenlp_dir else {"meteor"}
    todo = {n: rows for n, rows in runs.items() if request.force or not wanted <= {row.metric for row in rows}}
    console.print(f"{len(runs)} captioning runs: {len(runs) - len(todo)} scored already, {len(todo)} to score")
    objects, failures = ObjectCache(), 0
    for name, rows in todo.items():
        try:
            said = _rescored(store, name, rows, scorer, _data(rows[0], request, objects))
        except (ValueError, OSError) as error:
            stderr.print(f"{name}: {error}", style="yellow", markup=False, soft_wrap=True)
            failures += 1
        else:
            shown = ", ".join(f"{metric} {said.values[metric]:.2f}" for metric in SHOWN if metric in said.values)
            console.print(f"{name}: {shown}", soft_wrap=True, markup=False)
    if failures:
        raise SystemExit(FAILED)
    return len(todo)


def _captioned(store: "Store", request: Request) -> "Iterator[tuple[str, list[Row]]]":
    """Folder and rows of every finished run that has kept captions and fits the request."""
    from vlp_bench.tasks.captioning import CAPTIONS

    for file in sorted(store.root.glob(f"*/{CAPTIONS}")):
        name = file.parent.name
        rows = store.last(name.rpartition("-")[2], name)
        if not rows or any(row.status == "ERR" for row in rows):
            continue
        if request.exp in ("", rows[0].exp) and request.benchmark in ("", rows[0].benchmark):
            yield name, rows


def _data(row: "Row", request: Request, objects: Any) -> Any:
    """The data of a row; ValueError if it names files elsewhere, or they are others now."""
    from vlp_bench.results.named_files import confined, roots
    from vlp_bench.sweeps.galleries import CURE

    stored = row.provenance["config"].get("data")
    data = objects.data({"data": confined(stored, roots(request.out, request.files), "data", CURE)})
    if data.fingerprint() != row.provenance["data"]:
        raise ValueError("the data have changed since it was made")
    return data


def _rescored(store: "Store", name: str, rows: "list[Row]", scorer: "CaptionScores", data: Any) -> "Scores":
    """Score one run and store it: the values of single images first, the rows, which count as done, last."""
    import numpy as np

    from vlp_bench.metrics.caption_scores import score
    from vlp_bench.results import examples
    from vlp_bench.runs.lock import exclusive
    from vlp_bench.tasks.captioning import CAPTIONS, read_captions

    began, folder = time.monotonic(), store.root / name
    images = data.described("test")
    with exclusive(folder):
        scores = score([scorer], read_captions(folder / CAPTIONS, images), images)
        examples.write(folder, examples.read(folder) | {n: np.asarray(each) for n, each in scores.examples.items()})
        store.append(name, _extended(rows, scores, time.monotonic() - began))
    return scores


def _extended(rows: "list[Row]", scores: "Scores", seconds: float) -> "Iterator[Row]":
    """The rows of a run with the new metrics beside the others, as they are appended together.

    An old row keeps its origin but for the time and the notes; a new one has the code and machine of now.
    """
    from vlp_bench.runs.provenance import origin

    known, now = rows[0].provenance, datetime.now(UTC).isoformat(timespec="microseconds")
    kept = [row for row in rows if row.split != "test" or row.metric not in scores.values]
    there = {row.metric for row in kept} | {*scores.values}  # a metric that is there needs no word on why it is not
    said = known.get("notes", {}) | scores.notes
    notes = {name: why for name, why in said.items() if not set(name.split(", ")) & there}
    notes[", ".join(scores.values)] = NOTE
    shared = {"notes": notes, "time": now}
    own = origin(known["config"], known["weights"]) | {key: known[key] for key in ("data", "mask")} | shared
    own["seconds"] = round(known["seconds"] + seconds, 3)
    count = len(kept) + len(scores.values)
    for row in kept:
        yield replace(row, rows=count, provenance=row.provenance | shared)
    for metric, value in scores.values.items():
        yield replace(rows[0], metric=metric, value=value, split="test", rows=count, provenance=own)


if __name__ == "__main__":
    main()
