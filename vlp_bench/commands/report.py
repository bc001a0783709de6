"""One page, and Markdown, LaTeX and CSV, of all stored results.

    vlp-bench report                       # outputs/ -> outputs/report/index.html
    vlp-bench report out=FOLDER exp=xvlm_itr benchmark=mini baseline=omp to=FOLDER

The page is one file: it opens without a server or network, in dark and light, on a phone and in print.
Options: out, to, exp and benchmark (filters), baseline (omp), examples (pictures per gallery, 0 for none), weights
(false: leave out magnitudes and scores of the pre-trained weights), title, files (folders, with commas between, whose
files the rows may name beside those below the working folder and out: pre-trained weights, images).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp_bench.runs.terminal.conf import EXPERIMENTS
from vlp_bench.runs.terminal.console import console, warn
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.runs.terminal.key_value import perform
from vlp_bench.spelling import count_of
from vlp_bench.sweeps.galleries import CURE, galleries

if TYPE_CHECKING:
    from torch import nn

    from vlp_bench.pruning.solution import Solution
    from vlp_bench.results.report.material import Mask, Study
    from vlp_bench.results.report.page import Chapter
    from vlp_bench.results.report.scores import Weights

    Stored = dict[str, tuple[Solution, Path]]  # by hash


@dataclass(frozen=True)
class Request:
    """What to report on, against what, and where to."""

    out: str = "outputs"
    to: str = ""
    exp: str = ""
    benchmark: str = ""
    baseline: str = "omp"
    examples: int = 6
    weights: bool = True
    title: str = "What pruning costs"
    files: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.to) if self.to else Path(self.out) / "report"


def main() -> None:
    """Write the report of the command line."""
    perform(Request, report, __doc__)


def report(request: Request, runs: frozenset[str] | None = None) -> Path:
    """Write the files of a report and return their folder; `runs` limits it to some runs.

    Raises:
        UserError: no stored run fits the request.
    """
    from vlp_bench.results.report import page

    found = chapters(request, runs)
    page.write(request.folder, contents(request, found))
    for chapter in found:
        console.print(
            f"{chapter.title}: {count_of(len(chapter.study.origin), 'run')}, "
            f"{count_of(len(chapter.drawings), 'figure')}",
            soft_wrap=True,
        )
    console.print(f"index.html, report.md, tables.tex and results.csv in {request.folder}", soft_wrap=True)
    return request.folder


def chapters(request: Request, runs: frozenset[str] | None = None) -> "list[Chapter]":
    """What there is to say about every study; what cannot be read is named on stderr or in a chapter's notes.

    Raises:
        UserError: no stored run fits the request.
    """
    from vlp_bench.results.report import material
    from vlp_bench.results.store import Store

    store = Store(Path(request.out) / "runs")
    found = [study for study in material.studies(store, runs) if _wanted(study, request)]
    if not found:
        raise UserError(f"no stored run under {store.root} fits; run something first, or name another folder with out=")
    warn(store.problems)
    return [_chapter(study, request) for study in found]


def contents(request: Request, found: "Sequence[Chapter]") -> dict[str, str]:
    """The files of a report by name."""
    from vlp_bench.results.report import page

    return dict(page.files(request.title, found, request.baseline))


def _wanted(study: "Study", request: Request) -> bool:
    return request.exp in ("", study.exp) and request.benchmark in ("", study.benchmark)


def _chapter(study: "Study", request: Request) -> "Chapter":
    from vlp_bench.results import named_files, published
    from vlp_bench.results.report import page

    notes: list[str] = []
    stored = _stored_masks(Path(request.out) / "masks", notes)
    masks = sorted(_masks(study, stored), key=lambda m: (m.sparsity, m.pruner, m.seeds))
    study = replace(study, masks=masks)
    count, folders = request.examples, named_files.roots(request.out, request.files)
    model = _attempt(lambda: _model(study, folders), "the scores", notes) if request.weights and masks else None
    shown = _attempt(lambda: galleries(study, request.baseline, count, folders), "the gallery", notes) if count else ()
    source = str(next(iter(study.origin.values()))["config"].get("data"))
    printed = published.load(EXPERIMENTS.glob(published.FILES), set(study.frame["metric"]))
    numbers = published.of(printed, study.exp, source)
    return page.chapter(
        study, numbers, baseline=request.baseline, scores=_scores(study, stored, model, notes),
        galleries=shown or (), notes=notes,
    )  # fmt: skip


def _attempt(make: Any, what: str, notes: list[str]) -> Any:
    """The part of a page that needs files which may have gone (weights, images); a note says why it is missing."""
    try:
        return make()
    except (ValueError, OSError) as error:
        notes.append(f"Without {what}: {error}")
        return None


def _masks(study: "Study", stored: "Stored") -> Iterator["Mask"]:
    """The stored masks that runs of the study used, found by the hash their rows name."""
    from vlp_bench.results.report.material import mask_of

    users = {run: origin["mask"] for run, origin in study.origin.items() if origin["mask"]}
    known = study.frame.drop_duplicates("run").set_index("run")[["pruner", "sparsity", "seed"]]
    known = known.assign(mask=known.index.map(users)).dropna(subset="mask")
    several = Counter((p, s) for p, s, _ in {*zip(known["pruner"], known["sparsity"], known["mask"], strict=True)})
    for (pruner, sparsity, name), part in known.loc[known["sparsity"] > 0].groupby(["pruner", "sparsity", "mask"]):
        if name in stored:
            seeds = tuple(sorted(part["seed"])) if several[pruner, sparsity] > 1 else ()
            solution, file = stored[name]
            yield mask_of(solution, str(pruner), float(sparsity), seeds, file)


def _stored_masks(folder: Path, notes: list[str]) -> "Stored":
    """Every readable mask and its file by the mask's hash; the others are count_of in a note."""
    from vlp_bench.pruning.solution import Solution
    from vlp_bench.runs.prune_once import mask_hash

    found, unreadable = {}, []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            solution = Solution.load(file)
        except ValueError as error:
            unreadable.append(str(error))
        else:
            found[mask_hash(solution)] = solution, file
    if unreadable:
        files = count_of(len(unreadable), "mask file")
        notes.append(f"{files} cannot be read and {'are' if unreadable[1:] else 'is'} left out: {unreadable[0]}")
    return found


def _model(study: "Study", folders: Sequence[Path]) -> "nn.Module":
    """The pre-trained model of the study, in evaluation mode."""
    from vlp_bench.construct import construct
    from vlp_bench.results.named_files import confined

    stored = next(iter(study.origin.values()))["config"].get("model")
    return construct(confined(stored, folders, "model", CURE), "model").eval()


def _scores(study: "Study", stored: "Stored", model: "nn.Module | None", notes: list[str]) -> "dict[str, Weights]":
    """By name: |w| of the pre-trained weights, and the scores of each pruner whose runs have stored what they need."""
    from vlp_bench.results.report import scores
    from vlp_bench.runs.prune_once import scores_file

    if model is None:
        return {}
    found: dict[str, Weights] = {
        "|w|": {n: model.get_parameter(n).detach().float().numpy() for n in study.masks[0].blocks}
    }
    used = {origin["mask"]: pruner for pruner, run in study.runs() if (origin := study.origin[run])["mask"]}
    for name, pruner in used.items():
        solution, file = stored.get(name, (None, Path()))
        if pruner not in found and solution is not None and scores_file(file).is_file():
            own = _attempt(lambda s=solution, f=file: scores.own(s, scores_file(f), model), f"{pruner}'s scores", notes)
            found |= {} if own is None else {pruner: own}
    return found


if __name__ == "__main__":
    main()
