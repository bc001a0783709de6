"""Writes what the stored rows say: the tables of docs/results.md, and what came out of each experiment.

python docs/results.py --collect outputs  # takes the rows of these runs into docs/results.csv and experiments/ first;
                                          # recorded runs that are not there stay; captions are scored with
                                          # Java before that (vlp-bench rescore out=outputs)
python docs/results.py                    # writes the texts and docs/results-*.png
python docs/results.py --check            # exit code 1 if a text is out of date
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlp_bench.commands.experiment import Request, plan
from vlp_bench.results.plot import plot_against, plot_grids, plot_pairs, plot_panels, plot_sparsity
from vlp_bench.results.published import FILES, load, of
from vlp_bench.results.report.material import studies
from vlp_bench.results.statistics import FEWEST, average_ranks, cells, clustered, over_shared_seeds, summary, two_way
from vlp_bench.results.store import Store, matching
from vlp_bench.results.tables import LABELS, Markdown, cell, comparison, markdown, spread
from vlp_bench.runs.specification import Specification
from vlp_bench.sweeps import plans

ROOT = Path(__file__).resolve().parents[1]
PAGE, DATA = ROOT / "docs" / "results.md", ROOT / "docs" / "results.csv"
BEGIN, END = "<!-- results: written by `python docs/results.py` -->\n", "<!-- end of results -->\n"
COLUMNS = ["exp", "pruner", "sparsity", "seed", "metric", "value", "split", "status", "run", "setting"]
ORIGIN = ["seconds", "commit", "weights", "data", "mask", "time"]
EXPERIMENTS = ("xvlm_itr", "xvlm_ic", "xvlm_vqa", "blip_itr", "blip_ic", "blip_vqa", "dino_cls")
ORDER = (
    *("dense", "random", "omp", "l2", "lamp", "snip", "itersnip", "chita", "chita_pp", "tamt"),
    *("multiflow_edges", "multiflow_nodes", "multiflow_128", "multiflow"),
)
BESIDE = ("wanda", "sparsegpt", "alps")  # in a readable range alone
ENCODER = (
    *("dense", "random", "omp", "l2", "lamp", "lmp", "snip", "fisher", "obd", "chita", "chita_pp", "itersnip", "tamt"),
    *("multiflow", "wanda", "ria", "ecoflap", "ecoflap_first", "sparsegpt", "alps"),
)
ALLOCATORS = (
    *("uniform", "erk", "magnitude", "magnitude_by_modality", "l2_normalised", "lamp", "snip", "owl"),
    *("ecoflap", "ecoflap_first"),
)
SOLVERS = ("random", "magnitude", "multiflow", "wanda", "ria", "snip", "sparsegpt", "thanos", "alps")
BENCHMARK = EXPERIMENTS[:6]  # with the pruners of the comparison: the first table's; the others are of one table each
ABLATIONS = ("multiflow_edges", "multiflow_nodes", "multiflow_128")
HEADLINES = {
    "itr": ("txt_r1", "img_r1"),
    "ic": ("truth", "meteor", "cider", "bleu4"),
    "vqa": ("accuracy",),
    "cls": ("accuracy",),
    "zeroshot": ("accuracy",),
    "retrieval": ("doc_r1", "name_r1"),
}
NAMES = {
    "itr": "image-text retrieval",
    "ic": "captioning",
    "vqa": "visual question answering",
    "cls": "classification",
}
TABLES = (
    *("main_benchmark", "table04_baselines", "table05_tamt_blip", "table06_dino", "table08_edges_nodes"),
    *("table09_meteor_spice", "table11_recipes"),
)
METRICS = {"table09_meteor_spice": ("meteor", "cider")}
GRID = "grid_allocate_solve"
CELL_OF = {
    "omp": "magnitude × magnitude",
    "l2": "l2_normalised × magnitude",
    "lamp": "lamp × magnitude",
    "snip": "snip × snip",
    "multiflow": "magnitude_by_modality × multiflow",
}
"""Whole pruners that are cells of the grid: L2's and LAMP's scores order the weights of a layer as |w| does."""
OWN_VALUES = "the solver's values"
UNDRAWN = ("omp", "l2", "lamp", "lmp")  # look at no data and draw nothing
FEW = 2  # pruners, of which none is called the best
MOST = 6  # pruners with which an experiment in a readable range is shown among the results
APART = ("ecoflap", "gentle_recipe", GRID, "minilm", "readable_range", "table07_runtimes", "table10_ridge")
"""Folders whose runs have recipes or options of their own: their rows are in experiments/NAME/results.csv."""


def collect(out: Path) -> None:
    """Test rows of the embedded world, of the commonest setting of every experiment and seed, into docs/results.csv.

    Raises:
        ValueError: two runs of one setting differ in their pruner's options alone, which a table cannot tell apart.
    """
    frame = Store(out / "runs").query(split="test", benchmark="mini")
    wanted = [m for exp in EXPERIMENTS for m in HEADLINES[exp.split("_")[1]]]
    shown = frame["exp"].isin(EXPERIMENTS) & frame["pruner"].isin(ORDER)  # ECoFLaP's are collected apart
    frame = frame.loc[shown & (frame["metric"].isin(wanted) | frame["status"].eq("ERR")), :]
    runs = frame.groupby(["exp", "seed", "setting"])["run"].nunique().reset_index().sort_values("run")
    commonest = runs.drop_duplicates(["exp", "seed"], keep="last")[["exp", "seed", "setting"]]
    frame = merged(recorded(DATA), frame.merge(commonest)[[*COLUMNS, *ORIGIN]]).sort_values(COLUMNS[:5])
    for spot, rows in frame.groupby(COLUMNS[:4]):
        if rows["run"].nunique() > 1:
            raise ValueError(f"{spot} (experiment, pruner, sparsity, seed) has several runs: {set(rows['run'])}")
    _write(frame, DATA)


def recorded(file: Path) -> pd.DataFrame:
    return pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=[*COLUMNS, *ORIGIN])


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The new rows, and the old ones of other runs that may stand beside them: of the same setting, or alone."""
    settings = {
        (exp, seed): setting for exp, seed, setting in zip(new["exp"], new["seed"], new["setting"], strict=True)
    }
    spots = zip(old["exp"], old["seed"], old["setting"], strict=True)
    beside = pd.Series([settings.get((exp, seed), own) == own for exp, seed, own in spots], old.index, bool)
    return pd.concat([part for part in (new, old.loc[beside & ~old["run"].isin(new["run"]), :]) if len(part)])


def collect_apart(out: Path, name: str) -> None:
    """The rows of a folder's own runs into its results.csv; pruners are told apart by their options."""
    benchmarks = dict.fromkeys(part.benchmark or "mini" for part in plans.load(name) if part.benchmark != "paper")
    requests = [Request(name, (f"paths.out={out}", f"benchmark={benchmark}")) for benchmark in benchmarks]
    planned = [spec for request in requests for group in plan(request, choose=False) for spec in group]
    runs, parts = {spec.run for spec in planned}, []
    cells = _cells_of(name, planned)
    for root in dict.fromkeys(spec.out for spec in planned):
        for study in studies(Store(root / "runs"), runs):
            config = next(iter(study.origin.values()))["config"]
            parts.append(study.frame.assign(epochs=config["recipe"]["epochs"]))
    if parts:
        frame, file = pd.concat(parts), ROOT / "experiments" / name / "results.csv"
        frame = frame.assign(pruner=frame["run"].map(cells).fillna(frame["pruner"]))
        shown = frame["split"].eq("test") & frame["metric"].isin(m for ms in HEADLINES.values() for m in ms)
        shown |= frame["metric"].eq("seconds") | frame["status"].eq("ERR")
        columns = [*COLUMNS[:4], "epochs", *COLUMNS[4:], *ORIGIN]
        rows = _newest(pd.concat([frame.loc[shown, columns], _not_again(recorded(file), frame)]))
        _write(rows.sort_values(columns[:6]), file)


def _newest(frame: pd.DataFrame) -> pd.DataFrame:
    """One run a cell: the last."""
    runs = frame.sort_values("time").drop_duplicates([*COLUMNS[:4], "epochs"], keep="last")["run"]
    return frame.loc[frame["run"].isin(runs), :]


def _not_again(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The recorded rows of cells that the new rows are not about, whatever version of the package made them."""
    if old.empty:
        return old
    cell = [*COLUMNS[:4], "epochs"]
    return old.loc[~pd.MultiIndex.from_frame(old[cell]).isin(pd.MultiIndex.from_frame(new[cell])), :]


def _cells_of(name: str, planned: Sequence[Specification]) -> dict[str, str]:
    """By run what it is called, in a folder where parts of pruners are replaced; in others its options tell."""
    other = {spec.run: any(w.lstrip("+").startswith("pruner/") for w in spec.overrides) for spec in planned}
    if not any(other.values()):
        return {}
    apart = {run for run, replaced in other.items() if replaced or name == GRID}
    return {s.run: _choices_of(s.choices) if s.run in apart else s.choices["pruner"] for s in planned}


def _choices_of(choices: Mapping[str, str]) -> str:
    """ "lamp × wanda", "lamp × wanda + least_squares": what was chosen for a pruner's parts; dense stays dense."""
    if choices["pruner"] == "dense":
        return "dense"
    values = choices.get("pruner/values")
    return f"{choices['pruner/allocate']} × {choices['pruner/solve']}{f' + {values}' if values else ''}"


def _write(frame: pd.DataFrame, file: Path) -> None:
    numbers = {name: pd.to_numeric(frame[name]) for name in ("value", "seconds")}
    frame.assign(**numbers).to_csv(file, index=False, lineterminator="\n", float_format="%.6g")


def section(frame: pd.DataFrame) -> str:
    """The first table of the page: at each sparsity every pruner on every experiment, and who leads."""
    frame = compared(frame)
    exps, runs = present(frame), frame.drop_duplicates("run")
    parts = [
        f"{len(runs)} runs of the embedded world, {runs['seconds'].sum() / 3600:.1f} hours of one thread in all; "
        "mean ± std over the seeds, the best pruner in bold, – where nothing was run. All metrics, a plot for each "
        "experiment: below.\n"
    ]
    parts += side_by_side(frame, [(exp, headline(frame, exp)) for exp in exps])
    parts.append(f"{leaders(frame, exps)}\n")
    return "\n".join([*parts, "![every experiment: its first metric against sparsity](results-all.png)\n"])


def side_by_side(frame: pd.DataFrame, columns: list[tuple[str, str]]) -> Iterator[str]:
    """A table for each sparsity: a pruner a row, a metric of an experiment a column; the best of many in bold."""
    heads = [f"{_model(exp)}, {LABELS[metric]}" for exp, metric in columns]
    tables = [spread(matching(frame, exp=exp), [metric]) for exp, metric in columns]
    for level in sorted(set(frame["sparsity"]) - {0.0}):
        there = [matching(table, sparsity=level) for table in tables]
        seeds = ["seeds", *("–" if rows.empty else f"{rows['seeds'].max():g}" for rows in there)]
        best = [leaders_of(rows) if len(rows) > FEW else () for rows in there]
        rows = [[f"{100 * level:g} %", *heads]]
        for name in _pruners(frame):
            at = 0.0 if name == "dense" else level
            values = [cell(table, name, at, metric) for table, (_, metric) in zip(tables, columns, strict=True)]
            bold = (Markdown(f"**{v}**") if name in first else v for v, first in zip(values, best, strict=True))
            rows.append([name, *bold])
        yield markdown([row for row in rows if set(row[1:]) != {"–"}] + [seeds])


def compared(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the benchmark: its experiments and pruners."""
    return frame.loc[frame["exp"].isin(BENCHMARK) & ~frame["pruner"].isin(ABLATIONS), :]


def leaders_of(rows: pd.DataFrame) -> list[str]:
    """The pruners with the best mean, of those with as many seeds as any here; several where it is the same."""
    means = _values(rows.loc[rows["seeds"] == rows["seeds"].max(), :], "mean")
    return [name for name, mean in means.items() if math.isclose(mean, max(means.values()), rel_tol=1e-12)]


def leaders(frame: pd.DataFrame, exps: list[str]) -> str:
    """Average ranks over all columns of the pruners in each of them, and how they differ from MULTIFLOW there.

    Each column over the seeds that all of them have.
    """
    frame, judged = frame.assign(benchmark="mini"), {exp: headline(frame, exp) for exp in exps}

    def columns(rows: pd.DataFrame) -> pd.DataFrame:
        return cells(pd.concat([summary(matching(rows, exp=exp), [metric]) for exp, metric in judged.items()]))

    shared = over_shared_seeds(matching(frame, pruner=list(columns(frame).dropna(axis=1).columns)))
    matrix = columns(shared)
    ranks = ", ".join(f"{row['pruner']} {row['rank']:.1f}" for row in average_ranks(matrix).to_dict("records"))
    told = f"Average rank over {len(matrix)} columns of the {matrix.shape[1]} pruners that have run in all: {ranks}."
    if "multiflow" in matrix:
        rows = pd.concat([matching(shared, exp=exp, metric=metric) for exp, metric in judged.items()])
        tests = clustered(rows, "multiflow", list(judged.values())).to_dict("records")
        apart = ", ".join(
            f"{row['pruner']} {row['median']:+.1f} (ahead in {row['ahead']} of {row['models']} models)" for row in tests
        )
        told += (
            " Points from MULTIFLOW, median over the same columns (columns of one model are not independent, and so "
            f"few models let no test reach p = 0.05): {apart}."
        )
    return told


def page(frame: pd.DataFrame) -> str:
    """The text of docs/results.md between BEGIN and END: the readable range, then the small models, each experiment."""
    parts = [part for exp in present(frame) for part in experiment(frame, exp)]
    return "\n".join([*readable(), "## The small models, all side by side\n", section(frame), *parts])


def readable() -> Iterator[str]:
    """The experiments in a readable range that most pruners have run in."""
    frame = ranged()
    runs = frame.drop_duplicates("run")
    yield (
        "## A readable range\n\n"
        "`benchmark=world`: a wider XVLM, and recipes long enough that pruned models recover, chosen by OMP and dense "
        f"alone (`experiments/readable_range`). {len(runs)} runs, {runs['seconds'].sum() / 3600:.1f} "
        "hours of one thread on a shared machine; mean ± std over seeds, the best in bold, cells of fewer "
        "seeds than others marked and never bold, – where nothing was run. Wanda, SparseGPT and ALPS, block by block, "
        "stand beside the papers' ten.\n"
    )
    columns = [(exp, m) for exp in present(frame) for m in HEADLINES[exp.split("_")[1]][:2]]
    yield from side_by_side(frame, [(e, m) for e, m in columns if not matching(frame, exp=e, metric=m).empty])
    yield "![retrieval of the wider XVLM in a readable range](results-readable.png)\n"
    yield from parts_of_methods()
    yield from gentle()


def parts_of_methods() -> Iterator[str]:
    """Budgets by choice of weights, and the same choices with fitted values, at 90 %."""
    frame = with_whole_pruners(pd.read_csv(ROOT / "experiments" / GRID / "results.csv"))
    found = _cells(matching(frame, sparsity=0.9))
    solvers = [name for name in SOLVERS if name not in ("random", "snip")]
    for exp in ("xvlm_itr", "blip_itr"):
        told = _over_seeds(found.loc[found["exp"].eq(exp) & found["fitted"].isna(), :], ["allocate", "solve"])
        columns = [name for name in solvers if any(solver == name for _, solver in told)]
        rows = [[name, *(told.get((name, own), "–") for own in columns)] for name in ALLOCATORS]
        yield f"### {_model(exp)}, 90 %: who shares out the budget, who chooses within it\n"
        yield f"{measure(exp)}; mean ± std where there are several seeds (two of them: marked), else seed 0:\n"
        yield markdown([["budgets by", *columns], *(row for row in rows if row.count("–") + 2 < len(row))])
    yield "### 90 %: the same weights stay, with their solver's values and with fitted ones\n"
    yield (
        "R@1 (%), mean of both directions, seed 0; `+pruner/values=least_squares` keeps any solver's mask and fits its "
        "values to the layer's inputs:\n"
    )
    yield markdown(list(_values_of_all(matching(found, seed=0))))
    yield from outputs_lost()


def lost_and_worth() -> pd.DataFrame:
    """What layers' outputs lose (benchmarks/layer_errors.py) and, as `worth`, what `measure` says of the same cells."""
    lost = pd.read_csv(ROOT / "experiments" / GRID / "layer_errors.csv", keep_default_na=False)
    frame = with_whole_pruners(pd.read_csv(ROOT / "experiments" / GRID / "results.csv"))
    found, keys = _cells(matching(frame, seed=0)), ["exp", "sparsity", "allocate", "solve", "values"]
    worth = found.assign(values=found["fitted"].fillna("")).groupby(keys)["value"].mean().rename("worth")
    return lost.merge(worth.reset_index(), on=keys, how="left")


def outputs_lost() -> Iterator[str]:
    """A row a choice: the share of a layer's output that it loses, with its own values and with fitted ones."""
    found, models = lost_and_worth(), {"xvlm_itr": "XVLM", "blip_itr": "BLIP"}
    told = {(r.exp, r.values, f"{r.allocate} × {r.solve}"): f"{100 * r.error:.1f}" for r in found.itertuples()}
    rows = [["budgets × choice", *(f"{name}{how}" for name in models.values() for how in (": its own", ": fitted"))]]
    for name in dict.fromkeys(name for *_, name in told):
        rows.append([name, *(told.get((exp, how, name), "–") for exp in models for how in ("", "least_squares"))])
    yield "### 90 %: what a layer's output loses\n"
    yield (
        "Share (%) of the energy of a layer's output on the calibration data that is lost, ‖X(W - W')‖² / ‖XW‖², mean "
        "over the layers, before fine-tuning (`python benchmarks/layer_errors.py`):\n"
    )
    yield markdown(rows)
    pairs = {exp: found.loc[found["exp"].eq(exp), ["error", "worth"]].dropna() for exp in models}
    rho = [f"{models[exp]} {p['error'].corr(p['worth'], method='spearman'):.2f} ({len(p)})" for exp, p in pairs.items()]
    yield f"Rank correlation with R@1 after fine-tuning (of as many points as stand behind it): {', '.join(rho)}.\n"
    yield "![R@1 after fine-tuning against what a layer's output loses](layer-errors.png)\n"


def _over_seeds(rows: pd.DataFrame, keys: list[str]) -> dict[Any, str]:
    """By keys what `measure` says: mean ± std over seeds, two of them marked, or the one number."""
    runs = rows.groupby([*keys, "seed"], sort=False)["value"].mean().groupby(keys, sort=False)
    told = runs.agg(["mean", "std", "count"]).itertuples(name=None)
    return {
        key: f"{mean:.1f}" if count == 1 else f"{mean:.1f} ± {std:.1f}{' (2)' if count == 2 else ''}"
        for key, mean, std, count in told
    }


def _values_of_all(rows: pd.DataFrame) -> Iterator[list[str]]:
    """A row for every budgets × choice that some model has with fitted values; its own and those of each model."""
    told = _over_seeds(rows.assign(fitted=rows["fitted"].notna()), ["exp", "fitted", "allocate", "solve"])
    shown = {(budgets, solver) for _, fitted, budgets, solver in told if fitted}
    models = {"xvlm_itr": "XVLM", "blip_itr": "BLIP", "minilm_retrieval": "MiniLM, not fine-tuned"}
    yield ["budgets × choice", *(f"{name}{how}" for name in models.values() for how in (": its own", ": fitted"))]
    for solver, budgets in ((s, a) for s in SOLVERS for a in ALLOCATORS if (a, s) in shown):
        found = (told.get((exp, how, budgets, solver), "–") for exp in models for how in (False, True))
        yield [f"{budgets} × {solver}", *found]
    yield ["dense", *(text for exp in models for text in (_dense(exp), ""))]


def _dense(exp: str) -> str:
    """Its number with seed 0."""
    folder = "minilm" if exp.startswith("minilm") else "readable_range"
    frame, _ = _longest_apart(pd.read_csv(ROOT / "experiments" / folder / "results.csv"))
    rows = matching(frame, exp=exp, pruner="dense", seed=0, metric=list(judged_by(exp)))
    return f"{rows['value'].mean():.1f}"


def gentle() -> Iterator[str]:
    """The readable range with a third of its learning rate beside it."""
    frame = matching(pd.read_csv(ROOT / "experiments" / "gentle_recipe" / "results.csv"), exp="xvlm_itr", split="test")
    grid = with_whole_pruners(pd.read_csv(ROOT / "experiments" / GRID / "results.csv"))
    common = pd.concat([matching(ranged(), exp="xvlm_itr"), matching(grid, exp="xvlm_itr", split="test")])
    keys = ["pruner", "sparsity"]
    sides = {
        "common": _over_seeds(matching(common, metric=list(judged_by("xvlm_itr"))), keys),
        "gentle": _over_seeds(matching(frame, metric=list(judged_by("xvlm_itr"))), keys),
    }
    levels = sorted(set(frame["sparsity"]) - {0.0})
    names = sorted(set(frame["pruner"]), key=lambda name: (name not in ORDER, [*ORDER, name].index(name), name))
    yield "### XVLM: a third of the learning rate\n"
    yield (
        "`experiments/gentle_recipe`, R@1 (%), mean of both directions, with the common recipe of the readable range "
        "and with the gentle one (1.5e-4 and 5e-5); mean ± std where there are several seeds:\n"
    )
    heads = [f"{100 * level:g} %, {side}" for level in levels for side in sides]
    rows = [
        [
            name,
            *(side.get((name, 0.0 if name == "dense" else level), "–") for level in levels for side in sides.values()),
        ]
        for name in names
    ]
    yield markdown([["pruner", *heads], *rows])


def ranged() -> pd.DataFrame:
    """The test rows of benchmark=world of experiments with most of the pruners."""
    frame, _ = _longest_apart(pd.read_csv(ROOT / "experiments" / "readable_range" / "results.csv"))
    pruners = frame.groupby("exp")["pruner"].transform("nunique")
    return frame.loc[pruners >= MOST, :]


def _longest_apart(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The test rows of every experiment's own recipe, and those with more epochs."""
    frame = matching(frame, split="test")
    own = frame["epochs"].eq(frame.groupby("exp")["epochs"].transform("min"))
    return frame.loc[own, :], frame.loc[~own, :]


def came_out(frame: pd.DataFrame, name: str) -> str:
    """The tables of one folder of experiments/: those of its runs that are there."""
    parts = []
    for part in plans.load(name):
        pruners = ("dense", *part.pruner) if part.dense else part.pruner
        for exp in part.exp:
            rows = matching(frame, exp=exp, pruner=list(pruners))
            if matching(rows, pruner=list(part.pruner)).empty:
                told = "needs the papers' files" if part.benchmark == "paper" else "not run yet"
                parts.append(f"`{exp}`: {told}.\n")
                continue
            metrics = METRICS.get(name, (headline(frame, exp),))
            for metric in metrics:
                parts += headed(rows, f"`{exp}`", metric, pruners, part.sparsity)
            if len(metrics) > 1:
                parts.append(agreement(rows, metrics, part.sparsity))
    return "\n".join([*parts, "Nothing has been run with `benchmark=paper`.\n"])


def headed(
    rows: pd.DataFrame, title: str, metric: str, pruners: Sequence[str], levels: Sequence[float]
) -> tuple[str, str]:
    """What was run and the table of one metric."""
    seeds = sorted(rows["seed"].unique())
    count, word = rows["run"].nunique(), "seeds" if len(seeds) > 1 else "seed"
    told = f"{count} run{'s' * (count > 1)} of the embedded world; {word} {', '.join(map(str, seeds))}"
    names = [pruner for pruner in dict.fromkeys(pruners) if pruner in set(rows["pruner"])]
    head = f"{title}, {LABELS.get(metric, metric)} ({told}):\n"
    return head, markdown(comparison(spread(rows, [metric]), names, levels, metric))


def agreement(rows: pd.DataFrame, metrics: Sequence[str], levels: Sequence[float]) -> str:
    """How far two metrics order the pruners alike."""
    table, told = spread(rows, metrics), []
    for level in levels:
        first, second = (pd.Series(_values(matching(table, sparsity=level, metric=m), "mean")) for m in metrics)
        if len(first) > 2:
            told.append(f"{first.corr(second, method='spearman'):.2f} at {100 * level:g} %")
    names = " and ".join(LABELS[metric] for metric in metrics)
    return f"Rank correlation of {names} over these pruners: {', '.join(told) or 'too few'}.\n"


def came_out_apart(name: str) -> str:
    """The tables of a folder with rows of its own."""
    file = ROOT / "experiments" / name / "results.csv"
    if not file.is_file():
        return "Not run yet, on either benchmark.\n"
    frame = pd.read_csv(file)
    tables = {
        "minilm": _encoder, "table07_runtimes": _seconds, "table10_ridge": _ridges, GRID: _grids,
        "readable_range": _readable, "gentle_recipe": _gently,
    }.get(name, _recipes)(frame)  # fmt: skip
    ours_alone = [] if name in ("minilm", GRID) else ["Nothing has been run with `benchmark=paper`.\n"]
    return "\n".join([*tables, *ours_alone])


def _encoder(frame: pd.DataFrame) -> Iterator[str]:
    """Both directions, without fine-tuning and with it: real weights, real text, no vision."""
    runs = frame.drop_duplicates("run")
    yield (
        f"Real weights, real text, no vision: {len(runs)} runs, {runs['seconds'].sum() / 3600:.1f} hours of one thread "
        "on a shared machine; mean ± std over draws of calibration data (OMP, L2, LAMP and LMP look at none), – where "
        "nothing was run.\n"
    )
    for epochs, rows in frame.groupby("epochs"):
        levels, tuned = sorted(set(rows["sparsity"]) - {0.0}), f"fine-tuned, {epochs} epochs"
        pruners = [name for name in ENCODER if name in set(rows["pruner"])]
        for metric in HEADLINES["retrieval"]:
            yield f"{LABELS[metric]}, {tuned if epochs else 'not fine-tuned'}:\n"
            heads, *lines = comparison(spread(rows, [metric]), pruners, levels, metric)
            yield markdown([heads, *(_undrawn(line) if line[0] in UNDRAWN and not epochs else line for line in lines)])


def _undrawn(line: Sequence[str]) -> list[str]:
    """Without what marks cells of fewer seeds: one run is every draw."""
    return [str(value).removesuffix(" (1 seed)") for value in line]


def _readable(frame: pd.DataFrame) -> Iterator[str]:
    """The criterion, then every metric of every experiment."""
    rows = [
        ["experiment, metric", "dense", "ten times the steps", "OMP, 63 %", "of dense", "OMP, 90 %", "of dense",
         "criterion"],
    ]  # fmt: skip
    shown, longer = _longest_apart(frame)
    for (exp, metric), part in shown.groupby(["exp", "metric"], sort=False):
        if metric not in HEADLINES[exp.split("_")[1]][:2]:
            continue
        part = matching(part, seed=0)
        dense, omp = matching(part, pruner="dense"), matching(part, pruner="omp")
        more, *found = [float(v.iloc[0]) if len(v := p["value"]) else np.nan
                        for p in (matching(longer, exp=exp, metric=metric, pruner="dense"), dense,
                                  matching(omp, sparsity=0.63), matching(omp, sparsity=0.9))]  # fmt: skip
        whole, low, high = found[0], found[1] / found[0], found[2] / found[0]
        met = "not run" if np.isnan([low, high]).any() else "met" if low >= 0.95 and 0.2 <= high <= 0.8 else "not met"
        rows.append(
            [
                f"{exp}, {LABELS.get(metric, metric)}",
                *map(_one, (whole, more, found[1], 100 * low, found[2], 100 * high)),
                met,
            ]
        )
    yield "The criterion (OMP keeps at least 95 % of dense at 63 % sparsity and 20 to 80 % at 90 %), seed 0:\n"
    yield markdown(rows)
    yield from _every_metric(shown)


def _one(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def _every_metric(frame: pd.DataFrame) -> Iterator[str]:
    for exp, rows in frame.groupby("exp", sort=False):
        pruners, levels = _pruners(rows), sorted(set(rows["sparsity"]) - {0.0})
        for metric in HEADLINES[str(exp).split("_")[1]][:2]:
            if metric in set(rows["metric"]):
                yield from headed(rows, f"`{exp}`", metric, pruners, levels)


def _gently(frame: pd.DataFrame) -> Iterator[str]:
    yield from gentle()
    yield from _every_metric(frame)


def grids_of(frame: pd.DataFrame) -> dict[tuple[str, float], pd.DataFrame]:
    """(experiment, sparsity) -> budgets down, choice of weights across; what `measure` says, seed 0."""
    found, tables = _cells(frame.loc[frame["seed"].eq(0), :]), {}
    found = found.loc[found["fitted"].isna(), :]
    for (exp, level), rows in found.groupby(["exp", "sparsity"], sort=False):
        table = rows.pivot_table(index="allocate", columns="solve", values="value", aggfunc="mean")
        if min(table.shape) > 1:
            tables[str(exp), float(level)] = table.reindex(
                index=[a for a in ALLOCATORS if a in table.index], columns=[s for s in SOLVERS if s in table.columns]
            )
    return tables


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """What is left when the row or the column that lacks the largest share of its cells goes, until none lacks any."""
    while not table.empty and table.isna().to_numpy().any():
        rows, columns = table.isna().mean(axis="columns"), table.isna().mean(axis="index")
        if rows.max() >= columns.max():
            table = table.drop(index=rows.idxmax())
        else:
            table = table.drop(columns=columns.idxmax())
    return table


def analysed(table: pd.DataFrame) -> bool:
    """Whether there are enough cells for an analysis of variance."""
    return min(complete(table).shape) >= FEWEST


def judged_by(exp: str) -> tuple[str, ...]:
    """What a cell is judged by: R@1 in both directions, or the task's first metric."""
    metrics = HEADLINES[exp.split("_")[1]]
    return metrics if metrics[0].endswith("_r1") else metrics[:1]


def measure(exp: str) -> str:
    """What the numbers of a grid are."""
    metrics = judged_by(exp)
    return LABELS[metrics[0]] if len(metrics) == 1 else "R@1 (%), mean of both directions"


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The test rows of combinations that they are judged by, with their choices; `fitted`: how values were, or NaN."""
    found = frame.loc[frame["split"].eq("test") & frame["pruner"].str.contains(" × "), :]
    pairs = zip(found["exp"], found["metric"], strict=True)
    found = found.loc[[metric in judged_by(exp) for exp, metric in pairs], :]
    parts = found["pruner"].str.extract(r"(?P<allocate>.+) × (?P<solve>\w+)(?: \+ (?P<fitted>\w+))?")
    return found.assign(**{str(name): parts[name] for name in parts})


def with_whole_pruners(frame: pd.DataFrame) -> pd.DataFrame:
    """The grid's rows and, where it has none of a cell, those of the whole pruner that is that cell."""
    whole = pd.read_csv(ROOT / "experiments" / "readable_range" / "results.csv")
    whole = whole.assign(pruner=whole["pruner"].map(CELL_OF)).dropna(subset="pruner")
    same = pd.MultiIndex.from_frame(whole[["exp", "epochs"]]).isin(pd.MultiIndex.from_frame(frame[["exp", "epochs"]]))
    whole = whole.loc[same, :]  # a setting's hash holds the version of the package, which differs
    return pd.concat([frame, _not_again(whole, frame)])


def over_seeds(frame: pd.DataFrame) -> Iterator[str]:
    """Of the combinations with several seeds: mean and standard deviation."""
    keys, found = ["exp", "sparsity", "allocate", "solve"], _cells(frame)
    runs = (
        found.loc[found["fitted"].isna(), :]
        .groupby([*keys, "seed"], sort=False)["value"]
        .mean()
        .groupby(keys, sort=False)
    )
    found = runs.agg(["mean", "std", "count"]).reset_index()
    found = found.loc[(found["count"] > 1) & found["exp"].ne("minilm_retrieval"), :]
    for (exp, level), rows in found.groupby(["exp", "sparsity"], sort=False):
        noise = np.sqrt(np.average(rows["std"] ** 2, weights=rows["count"] - 1))
        yield (
            f"`{exp}`, {100 * level:g} %, the same, mean ± std over seeds (their number); pooled, seeds differ by a "
            f"standard deviation of {noise:.1f} within a cell:\n"
        )
        texts = [f"{one.mean:.1f} ± {one.std:.1f} ({one.count})" for one in rows.itertuples()]
        table = rows.assign(shown=texts).pivot(index="allocate", columns="solve", values="shown").fillna("–")
        columns = [name for name in SOLVERS if name in table.columns]
        body = [[name, *table.loc[name, columns]] for name in ALLOCATORS if name in table.index]
        yield markdown([["budgets by", *columns], *body])


def value_tables(frame: pd.DataFrame) -> dict[tuple[str, float], pd.DataFrame]:
    """(experiment, sparsity) -> "budgets × choice" down, the solver's values and fitted ones across.

    Of the cells that were run with fitted values, what `measure` says: means over the seeds that were run.
    """
    found, keys, tables = _cells(frame), ["exp", "sparsity", "allocate", "solve", "seed"], {}
    cells = found.groupby([*keys, found["fitted"].fillna("")], sort=False)["value"].mean().unstack("fitted")
    for (exp, level), rows in cells.groupby(["exp", "sparsity"], sort=False):
        fits = [name for name in rows if name and rows[name].notna().any()]
        rows = rows.dropna(subset=fits, how="all").groupby(keys[2:4])[["", *fits]].mean()
        order = [(a, s) for a in ALLOCATORS for s in SOLVERS if (a, s) in rows.index]
        if fits:
            named = {"": OWN_VALUES} | {name: name.replace("_", " ") for name in fits}
            labels = [f"{a} × {s}" for a, s in order]
            tables[str(exp), float(level)] = rows.loc[order, :].set_axis(labels, axis="index").rename(columns=named)
    return tables


def _fits(frame: pd.DataFrame) -> Iterator[str]:
    """What the same choice is worth with the solver's values and with fitted ones."""
    for (exp, level), table in value_tables(frame).items():
        yield f"`{exp}`, {100 * level:g} %, {measure(exp)}; the same weights stay, the solver's or fitted values:\n"
        body = [[str(name), *map(_one, table.loc[name])] for name in table.index]
        yield markdown([["budgets × choice", *table.columns], *body])


def _grids(frame: pd.DataFrame) -> Iterator[str]:
    """The heat map, the numbers and how much of the spread comes from where."""
    frame = with_whole_pruners(frame)
    runs = frame.loc[frame["pruner"].str.contains(" × "), :].drop_duplicates("run")
    yield f"{len(runs)} runs, {runs['seconds'].sum() / 3600:.1f} hours of one thread on a shared machine.\n"
    rows = [
        ["experiment", "sparsity", "cells", "budgets", "any left out", "choice of weights", "any left out", "together"]
    ]
    for (exp, level), table in grids_of(frame).items():
        told = [str(exp), f"{100 * level:g} %", f"{int(table.notna().to_numpy().sum())}"]
        whole = complete(table)
        if not analysed(table):
            rows.append([*told, *["too few"] * 5])
            continue
        found = two_way(whole)
        (a, b), (c, d) = found.rows_range, found.columns_range
        shares = [f"{100 * found.rows:.0f} %", f"{100 * a:.0f} to {100 * b:.0f} %", f"{100 * found.columns:.0f} %"]
        told[-1] += f", {whole.shape[0]} × {whole.shape[1]} of them" if whole.shape != table.shape else ""
        rows.append([*told, *shares, f"{100 * c:.0f} to {100 * d:.0f} %", f"{100 * found.rest:.0f} %"])
    yield (
        "Share of the grid's spread (sum of squares about its mean) between budgets, between choices of weights, and "
        "in how the two meet; the ranges leave out any one row or column:\n"
    )
    yield markdown(rows)
    for (exp, level), table in grids_of(frame).items():
        yield f"`{exp}`, {100 * level:g} %, {measure(exp)}:\n"
        body = [
            [str(name), *(_one(v) for v in values)] for name, values in zip(table.index, table.to_numpy(), strict=True)
        ]
        yield markdown([["budgets by", *map(str, table.columns)], *body])
    yield from over_seeds(frame)
    yield from _fits(frame)


def _recipes(frame: pd.DataFrame) -> Iterator[str]:
    """The first metric of every experiment, with and without fine-tuning."""
    pruned = frame.groupby(["exp", "epochs"], sort=False).filter(lambda rows: rows["sparsity"].max() > 0)
    for (exp, epochs), rows in pruned.groupby(["exp", "epochs"], sort=False):
        title = f"`{exp}`, {'fine-tuned' if epochs else 'not fine-tuned'}"
        pruners, levels = ["dense", *sorted(set(rows["pruner"]) - {"dense"})], sorted(set(rows["sparsity"]) - {0.0})
        yield from headed(rows, title, headline(rows, str(exp)), pruners, levels)


def _seconds(frame: pd.DataFrame) -> Iterator[str]:
    """Seconds of every mask, with the calibration pass it was made from."""
    seconds = matching(frame, split="mask", metric="seconds").assign(split="test")
    for exp, rows in seconds.groupby("exp", sort=False):
        pruners = [name for name in ORDER if name in set(rows["pruner"])]
        yield from headed(rows, f"`{exp}`", "seconds", pruners, sorted(set(rows["sparsity"])))


def _ridges(frame: pd.DataFrame) -> Iterator[str]:
    """Average R@1 of every ridge, the best of each column in bold."""
    found = matching(frame, split="test", metric=["txt_r1", "img_r1"])
    found = found.assign(ridge=found["pruner"].str.extract(r"ridge=([^,)]+)", expand=False).astype(float))
    model, method = found["exp"].str.split("_").str[0].str.upper(), found["pruner"].str.split().str[0]
    found = found.assign(column=model + ", " + method)
    table = found.pivot_table(index="ridge", columns="column", values="value", aggfunc="mean")
    rows = [["ridge", *table.columns]]
    for ridge, values in table.iterrows():
        best = [value == table[name].max() for name, value in values.items()]
        texts = [f"{value:.1f}" for value in values]
        rows.append([f"{ridge:g}", *(Markdown(f"**{t}**") if b else t for t, b in zip(texts, best, strict=True))])
    yield "Average of text and image R@1 (%) at 63 %, one epoch, seed 0; bold is what `ridge: chosen` takes:\n"
    yield markdown(rows)


def present(frame: pd.DataFrame) -> list[str]:
    return [exp for exp in EXPERIMENTS if exp in set(frame["exp"])]


def headline(frame: pd.DataFrame, exp: str) -> str:
    """The metric an experiment is judged by."""
    return HEADLINES[exp.split("_")[1]][0]


def _model(exp: str) -> str:
    return exp.split("_")[0].upper()


def _pruners(frame: pd.DataFrame) -> list[str]:
    return [name for name in (*ORDER, *BESIDE) if name in set(frame["pruner"])]


def experiment(frame: pd.DataFrame, exp: str) -> list[str]:
    """One experiment: what was run and how long it took, a table per metric, the order beside the paper's, the plot."""
    rows, task = matching(frame, exp=exp), exp.split("_")[1]
    pruners = _pruners(rows)
    levels, seeds = sorted(set(rows["sparsity"]) - {0.0}), sorted(rows["seed"].unique())
    metrics = [m for m in HEADLINES[task] if m in set(rows["metric"])]
    table, runs = spread(rows, metrics), rows.drop_duplicates("run")
    told = f"seeds {', '.join(map(str, seeds))}, mean ± std" if len(seeds) > 1 else f"seed {seeds[0]} alone"
    parts = [
        f"## {_model(exp)}, {NAMES[task]}\n\n`+exp={exp} benchmark=mini`; {told}; {len(runs)} runs, "
        f"{runs['seconds'].sum() / 60:.0f} minutes of one thread in all.\n"
    ]
    for metric in metrics:
        parts += [f"{LABELS[metric]}\n", markdown(comparison(table, pruners, levels, metric))]
    parts += [f"{line}\n" for line in orders(table, exp, levels, metrics[0])]
    return [*parts, f"![{exp}: {' and '.join(metrics)} against sparsity](results-{exp}.png)\n"]


def orders(table: pd.DataFrame, exp: str, levels: list[float], metric: str) -> list[str]:
    """Who is ahead at each sparsity, and how far that follows the published order of the same pruners."""
    published, lines = of(load((ROOT / "experiments").glob(FILES)), exp), []
    for level in levels:
        own = _values(matching(table, sparsity=level, metric=metric), "mean")
        printed = _values(matching(published, sparsity=level, metric=metric), "value")
        line = f"At {100 * level:g} %: " + ", ".join(f"{name} {value:.1f}" for name, value in own.items()) + "."
        both = [name for name in printed if name in own]
        if len(both) > 2:
            rho = pd.Series([own[n] for n in both]).corr(pd.Series([printed[n] for n in both]), method="spearman")
            line += f" The paper's order of those it prints: {', '.join(both)} (rank correlation {rho:.2f})."
        lines.append(line)
    return lines


def _values(table: pd.DataFrame, column: str) -> dict[str, float]:
    """By pruner, best first."""
    pairs = [(str(row["pruner"]), float(row[column])) for row in table.to_dict("records")]
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def plots(frame: pd.DataFrame) -> None:
    """docs/results-EXP.png for each experiment, and docs/results-all.png with the first metric of each."""
    panels = {}
    for exp in present(frame):
        rows, task = matching(frame, exp=exp), exp.split("_")[1]
        metrics = [m for m in HEADLINES[task] if m in set(rows["metric"])]
        seeds = rows["seed"].nunique()
        title = f"{exp}, the embedded world: test, {f'mean ± std over {seeds} seeds' if seeds > 1 else 'one seed'}"
        plot_sparsity(spread(rows, metrics), _pruners(rows), metrics, title, [ROOT / "docs" / f"results-{exp}.png"])
        panels[f"{_model(exp)}: {LABELS[metrics[0]]}"] = spread(compared(rows), metrics[:1])
    encoder(ROOT / "docs" / "minilm.png")
    in_range(ROOT / "docs" / "results-readable.png")
    grid_map(ROOT / "docs" / "grid.png")
    new_values(ROOT / "docs" / "values.png")
    errors(ROOT / "docs" / "layer-errors.png")
    panels = {label: table for label, table in panels.items() if not table.empty}
    title = "the embedded world: test, mean ± std over seeds"
    plot_panels(panels, _pruners(compared(frame)), title, [ROOT / "docs" / "results-all.png"])


def encoder(picture: Path) -> None:
    """The real encoder's own picture: it stands beside the embedded world's, never in it."""
    rows = pd.read_csv(ROOT / "experiments" / "minilm" / "results.csv")
    rows = matching(rows, epochs=0)
    pruners = [name for name in ENCODER if name in set(rows["pruner"])]
    title = "MiniLM, real weights and real text, no vision: test, not fine-tuned"
    plot_sparsity(spread(rows, HEADLINES["retrieval"]), pruners, HEADLINES["retrieval"], title, [picture])


def in_range(picture: Path) -> None:
    """The picture of the readable range: retrieval of the wider XVLM."""
    rows = matching(ranged(), exp="xvlm_itr")
    title = "XVLM in a readable range, the embedded world: test"
    plot_sparsity(spread(rows, HEADLINES["itr"]), _pruners(rows), HEADLINES["itr"], title, [picture])


def grid_map(picture: Path) -> None:
    """The heat maps of budgets and choices of weights."""
    file = ROOT / "experiments" / GRID / "results.csv"
    if file.is_file():
        found = grids_of(with_whole_pruners(pd.read_csv(file)))
        shown = {key: table for key, table in found.items() if analysed(table)}
        grids = {f"{exp}, {100 * level:g} %\n{measure(exp)}": table for (exp, level), table in shown.items()}
        plot_grids(grids, "what a method is made of", [picture], "budgets by / weights chosen by")


def new_values(picture: Path) -> None:
    """What fitted values are worth, choice by choice, where there are a few."""
    frame = with_whole_pruners(pd.read_csv(ROOT / "experiments" / GRID / "results.csv"))
    frame = frame.loc[frame["seed"].eq(0), :]
    tables = {key: table for key, table in value_tables(frame).items() if len(table) >= FEWEST}
    ordered = sorted(tables.items(), key=lambda pair: pair[0][0] == "minilm_retrieval")  # the embedded world first
    shown = {f"{exp}, {100 * level:g} %\n{measure(exp)}": table for (exp, level), table in ordered}
    if shown:
        plot_pairs(shown, "the same weights stay, with other values", [picture])


def errors(picture: Path) -> None:
    """R@1 after fine-tuning against what a layer's output loses before it."""
    found = lost_and_worth().dropna(subset="worth")
    points = found.assign(
        x=100 * found["error"], y=found["worth"], method=found["solve"], filled=found["values"].ne("")
    )
    shown = {f"{_model(str(exp))}, 90 %\n{measure(str(exp))}": rows for exp, rows in points.groupby("exp", sort=False)}
    plot_against(
        shown,
        "what fine-tuning makes of what is left; open: the solver's values, filled: fitted ones",
        [picture],
        "lost of a layer's output (%)",
    )


def texts(frame: pd.DataFrame) -> dict[Path, str]:
    """Every file this program writes to, with the whole of its text."""
    files = {PAGE: _between(PAGE, page(frame))}
    for name in TABLES:
        file = ROOT / "experiments" / name / "README.md"
        files[file] = _between(file, came_out(frame, name))
    for name in APART:
        file = ROOT / "experiments" / name / "README.md"
        files[file] = _between(file, came_out_apart(name))
    page_of_encoder = ROOT / "docs" / "minilm.md"
    return files | {page_of_encoder: _between(page_of_encoder, came_out_apart("minilm"))}


def _between(file: Path, text: str) -> str:
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + text + END + rest.partition(END)[2]


def main() -> int:
    """Perform the command line."""
    words = sys.argv[1:]
    if "--collect" in words:
        out = Path(words[words.index("--collect") + 1])
        collect(out)
        for name in APART:
            collect_apart(out, name)
    frame = pd.read_csv(DATA)
    files = texts(frame)
    if "--check" in words:
        return int(any(not file.is_file() or file.read_text(encoding="utf-8") != text for file, text in files.items()))
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    plots(frame)
    return 0


if __name__ == "__main__":
    sys.exit(main())
