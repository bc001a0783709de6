import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning.solvers.train_masks import TrainMasks, _threshold


def test_threshold_by_hand():
    weights = {"a": torch.tensor([1.0, -5.0, 3.0]), "b": torch.tensor([-2.0, 4.0])}
    assert [_threshold(weights, kept) for kept in range(5)] == [5.0, 4.0, 3.0, 2.0, 1.0]


def test_start_by_hand():
    weights = {"a": torch.tensor([1.0, -5.0, 3.0, 4.0])}
    original = TrainMasks()._start(weights, {"a": 2})["a"]
    assert original.tolist() == pytest.approx([0.0, 0.02, 0.0, 0.02])
    released = TrainMasks(compat="official")._start(weights, {"a": 2})["a"]
    assert released.tolist() == [0.0, 6.0, 6.0, 6.0]  # twice the threshold 3; at the threshold too


def one_layer():
    model = nn.Sequential(nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.linspace(-1, 1, 18).view(3, 6))
    return model


def test_one_step_is_a_signed_step_along_gradient_times_weight():
    """Adam's first step is the learning rate times the sign of the gradient, which reaches removed weights too."""
    model, (batch,) = one_layer(), labelled(1)
    w = model[0].weight.detach().clone()
    first = TrainMasks()._start({"w": w}, {"w": 9})["w"]
    masked = (w * (first > 0.01)).requires_grad_(True)
    gradient = torch.autograd.grad(F.cross_entropy(F.linear(batch[0], masked), batch[1]), masked)[0]
    expected = first - 1.0 * torch.sign(gradient * w)
    solution = vlp_bench.prune(model, "tamt", 0.5, [batch], options={"solve.lr": 1.0})
    mask = solution.masks["0.weight"]
    assert mask.sum() == 9
    assert expected[mask].min() >= expected[~mask].max() - 1e-3
    assert (mask & (first == 0)).any()


def test_the_original_learns_and_the_released_one_stays_with_the_largest():
    largest = vlp_bench.prune(sequential(), "lmp", 0.5).masks
    options = {"solve.lr": 0.01}
    batches = labelled(8)
    original = vlp_bench.prune(sequential(), "tamt", 0.5, batches, options=options)
    released = vlp_bench.prune(sequential(), "tamt", 0.5, batches, options=options | {"compat": "official"})
    differ = {name: (original.masks[name] ^ mask).sum().item() for name, mask in largest.items()}
    assert sum(differ.values()) > 10
    # the released one starts from all that reach the layer's threshold, in place of all that exceed it
    assert all((released.masks[name] & ~mask).sum() <= 2 for name, mask in largest.items())


def test_too_few_steps_to_move_a_mask_are_told(caplog):
    """Adam's steps of 5e-5 falling to 0 can't close a gap of 0.02 in 8 batches; steps of 0.01 can."""
    largest = vlp_bench.prune(sequential(), "lmp", 0.5).masks

    def moved(**options):
        masks = vlp_bench.prune(sequential(), "tamt", 0.5, labelled(8), options=options).masks
        return sum(int((mask ^ largest[name]).sum()) for name, mask in masks.items())

    assert moved() <= len(largest)  # budgets that are rounded in another layer
    assert "in 8 steps, from lr 5e-05 down to 0, no weight overtook another" in caplog.text
    assert "0.00023 in all, and those that are kept start 0.02 above the others: give it some 400" in caplog.text
    caplog.clear()
    assert moved(**{"solve.lr": 0.01}) > 10
    assert "overtook" not in caplog.text


def test_learning_lowers_the_loss():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=g)
    y = (x @ torch.randn(6, 3, generator=g)).argmax(1)
    model = sequential(3)

    def loss(masks):
        w = {f"{name}": model.get_parameter(name).detach() * mask for name, mask in masks.items()}
        return float(F.cross_entropy(torch.func.functional_call(model, w, x), y).detach())

    learnt = vlp_bench.prune(model, "tamt", 0.5, [(x, y)] * 100, options={"solve.lr": 1e-3})
    assert loss(learnt.masks) < loss(vlp_bench.prune(model, "lmp", 0.5).masks) - 0.02


def test_dropout_is_on_and_everything_is_as_before():
    modes = []

    class Notes(vlp_bench.PlainAdapter):
        def loss(self, model, batch):
            modes.append(model.training)
            return super().loss(model, batch)

    model = sequential().eval()
    before, state = {n: p.detach().clone() for n, p in model.named_parameters()}, torch.get_rng_state()
    vlp_bench.prune(model, "tamt", 0.5, labelled(), Notes())
    assert modes == [True] * 3
    assert not model.training
    assert all(p.equal(before[n]) for n, p in model.named_parameters())
    assert torch.get_rng_state().equal(state)


def test_bad_settings():
    with pytest.raises(ValueError, match=r"lr must be positive, got 0"):
        TrainMasks(lr=0.0)
