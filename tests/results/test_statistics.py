"""Statistics: values worked out by hand or known from tables."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.results.test_row import ORIGIN, row
from vlp_bench.results import statistics
from vlp_bench.results.store import Store


@pytest.fixture
def frame(tmp_path):
    """At 0.9: OMP 60, 62, 64 and LAMP 61, 64, 67 over three seeds; SNIP failed twice and has 50 once; dense 80."""
    store = Store(tmp_path)

    def add(pruner, seed, value, sparsity=0.9, **columns):
        run = f"{pruner}{seed}"
        line = row(run=run, value=value, pruner=pruner, sparsity=sparsity, seed=seed, setting=f"s{seed}",
                   provenance=ORIGIN, **columns)  # fmt: skip
        store.append(run, [line])

    for seed, (omp, lamp) in enumerate(((60.0, 61.0), (62.0, 64.0), (64.0, 67.0))):
        add("omp", seed, omp)
        add("lamp", seed, lamp)
        add("dense", seed, 80.0, sparsity=0.0)
    add("snip", 0, 50.0)
    for seed in (1, 2):
        add("snip", seed, math.nan, metric="r_mean", status="ERR", message="lost")
    return store.query()


def only(table, **equal):
    for column, value in equal.items():
        table = table[table[column] == value]
    [found] = table.to_dict("records")
    return found


def test_mean_deviation_and_t_interval_of_three_seeds(frame):
    found = only(statistics.summary(frame, ["txt_r1"]), pruner="omp")
    assert (found["mean"], found["std"], found["seeds"], found["failed"]) == (62.0, 2.0, 3, 0)
    half = 4.302652729911275 * 2 / math.sqrt(3)  # t of 0.975 with two degrees of freedom
    assert found["low"] == pytest.approx(62 - half)
    assert found["high"] == pytest.approx(62 + half)


def test_failed_runs_are_counted_and_stay_out_of_the_mean(frame):
    found = only(statistics.summary(frame, ["txt_r1"]), pruner="snip")
    assert (found["mean"], found["seeds"], found["failed"]) == (50.0, 1, 2)
    assert math.isnan(found["std"])
    assert math.isnan(found["low"])


def test_a_pruner_that_always_failed_has_a_line_without_a_mean(frame):
    lost = frame.assign(status=frame["status"].where(frame["pruner"] != "snip", "ERR"))
    found = only(statistics.summary(lost, ["txt_r1"]), pruner="snip")
    assert math.isnan(found["mean"])
    assert (found["seeds"], found["failed"]) == (0, 3)


def test_differences_are_paired_by_seed(frame):
    found = only(statistics.differences(frame, "omp", ["txt_r1"]), pruner="lamp")
    assert (found["mean"], found["std"], found["seeds"]) == (2.0, 1.0, 3)  # of 1, 2 and 3
    # t = 2 / (1 / sqrt 3) = 3.4641 with two degrees of freedom
    assert found["p"] == pytest.approx(0.0741799, abs=1e-6)


def test_dense_is_the_baseline_of_every_sparsity(frame):
    found = only(statistics.differences(frame, "dense", ["txt_r1"]), pruner="omp")
    assert (found["mean"], found["sparsity"]) == (-18.0, 0.9)


def test_seeds_that_share_a_setting_are_paired_by_seed(frame):
    """Of a model that is measured as it is: three pairs, not nine; its one dense model is that of every seed."""
    alone = frame.loc[(frame["pruner"] != "dense") | (frame["seed"] == 0), :].assign(setting="s")
    found = only(statistics.differences(alone, "omp", ["txt_r1"]), pruner="lamp")
    assert (found["mean"], found["std"], found["seeds"]) == (2.0, 1.0, 3)
    found = only(statistics.differences(alone, "dense", ["txt_r1"]), pruner="omp")
    assert (found["mean"], found["seeds"]) == (-18.0, 3)


def test_a_missing_baseline_is_named(frame):
    with pytest.raises(ValueError, match=r"baseline 'wanda'; there are dense, lamp, omp, snip"):
        statistics.differences(frame, "wanda", ["txt_r1"])


def test_crossed_seeds_tell_where_the_spread_comes_from(frame):
    omp = frame[frame["pruner"] == "omp"].assign(pruning_seed=0)
    again = omp.assign(pruning_seed=1, value=omp["value"] + 10)
    found = only(statistics.by_seed(pd.concat([omp, again])), pruner="omp")
    assert found["std_pruning"] == pytest.approx(math.sqrt(50))  # of 62 and 72
    assert found["std_tuning"] == pytest.approx(2.0)  # of 65, 67 and 69


def test_runs_that_share_a_seed_are_not_independent(frame):
    """Three pruning seeds ten points apart, three fine-tuning seeds two apart: nine runs, three of either kind."""
    omp, lamp = (frame[frame["pruner"] == name] for name in ("omp", "lamp"))
    crossed = [
        omp.assign(pruning_seed=n, value=omp["value"] + 10 * n, setting=omp["setting"] + str(n)) for n in (0, 1, 2)
    ]
    found = only(statistics.summary(pd.concat(crossed), ["txt_r1"]), pruner="omp")
    assert found["seeds"] == 3
    half = 4.302653 * 10 / math.sqrt(3)  # of 62, 72 and 82; of the nine runs as they are it would be 6.7
    assert (found["low"], found["high"]) == pytest.approx((72 - half, 72 + half), abs=1e-3)
    crossed += [
        lamp.assign(pruning_seed=n, value=lamp["value"] + 16 * n, setting=lamp["setting"] + str(n)) for n in (0, 1, 2)
    ]
    found = only(statistics.differences(pd.concat(crossed), "omp", ["txt_r1"]), pruner="lamp")
    assert (found["mean"], found["seeds"]) == (8.0, 3)  # 2, 8 and 14 by pruning seed: t = 8 / (6 / sqrt 3) = 2.3094
    assert found["p"] == pytest.approx(0.1471, abs=1e-4)


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 -> 0.04, 0.06, 0.06, 0.04 -> monotone
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])


def test_holm_leaves_what_was_not_tested():
    found = statistics.holm([math.nan, 0.02, 0.01])
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx([0.02, 0.02])


def test_mcnemar_by_hand():
    first = np.array([True] * 8 + [False] * 2 + [True] * 5)
    second = np.array([False] * 8 + [True] * 2 + [True] * 5)
    found = statistics.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (8, 2)
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 2**10)  # two-sided tail of ten fair coins
    assert statistics.mcnemar(first, first).p == 1.0


def test_mcnemar_refuses_other_than_right_and_wrong():
    with pytest.raises(ValueError, match="float64"):
        statistics.mcnemar(np.zeros(3), np.zeros(3))


def test_bootstrap_covers_the_difference_and_is_reproducible():
    rng = np.random.default_rng(0)
    second = rng.normal(size=400)
    first = second + rng.normal(1.0, 0.5, size=400)
    found = statistics.paired_bootstrap(first, second, draws=2000)
    assert found == statistics.paired_bootstrap(first, second, draws=2000)
    assert found.low < 1.0 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)  # pairing removes what they share


def test_captions_of_one_image_are_drawn_together():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(100), 5)
    first = np.repeat(rng.normal(size=100), 5)  # the five are copies: no more is known than with one
    alone = statistics.paired_bootstrap(first, np.zeros(500), draws=2000)
    together = statistics.paired_bootstrap(first, np.zeros(500), clusters=clusters, draws=2000)
    assert (alone.units, together.units) == (500, 100)
    widths = [found.high - found.low for found in (together, alone)]
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(5), rel=0.15)
    assert together.difference == alone.difference


def test_equal_differences_have_no_interval():
    found = statistics.paired_bootstrap(np.arange(5.0) + 2, np.arange(5.0))
    assert found.difference == 2.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(("seeds", "step"), [(1, 1.0), (2, 1.0), (3, 0.0), (2, 0.0)])
def test_few_seeds_or_seeds_without_spread_give_no_interval_and_no_p(frame, seeds, step):
    few = frame[frame["seed"] < seeds]
    moved = few.assign(value=few["value"].where(few["pruner"] != "lamp", 70 + step * few["seed"]))
    same = moved.assign(value=moved["value"].where(moved["pruner"] != "omp", 60.0))
    found = only(statistics.differences(same, "omp", ["txt_r1"]), pruner="lamp")
    assert (found["mean"], found["seeds"]) == (10 + step * (seeds - 1) / 2, seeds)
    assert all(math.isnan(found[name]) for name in ("low", "high", "p", "p_holm"))
    mean = only(statistics.summary(same, ["txt_r1"]), pruner="lamp")
    assert math.isnan(mean["low"])
    assert math.isnan(mean["high"])


@pytest.mark.parametrize(("first", "second"), [(np.ones(3), np.ones(4)), (np.ones(1), np.ones(1))])
def test_bootstrap_refuses_what_cannot_be_paired(first, second):
    with pytest.raises(ValueError, match="got"):
        statistics.paired_bootstrap(first, second)


@pytest.fixture
def matrix():
    """Three pruners in seven cells; c failed in the last."""
    a = np.array([5.0, 6, 7, 8, 9, 10, 11])
    values = {"a": a, "b": a + np.arange(1, 8), "c": np.append(a[:-1] - 1, -np.inf)}
    return pd.DataFrame(values, index=[f"cell {i}" for i in range(7)])


def test_average_ranks_put_a_failed_cell_last(matrix):
    table = statistics.average_ranks(matrix)
    assert table["pruner"].tolist() == ["b", "a", "c"]
    assert table["rank"].tolist() == [1.0, 2.0, 3.0]
    assert table["failed"].tolist() == [0, 0, 1]


def test_tied_pruners_share_a_rank():
    table = statistics.average_ranks(pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 3.0]}))
    assert dict(zip(table["pruner"], table["rank"], strict=True)) == {"b": 1.25, "a": 1.75}


def finished(**columns):
    """Test rows at 0.5, of one seed where none is said."""
    given = {"benchmark": "mini", "sparsity": 0.5, "metric": "x", "seed": 0, "split": "test", "status": "ok"}
    frame = pd.DataFrame({**given, **columns})
    seeds = frame["exp"] + frame["seed"].astype(str)
    return frame.assign(setting=seeds, run=frame["pruner"] + seeds, value=frame["value"].astype(float))


def over_models(models):
    """Baseline a is 10 everywhere; b is ahead by 1 to 2 in each of `models`, which have two cells each."""
    rows = [
        (f"{model}_{task}", pruner, value)
        for model in models
        for task, values in {"itr": (10, 11, 10), "vqa": (10, 12, np.nan)}.items()
        for pruner, value in zip("abc", values, strict=True)
    ]
    exps, pruners, values = zip(*rows, strict=True)
    status = ["ERR" if np.isnan(value) else "ok" for value in values]
    return finished(exp=exps, pruner=pruners, value=values, status=status)


@pytest.fixture
def of_few_seeds():
    """a and b have three seeds, of which a wins each; c has seed 0 alone, where it lies between them."""
    pruners, seeds = [*"aaabbbc"], [0, 1, 2, 0, 1, 2, 0]
    return finished(exp="xvlm_itr", pruner=pruners, seed=seeds, value=[50, 20, 20, 40, 10, 10, 45])


def test_a_model_is_one_observation():
    table = statistics.clustered(over_models(["blip", "clip", "dino", "xvlm"]), "a", ["x"])
    best = only(table, pruner="b")
    assert (best["cells"], best["models"], best["ahead"], best["median"]) == (8, 4, 4, 1.5)
    assert best["p"] == best["p_holm"] == 2 / 2**4  # both ways to turn all four signs, of sixteen
    lost = only(table, pruner="c")
    assert (lost["cells"], lost["models"], lost["ahead"]) == (4, 4, 0)  # a failed cell has no difference
    assert np.isnan(lost["p"])  # no difference anywhere


def test_few_models_reach_no_small_p_however_many_cells_they_have():
    assert only(statistics.clustered(over_models(["blip", "xvlm"]), "a", ["x"]), pruner="b")["p"] == 0.5
    assert np.isnan(only(statistics.clustered(over_models(["blip"]), "a", ["x"]), pruner="b")["p"])


def test_a_missing_baseline_over_cells_is_named():
    with pytest.raises(ValueError, match=r"no test rows of the baseline 'omp'; there are a, b, c"):
        statistics.clustered(over_models(["blip"]), "omp", ["x"])


def test_ranks_compare_the_seeds_that_all_have(of_few_seeds):
    """Over their own seeds c would be first (45 against 30 and 20): its seed is the easy one."""
    shared = statistics.over_shared_seeds(of_few_seeds)
    assert shared["seed"].tolist() == [0, 0, 0]
    ranks = statistics.average_ranks(statistics.cells(statistics.summary(shared, ["x"])))
    assert ranks["pruner"].tolist() == ["a", "c", "b"]
    failed = finished(exp="xvlm_itr", pruner=["d"], value=[np.nan], status="ERR")  # has finished nothing: no say
    shared = statistics.over_shared_seeds(pd.concat([of_few_seeds[of_few_seeds["pruner"] != "c"], failed]))
    ranks = statistics.average_ranks(statistics.cells(statistics.summary(shared, ["x"])))
    assert (len(shared), ranks["pruner"].tolist(), ranks["failed"].tolist()) == (7, ["a", "b", "d"], [0, 0, 1])


def test_crossed_seeds_are_shared_as_pairs(of_few_seeds):
    crossed = of_few_seeds.assign(pruning_seed=[0, 0, 0, 0, 0, 0, 1])
    assert statistics.over_shared_seeds(crossed).empty
    two = crossed[crossed["pruner"] != "c"]
    assert len(statistics.over_shared_seeds(two)) == 6


def test_differences_over_cells_are_of_the_seeds_that_both_have(of_few_seeds):
    table = statistics.clustered(of_few_seeds, "a", ["x"])
    assert dict(zip(table["pruner"], table["median"], strict=True)) == {"c": -5.0, "b": -10.0}


def test_cells_of_a_summary(frame):
    matrix = statistics.cells(statistics.summary(frame, ["txt_r1"]))
    assert matrix.columns.tolist() == ["lamp", "omp", "snip"]  # dense is in no cell: nothing is removed
    assert matrix["omp"].tolist() == [62.0]


# A grid of two choices


def test_two_way_shares_out_the_spread_of_a_grid():
    """Rows -1, 0, 1 times 2 and columns -1, 0, 1 add up: 3·(4 + 4) = 24 and 3·(1 + 1) = 6 of 30, nothing left."""
    grid = pd.DataFrame(np.add.outer([-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]) + 50)
    found = statistics.two_way(grid)
    assert (found.rows, found.columns, found.rest) == pytest.approx((0.8, 0.2, 0.0))
    assert np.isnan(found.p_rows)
    assert found.rows_range[0] < 0.8 < found.rows_range[1]


def test_two_way_agrees_with_an_f_test_by_hand():
    grid = pd.DataFrame([[1.0, 2.0, 4.0], [2.0, 4.0, 5.0], [6.0, 5.0, 9.0], [7.0, 9.0, 9.0]])
    values = grid.to_numpy()
    rows = 3 * ((values.mean(1) - values.mean()) ** 2).sum()
    columns = 4 * ((values.mean(0) - values.mean()) ** 2).sum()
    whole = ((values - values.mean()) ** 2).sum()
    residual = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    found = statistics.two_way(grid)
    assert (found.rows, found.columns) == pytest.approx((rows / whole, columns / whole))
    assert found.rest == pytest.approx((residual**2).sum() / whole)
    f = (rows / 3) / ((residual**2).sum() / 6)
    assert found.p_rows == pytest.approx(stats.f.sf(f, 3, 6))


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (pd.DataFrame(np.ones((2, 5))), "at least 3 rows and 3 columns, got (2, 5)"),
        (pd.DataFrame([[1.0, 2, np.nan], [1, 2, 3], [1, 2, 3]]), "every cell"),
        (pd.DataFrame(np.ones((3, 3))), "all cells of the grid are equal"),
    ],
)
def test_two_way_refuses_what_it_cannot_share_out(grid, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        statistics.two_way(grid)


def test_of_perplexity_the_smaller_is_better(tmp_path):
    store = Store(tmp_path)
    for pruner, value in (("omp", 30.0), ("wanda", 20.0)):
        line = row(run=pruner, value=value, metric="perplexity", pruner=pruner, sparsity=0.5, provenance=ORIGIN)
        store.append(pruner, [line])
    matrix = statistics.cells(statistics.summary(store.query(), ["perplexity"]))
    assert statistics.average_ranks(matrix)["pruner"].tolist() == ["wanda", "omp"]
    [ahead] = statistics.clustered(store.query(), "omp", ["perplexity"]).to_dict("records")
    assert (ahead["pruner"], ahead["ahead"], ahead["median"]) == ("wanda", 1, 10.0)
