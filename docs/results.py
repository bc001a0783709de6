"""Writes the README's results from docs/results.csv: for each experiment a table, a plot and the order of the pruners.

python docs/results.py --collect outputs  # takes the test rows of these runs into docs/results.csv first
python docs/results.py                    # writes the README's section and docs/results-*.png
python docs/results.py --check            # exit code 1 if the README's section is out of date
"""

import sys
from pathlib import Path

import pandas as pd

from vlp_bench.results.plot import LABELS, plot_sparsity
from vlp_bench.results.published import load, of
from vlp_bench.results.store import Store, matching
from vlp_bench.results.tables import comparison, markdown, spread

ROOT = Path(__file__).resolve().parents[1]
README, DATA = ROOT / "README.md", ROOT / "docs" / "results.csv"
BEGIN, END = "<!-- results: written by `python docs/results.py` -->\n", "<!-- end of results -->\n"
COLUMNS = ["exp", "pruner", "sparsity", "seed", "metric", "value", "split", "status", "run", "setting"]
ORIGIN = ["seconds", "commit", "weights", "data", "mask", "time"]
ORDER = ("dense", "random", "omp", "l2", "lamp", "snip", "itersnip", "chita", "chita_pp", "tamt", "multiflow")
HEADLINES = {"itr": ("txt_r1", "img_r1"), "ic": ("truth", "cider_regex"), "vqa": ("accuracy",)}
NAMES = {"itr": "image-text retrieval", "ic": "captioning", "vqa": "visual question answering"}


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
    """The README's text between BEGIN and END."""
    return "\n".join(part for exp in sorted(frame["exp"].unique(), reverse=True) for part in experiment(frame, exp))


def experiment(frame: pd.DataFrame, exp: str) -> list[str]:
    """One experiment: what was run and how long it took, a table per metric, the order beside the paper's, the plot."""
    rows, (model, task) = matching(frame, exp=exp), exp.split("_")
    pruners = [name for name in ORDER if name in set(rows["pruner"])]
    levels, seeds = sorted(set(rows["sparsity"]) - {0.0}), sorted(rows["seed"].unique())
    metrics = [m for m in HEADLINES[task] if m in set(rows["metric"])]
    table, runs = spread(rows, metrics), rows.drop_duplicates("run")
    told = f"seeds {', '.join(map(str, seeds))}, mean ± std" if len(seeds) > 1 else f"seed {seeds[0]} alone"
    parts = [
        f"**{model.upper()}, {NAMES[task]}** (`+exp={exp}`; {told}; {len(runs)} runs, "
        f"{runs['seconds'].sum() / 60:.0f} minutes of one thread in all)\n"
    ]
    for metric in metrics:
        parts += [f"{LABELS[metric]}\n", markdown(comparison(table, pruners, levels, metric))]
    parts += [f"{line}\n" for line in orders(table, exp, levels, metrics[0])]
    return [*parts, f"![{exp}: {' and '.join(metrics)} against sparsity](docs/results-{exp}.png)\n"]


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
    """docs/results-EXP.png for each experiment."""
    for exp in frame["exp"].unique():
        rows, task = matching(frame, exp=exp), exp.split("_")[1]
        metrics = [m for m in HEADLINES[task] if m in set(rows["metric"])]
        pruners = [name for name in ORDER if name in set(rows["pruner"])]
        title = f"{exp}, the embedded world: test, mean ± std over {rows['seed'].nunique()} seeds"
        plot_sparsity(spread(rows, metrics), pruners, metrics, title, [ROOT / "docs" / f"results-{exp}.png"])


def main() -> int:
    """Perform the command line."""
    words = sys.argv[1:]
    if "--collect" in words:
        collect(Path(words[words.index("--collect") + 1]))
    frame, text = pd.read_csv(DATA), README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    written = before + BEGIN + section(frame) + END + rest.partition(END)[2]
    if "--check" in words:
        return int(written != text)
    README.write_text(written, encoding="utf-8")
    plots(frame)
    return 0


if __name__ == "__main__":
    sys.exit(main())
