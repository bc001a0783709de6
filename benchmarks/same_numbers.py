"""Do all pruners still find the same masks? Record before a change, compare after it: not one bit may move.

    python benchmarks/same_numbers.py record before.json
    python benchmarks/same_numbers.py compare before.json

Every pruner of conf/pruner at two sparsities on the embedded world's XVLM and BLIP, corrected and (where it is an
option) official, from six calibration batches. Same machine, same number of threads: sums depend on both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hydra.utils import instantiate

import vlp_bench
from vlp_bench.runs.specification import register
from vlp_bench.runs.terminal.conf import composed

CONF = Path(__file__).resolve().parents[1] / "conf"
SPARSITIES = (0.63, 0.9)
BATCHES = 6
FEW: dict[str, dict[str, Any]] = {
    "itersnip": {"batches_per_step": 2, "steps": 3},
    "obd": {"steps": 3},
    "chita_pp": {"batches_per_step": 3, "steps": 2, "ridge": 0.01},
    "chita": {"ridge": 0.01},
}


def pruners() -> list[str]:
    return sorted(path.stem for path in (CONF / "pruner").glob("*.yaml"))


def digest(tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def found(experiment: str, only: list[str]) -> dict[str, Any]:
    register()
    config = composed([f"+exp={experiment}", "benchmark=mini"])
    model, data = instantiate(config.model), instantiate(config.data)
    batches = []
    for batch in data.calibration():
        batches.append(batch)
        if len(batches) == BATCHES:
            break
    shared = vlp_bench.Calibration(model, batches, seed=0)
    results = {}
    for name in only or pruners():
        for compat in ("corrected", "official"):
            options = dict(FEW.get(name, {})) | ({"compat": compat} if compat == "official" else {})
            try:
                answers: Any = vlp_bench.prune(model, name, list(SPARSITIES), shared, options=options)
            except ValueError as reason:
                results[f"{experiment} {name} {compat}"] = f"ValueError: {reason}"
                print(experiment, name, compat, reason, flush=True)
                continue
            for sparsity, solution in answers.items():
                results[f"{experiment} {name} {compat} {sparsity}"] = {
                    "masks": digest(solution.masks),
                    "weights": digest(solution.weights),
                    "kept": solution.kept,
                }
            print(experiment, name, compat, {s: a.kept for s, a in answers.items()}, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--models", nargs="+", default=["xvlm_itr", "blip_itr"])
    parser.add_argument("--pruners", nargs="*", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    now = {key: value for experiment in given.models for key, value in found(experiment, given.pruners).items()}
    if given.what == "record":
        given.file.write_text(json.dumps(now, indent=1))
        return
    before = json.loads(given.file.read_text())
    moved = [key for key in now if key in before and before[key] != now[key]]
    missing = [key for key in before if key not in now] if not given.pruners else []
    print(f"{len(now)} compared, {len(moved)} differ, {len(missing)} missing")
    for key in moved + missing:
        print(f"  {key}: {before[key]} -> {now.get(key)}")
    sys.exit(bool(moved or missing))


if __name__ == "__main__":
    main()
