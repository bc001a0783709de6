"""What a layer's output loses by pruning, mask by mask, with the solver's values and with fitted ones.

    python benchmarks/layer_errors.py [EXP ...]     # xvlm_itr blip_itr by default, at 90 %

Of each choice of weights: the share of the energy of a layer's output on the calibration data that is lost,
‖X(W - W')‖² / ‖XW‖², mean over the layers, before anything is fine-tuned. Inputs are those of the dense model, as for
fitted values. Rows go to experiments/grid_allocate_solve/layer_errors.csv, those of the same experiment replaced; what
the same choices are worth after fine-tuning lies in results.csv beside it. Ten minutes of a quiet core.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate
from torch import Tensor

import vlp_bench
from vlp_bench.models.checkpoints.locations import content_hash
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.inputs import InputProducts
from vlp_bench.runs.provenance import commit
from vlp_bench.runs.specification import register
from vlp_bench.runs.terminal.conf import composed

FILE = Path(__file__).resolve().parents[1] / "experiments" / "grid_allocate_solve" / "layer_errors.csv"
SPARSITY = 0.9
FIT = "least_squares"
CHOICES = [("lamp", solve) for solve in ("random", "magnitude", "multiflow", "wanda", "sparsegpt", "alps")]
CHOICES += [("uniform", "magnitude"), ("magnitude_by_modality", "multiflow")]


def calibrated(exp: str) -> tuple[vlp_bench.Calibration, str]:
    """The statistics of an experiment's model, and the hash of its weights."""
    register()
    config = composed([f"+exp={exp}", "benchmark=world"])
    model, data = instantiate(config.model), instantiate(config.data)
    return vlp_bench.Calibration(model.eval(), data.calibration(), seed=0), content_hash(config.model.weights)


def error(calibration: vlp_bench.Calibration, products: Mapping[str, Tensor], found: Solution) -> float:
    """Mean over the layers of the share of their output's energy that a solution loses."""
    shares = []
    for name, mask in found.masks.items():
        layer = calibration.layers[name]
        dense, own = calibration.original(layer).double(), layer.from_stored(mask)
        kept = layer.from_stored(found.weights[name]) if name in found.weights else dense
        lost, second = dense - kept.double() * own, products[name].double()
        shares.append(float(((lost @ second) * lost).sum() / ((dense @ second) * dense).sum()))
    return sum(shares) / len(shares)


def rows(exp: str) -> Iterator[dict[str, Any]]:
    """One a choice and kind of values, as soon as it is there."""
    calibration, weights = calibrated(exp)
    products = calibration[InputProducts("corrected")]
    for allocate, solve in CHOICES:
        for values in ("", FIT):
            options = {"allocate": allocate, "solve": solve} | ({"values": values} if values else {})
            found = vlp_bench.prune(calibration.model, "omp", SPARSITY, calibration, options=options)
            yield {"exp": exp, "sparsity": SPARSITY, "allocate": allocate, "solve": solve, "values": values,
                   "error": round(error(calibration, products, found), 5), "weights": weights, "commit": commit()[0],
                   "torch": torch.__version__}  # fmt: skip


def main() -> None:
    """Measure the experiments of the command line, and keep the rows."""
    torch.set_num_threads(1)
    for exp in sys.argv[1:] or ["xvlm_itr", "blip_itr"]:
        found = []
        for row in rows(exp):
            print(exp, row["allocate"], "×", row["solve"], row["values"] or "own values", row["error"], flush=True)
            found.append(row)
        before = pd.read_csv(FILE, keep_default_na=False) if FILE.is_file() else pd.DataFrame(columns=list(found[0]))
        kept = before.loc[before["exp"].ne(exp), :]
        pd.concat([part for part in (kept, pd.DataFrame(found)) if len(part)]).to_csv(FILE, index=False)


if __name__ == "__main__":
    main()
