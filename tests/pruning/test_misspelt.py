"""A name that is almost right is answered with the right one."""

import pytest

import vlp_bench
from tests.pruning.toys import TwoModalities, labelled, sequential
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.spelling import did_you_mean


@pytest.mark.parametrize(
    "given, meant",
    [
        ("Wanda", "wanda"), ("sparse_gpt", "sparsegpt"), ("multi-flow", "multiflow"), ("MULTIFLOW", "multiflow"),
        ("OMP", "omp"), ("wnada", "wanda"), ("ecoflap first", "ecoflap_first"), ("chita++", "chita"),
    ],
)  # fmt: skip
def test_pruners(given, meant):
    with pytest.raises(ValueError, match=rf"unknown pruner .*; did you mean {meant}\b") as error:
        vlp_bench.prune(sequential(), given, 0.5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, meant",
    [
        ({"Compat": "official"}, "compat"), ({"solve": "Wanda"}, "wanda"), ({"allocate": "uni-form"}, "uniform"),
        ({"solve.witin": "output"}, "solve.within"), ({"sweep": "block-by-block"}, "block_by_block"),
        ({"num-batchs": 2}, "num_batches"), ({"compat": "Official"}, "official"),
    ],
)  # fmt: skip
def test_options(options, meant):
    with pytest.raises(ValueError, match=rf"; did you mean {meant}\b"):
        vlp_bench.prune(sequential(), "wanda", 0.5, options=options)


def test_modalities_and_parts():
    with pytest.raises(ValueError, match=r"use one of vision, text, or None; did you mean vision\?"):
        vlp_bench.prune(sequential(), "multiflow", 0.5, labelled(), TwoModalities(), {"modality": "Vison"})
    with pytest.raises(ValueError, match=r"has no alocate: .*; did you mean allocate\?"):
        vlp_bench.Pruner(alocate=Uniform(), solve=KeepTop(lambda *_: None))


def test_what_is_like_nothing_is_not_guessed_at():
    assert did_you_mean("zzzz", ["omp", "wanda"]) == did_you_mean("", ["omp"]) == did_you_mean("--", ["omp"]) == ""
    assert did_you_mean(None, ["none", "omp"]) == "; did you mean none?"
