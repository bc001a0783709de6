"""Many specifications are those that each command line would have by itself, and are composed together."""

import pytest

from vlp_bench.runs.specification import specification_of
from vlp_bench.runs.terminal import conf
from vlp_bench.sweeps import specifications as module
from vlp_bench.sweeps.expand import cells_of
from vlp_bench.sweeps.grid import Grid
from vlp_bench.sweeps.specifications import specifications, specifications_of


def alone(words):
    """As a run composes itself."""
    return specification_of(words)


@pytest.fixture
def composed(monkeypatch):
    """The words that were composed."""
    seen = []
    monkeypatch.setattr(module, "composed", lambda words: seen.append(words) or conf.composed(words))
    return seen


def test_runs_that_differ_in_numbers_are_composed_once_and_are_what_each_is_alone(composed):
    words = [
        ["+exp=xvlm_itr", f"pruner={pruner}", f"sparsity={sparsity}", *more, f"seed={seed}"]
        for pruner in ("omp", "dense")
        for more in ([], ["recipe.epochs=1"])
        for sparsity in ("0.5", "0.63", "0", "1e-05")
        for seed in (0, 3)
    ]
    together = list(specifications_of(words))
    assert len(composed) == 4
    assert len({one.run for one in together}) == 2 * (4 * 2 + 2)
    for own, one in list(zip(words, together, strict=True))[::3]:
        assert one == alone(own)
        assert one.overrides == tuple(own)
        assert one.command(seed=7) == alone(own).command(seed=7)


def test_a_grid_and_a_multirun_are_composed_once_a_pruner(composed):
    specifications(Grid(("omp", "lamp"), (0.5, 0.9), (0, 1, 2), 1, ("+exp=xvlm_itr",)))
    assert len(composed) == 2
    found = cells_of(["+exp=xvlm_itr", "pruner=omp,lamp", "sparsity=0.5,0.9", "seed=range(0,3)"])
    assert len(composed) == 4
    assert {c.specification.config["seed"] for c in found} == {0, 1, 2}
    assert {c.words[-1] for c in found} == {"seed=0", "seed=1", "seed=2"}


@pytest.mark.parametrize("word", ["seed=${sparsity}", 'sparsity="0.5"', "seed=null", "++seed=1"])
def test_what_is_no_plain_number_is_composed_as_it_is(composed, word):
    key = word.lstrip("+").partition("=")[0]
    rest = [w for w in ("sparsity=0.5", "seed=0") if not w.startswith(f"{key}=")]

    def outcome(make):
        try:
            return make()
        except Exception as error:
            return type(error), str(error)

    words = ["+exp=xvlm_itr", "pruner=omp", *rest, word]
    assert outcome(lambda: next(iter(specifications_of([words])))) == outcome(lambda: alone(words))
