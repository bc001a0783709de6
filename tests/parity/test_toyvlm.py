"""Every pruner against what the released program kept on the same network and batches."""

import numpy as np
import pytest
import torch

import vlp_bench
from tests.parity import toyvlm
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.catalogue import load
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.solvers.keep_top import KeepTop
from vlp_bench.pruning.statistics.calibration import Calibration

SPARSITIES = {"s63": 0.63, "s75": 0.75, "s90": 0.9}
BY_MODALITY = {"allocate": "magnitude_by_modality", "allocate.hand_over": "counts"}
PRUNERS = {
    "omp": ("omp", {}),
    "omp_local": ("lmp", {}),
    "omp_modality": ("omp", BY_MODALITY),
    "l2": ("l2", {}),
    "lamp": ("lamp", {}),
    "snip": ("snip", {}),
    "multiflow": ("multiflow", {}),
}


@pytest.fixture(scope="module")
def recorded():
    return np.load(toyvlm.DATA / "toyvlm_pruned.npz")


@pytest.fixture(scope="module")
def toy():
    return toyvlm.load()


@pytest.fixture(scope="module")
def calibration(toy):
    return Calibration(*toy)


def flat(recorded, tensors):
    return np.concatenate([tensors[str(name)].numpy().ravel() for name in recorded["param_order"]])


def mismatches(recorded, key, solution):
    kept = flat(recorded, solution.masks)
    return int((np.unpackbits(recorded[key], count=len(kept)) != kept).sum())


def test_layers_come_in_the_recorded_order(recorded, calibration):
    assert list(calibration.layers) == list(recorded["param_order"])


@pytest.mark.parametrize("name", PRUNERS)
def test_official_masks_are_those_of_the_released_program(recorded, toy, calibration, name):
    pruner, options = PRUNERS[name]
    found = vlp_bench.prune(
        toy[0], pruner, list(SPARSITIES.values()), calibration, options={"compat": "official", **options}
    )
    for key, sparsity in SPARSITIES.items():
        assert mismatches(recorded, f"{name}/{key}/mask", found[sparsity]) == 0
        assert 1 - found[sparsity].sparsity == pytest.approx(float(recorded[f"{name}/{key}/kept_fraction"]), abs=1e-7)


def test_official_threshold_on_recorded_random_scores(recorded, toy, calibration):
    scores, start = {}, 0
    for name in map(str, recorded["param_order"]):
        shape = calibration.layers[name].weight.shape
        stop = start + shape.numel()
        scores[name] = torch.from_numpy(recorded["rand/s63/score"][start:stop]).view(shape)
        start = stop

    def given(layer, calibration):
        return scores[layer.name]

    pruner = Pruner(allocate=GlobalThreshold(given, compat="official"), solve=KeepTop(given, compat="official"))
    assert mismatches(recorded, "rand/s63/mask", pruner.prune(toy[0], 0.63, calibration)) == 0


def test_iterative_snip_on_its_own_batches_at_every_step(recorded, toy):
    model, batches = toy
    before = {name: p.clone() for name, p in model.named_parameters()}
    options = {"compat": "official", "steps": 3, "batches_per_step": 2}
    found = vlp_bench.prune(model, "itersnip", list(SPARSITIES.values()), batches, options=options)
    for key, sparsity in SPARSITIES.items():
        assert mismatches(recorded, f"itersnip/{key}/mask", found[sparsity]) == 0
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_losses_and_gradient_sums(recorded, toy, calibration):
    gradients = {name: gradient * 6 for name, gradient in calibration.gradients().items()}
    np.testing.assert_allclose(calibration.losses, recorded["snip/losses"], rtol=1e-5)
    expected = recorded["snip/gradsum"]
    assert np.abs(flat(recorded, gradients) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.linalg.norm(flat(recorded, gradients) - expected) <= 1e-5 * np.linalg.norm(expected)


def test_input_norms_with_the_released_region_mask(recorded, calibration):
    norms = calibration.norms(compat="official")
    for name in map(str, recorded["param_order"]):
        np.testing.assert_allclose(norms[name].square().numpy(), recorded[f"multiflow/actn_norm/{name}"], rtol=1e-5)


def test_corrected_norms_count_the_words_of_regions(toy, calibration):
    official, corrected = calibration.norms(compat="official"), calibration.norms()
    for name, layer in calibration.layers.items():
        reads_words = layer.place.modality != "vision" and "value" not in name
        assert torch.equal(official[name], corrected[name]) != reads_words
        if reads_words:
            assert (corrected[name] > official[name]).all()


def test_multiflow_ratios(recorded, toy, calibration):
    pruner = load("multiflow", {"compat": "official", "allocate.hand_over": "counts"})
    for key, sparsity in SPARSITIES.items():
        budgets = pruner.allocate(calibration, sparsity)
        for name, kept in budgets.items():
            assert 1 - kept / calibration.layers[name].size == recorded[f"multiflow/{key}/layer_sparsity/{name}"]
