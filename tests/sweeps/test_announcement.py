"""How long many runs will take is said before they begin: by stored runs like them, else by recorded ones."""

from statistics import median

import pandas as pd
import pytest

from vlp_bench.results.recorded import PLACES
from vlp_bench.results.store import Store
from vlp_bench.runs.specification import specification_of
from vlp_bench.sweeps.announcement import announcement

AS_SHIPPED = ("+exp=xvlm_itr", "benchmark=mini")


@pytest.fixture
def cells(tmp_path):
    """Words to add -> four cells that differ in seed."""
    return lambda *words: [
        specification_of([*AS_SHIPPED, f"seed={seed}", f"paths.out={tmp_path}", *words]) for seed in range(4)
    ]


def test_recorded_runs_tell_the_time_where_none_is_stored(cells):
    four = cells()
    file = next(place for place in PLACES["mini"] if place.is_file())
    rows = pd.read_csv(file).query("exp == 'xvlm_itr' and split == 'test'").drop_duplicates("run")
    minutes = median(rows["seconds"]) * 4 / 2 / 60
    assert announcement(four, four, 2) == (
        f"4 runs: 0 stored already, 4 to compute with 2 processes; about {minutes:.0f} min, by the median of "
        f"{len(rows)} recorded runs on other processors"
    )
    assert announcement(four, [], 1) == "4 runs: 4 stored already, 0 to compute with 1 process"


def test_what_is_not_known_is_said_and_a_rehearsal_takes_seconds(cells, tiny_weights):
    unlike = cells(f"model.weights={tiny_weights}")
    assert announcement(unlike, unlike[:1], 1).endswith(
        "1 to compute with 1 process; how long is not known, no run like them is stored"
    )
    rehearsed = cells("rehearse=true")
    assert announcement(rehearsed, rehearsed, 1) == "4 runs: 0 stored already, 4 to compute with 1 process"


def test_stored_runs_come_first_and_long_times_are_hours(cells, monkeypatch):
    frame = pd.DataFrame(
        [
            {"exp": "xvlm_itr", "benchmark": "mini", "run": run, "seconds": s}
            for run, s in (("a", 3600.0), ("b", 5400.0))
        ]
        + [{"exp": "xvlm_ic", "benchmark": "mini", "run": "c", "seconds": 1.0}]
    )
    monkeypatch.setattr(Store, "query", lambda self: frame)
    four = cells()
    assert announcement(four, four, 1).endswith("; about 5.0 h, by the median of 2 stored runs")
