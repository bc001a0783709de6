"""CHITA and CHITA++ against the masks and weights that the released program recorded, of the whole run."""

import zlib

import numpy as np
import pytest
import torch

import vlp_bench
from tests.parity import toyvlm

SPARSITIES = {"s63": 0.63, "s75": 0.75, "s90": 0.9}
RUNS = {
    "chita_lambda0.1": ("chita", {"ridge": 0.1}),
    "chita_lambda10": ("chita", {"ridge": 10.0}),
    "chitapp_lambda0.1": ("chita_pp", {"ridge": 0.1, "steps": 3, "batches_per_step": 2}),
}


@pytest.fixture(scope="module")
def recorded():
    return np.load(toyvlm.DATA / "toyvlm_chita.npz")


@pytest.fixture(scope="module")
def order():
    return np.load(toyvlm.DATA / "toyvlm_pruned.npz")["param_order"]


def flat(tensors, order):
    return np.concatenate([tensors[str(name)].numpy().ravel() for name in order])


def rounds_as_recorded():
    """Whether float32 products have the bits here that they had where the arrays were recorded: kernels differ."""
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((6, 3000), dtype=np.float32))
    return zlib.crc32((x @ x.T).tobytes()) == 0x8584ED80


@pytest.mark.parametrize("memory_gb", [8.0, 0.0005])
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("compat", ["official", "corrected"])
def test_masks_and_weights(recorded, order, run, memory_gb, compat):
    """The line search never fails here, and nothing is exactly zero: both modes give the recorded answer.

    The released program rounds the products of its exact solver to float32, which moves single small weights by up to
    1e-3 of their size, and sums them up in the order of the weights' sizes. Official mode does the same, so every
    weight is within 1e-4 (most have the same bits) where the processor multiplies as the recording one did. Corrected
    mode solves in float64: 2e-5 apart in length, and in CHITA++ at 63 %, whose last threshold falls between weights
    3e-6 apart, one pair changes places.
    """
    model, batches = toyvlm.load()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    name, options = RUNS[run]
    found = vlp_bench.prune(
        model, name, [*SPARSITIES.values()], batches, options={"compat": compat, "memory_gb": memory_gb, **options}
    )
    exact = compat == "official" and rounds_as_recorded()
    for key, sparsity in SPARSITIES.items():
        solution = found[sparsity]
        mask = flat(solution.masks, order)
        total = len(mask)
        kept = int((1 - sparsity) * total) if compat == "official" else round((1 - sparsity) * total)
        assert solution.kept == kept
        differ = int((np.unpackbits(recorded[f"{run}/{key}/mask"], count=total) != mask).sum())
        rounded = abs(kept - int((1 - sparsity) * total))  # the released code truncates the budget at every stage
        assert differ <= rounded + (2 if not exact and (name, key) == ("chita_pp", "s63") else 0)
        if key != "s63" and not rounded:
            w, expected = flat(solution.weights, order)[mask], recorded[f"{run}/{key}/w"]
            assert np.linalg.norm(w - expected) <= (2e-6 if exact else 2e-5) * np.linalg.norm(expected)
            assert np.all(np.abs(w - expected) <= 1e-4 * (np.abs(expected) if exact else np.abs(expected).max()))
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
