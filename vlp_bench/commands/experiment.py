"""Everything a published table needs, beside the paper's numbers.

Its runs, its dense baselines, the ridge of CHITA, and a report.

    vlp-bench experiment                                  # what there is
    vlp-bench experiment table08_edges_nodes dry=true     # how many runs, how long
    vlp-bench experiment table08_edges_nodes              # the embedded world, two processes
    vlp-bench experiment table08_edges_nodes benchmark=paper paths.data=DIR paths.weights=DIR

seed=0 and sparsity=0.9 leave the others out; further words go to every run. Stored runs are not computed again.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlp_bench.runs.schema import check_paths
from vlp_bench.runs.terminal.console import columns, console, print_help
from vlp_bench.runs.terminal.errors import MISTAKE, UserError, one_line, wants_traceback
from vlp_bench.sweeps import plans
from vlp_bench.sweeps.announcement import announcement
from vlp_bench.sweeps.grid import parsed
from vlp_bench.sweeps.specifications import missing, specifications

if TYPE_CHECKING:
    from vlp_bench.runs.specification import Specification


@dataclass(frozen=True)
class Request:
    """Which experiment, with what narrowed, and what else is on the command line."""

    name: str
    words: tuple[str, ...] = ()
    workers: int = 2
    dry: bool = False
    sparsity: tuple[float, ...] = ()
    seed: tuple[int, ...] = ()

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Request":
        """The request of a command line: the name, and key=value before or after it."""
        name = next((word for word in words if "=" not in word), words[0])
        rest = [word for word in words if word != name]
        given = {word.partition("=")[0]: word.partition("=")[2] for word in rest}
        own = {key: parsed(key, given[key]) for key in ("workers", "sparsity", "seed") if key in given}
        if given.get("dry", "false") not in ("true", "false"):
            raise UserError(f"dry={given['dry']}: expected true or false")
        others = tuple(w for w in rest if w.partition("=")[0] not in ("workers", "sparsity", "seed", "dry"))
        for word in others:
            if re.match(r"[+~]*(pruner|exp)(=|$)", word):
                raise UserError(f"{word}: {name} says itself which are run; compare them with vlp-bench compare {word}")
            if "=" not in word and not word.startswith("~"):
                raise UserError(f"{word}: every word after the experiment's name is key=value")
        return cls(name, others, dry=given.get("dry") == "true", **own)

    @property
    def benchmark(self) -> str:
        """What the command line says; else "mini", or that of the first part where none can be of "mini"."""
        given = next((w.partition("=")[2] for w in reversed(self.words) if w.startswith("benchmark=")), "")
        parts = [part.benchmark or "mini" for part in plans.load(self.name)]
        return given or ("mini" if "mini" in parts else parts[0])

    @property
    def out(self) -> str:
        given = next((w.partition("=")[2] for w in reversed(self.words) if w.startswith("paths.out=")), "outputs")
        check_paths({"out": given})
        return given

    @property
    def files(self) -> str:
        """Every file and folder on the command line: the report may open what lies there."""
        values = [word.partition("=")[2] for word in self.words]
        return ",".join([value for value in values if value and Path(value).exists()])

    def narrowed(self, part: plans.Part) -> plans.Part | None:
        """The part with those of its sparsities and seeds that the command line names; None if it has none of them."""
        levels = tuple(level for level in part.sparsity if level in (self.sparsity or part.sparsity))
        seeds = tuple(seed for seed in part.seed if seed in (self.seed or part.seed))
        return replace(part, sparsity=levels, seed=seeds) if levels and seeds else None


def main() -> None:
    """Perform the experiment of the command line, or list what there is."""
    words = [word for word in sys.argv[1:] if not word.startswith("debug=")]
    if not words or {"-h", "--help"} & set(words):
        print_help(__doc__)
        lines = columns([(name, _first_line(name)) for name in plans.names()], console.width)
        console.print("\n".join(lines), markup=False, soft_wrap=True)
        return
    with one_line(words, traceback=wants_traceback(sys.argv[1:])):
        perform(Request.parse(words))


def _first_line(name: str) -> str:
    text = (plans.FOLDER / name / "sweep.yaml").read_text(encoding="utf-8")
    return text.splitlines()[0].removeprefix("#").strip()


def perform(request: Request) -> Path | None:
    """Compute what is missing and write the report; None after a dry run.

    Raises:
        UserError: no run of it can be composed. SystemExit(2): some runs failed; the others are stored and reported.
    """
    groups = plan(request, choose=not request.dry)
    cells = list({(cell.out, cell.run): cell for group in groups for cell in group}.values())
    if not cells:
        raise UserError(f"{request.name}: none of its experiments is in conf/exp yet")
    todo = missing(cells)
    console.print(announcement(cells, todo, request.workers), soft_wrap=True)
    if request.dry:
        return None
    from vlp_bench.commands.report import Request as ReportRequest
    from vlp_bench.commands.report import report
    from vlp_bench.sweeps.comparison import compute

    failures: dict[str, str] = {}
    for group in groups:
        if rest := missing(group):
            failures |= compute(rest, request.workers, fresh_statistics=rest[0].out != Path(request.out))
    folder = Path(request.out) / "experiments" / f"{request.name}-{request.benchmark}"
    for out in dict.fromkeys(cell.out for cell in cells):  # parts with masks of their own are a report of their own
        to = folder / "alone" if out != cells[0].out else folder
        runs = frozenset(cell.run for cell in cells if cell.out == out)
        title = _first_line(request.name)
        report(ReportRequest(str(out), to=str(to), title=title, files=request.files), runs=runs)
    for name, reason in failures.items():
        console.print(f"failed: {name}: {reason}", style="red", markup=False, soft_wrap=True)
    if failures:
        raise SystemExit(MISTAKE)
    return folder


def plan(request: Request, *, choose: bool = True) -> "list[list[Specification]]":
    """The runs of an experiment, in groups that share a calibration pass; dense first.

    Args:
        choose: whether the ridge of CHITA may be looked for with runs; else its default stands in, as in a dry run.
    """
    groups, parts = [], plans.load(request.name)
    narrowed = [part for part in map(request.narrowed, parts) if part is not None]
    if not narrowed:
        levels, seeds = ({value for part in parts for value in getattr(part, key)} for key in ("sparsity", "seed"))
        sparsity, seed = (",".join(map(str, values)) or "any" for values in (request.sparsity, request.seed))
        raise UserError(
            f"{request.name} has no run with sparsity={sparsity}, seed={seed}: "
            f"its sparsities are {sorted(levels)}, its seeds {sorted(seeds)}"
        )
    for part in narrowed:
        if part.benchmark not in ("", request.benchmark):
            continue
        words = _words(request, part)
        for exp in part.exp:
            if exp not in plans.there(part):
                console.print(f"{exp} is not in conf/exp yet: its runs are left out", style="yellow")
                continue
            ridges = _ridges(exp, part, words, request.workers) if choose else {}
            groups += [specifications(grid) for grid in part.grids(exp, words, ridges, request.workers)]
    return groups


def _words(request: Request, part: plans.Part) -> list[str]:
    words = [word for word in request.words if not (part.fresh_statistics and word.startswith("paths.out="))]
    if not any(word.startswith("benchmark=") for word in words):
        words.append(f"benchmark={part.benchmark or request.benchmark}")
    return [*words, f"paths.out={request.out}/{request.name}"] if part.fresh_statistics else words


def _ridges(exp: str, part: plans.Part, words: Sequence[str], workers: int) -> dict[str, float]:
    """The chosen ridge of the part's CHITAs: retrieval stands for every task of a model, as in the paper."""
    from vlp_bench.commands.ridge import choose
    from vlp_bench.runs.terminal.conf import choices

    wanted = [name for name in part.pruner if name in plans.RIDGE_PRUNERS and part.ridge == "chosen"]
    proxy = f"{exp.partition('_')[0]}_itr"
    if wanted and proxy not in choices("exp"):
        console.print(f"{proxy} is not there to choose a ridge with: the default of the yaml stays", style="yellow")
        return {}
    return {name: choose(name, [f"+exp={proxy}", *words], workers).ridge for name in wanted}


if __name__ == "__main__":
    main()
