"""The statistical part of a chapter, as tables of text: differences, tests inside a seed, ranks over cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from vlp_bench.results import examples, statistics
from vlp_bench.results.report.material import Study
from vlp_bench.results.statistics import FEWEST
from vlp_bench.results.store import matching
from vlp_bench.results.tables import LABELS, markdown

DRAWS = 2000


@dataclass(frozen=True)
class Trial:
    """A table of text, its head first, with what to know before reading it."""

    title: str
    note: str
    rows: Sequence[Sequence[str]]

    @property
    def markdown(self) -> str:
        return markdown(self.rows)


def all_trials(study: Study, baseline: str) -> list[Trial]:
    """What can be said against the baseline; nothing where it was not run."""
    good = study.frame.loc[study.frame["status"].eq("ok") & study.frame["split"].eq("test"), :]
    if baseline not in set(good["pruner"]) or good["pruner"].nunique() < 2:
        return []
    found = [_differences(study, baseline), _inside(study, baseline), *_over_cells(study, baseline)]
    found += [_crossed(good)] if good["pruning_seed"].nunique() > 1 else []
    return [trial for trial in found if len(trial.rows) > 1]


def _differences(study: Study, baseline: str) -> Trial:
    table = statistics.differences(study.frame, baseline, study.metrics)
    rows = [
        [r["pruner"], _percent(r["sparsity"]), LABELS.get(r["metric"], r["metric"]), f"{r['mean']:+.2f}",
         _interval(r["low"], r["high"], r["seeds"]), _p(r["p"]), _p(r["p_holm"]), str(r["seeds"])]
        for r in table.to_dict("records")
    ]  # fmt: skip
    note = (
        "Paired by seed; 95 % t-interval; p of the paired t-test, and after Holm's correction over this table. "
        "Neither with fewer than three seeds, or where every seed has the same difference."
    )
    head = ["pruner", "sparsity", "metric", "difference", "interval", "p", "p (Holm)", "seeds"]
    return Trial(f"Difference to {baseline}", note, [head, *rows])


def _inside(study: Study, baseline: str) -> Trial:
    found = list(_tests(study, baseline))
    adjusted = statistics.holm([p for *_, p in found])
    rows = [[*texts, _p(p), _p(q)] for (*texts, p), q in zip(found, adjusted, strict=True)]
    note = (f"The same test examples under both runs: paired bootstrap of {DRAWS} draws (captions of one image "
            "are drawn together), McNemar's exact test on what only one of the two has right. It speaks of these two "
            "trained models, not of other seeds.")  # fmt: skip
    head = [
        "pruner",
        "sparsity",
        "seed",
        "metric",
        "difference",
        "95 %",
        "right alone",
        f"{baseline} alone",
        "p",
        "p (Holm)",
    ]
    return Trial(f"Inside a seed: against {baseline}", note, [head, *rows])


def _tests(study: Study, baseline: str) -> Iterator[tuple]:
    kept: dict[str, examples.Arrays] = {}
    for r in statistics.pairs(study.frame, baseline, study.metrics).to_dict("records"):
        own, base = (kept.setdefault(run, study.examples(run)) for run in (r["run"], r["base_run"]))
        first, second = examples.values(own, r["metric"]), examples.values(base, r["metric"])
        if first is None or second is None or first.shape != second.shape:
            continue
        drawn = statistics.paired_bootstrap(first, second, clusters=examples.clusters(own, r["metric"]), draws=DRAWS)
        binary = set(first) | set(second) <= {0.0, 1.0, 100.0}
        test = statistics.mcnemar(first > 0, second > 0) if binary else None
        alone = (str(test.only_first), str(test.only_second)) if test else ("–", "–")
        yield (r["pruner"], _percent(r["sparsity"]), str(r["seed"]), LABELS.get(r["metric"], r["metric"]),
               f"{drawn.difference:+.2f}", _interval(drawn.low, drawn.high), *alone,
               test.p if test else float("nan"))  # fmt: skip


def _over_cells(study: Study, baseline: str) -> Iterator[Trial]:
    pruned = sorted(set(matching(study.frame, split="test").loc[lambda rows: rows["sparsity"] > 0, "pruner"]))
    if len(pruned) < 2:
        return
    summary = statistics.summary(statistics.over_shared_seeds(study.frame), study.metrics)
    matrix = statistics.cells(summary).reindex(columns=pd.Index(pruned, name="pruner"))
    ranks = statistics.average_ranks(matrix)
    rows = [[r["pruner"], f"{r['rank']:.2f}", str(r["cells"]), str(r["failed"])]
            for r in ranks.to_dict("records") if r["cells"]]  # fmt: skip
    note = (
        "Over the cells (sparsity × metric) that every pruner has, each over the seeds that all of them have; 1 is "
        "best, a failed cell last."
    )
    yield Trial("Average rank", note,
                [["pruner", "rank", "cells", "failed"], *rows])  # fmt: skip
    if baseline in pruned:
        table = statistics.clustered(study.frame, baseline, study.metrics)
        rows = [[r["pruner"], str(r["cells"]), f"{r['median']:+.2f}", f"{r['ahead']} of {r['models']}", _p(r["p"]),
                 _p(r["p_holm"])] for r in table.to_dict("records")]  # fmt: skip
        note = ("Each cell over the seeds that both have. "
                "Sign-flip test over models: cells of one model are not independent and count as one observation, "
                "so one model has no p, and m models none below 2 / 2^m.")  # fmt: skip
        head = ["pruner", "cells", "median", "models ahead", "p", "p (Holm)"]
        yield Trial(f"Over cells: against {baseline}", note, [head, *rows])


def _crossed(good: pd.DataFrame) -> Trial:
    table = statistics.by_seed(good)
    rows = [[r["pruner"], _percent(r["sparsity"]), r["metric"], f"{r['std_pruning']:.2f}", f"{r['std_tuning']:.2f}"]
            for r in table.to_dict("records")]  # fmt: skip
    note = "Standard deviation of the means over pruning seeds, and over fine-tuning seeds."
    return Trial("Which seed matters", note, [["pruner", "sparsity", "metric", "pruning", "fine-tuning"], *rows])


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:g} %"


def _interval(low: float, high: float, count: int = FEWEST) -> str:
    """The interval, or why there is none."""
    if pd.isna(low):
        return "– (no spread)" if count >= FEWEST else f"– ({count} seed{'s' if count > 1 else ''})"
    return f"{low:+.2f} … {high:+.2f}"


def _p(p: float) -> str:
    return "–" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
