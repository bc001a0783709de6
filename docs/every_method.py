"""Writes docs/every-method.md: every method and pattern without fine-tuning, on the embedded world and a real encoder.

python docs/every_method.py --collect outputs  # takes the rows of the experiment's runs into experiments/ first
python docs/every_method.py                    # writes the text and docs/every-method-*.png
python docs/every_method.py --check            # exit code 1 if the text is out of date
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from vlp_bench.results.palette import FAMILIES
from vlp_bench.results.pruner_names import UNITS, pattern_of
from vlp_bench.results.report.material import studies
from vlp_bench.results.store import Store, matching
from vlp_bench.results.tables import markdown
from vlp_bench.sweeps import plans

ROOT = Path(__file__).resolve().parents[1]
PAGE, FOLDER = ROOT / "docs" / "every-method.md", ROOT / "experiments"
ROWS, ENCODER = FOLDER / "every_method" / "results.csv", FOLDER / "minilm" / "results.csv"
BEGIN, END = "<!-- results: written by `python docs/every_method.py` -->\n", "<!-- end of results -->\n"
SPOT = ["exp", "pruner", "pattern", "sparsity", "seed", "metric"]
COLUMNS = [*SPOT, "value", "split", "status", "run", "setting", "seconds", "commit", "weights", "data", "mask", "time"]
WEIGHTS = "weights"
METRICS = {"xvlm_itr": ("txt_r1", "img_r1"), "minilm_retrieval": ("doc_r1", "name_r1")}
COSTS = ("seconds", "peak_gb")
TITLES = {
    "xvlm_itr": "The embedded world: X-VLM, image-text retrieval",
    "minilm_retrieval": "A real encoder: MiniLM, retrieval of docstrings",
}
Found = Mapping[tuple[str, str], float]
LOOKS = {  # column -> colour and mark: shades of one hue for sparsities, of another for groups
    "50 %": ("#1b7fc4", "o"),
    "63 %": ("#0b4f8a", "s"),
    "2:4": ("#b07b00", "^"),
}


def collect(out: Path) -> None:
    """The rows of the experiment's runs below `out` into its results.csv; recorded runs that are not there stay."""
    parts = []
    for root in (out, out / "every_method"):  # the second: masks with a calibration of their own
        for study in studies(Store(root / "runs")) if (root / "runs").is_dir() else ():
            if belongs(study.exp, next(iter(study.origin.values()))["config"]):
                told = {run: method_and_pattern(origin["config"]["pruner"]) for run, origin in study.origin.items()}
                names = {
                    key: [told[run][i] for run in study.frame["run"]] for i, key in enumerate(("pruner", "pattern"))
                }
                parts.append(study.frame.assign(**names))
    frame = pd.concat(parts)
    shown = frame["metric"].isin([m for metrics in METRICS.values() for m in metrics]) & frame["split"].eq("test")
    shown |= frame["metric"].isin([*COSTS, "shared_seconds"]) | frame["status"].eq("ERR")
    old = pd.read_csv(ROWS) if ROWS.is_file() else pd.DataFrame(columns=COLUMNS)
    kept = old.loc[~old["run"].isin(frame["run"]), :]
    whole = pd.concat([part for part in (frame.loc[shown, COLUMNS], kept) if len(part)])
    newest = whole.sort_values("time", ascending=False, kind="stable").drop_duplicates([*SPOT, "split"])
    whole = newest.sort_values([*SPOT, "split"])
    whole.to_csv(ROWS, index=False, lineterminator="\n", float_format="%.6g")
    share(whole)


def share(frame: pd.DataFrame) -> None:
    """The runs that the experiment `minilm` has as well go into its rows, so that nobody computes them again."""
    [part, *_] = plans.load("minilm")
    levels = [0.0, *part.sparsity]
    ours = matching(frame, exp="minilm_retrieval", pattern=WEIGHTS, pruner=["dense", *part.pruner], sparsity=levels)
    old = pd.read_csv(ENCODER)
    new = ours.loc[~ours["run"].isin(old["run"]) & ours["metric"].ne("peak_gb"), :].assign(epochs=0)[list(old.columns)]
    whole = pd.concat([old, new]).sort_values(list(old.columns[:6]), kind="stable")
    whole.to_csv(ENCODER, index=False, lineterminator="\n", float_format="%.6g")


def belongs(exp: str, config: Mapping[str, Any]) -> bool:
    """Whether a run is one of the experiment's: of one of its experiments, with the overrides of its parts."""
    parts = [part for part in plans.load("every_method") if exp in part.exp]
    words = [word.partition("=") for part in parts[:1] for word in part.overrides]
    return (
        bool(parts)
        and all(str(_at(config, key)) == value for key, _, value in words)
        and not config["recipe"]["epochs"]
    )


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def method_and_pattern(pruner: Mapping[str, Any]) -> tuple[str, str]:
    """What a run's pruner is called, and "weights", "units", or n:m."""
    target = str((pruner.get("solve") or {}).get("_target_")).rpartition(".")[2]
    return f"{pruner['name']}{', permuted' * (target == 'PermutedGroups')}", pattern_of(pruner) or WEIGHTS


def rows() -> pd.DataFrame:
    """Those of the experiment, and those of the experiment `minilm` that are alike: first seed, not fine-tuned."""
    own = pd.read_csv(ROWS) if ROWS.is_file() else pd.DataFrame(columns=COLUMNS)
    other = pd.read_csv(ENCODER)
    alike = matching(other, epochs=0, seed=0).assign(pattern=WEIGHTS)
    alike = alike.loc[~alike["run"].isin(own["run"]), COLUMNS]
    return pd.concat([part for part in (own, alike) if len(part)]).drop_duplicates([*SPOT, "split"])


def order(frame: pd.DataFrame) -> list[str]:
    """The methods of some rows, family by family; those of no family behind."""
    known = [name for family in FAMILIES.values() for name in family]
    found = sorted(set(frame["pruner"]) - {"dense"})
    return sorted(found, key=lambda name: known.index(n) if (n := name.partition(",")[0]) in known else len(known))


def scores(frame: pd.DataFrame, exp: str) -> dict[tuple[str, str], float]:
    """(method, column) -> the mean of both directions' R@1."""
    test = matching(frame, exp=exp, split="test", metric=list(METRICS[exp]), status="ok")
    column = [_column(p, s) for p, s in zip(test["pattern"], test["sparsity"], strict=True)]
    means = test.assign(column=column).groupby(["pruner", "column"])["value"]
    return {key: float(value) for key, value in means.mean().items() if means.count()[key] == 2}  # pyright: ignore


def _column(pattern: str, sparsity: float) -> str:
    share = f"{100 * sparsity:g} %"
    return {WEIGHTS: share, UNITS: f"units, {share}"}.get(pattern, pattern)


def costs(frame: pd.DataFrame, exp: str) -> dict[tuple[str, str], float]:
    """(method, "seconds" or "peak_gb") -> of its mask at 63 %, of a calibration of its own."""
    found = matching(frame, exp=exp, split="mask", metric=list(COSTS), pattern=WEIGHTS, sparsity=0.63)
    keys = zip(found["pruner"], found["metric"], strict=True)
    return dict(zip(keys, map(float, found["value"]), strict=True))


def planned(exp: str) -> set[tuple[str, str]]:
    """(method, column) of every cell of the experiment: what is not here can't be, or says nothing new."""
    found = set[tuple[str, str]]()
    for part in plans.load("every_method"):
        heads = [str(value).strip("'") for values in (part.grid or {}).values() for value in values]
        permuted = any("permuted" in word for word in part.overrides)
        names = [f"{name}{', permuted' * permuted}" for name in part.pruner if exp in part.exp]
        found |= {(n, head) for n in names for head in heads or [_column(WEIGHTS, s) for s in part.sparsity]}
    return found


def equals(frame: pd.DataFrame, exp: str) -> str:
    """A line about methods that made one mask at 63 %; empty where there are none."""
    part = matching(frame, exp=exp, sparsity=0.63, pattern=WEIGHTS, split="test", metric=list(METRICS[exp]))
    masks = part.groupby("mask")["pruner"].unique()
    groups = [" = ".join(sorted(names)) for names in masks if len(names) > 1]
    return f"One mask at 63 %: {'; '.join(sorted(groups))}.\n" if groups else ""


def hours(part: pd.DataFrame) -> float:
    """Of the runs and of making their masks, by the clock."""
    masks = matching(part, split="mask", metric=["seconds", "shared_seconds"])
    return float(part.drop_duplicates("run")["seconds"].sum() + masks["value"].sum()) / 3600


def section(frame: pd.DataFrame, exp: str) -> Iterator[str]:
    """One world: what was run, weights and groups in one table, whole units in another."""
    part = matching(frame, exp=exp)
    if part.empty:
        yield f"## {TITLES[exp]}\n\nNot run yet.\n"
        return
    found, spent = scores(frame, exp), costs(frame, exp)
    dense = found.get(("dense", "0 %"))
    yield (
        f"## {TITLES[exp]}\n\n`+exp={exp}`: {part['run'].nunique()} runs, {hours(part):.1f} hours of one thread on a "
        f"shared machine, one draw of calibration data. Mean of {' and '.join(METRICS[exp])} in %, not fine-tuned; "
        f"dense {'–' if dense is None else f'{dense:.1f}'}; – not run, empty: no cell of the experiment.\n"
    )
    yield markdown([*table(order(part), list(LOOKS), found, spent, planned(exp))])
    if told := equals(frame, exp):
        yield told
    units = [name for name in order(part) if any(key[0] == name and key[1].startswith(UNITS) for key in found)]
    if units:
        heads = sorted({key[1] for key in found if key[1].startswith(UNITS)})
        yield "Whole heads and neurons, the share of the prunable weights that goes with them:\n"
        yield markdown([*table(units, heads, found, {}, {(name, head) for name in units for head in heads})])
    yield f"![{TITLES[exp]}: every method and pattern](every-method-{exp}.png)\n"


def table(
    names: list[str], heads: list[str], found: Found, spent: Found, asked: set[tuple[str, str]]
) -> Iterator[list[str]]:
    """A head line, then each method with what was found of it; those without anything are left out."""
    yield ["method", *heads, *(["seconds", "GB"] if spent else [])]
    for name in names:
        cells = [_cell(found.get((name, head)), (name, head) in asked) for head in heads]
        own = [f"{spent[name, cost]:.3g}" if (name, cost) in spent else "–" for cost in COSTS] if spent else []
        if set(cells) - {"–", ""}:
            yield [name, *cells, *own]


def _cell(value: float | None, asked: bool) -> str:
    return f"{value:.1f}" if value is not None else "–" if asked else ""


def figure(frame: pd.DataFrame, exp: str, file: Path) -> None:
    """A line for each method, a mark for each sparsity and pattern."""
    found = scores(frame, exp)
    names = [name for name in order(matching(frame, exp=exp)) if any((name, head) in found for head in LOOKS)][::-1]
    if not names:
        return
    with mpl.rc_context({"font.size": 9}):
        drawn = Figure(figsize=(7, 1.5 + 0.2 * len(names)), layout="constrained")
        axes: Any = drawn.subplots()
        for head, (colour, marker) in LOOKS.items():
            spots = [(found[name, head], place) for place, name in enumerate(names) if (name, head) in found]
            if spots:
                x, y = zip(*spots, strict=True)
                axes.plot(x, y, marker, color=colour, label=head, markersize=5)
        if ("dense", "0 %") in found:
            axes.axvline(found["dense", "0 %"], color="black", linestyle="--", linewidth=1, label="dense")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(f"mean of {' and '.join(METRICS[exp])} (%), not fine-tuned")
        axes.grid(alpha=0.3)
        drawn.legend(loc="outside lower center", ncols=6, fontsize=8)
        drawn.savefig(file, dpi=130)


def text(frame: pd.DataFrame) -> str:
    """The whole page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    told = "\n".join(line for exp in TITLES for line in section(frame, exp))
    return before + BEGIN + told + END + rest.partition(END)[2]


def main() -> int:
    """Perform the command line."""
    words = sys.argv[1:]
    if "--collect" in words:
        collect(Path(words[words.index("--collect") + 1]))
    frame = rows()
    written = text(frame)
    if "--check" in words:
        return int(PAGE.read_text(encoding="utf-8") != written)
    PAGE.write_text(written, encoding="utf-8")
    for exp in TITLES:
        figure(frame, exp, ROOT / "docs" / f"every-method-{exp}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
