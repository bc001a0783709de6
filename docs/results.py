"""Writes what docs/results.csv has: the README's results, docs/results.md, and what came out of each experiment.

python docs/results.py --collect outputs  # takes the test rows of these runs into docs/results.csv first
python docs/results.py                    # writes the texts and docs/results-*.png
python docs/results.py --check            # exit code 1 if a text is out of date
"""

import sys
from pathlib import Path

import pandas as pd

from vlp_bench.commands import plans
from vlp_bench.results.plot import LABELS, plot_panels, plot_sparsity
from vlp_bench.results.published import load, of
from vlp_bench.results.store import Store, matching
from vlp_bench.results.tables import cell, comparison, markdown, spread

ROOT = Path(__file__).resolve().parents[1]
README, PAGE, DATA = ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "results.csv"
BEGIN, END = "<!-- results: written by `python docs/results.py` -->\n", "<!-- end of results -->\n"
COLUMNS = ["exp", "pruner", "sparsity", "seed", "metric", "value", "split", "status", "run", "setting"]
ORIGIN = ["seconds", "commit", "weights", "data", "mask", "time"]
EXPERIMENTS = ("xvlm_itr", "xvlm_ic", "xvlm_vqa", "blip_itr", "blip_ic", "blip_vqa", "dino_cls")
ORDER = (
    *("dense", "random", "omp", "l2", "lamp", "snip", "itersnip", "chita", "chita_pp", "tamt"),
    *("multiflow_edges", "multiflow_nodes", "multiflow_128", "multiflow"),
)
HEADLINES = {
    "itr": ("txt_r1", "img_r1"),
    "ic": ("truth", "cider_regex"),
    "vqa": ("accuracy",),
    "cls": ("accuracy",),
}
NAMES = {
    "itr": "image-text retrieval",
    "ic": "captioning",
    "vqa": "visual question answering",
    "cls": "classification",
}
TABLES = ("main_benchmark", "table04_baselines", "table05_tamt_blip", "table06_dino", "table08_edges_nodes")
TABLES = (*TABLES, "table11_recipes")


def collect(out: Path) -> None:
    """Test rows of the embedded world, of the commonest setting of every experiment and seed, into docs/results.csv."""
    frame = Store(out / "runs").query(split="test", benchmark="mini")
    wanted = [m for metrics in HEADLINES.values() for m in metrics]
    frame = frame.loc[frame["metric"].isin(wanted) | frame["status"].eq("ERR"), :]
    runs = frame.groupby(["exp", "seed", "setting"])["run"].nunique().reset_index().sort_values("run")
    commonest = runs.drop_duplicates(["exp", "seed"], keep="last")[["exp", "seed", "setting"]]
    frame = frame.merge(commonest)[[*COLUMNS, *ORIGIN]].sort_values(COLUMNS[:5])
    frame.to_csv(DATA, index=False, lineterminator="\n", float_format="%.6g")


def section(frame: pd.DataFrame) -> str:
    """The README's text between BEGIN and END: at each sparsity every pruner on every experiment, and who leads."""
    exps, levels = present(frame), sorted(set(frame["sparsity"]) - {0.0})
    runs = frame.drop_duplicates("run")
    parts = [
        f"{len(runs)} runs of the embedded world, {runs['seconds'].sum() / 3600:.1f} hours of one thread in all; "
        "mean ± std over the seeds, the best pruner in bold, – where nothing was run. All metrics, a plot for each "
        "experiment: [docs/results.md](docs/results.md).\n"
    ]
    heads = [f"{_model(exp)}, {LABELS[headline(frame, exp)]}" for exp in exps]
    seeds = ["seeds", *(str(matching(frame, exp=exp)["seed"].nunique()) for exp in exps)]
    tables = {exp: spread(matching(frame, exp=exp), [headline(frame, exp)]) for exp in exps}
    for level in levels:
        rows = [[f"{100 * level:g} %", *heads]]
        for name in _pruners(frame):
            at = 0.0 if name == "dense" else level
            values = [cell(tables[exp], name, at, headline(frame, exp)) for exp in exps]
            best = [name == leader(tables[exp], level) for exp in exps]
            rows.append([name, *(f"**{v}**" if bold else v for v, bold in zip(values, best, strict=True))])
        parts.append(markdown([row for row in rows if set(row[1:]) != {"–"}] + [seeds]))
    parts.append(f"{leaders(frame, exps, levels)}\n")
    return "\n".join([*parts, "![every experiment: its first metric against sparsity](docs/results-all.png)\n"])


def leader(table: pd.DataFrame, level: float) -> str:
    """The pruner with the best mean at a sparsity."""
    return next(iter(_values(matching(table, sparsity=level), "mean")), "")


def leaders(frame: pd.DataFrame, exps: list[str], levels: list[float]) -> str:
    """Average ranks, over the columns of the tables that are not empty, of the pruners in each of them."""
    columns = []
    for exp in exps:
        table = spread(matching(frame, exp=exp), [headline(frame, exp)])
        columns += [_values(matching(table, sparsity=level), "mean") for level in levels]
    columns = [column for column in columns if column]
    everywhere = sorted(set.intersection(*map(set, columns)))
    ranks = pd.DataFrame([[column[name] for name in everywhere] for column in columns], columns=everywhere)
    order = ranks.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    text = ", ".join(f"{name} {value:.1f}" for name, value in order.items())
    return f"Average rank over {len(columns)} columns of the {len(order)} pruners that have run in all: {text}."


def page(frame: pd.DataFrame) -> str:
    """docs/results.md: every experiment with all its metrics."""
    head = (
        "# Results of the embedded world\n\nWritten by `python docs/results.py` from docs/results.csv. Numbers of "
        "scenes drawn by code and of small models: none is comparable with a published one.\n"
    )
    return "\n".join([head, *(part for exp in present(frame) for part in experiment(frame, exp))])


def came_out(frame: pd.DataFrame, name: str) -> str:
    """The tables of one folder of experiments/: those of its runs that are there."""
    parts = []
    for part in plans.load(name):
        pruners = ("dense", *part.pruner) if part.dense else part.pruner
        for exp in part.exp:
            rows = matching(frame, exp=exp, pruner=list(pruners))
            wanted = {matching(rows, pruner=p).shape[0] > 0 for p in part.pruner}
            if True not in wanted:
                parts.append(f"`{exp}`: not run yet.\n")
                continue
            metric, runs = headline(frame, exp), rows.drop_duplicates("run")
            count, seeds = len(runs), ", ".join(map(str, sorted(rows["seed"].unique())))
            parts.append(f"`{exp}`, {LABELS[metric]} ({count} runs of the embedded world; seeds {seeds}):\n")
            names = [pruner for pruner in dict.fromkeys(pruners) if pruner in set(rows["pruner"])]
            parts.append(markdown(comparison(spread(rows, [metric]), names, part.sparsity, metric)))
    return "\n".join([*parts, "Nothing has been run with `benchmark=paper`.\n"])


def present(frame: pd.DataFrame) -> list[str]:
    return [exp for exp in EXPERIMENTS if exp in set(frame["exp"])]


def headline(frame: pd.DataFrame, exp: str) -> str:
    """The metric an experiment is judged by."""
    return HEADLINES[exp.split("_")[1]][0]


def _model(exp: str) -> str:
    return exp.split("_")[0].upper()


def _pruners(frame: pd.DataFrame) -> list[str]:
    return [name for name in ORDER if name in set(frame["pruner"])]


def experiment(frame: pd.DataFrame, exp: str) -> list[str]:
    """One experiment: what was run and how long it took, a table per metric, the order beside the paper's, the plot."""
    rows, task = matching(frame, exp=exp), exp.split("_")[1]
    pruners = _pruners(rows)
    levels, seeds = sorted(set(rows["sparsity"]) - {0.0}), sorted(rows["seed"].unique())
    metrics = [m for m in HEADLINES[task] if m in set(rows["metric"])]
    table, runs = spread(rows, metrics), rows.drop_duplicates("run")
    told = f"seeds {', '.join(map(str, seeds))}, mean ± std" if len(seeds) > 1 else f"seed {seeds[0]} alone"
    parts = [
        f"## {_model(exp)}, {NAMES[task]}\n\n`+exp={exp}`; {told}; {len(runs)} runs, "
        f"{runs['seconds'].sum() / 60:.0f} minutes of one thread in all.\n"
    ]
    for metric in metrics:
        parts += [f"{LABELS[metric]}\n", markdown(comparison(table, pruners, levels, metric))]
    parts += [f"{line}\n" for line in orders(table, exp, levels, metrics[0])]
    return [*parts, f"![{exp}: {' and '.join(metrics)} against sparsity](results-{exp}.png)\n"]


def orders(table: pd.DataFrame, exp: str, levels: list[float], metric: str) -> list[str]:
    """Who is ahead at each sparsity, and how far that follows the published order of the same pruners."""
    published, lines = of(load((ROOT / "experiments").glob("*/published.csv")), exp), []
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
        title = f"{exp}, the embedded world: test, mean ± std over {rows['seed'].nunique()} seeds"
        plot_sparsity(spread(rows, metrics), _pruners(rows), metrics, title, [ROOT / "docs" / f"results-{exp}.png"])
        panels[f"{_model(exp)}: {LABELS[metrics[0]]}"] = spread(rows, metrics[:1])
    title = "the embedded world: test, mean ± std over seeds"
    plot_panels(panels, _pruners(frame), title, [ROOT / "docs" / "results-all.png"])


def texts(frame: pd.DataFrame) -> dict[Path, str]:
    """Every file this program writes to, with the whole of its text."""
    files = {PAGE: page(frame), README: _between(README, section(frame))}
    for name in TABLES:
        file = ROOT / "experiments" / name / "README.md"
        files[file] = _between(file, came_out(frame, name))
    return files


def _between(file: Path, text: str) -> str:
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + text + END + rest.partition(END)[2]


def main() -> int:
    """Perform the command line."""
    words = sys.argv[1:]
    if "--collect" in words:
        collect(Path(words[words.index("--collect") + 1]))
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
