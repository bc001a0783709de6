import pytest
import torch

import vlp_bench
from tests.pruning.toys import Tied, labelled, sequential
from vlp_bench.pruning import scores
from vlp_bench.pruning.statistics.calibration import Calibration


def close(a, b):
    torch.testing.assert_close(a, torch.as_tensor(b))


def test_share_of_norm_by_hand():
    close(scores.share_of_norm(torch.tensor([[3.0, -4.0]])), [[0.6, 0.8]])
    assert scores.share_of_norm(torch.zeros(2, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_lamp_by_hand():
    close(scores.share_of_rest(torch.tensor([[2.0, -1.0], [1.0, 0.0]])), [[1.0, 1 / 6], [1 / 5, 0.0]])
    assert scores.share_of_rest(torch.zeros(3, 1)).flatten().tolist() == [0.0, 0.0, 0.0]


def test_lamp_orders_as_magnitude_within_a_layer():
    w = torch.randn(20, 30)
    assert torch.equal(scores.share_of_rest(w).flatten().argsort(), w.abs().flatten().argsort())


def test_flow_by_hand():
    w, norm = torch.tensor([[1.0, -2.0], [0.0, 4.0]]), torch.tensor([1.0, 0.5])
    # edges: [[1, 1], [0, 2]]; outputs 1, 1; inputs 0.5, 1.5
    close(scores.flow(w, norm), [[0.5, 3.0], [0.0, 6.0]])
    close(scores.nodes(w, norm), [[0.5, 1.5], [0.5, 1.5]])


def test_data_driven_scores_by_definition():
    model = sequential()
    calibration = Calibration(model, labelled())
    layer = calibration.layers["2.weight"]
    norm = calibration.norms()["2.weight"].float()
    w, g = layer.matrix, calibration.gradients()["2.weight"]
    close(scores.snip(layer, calibration), (w * g).abs())
    close(scores.wanda(layer, calibration), w.abs() * norm)
    close(scores.multiflow(layer, calibration), scores.flow(w, norm))
    close(scores.multiflow_nodes(layer, calibration), scores.nodes(w, norm))


def test_ria_by_hand():
    model = torch.nn.Linear(2, 2)
    model.weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 2.0]]))
    calibration = Calibration(model, [torch.tensor([[2.0, -1.0]])])  # lengths 2 and 1; their roots √2 and 1
    layer = calibration.layers["weight"]
    shares = [[1 / 4 + 1 / 3, 2 / 4 + 2 / 3], [3 / 4 + 3 / 5, 2 / 4 + 2 / 5]]  # of columns and of rows
    expected = torch.tensor(shares) * torch.tensor([2**0.5, 1.0])
    close(scores.ria(layer, calibration), expected)
    assert (expected - torch.tensor([[0.8250, 1.1667], [1.9092, 0.9000]])).abs().max() < 1e-4  # of the released code
    close(scores.ria(layer, calibration, exponent=0.0), shares)
    with torch.no_grad():
        model.weight *= 3
    close(scores.ria(layer, calibration), expected)  # whatever the scale of the weights


def test_ria_is_zero_in_dead_rows_and_columns():
    w = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    close(scores.relative_importance(w), [[0.0, 0.0, 0.0], [0.0, 1 + 1 / 4, 1 + 3 / 4]])


def test_ria_ranks_within_the_matrix_and_official_takes_one_weight_more():
    options = {"solve.score.exponent": 0.25}
    found = vlp_bench.prune(sequential(), "ria", 0.5, labelled(), options=options)
    assert [layer["kept"] for layer in found.report["layers"].values()] == [30, 35, 10]
    assert found.report["settings"]["solve"]["score"]["exponent"] == 0.25
    official = vlp_bench.prune(sequential(), "ria", 0.5, labelled(), options={"compat": "official"})
    assert [layer["kept"] for layer in official.report["layers"].values()] == [29, 34, 10]  # int(0.5 · 21) + 1 of 21 go


def test_random_scores_belong_to_seed_and_layer():
    layers = Calibration(Tied()).layers
    state = torch.get_rng_state()
    first = scores.random(layers["encoder.weight"], None, seed=3)
    assert first.equal(scores.random(layers["encoder.weight"], None, seed=3))
    assert not first.equal(scores.random(layers["encoder.weight"], None, seed=4))
    assert not first[:3].equal(scores.random(layers["head.weight"], None, seed=3))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "name", ["magnitude", "l2_normalised", "lamp", "snip", "wanda", "multiflow", "multiflow_nodes", "ria"]
)
def test_scores_have_the_shape_of_the_weights_and_are_not_negative(name):
    calibration = Calibration(sequential().bfloat16(), [(x.bfloat16(), y) for x, y in labelled()])
    for layer in calibration.layers.values():
        found = getattr(scores, name)(layer, calibration)
        assert found.shape == layer.weight.shape
        assert found.dtype == torch.float32
        assert (found >= 0).all()
