"""Writes docs/world-and-real.md: what the embedded world's models share with a real pre-trained encoder.

python docs/world_and_real.py   # some minutes of one thread; MiniLM needs the extra [vocab]

Of every model, at initialisation and as shipped, by modality: tails of |w|, spread of the layers' norms, outliers among
the inputs of the layers, and neurons that stay silent. Calibration data are those of each model's own experiment.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from torch import Tensor, nn

from vlp_bench.construct import maker
from vlp_bench.models.checkpoints.read_write import family_of, load_model
from vlp_bench.models.minilm import MiniLM, build_minilm
from vlp_bench.results.tables import markdown
from vlp_bench.runs.specification import register
from vlp_bench.runs.terminal.conf import composed

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs" / "world-and-real.md", ROOT / "docs" / "world-and-real.png"
BEGIN, END = "<!-- results: written by `python docs/world_and_real.py` -->\n", "<!-- end of results -->\n"
MODELS = {
    "XVLM, width 128": ("xvlm_itr", "mini"),
    "XVLM, width 256": ("xvlm_itr", "world"),
    "BLIP, width 128": ("blip_itr", "mini"),
    "MiniLM (real)": ("minilm_retrieval", "minilm"),
}
BATCHES = 8
OUTLIER, SILENT = 5.0, 0.01
COLUMNS = {
    "kurtosis": "excess kurtosis of w",
    "tail": "|w| above 4 sigma (per mille)",
    "norms": "largest / smallest layer RMS",
    "channel": "largest / median input channel",
    "outliers": f"input channels above {OUTLIER:g} medians (per mille)",
    "silent": f"neurons below {100 * SILENT:g} % of the median activation (%)",
}


def batches_of(config: Any) -> list[Any]:
    """Some of the experiment's calibration batches; where there are two parts, of both."""
    data = maker(OmegaConf.to_container(config["data"], resolve=True), "data", [])()
    found = islice(data.calibration(), BATCHES)
    return [batch for each in found for batch in (each if isinstance(each, list) else [each])]


def models_of(config: Any) -> dict[str, nn.Module]:
    """The model as shipped, and the same with the weights it began with (seed 0)."""
    weights = config["model"]["weights"]
    torch.manual_seed(0)
    if config["experiment"].startswith("minilm"):
        shipped = build_minilm(weights)
        return {"trained": shipped, "at initialisation": MiniLM(shipped.bert.config)}
    shipped = load_model(weights.replace("pkg://vlp_bench", str(ROOT / "vlp_bench")), attention="eager")
    return {"trained": shipped, "at initialisation": family_of(shipped.config).model(shipped.config, attention="eager")}


@torch.no_grad()
def channels(model: Any, names: Iterable[str], batches: Sequence[Any]) -> dict[str, Tensor]:
    """Layer -> (d_in,) root of the mean square of every input channel over the calibration batches."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)
    hooks = []

    def seen(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).double()
            sums[name] = sums.get(name, torch.zeros(x.shape[1], dtype=torch.float64)) + x.square().sum(0)
            counts[name] += len(x)

        return hook

    for name in names:
        hooks.append(model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(seen(name)))
    model.eval()
    for batch in batches:
        model.adapter.encode(model, batch)
    for hook in hooks:
        hook.remove()
    return {name: (total / counts[name]).sqrt() for name, total in sums.items()}


def rows_of(label: str, model: Any, batches: Sequence[Any]) -> list[dict[str, Any]]:
    """One row for each modality."""
    adapter, by = model.adapter, defaultdict(list)
    for name in adapter.prunable(model):
        by[adapter.place(name).modality].append(name)
    reach = channels(model, [n for names in by.values() for n in names], batches)
    return [{"model": label, "modality": modality, **measured(model, names, reach)} for modality, names in by.items()]


def measured(model: nn.Module, names: Sequence[str], reach: dict[str, Tensor]) -> dict[str, float]:
    """The six numbers of one modality."""
    weights = [model.get_parameter(name).detach().double() for name in names]
    standard = torch.cat([((w - w.mean()) / w.std()).flatten() for w in weights])
    rms = torch.stack([w.square().mean().sqrt() for w in weights])
    inputs = [reach[name] for name in names if name in reach]
    relative = torch.cat([x / x.median() for x in inputs])
    wide = [reach[n] for n, w in zip(names, weights, strict=True) if n in reach and w.shape[1] > 2 * w.shape[0]]
    silent = torch.cat([x < SILENT * x.median() for x in wide]).double().mean() if wide else torch.tensor(torch.nan)
    return {
        "kurtosis": float(standard.pow(4).mean() - 3),
        "tail": float(1000 * (standard.abs() > 4).double().mean()),
        "norms": float(rms.max() / rms.min()),
        "channel": float(relative.max()),
        "outliers": float(1000 * (relative > OUTLIER).double().mean()),
        "silent": float(100 * silent),
    }


def picture(table: pd.DataFrame) -> None:
    """Each number as a bar for every model and modality, hollow at initialisation."""
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(12, 6), layout="constrained")
        for axes, (key, said) in zip(figure.subplots(2, 3).flat, COLUMNS.items(), strict=True):
            spots = table.loc[table["state"].eq("trained"), ["model", "modality"]].apply(", ".join, axis=1).tolist()
            for state, look in (("at initialisation", {"fill": False}), ("trained", {"alpha": 0.7})):
                values = table.loc[table["state"].eq(state), key].to_numpy()
                axes.barh(np.arange(len(spots)), values, **look)
            axes.set_yticks(range(len(spots)), spots if axes.get_subplotspec().is_first_col() else [])
            axes.invert_yaxis()
            axes.set_title(said, fontsize=8)
            if key in ("channel", "norms", "tail", "outliers"):
                axes.set_xscale("symlog", linthresh=1)
        figure.suptitle("filled: trained; outline: at initialisation", fontsize=8)
        figure.savefig(PICTURE, dpi=130)


def main() -> int:
    """Measure, draw, write."""
    torch.set_num_threads(1)
    register()
    rows = []
    for label, (exp, benchmark) in MODELS.items():
        config = composed([f"+exp={exp}", f"benchmark={benchmark}"])
        batches = batches_of(config)
        for state, model in models_of(config).items():
            rows += [row | {"state": state} for row in rows_of(label, model, batches)]
    table = pd.DataFrame(rows)
    picture(table)
    head = ["model", "modality", "state", *COLUMNS.values()]
    body = [
        [row["model"], row["modality"], row["state"], *("–" if np.isnan(row[k]) else f"{row[k]:.2f}" for k in COLUMNS)]
        for row in table.to_dict("records")
    ]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + markdown([head, *body]) + END + rest.partition(END)[2], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
