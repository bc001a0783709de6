"""Wanda against the masks that ECoFLaP's released code made of one 24 x 40 layer."""

import numpy as np
import pytest
import torch
from torch import nn

import vlp_bench
from tests.parity.toyvlm import DATA
from vlp_bench.batch import Place


@pytest.fixture(scope="module")
def recorded():
    with np.load(DATA / "ecoflap_wanda.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def model(recorded):
    layer = nn.Linear(40, 24, bias=False)
    layer.weight = nn.Parameter(recorded["weight"])
    return nn.Sequential(layer)


def batches(recorded, name):
    if name == "ragged":
        return [recorded[f"ragged_inputs/{i}"] for i in range(5)]
    return [recorded["batched_input"]] if name == "batched" else list(recorded["batched_input"].split(1))


SETS = ["ragged", "batched", "batched_one_by_one"]


@pytest.mark.parametrize("name", SETS)
def test_statistics(recorded, model, name):
    norms = vlp_bench.Calibration(model, batches(recorded, name)).norms()["0.weight"]
    torch.testing.assert_close(norms.square().float(), recorded[f"{name}/scaler_row"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("rule, within", [("row", "output"), ("matrix", "matrix")])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.55, 0.7])
def test_official_masks(recorded, model, name, rule, within, sparsity):
    options = {"compat": "official", "solve.within": within}
    solution = vlp_bench.prune(model, "wanda", sparsity, batches(recorded, name), options=options)
    assert solution.masks["0.weight"].equal(~recorded[f"{name}/prune_mask_{rule}_{sparsity}"])


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.55, 0.7])
def test_corrected_masks_are_the_same_per_row_and_keep_the_weight_the_matrix_rule_loses(
    recorded, model, name, sparsity
):
    rows, matrix = (
        vlp_bench.prune(model, "wanda", sparsity, batches(recorded, name), options={"solve.within": within})
        for within in ("output", "matrix")
    )
    assert rows.masks["0.weight"].equal(~recorded[f"{name}/prune_mask_row_{sparsity}"])
    lost = matrix.masks["0.weight"] & recorded[f"{name}/prune_mask_matrix_{sparsity}"]
    assert lost.sum() == 1
    assert matrix.kept == round((1 - sparsity) * 960)


@pytest.mark.parametrize("modality, rule", [("vision", "matrix"), ("text", "row"), ("all", "row")])
@pytest.mark.parametrize("pruner", ["wanda", "ecoflap", "ecoflap_first"])
def test_official_masks_are_by_matrix_in_vision_towers_and_by_row_elsewhere(recorded, model, modality, rule, pruner):
    class Tower(vlp_bench.PlainAdapter):
        def place(self, name):
            return Place(modality, name)

        def loss(self, model, batch):
            return model(batch).square().mean()

    options = {"compat": "official"}
    solution = vlp_bench.prune(model, pruner, 0.55, batches(recorded, "batched"), Tower(), options)
    assert solution.masks["0.weight"].equal(~recorded[f"batched/prune_mask_{rule}_0.55"])
    assert solution.report["compat"] == "official"
