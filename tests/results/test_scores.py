"""Score distributions: a pruner's own scores from what a run has stored, and thresholds that are ones."""

import numpy as np
import pytest
import torch

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning import another_sparsity as stored_scores
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.results.report import material, scores


def pruned(tmp_path, name, sparsity=0.5):
    model = sequential()
    shared = Calibration(model, labelled())
    solution = vlp_bench.prune(model, name, sparsity, shared)
    stored = stored_scores.write(tmp_path / "scores", shared)
    return Solution.load(solution.save(tmp_path / "mask")), stored, model, shared


@pytest.mark.parametrize("name", ["snip", "multiflow", "lamp", "random"])
def test_the_kept_weights_have_the_larger_scores(name, tmp_path):
    solution, stored, model, _ = pruned(tmp_path, name)
    own = scores.own(solution, stored, model)
    for layer, mask in solution.masks.items():
        assert own[layer].shape == mask.shape
        kept, removed = own[layer][mask.numpy()], own[layer][~mask.numpy()]
        assert kept.min(initial=np.inf) >= removed.max(initial=-np.inf)


def test_snips_scores_by_hand(tmp_path):
    solution, stored, model, shared = pruned(tmp_path, "snip")
    own = scores.own(solution, stored, model)
    for name, gradient in shared.gradients().items():
        expected = (model.get_parameter(name).detach() * gradient).abs()
        torch.testing.assert_close(torch.from_numpy(own[name]), expected)
    mask = material.mask_of(solution, "snip", 0.5, ())
    kept = min(own[name][bits.numpy()].min() for name, bits in solution.masks.items() if bits.any())
    assert scores.threshold(own, mask) == pytest.approx(float(kept))


@pytest.mark.parametrize("name", ["wanda", "itersnip", "sparsegpt"])
def test_masks_that_follow_from_no_score_of_the_dense_model_show_none(name, tmp_path):
    solution, stored, model, _ = pruned(tmp_path, name)
    assert scores.own(solution, stored, model) is None


def test_magnitudes_are_no_scores_of_their_own(tmp_path):
    solution, stored, model, _ = pruned(tmp_path, "omp")
    assert scores.own(solution, stored, model) is None
    weights = {name: model.get_parameter(name).detach().numpy() for name in solution.masks}
    assert scores.threshold(weights, material.mask_of(solution, "omp", 0.5, ())) > 0


def test_layers_cut_at_different_places_have_no_threshold(tmp_path):
    solution, stored, model, _ = pruned(tmp_path, "multiflow")
    own = scores.own(solution, stored, model)
    assert scores.threshold(own, material.mask_of(solution, "multiflow", 0.5, ())) is None


def test_scores_of_other_weights_are_refused(tmp_path):
    solution, stored, _, _ = pruned(tmp_path, "snip")
    with pytest.raises(ValueError, match="is of other weights"):
        scores.own(solution, stored, sequential(seed=1))
    stored.write_bytes(stored.read_bytes()[:50])
    with pytest.raises(ValueError, match="truncated or no file of scores"):
        scores.own(solution, stored, sequential())


def test_a_block_of_zeros_has_no_quantiles():
    weights = {"a": np.zeros(4), "b": np.array([-1.0, 1.0, 0.0])}
    found = scores.quantiles(weights, {"a": "text · 0", "b": "text · 1"})
    assert list(found) == ["text · 1"]
    assert found["text · 1"].tolist() == [1.0] * 5
