"""From studies to what is read: a self-contained page, and its tables as Markdown, LaTeX and CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from vlp_bench.pruning import catalogue
from vlp_bench.pruning.masks.safetensors_files import write_whole
from vlp_bench.pruning.pruner import describe
from vlp_bench.results.pruner_names import named
from vlp_bench.results.report import figures, tables, trials
from vlp_bench.results.report.gallery import Exhibit
from vlp_bench.results.report.material import Mask, Study
from vlp_bench.results.report.scores import Weights, quantiles, threshold
from vlp_bench.results.row import OWN, REHEARSAL
from vlp_bench.results.statistics import NO_SPREAD, summary
from vlp_bench.results.tables import escaped
from vlp_bench.spelling import count_of

NONE: Mapping[str, Weights] = {}


@dataclass(frozen=True)
class Drawing:
    """A figure with its title and what to know before reading it."""

    name: str
    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Gallery:
    """Examples that `first` answers rightly and `second` does not; better, where no answer is right (`graded`)."""

    first: str
    second: str
    exhibits: Sequence[Exhibit]
    graded: bool = True


@dataclass(frozen=True)
class Chapter:
    """Everything the page says about one study."""

    study: Study
    summary: pd.DataFrame = field(repr=False)
    tables: Sequence[tables.MetricTable]
    trials: Sequence[trials.Trial]
    drawings: Sequence[Drawing]
    galleries: Sequence[Gallery] = ()
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        study = self.study
        words = [study.exp, study.model, "a rehearsal" if study.rehearsed else ""]
        if study.benchmark == OWN:
            words += [f"your own data: {study.source}"]
        else:
            words += [f"benchmark={study.benchmark}", f"data: {study.source}" if study.source else ""]
        return ", ".join(filter(None, words))

    @property
    def warning(self) -> str:
        """What must be known before any number is read; empty where there is nothing."""
        return f"This is {REHEARSAL}." if self.study.rehearsed else ""

    @property
    def anchor(self) -> str:
        return f"{self.study.exp}-{self.study.benchmark}-{self.study.key}"


def chapter(
    study: Study,
    published: pd.DataFrame,
    *,
    baseline: str,
    scores: Mapping[str, Weights] = NONE,
    galleries: Sequence[Gallery] = (),
    notes: Sequence[str] = (),
) -> Chapter:
    """The chapter of a study.

    Args:
        published: of `results.published.of`; stands in no chapter of rehearsals.
        baseline: what others are compared with where it was run; else that is dense.
        scores: by name, those that are at hand: "|w|", and pruners' own.
    """
    table = summary(study.frame, study.metrics)
    beside, published = study.papers, _comparable(published, study)
    metric_tables = [
        tables.metric_table(table, published, study.pruners, study.sparsities, m, beside=beside, once=study.unseeded)
        for m in study.metrics
    ]
    drawings = list(_drawings(study, table, scores))
    tested = trials.all_trials(study, study.called(baseline) or "dense")
    said = [*_notes(study, table), *notes]
    return Chapter(study, table, metric_tables, tested, drawings, galleries, said)


def _comparable(published: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Published numbers by what the study calls a pruner that was published with this pattern; none of a rehearsal."""
    ours = {name: label for name in catalogue.names() if (label := study.called(name)) not in (None, name)}
    same = {n: label for n, label in ours.items() if label == named(n, describe(catalogue.load(n)))}
    return published.iloc[:0] if study.rehearsed else published.assign(pruner=published["pruner"].replace(same))


def _notes(study: Study, table: pd.DataFrame) -> Iterator[str]:
    failed = int(study.frame.loc[study.frame["status"] == "ERR", "run"].nunique())
    if failed:
        yield f"{count_of(failed, 'run')} failed (ERR). Such runs count in the tables and enter no mean."
    if len(hardware := study.hardware()) > 1:
        yield f"The runs used different hardware: {', '.join(hardware)}."
    if "dense" not in study.pruners:
        yield "There is no dense run with this recipe yet."
    if len({origin["data"] for origin in study.origin.values()} - {None}) > 1:
        yield "The data were not the same in all runs (their fingerprints differ): the files were changed meanwhile."
    for seeds, what in (("One seed", "deviation, interval or p"), ("Two seeds", "interval or p")):
        here = set(table.loc[table["seeds"] == seeds.startswith("Two") + 1, "pruner"])
        if few := sorted(here - {*study.unseeded}):
            yield f"{seeds} only, hence no {what} in at least one place: {', '.join(few)}."
    if same := sorted(set(table.loc[table["seeds"].gt(1) & table["std"].le(NO_SPREAD), "pruner"])):
        yield f"The same value under every seed, hence no interval or p in at least one place: {', '.join(same)}."


def _drawings(study: Study, table: pd.DataFrame, scores: Mapping[str, Weights]) -> Iterator[Drawing]:
    name = f"f{study.key}"
    if bool(np.any(table["seeds"] > 0)) and study.sparsities:
        svg = figures.curves(f"{name}c", table, study.pruners, study.metrics)
        yield Drawing(f"{name}c", "Against sparsity", "Mean over seeds with 95 % t-intervals; dense as a band.", svg)
    yield from _cost(study, table, f"{name}k")
    for level, masks in _by_sparsity(study.masks).items():
        yield from _mask_drawings(f"{name}m{round(1000 * level)}", level, masks)
    for number, (score, values) in enumerate(scores.items() if study.masks else ()):
        yield _distribution(f"{name}w{number}", study.masks, score, values)
    for level in study.sparsities:
        if svg := figures.training(f"{name}t{round(1000 * level)}", study, level, study.seeds[0]):
            note = f"Seed {study.seeds[0]}; as logged in the run's curves."
            yield Drawing(f"{name}t{round(1000 * level)}", f"Training at {100 * level:g} %", note, svg)


COSTS = {
    "seconds": ("Pruning time and quality", "seconds to prune",
                "Of masks made alone: those for which stored statistics were used cost less, and are left out. Marks "
                "shrink with sparsity."),
    "peak_gb": ("Pruning memory and quality", "peak memory (GB)", "While pruning. Marks shrink with sparsity."),
}  # fmt: skip


def _cost(study: Study, table: pd.DataFrame, name: str) -> Iterator[Drawing]:
    stored = study.frame.loc[study.frame["split"].eq("mask") & study.frame["sparsity"].gt(0), "metric"]
    for quantity, (title, label, note) in COSTS.items():
        if quantity in set(stored) and bool(np.any(table["seeds"] > 0)):
            svg = figures.cost(f"{name}{quantity}", study, table, study.metrics[0], quantity, label)
            yield Drawing(f"{name}{quantity}", title, note, svg)


def _by_sparsity(masks: Sequence[Mask]) -> dict[float, list[Mask]]:
    levels = sorted({mask.sparsity for mask in masks})
    return {level: [mask for mask in masks if mask.sparsity == level] for level in levels}


def _mask_drawings(name: str, level: float, masks: Sequence[Mask]) -> Iterator[Drawing]:
    percent = f"{100 * level:g} %"
    yield Drawing(f"{name}h", f"Where {percent} was removed", "Share of the weights removed in each block.",
                  figures.heat_map(f"{name}h", masks))  # fmt: skip
    if len(masks) > 1:
        note = (f"Intersection over union of the kept weights. Two random masks would share "
                f"{100 * (1 - level) / (1 + level):.0f} %.")  # fmt: skip
        yield Drawing(f"{name}o", f"Mask overlap at {percent}", note, figures.overlap(f"{name}o", masks))


def _distribution(name: str, masks: Sequence[Mask], score: str, values: Weights) -> Drawing:
    """The distribution of |w|, with OMP's thresholds, or of a pruner's own score, with its own where there are some."""
    magnitudes = score == "|w|"
    cut = {f"{m.name} at {100 * m.sparsity:g} %": threshold(values, m)
           for m in masks if m.pruner == ("omp" if magnitudes else score)}  # fmt: skip
    lines = {label: value for label, value in cut.items() if value is not None}
    what = "|w| of the pre-trained model, the score of OMP" if magnitudes else f"What {score} ranks the weights by"
    note = (f"{what}: 5 to 95 % (thin), 25 to 75 % (thick), median (mark). A line: what lies to its left was removed. "
            "Without one, layers were cut at different places.")  # fmt: skip
    label = score if magnitudes else f"score of {score}"
    svg = figures.distribution(name, quantiles(values, masks[0].blocks), lines, label)
    return Drawing(name, "Magnitudes by block" if magnitudes else f"Scores of {score} by block", note, svg)


# Files


def html(title: str, chapters: Sequence[Chapter], baseline: str) -> str:
    """The page: one file, no script, no address outside itself."""
    loader = PackageLoader("vlp_bench.results.report", "")
    environment = Environment(
        loader=loader, autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("page.html.j2")
    return template.render(title=title, chapters=chapters, baseline=baseline, tables=tables, count_of=count_of)


def files(title: str, chapters: Sequence[Chapter], baseline: str) -> Mapping[str, str]:
    """Every file of the report by its name: index.html, report.md, tables.tex, results.csv."""
    md = [f"# {escaped(title)}"]
    tex = ["% needs \\usepackage{booktabs}"]
    for part in chapters:
        md += [f"## {escaped(part.title)}", *([f"**{part.warning}**"] if part.warning else [])]
        md += [f"* {escaped(note)}" for note in part.notes]
        md += map(tables.markdown, part.tables)
        md += [f"**{escaped(t.title)}**\n\n{escaped(t.note)}\n\n{t.markdown}" for t in part.trials]
        tex += [tables.latex(t, f"{part.title}: {t.label}, mean ± std over seeds") for t in part.tables]
    rows = pd.concat([c.summary.assign(rehearsal=c.study.rehearsed) for c in chapters]) if chapters else pd.DataFrame()
    csv = rows.map(_cell).to_csv(index=False)
    return {"index.html": html(title, chapters, baseline), "report.md": "\n\n".join(md) + "\n",
            "tables.tex": "\n".join(tex), "results.csv": csv}  # fmt: skip


FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # wide ones too, in some languages


def _cell(value: object) -> object:
    """A value of a CSV file; a text that a spreadsheet would compute gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(FORMULA) else value


def write(folder: Path, content: Mapping[str, str]) -> None:
    """Write every file, each whole or not at all."""
    for name, text in content.items():
        write_whole(folder / name, text.encode())
