"""The losses on numbers worked out by hand, and the laws of drawing negatives."""

import math

import pytest
import torch

from vlp_bench.models.losses import (
    box_losses,
    contrastive,
    corners,
    generalized_iou,
)
from vlp_bench.models.negatives import draw, hard_negatives, negative_weights

ONE = torch.tensor(1.0)


def features(rows, width=8, seed=0):
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_contrastive_of_two_orthogonal_pairs():
    eye = torch.eye(2)
    expected = math.log(1 + math.exp(-1 / 0.5))  # logits 2 for the pair, 0 for the other
    assert contrastive(eye, eye, torch.tensor(0.5)).item() == pytest.approx(expected, rel=1e-6)


def test_contrastive_without_information_is_the_log_of_the_batch():
    same = torch.ones(5, 1)
    assert contrastive(same, same, ONE).item() == pytest.approx(math.log(5), rel=1e-6)


def test_two_captions_of_one_image_share_the_target():
    images, texts = torch.eye(2)[[0, 0, 1]], torch.eye(2)[[0, 0, 1]]
    idx = torch.tensor([7, 7, 9])
    pair = 1 - math.log(2 * math.e + 1)  # log probability of each of the two positives
    single = 1 - math.log(math.e + 2)
    assert contrastive(images, texts, ONE, idx).item() == pytest.approx(-(2 * pair + single) / 3, rel=1e-6)


def test_identities_that_all_differ_change_nothing():
    a, b = features(6), features(6, seed=1)
    torch.testing.assert_close(contrastive(a, b, ONE, torch.arange(6)), contrastive(a, b, ONE))


def test_temperature_sharpens_and_receives_a_gradient():
    temp = torch.tensor(0.1, requires_grad=True)
    loss = contrastive(torch.eye(3), torch.eye(3), temp)
    loss.backward()
    assert loss < contrastive(torch.eye(3), torch.eye(3), ONE)
    assert temp.grad is not None
    assert temp.grad > 0


def test_half_precision_features_are_compared_in_float32():
    a, b = features(6), features(6, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive(a, b, ONE), contrastive(a, b, ONE).float())
        under = contrastive(a, b, ONE)
    assert torch.equal(under, contrastive(a, b, ONE))


def test_negative_weights_by_hand():
    logits = torch.tensor([[0.0, math.log(2.0), math.log(5.0)]] * 3)
    weights = negative_weights(logits, torch.eye(3, dtype=torch.bool), uniform=3.0)
    expected = torch.tensor([[0, 1.25, 1.625], [1.125, 0, 1.625], [1.125, 1.25, 0]])
    torch.testing.assert_close(weights, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 2.0])
def test_negatives_never_show_the_same_image(uniform):
    idx = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4])
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        image, text = hard_negatives(
            features(8), features(8, seed=1), torch.tensor(0.01), idx, uniform=uniform, generator=generator
        )
        assert (idx[image] != idx).all()
        assert (idx[text] != idx).all()


def test_negatives_prefer_the_similar_and_uniform_weight_spreads_them():
    images = torch.tensor([[1.0, 0], [0.95, 0.3122], [-1, 0], [0, 1]])
    drawn = {uniform: [] for uniform in (0.0, 10.0)}
    for uniform, rows in drawn.items():
        for seed in range(60):
            generator = torch.Generator().manual_seed(seed)
            rows.append(
                hard_negatives(images, images, torch.tensor(0.05), uniform=uniform, generator=generator)[0][0].item()
            )
    assert set(drawn[0.0]) == {1}
    assert set(drawn[10.0]) == {1, 2, 3}


def test_one_generator_one_draw():
    args = (features(8), features(8, seed=1), ONE)
    first = hard_negatives(*args, generator=torch.Generator().manual_seed(5))
    again = hard_negatives(*args, generator=torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_drawing_all_rows_at_once_is_the_released_row_by_row_draw():
    weights = torch.rand(7, 7)
    at_once = draw(weights, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert at_once.tolist() == [torch.multinomial(row, 1, generator=generator).item() for row in weights]


@pytest.mark.parametrize("idx", [torch.tensor([4]), torch.tensor([4, 4, 4])])
def test_a_batch_of_one_image_has_no_negatives(idx):
    with pytest.raises(ValueError, match="batch size of at least 2"):
        hard_negatives(features(len(idx)), features(len(idx)), ONE, idx)


def test_corners_of_a_box():
    assert corners(torch.tensor([[0.5, 0.5, 0.5, 0.25]])).tolist() == [[0.25, 0.375, 0.75, 0.625]]


@pytest.mark.parametrize(
    "other, expected",
    [
        ([0, 0, 2, 2], 1.0),  # the same
        ([1, 0, 3, 2], 2 / 6),  # half shared, hull = union
        ([2, 0, 4, 2], 0.0),  # touching
        ([3, 0, 5, 2], -2 / 10),  # a gap of 2 in a hull of 10
        ([1, 1, 3, 3], 1 / 7 - 2 / 9),  # across a corner
        ([0, 0, 1, 1], 1 / 4),  # inside
    ],
)
def test_generalized_iou_by_hand(other, expected):
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([other], dtype=torch.float32)
    assert generalized_iou(a, b).item() == pytest.approx(expected, abs=1e-6)
    assert generalized_iou(b, a).item() == pytest.approx(expected, abs=1e-6)


def test_empty_boxes_give_a_finite_loss_and_gradient():
    predicted = torch.zeros(1, 4, requires_grad=True)
    total = torch.stack(list(box_losses(predicted, torch.zeros(1, 4)).values())).sum()
    total.backward()
    assert total.isfinite()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_box_losses_count_the_boxes_that_are_regions():
    target = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    predicted = torch.tensor([[0.6, 0.5, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]])
    found = box_losses(predicted, target, torch.tensor([0, 1]))
    assert found["bbox"].item() == pytest.approx(0.1, abs=1e-6)
    assert found["giou"].item() == pytest.approx(1 - 0.2 / 0.3, abs=1e-5)


def test_a_batch_without_regions_has_no_box_loss():
    found = box_losses(torch.rand(2, 4), torch.rand(2, 4), torch.ones(2))
    assert [value.item() for value in found.values()] == [0, 0]


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(0)])
def test_draws_are_made_on_the_processor_wherever_the_features_are(monkeypatch, generator):
    """A stand-in for weights on an accelerator: they come here, and what was drawn goes there."""

    class There(torch.Tensor):
        device = torch.device("cuda", 0)

        def to(self, device):
            went.append(torch.device(device).type)
            return self.as_subclass(torch.Tensor) if went[-1] == "cpu" else self

    went, multinomial = [], torch.multinomial

    def drawn(weights, count, generator=None):
        assert type(weights) is torch.Tensor
        return multinomial(weights, count, generator=generator).as_subclass(There)

    monkeypatch.setattr(torch, "multinomial", drawn)
    weights = torch.rand(6, 6)
    torch.manual_seed(0)
    found = draw(weights.as_subclass(There), generator).as_subclass(torch.Tensor)
    assert went == ["cpu", "cuda"]
    expected = multinomial(weights, 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    assert found.tolist() == expected.tolist()


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU; without one tests/pruning/test_another_device.py asks it"
)
def test_the_same_seed_draws_the_same_for_every_device():
    weights = torch.rand(64, 64)
    torch.manual_seed(5)
    here = draw(weights)
    torch.manual_seed(5)
    assert draw(weights.cuda()).tolist() == here.tolist()
