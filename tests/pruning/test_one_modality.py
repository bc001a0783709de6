"""MULTIFLOW for one modality, with few images, and turned round."""

import pytest

import vlp_bench
from tests.pruning.toys import TwoModalities, labelled, sequential
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.statistics.calibration import Calibration


def pruned(name, sparsity=0.5, batches=None, **options):
    return vlp_bench.prune(sequential(), name, sparsity, batches or labelled(), TwoModalities(), options)


def test_only_the_modality_is_pruned_and_counted():
    """MULTIFLOW decides for each modality on its own, so one alone has the mask it has among others."""
    whole = pruned("multiflow")
    for modality, names in (("vision", ["0.weight"]), ("text", ["2.weight", "4.weight"])):
        part = pruned("multiflow", modality=modality)
        assert list(part.masks) == names
        assert part.kept == round(0.5 * part.total)
        assert all(part.masks[name].equal(whole.masks[name]) for name in names)
        assert part.report["settings"]["modality"] == modality


def test_a_shared_calibration_serves_one_modality_too():
    model = sequential()
    shared = Calibration(model, labelled(), TwoModalities())
    part = vlp_bench.prune(model, "multiflow", 0.5, shared, options={"modality": "text"})
    assert len(part.masks) == 2
    assert len(vlp_bench.prune(model, "multiflow", 0.5, shared).masks) == 3


def test_unknown_modalities_and_methods_without_the_option_are_refused():
    with pytest.raises(ValueError, match=r"no layer of modality 'audio': use one of vision, text, or None"):
        pruned("multiflow", modality="audio")
    with pytest.raises(ValueError, match="pruner 'omp' has no option 'modality'"):
        pruned("omp", modality="text")


def test_128_images_are_four_batches_of_32():
    assert catalogue.load("multiflow_128").num_batches == 4
    many = labelled(batches=6, rows=32)
    few = pruned("multiflow_128", batches=many)
    assert all(few.masks[n].equal(m) for n, m in pruned("multiflow", batches=many[:4]).masks.items())


@pytest.mark.parametrize("compat", ["corrected", "official"])
def test_the_inverted_mask_keeps_what_multiflow_removes(compat):
    """At half the weights it is the complement; the budgets of the layers are the same at every sparsity."""
    inverted = pruned("multiflow_inverted", compat=compat)
    for name, mask in pruned("multiflow", compat=compat).masks.items():
        if 2 * int(mask.sum()) == mask.numel():
            assert inverted.masks[name].equal(~mask)
    for sparsity in (0.3, 0.8):
        ours, other = (pruned(n, sparsity, compat="corrected") for n in ("multiflow_inverted", "multiflow"))
        assert {n: int(m.sum()) for n, m in ours.masks.items()} == {n: int(m.sum()) for n, m in other.masks.items()}
        both = [int((ours.masks[n] & m).sum()) for n, m in other.masks.items()]
        least = [max(0, 2 * int(m.sum()) - m.numel()) for m in other.masks.values()]
        assert both == least  # no weight is kept by both that needn't be


def test_the_complement_of_a_mask():
    solution = pruned("multiflow", 0.8)
    other = solution.inverted()
    assert all(other.masks[name].equal(~mask) for name, mask in solution.masks.items())
    assert other.kept == other.report["kept"] == solution.total - solution.kept
    assert other.report["method"] == "multiflow, inverted"
    assert other.table()[-1].kept == other.kept
