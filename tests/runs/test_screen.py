"""The end of a run: what its numbers are shown beside."""

import io
import re
from dataclasses import replace

from rich.console import Console

from tests.results.test_row import ORIGIN
from vlp_bench.models.checkpoints.locations import content_hash
from vlp_bench.results.row import Row
from vlp_bench.results.store import Store
from vlp_bench.runs import screen


def test_a_run_as_shipped_ends_beside_recorded_rows_and_a_picture(specified):
    """Rows as the demo stores them, beside the shipped ones."""
    console = Console(file=io.StringIO(), width=160)
    weights = content_hash("pkg://vlp_bench/assets/xvlm_shapes.safetensors")
    base = specified("sparsity=0.9")
    shipped = replace(base, overrides=("+exp=xvlm_itr", "pruner=multiflow", "sparsity=0.9"), weights=weights)
    store, identity = Store(shipped.out / "runs"), shipped.identity()
    rows = [Row(metric=m, value=0.8, split="test", provenance=ORIGIN, rows=2, **identity) for m in ("txt_r1", "img_r1")]
    store.append(shipped.name, rows)
    screen.result(console, shipped, store)
    seen = " ".join(console.file.getvalue().split())
    assert "dense (recorded) change omp (recorded) change" in seen
    assert "91.80 -91.00" in seen  # seed 0's dense row of docs/results.csv
    assert "the model has collapsed" in seen
    assert "85.40 at 63 %" in seen
    assert re.search(r"recorded there for multiflow: [89]\d\.\d\d at 63 %", seen)
    assert "vlp-bench run +exp=xvlm_itr pruner=multiflow sparsity=0.9 benchmark=world" in seen
    assert (shipped.folder / "sparsity.png").is_file()
    assert not base.as_shipped  # another recipe has nothing to be held against
    assert screen._recorded(base).empty
