import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.pruning.toys import Tied, labelled, sequential
from vlp_bench.batch import Batch
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.statistics import gradients, inputs
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputNorms, sum_of_squares


def close(a, b):
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-8)


def test_sum_of_squares_by_hand():
    x = torch.tensor([[[1.0, 2.0], [float("nan"), 3.0]], [[0.0, 1.0], [2.0, 2.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    assert sum_of_squares(x, mask).tolist() == [5.0, 9.0]


@pytest.mark.parametrize("rows", [1, 9, 10, 288, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sums_in_pieces_are_those_of_the_whole(monkeypatch, rows, dtype):
    monkeypatch.setattr(inputs, "CACHED", 64)  # 9 rows at a time, 288 before float64
    x = torch.randn(rows, 7).to(dtype)
    torch.testing.assert_close(sum_of_squares(x), x.double().square().sum(0), rtol=1e-6, atol=0)


def test_sizes_in_pieces_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr(gradients, "CACHED", 16)
    model = sequential()
    layers = Calibration(model).layers
    for layer in layers.values():
        g = torch.randn(layer.weight.shape)
        flowing = (g * layer.weight.detach()).double()
        expected = [g.double().abs().sum(), flowing.abs().sum(), flowing.square().sum()]
        found = gradients.GradientSizes().measure(layer, g).tolist()
        assert found == pytest.approx([float(size) for size in expected], rel=1e-6)


def test_norms_of_a_plain_model():
    model, batches = sequential(), labelled()
    norms = Calibration(model, batches).norms()
    x = torch.cat([x for x, _ in batches])
    close(norms["0.weight"], x.square().mean(0).sqrt())
    close(norms["2.weight"], F.gelu(model[0](x)).square().mean(0).sqrt().detach())


def test_gradients_are_the_mean_over_batches():
    model, batches = sequential(), labelled()
    calibration = Calibration(model, batches)
    expected = torch.zeros(10, 6)
    for x, y in batches:
        expected += torch.autograd.grad(F.cross_entropy(model(x), y), model[0].weight)[0]
    close(calibration.gradients()["0.weight"], expected / 3)
    assert len(calibration.losses) == 3


def test_parts_of_a_batch_are_averaged():
    model, (a, b) = sequential(), labelled(2)
    parts, whole = Calibration(model, [[a, b]]), Calibration(model, [a, b])
    close(parts.gradients()["0.weight"], whole.gradients()["0.weight"])
    close(parts.norms()["2.weight"], whole.norms()["2.weight"])
    assert parts.losses == pytest.approx([loss / 2 for loss in whole.losses])


def test_a_list_of_tensors_is_one_batch():
    model, batches = sequential(), labelled()
    close(
        Calibration(model, [list(b) for b in batches]).norms()["0.weight"],
        Calibration(model, batches).norms()["0.weight"],
    )


def test_a_tied_layer_sees_both_inputs():
    model, (x, _) = Tied(), labelled(1)[0]
    second = model.encoder(x).tanh() * 2
    norms = Calibration(model, [x]).norms()
    close(norms["encoder.weight"], ((x.square().sum(0) + second.square().sum(0)) / 10).sqrt().detach())


class Shared(nn.Module):
    """Three projections of one tensor."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.q(x) + self.k(x) + self.v(x * 2)


class Masked(PlainAdapter):
    def __init__(self, mask):
        self.mask = mask

    def token_mask(self, batch, name, tokens):
        return self.mask if name.startswith("q") else None


def test_one_sum_per_distinct_input(monkeypatch):
    calls = []
    monkeypatch.setattr(inputs, "sum_of_squares", lambda x, mask=None: calls.append(x) or sum_of_squares(x, mask))
    x = torch.randn(2, 3, 4)
    norms = Calibration(Shared(), [x]).norms()
    assert len(calls) == 2
    close(norms["v.weight"], 2 * norms["q.weight"])


def test_layers_with_different_masks_do_not_share_a_sum():
    x = torch.ones(2, 3, 4)
    norms = Calibration(Shared(), [x], Masked(torch.tensor([[1, 1, 0], [1, 0, 0]]))).norms()
    assert norms["q.weight"].tolist() == [1.5**0.5] * 4  # 3 tokens of 2 rows
    assert norms["k.weight"].tolist() == [3.0**0.5] * 4


def test_a_tensor_changed_in_place_is_summed_again():
    class InPlace(Shared):
        def forward(self, x):
            y = self.q(x)
            x *= 3
            return y + self.k(x) + self.v(x)

    norms = Calibration(InPlace(), [torch.ones(2, 4)]).norms()
    assert norms["q.weight"].tolist() == [1.0] * 4
    assert norms["k.weight"].tolist() == [3.0] * 4


@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_attention(batch_first):
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    nn.init.normal_(attention.out_proj.bias)

    class Self(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    x = torch.randn(3, 5, 8)
    weight = attention.out_proj.weight.detach().clone()
    norms = Calibration(Self(), [x]).norms()
    rows = 3 if batch_first else 5
    close(norms["attention.in_proj_weight"], (x.square().sum((0, 1)) / rows).sqrt())
    before = (Self()(x) - attention.out_proj.bias) @ torch.linalg.inv(weight).t()
    torch.testing.assert_close(
        norms["attention.out_proj.weight"].square(),
        before.square().sum((0, 1)).detach().double() / rows,
        rtol=1e-3,
        atol=1e-4,
    )
    assert torch.equal(attention.out_proj.weight, weight)


def test_packed_cross_attention_is_refused_by_name():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            return self.attention(x, x * 2, x * 2)[0]

    with pytest.raises(ValueError, match=r"'attention.in_proj_weight' can't be seen: it packs three projections"):
        Calibration(Cross(), [torch.randn(3, 5, 8)]).norms()


def test_separate_projections_of_attention_see_their_own_inputs():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)

        def forward(self, x):
            return self.attention(x, value=x[..., :4] * 3, key=x[..., :4] * 2)[0]

    norms = Calibration(Cross(), [torch.ones(5, 3, 8)]).norms()
    found = {name.split(".")[1]: norm[0].square().item() for name, norm in norms.items() if "proj_weight" in name}
    assert found == pytest.approx({"q_proj_weight": 5.0, "k_proj_weight": 20.0, "v_proj_weight": 45.0})


def test_conv1d_gradients_and_norms_are_those_of_a_linear_layer():
    conv, linear = Conv1D(3, 6), nn.Linear(6, 3)
    with torch.no_grad():
        linear.weight.copy_(conv.weight.t())
        linear.bias.copy_(conv.bias)
    a, b = Calibration(nn.Sequential(conv), labelled()), Calibration(nn.Sequential(linear), labelled())
    close(a.gradients()["0.weight"], b.gradients()["0.weight"])
    close(a.norms()["0.weight"], b.norms()["0.weight"])


def test_a_weight_read_by_an_unknown_module_is_refused_by_name():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, 3))

        def forward(self, x):
            return x @ self.w.t()

    class All(PlainAdapter):
        def prunable(self, model):
            return ["w"]

    calibration = Calibration(Own(), [torch.ones(2, 3)], All())
    with pytest.raises(ValueError, match="inputs of 'w' can't be seen: Own"):
        calibration.norms()


def test_a_layer_no_batch_reaches_is_named():
    model = sequential()
    model.unused = nn.Linear(2, 2)
    model.forward = lambda x: model[0](x)
    with pytest.raises(ValueError, match=r"no calibration batch reaches '2.weight'"):
        Calibration(model, labelled()).norms()


class Noisy(PlainAdapter):
    """Draws from torch's global generator, as losses with sampled negatives do."""

    def loss(self, model, batch):
        return super().loss(model, batch) * torch.rand(())


def state_of(model):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        [len(m._forward_pre_hooks) for m in model.modules()],
        [len(getattr(p, "_post_accumulate_grad_hooks", None) or {}) for p in model.parameters()],
        [p.detach().clone() for p in model.parameters()],
        torch.get_rng_state(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a is b or a == b


def used_model():
    model = nn.Sequential(*sequential(), nn.Dropout(0.5))
    model[2].eval()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones(10, 6)
    return model


def test_everything_is_as_before():
    model = used_model()
    before = state_of(model)
    calibration = Calibration(model, labelled(), Noisy())
    calibration.norms()
    calibration.gradients()
    assert same(before, state_of(model))


@pytest.mark.parametrize("question", ["norms", "gradients"])
def test_everything_is_as_before_after_a_failure(question):
    class Breaks(PlainAdapter):
        def encode(self, model, batch):
            super().encode(model, batch)
            raise KeyError("broken")

        def loss(self, model, batch):
            super().loss(model, batch).backward()
            raise KeyError("broken")

    model = used_model()
    before = state_of(model)
    with pytest.raises(KeyError, match="broken"):
        getattr(Calibration(model, labelled(), Breaks()), question)()
    assert same(before, state_of(model))


def test_losses_draw_from_the_seed_alone():
    model = sequential()
    first = Calibration(model, labelled(), Noisy(), seed=5)
    torch.rand(3)
    again, other = Calibration(model, labelled(), Noisy(), seed=5), Calibration(model, labelled(), Noisy(), seed=6)
    assert first.gradients()["0.weight"].equal(again.gradients()["0.weight"])
    assert not first.gradients()["0.weight"].equal(other.gradients()["0.weight"])


def test_answers_are_remembered_and_stages_forget():
    calibration = Calibration(sequential(), labelled())
    assert calibration.norms() is calibration.norms()
    assert calibration.gradients() is calibration.gradients()
    assert calibration[InputNorms()] is calibration.norms()
    assert calibration[InputNorms("official")] is not calibration.norms()
    assert calibration.stage(1).norms() is not calibration.norms()


def test_stages_see_their_own_batches():
    model, batches = sequential(), labelled(4)
    stage = Calibration(model, batches).stage(1, 2)
    close(stage.norms()["0.weight"], Calibration(model, batches[2:]).norms()["0.weight"])


def test_num_batches(caplog):
    model, batches = sequential(), labelled(4)
    close(
        Calibration(model, batches, num_batches=2).norms()["0.weight"],
        Calibration(model, batches[:2]).norms()["0.weight"],
    )
    Calibration(model, batches, num_batches=9).norms()
    assert "9 calibration batches were asked for, the set has only 4" in caplog.text
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        Calibration(model, batches, num_batches=0)


def test_data_hash_tells_batches_apart():
    model = sequential()
    first, again, other = (Calibration(model, labelled(seed=seed)) for seed in (1, 1, 2))
    for calibration in (first, again, other):
        calibration.norms()
    assert first.data_hash == again.data_hash != other.data_hash


def test_bad_calibration_sets():
    model = sequential()
    with pytest.raises(ValueError, match="calibration set is empty"):
        Calibration(model, []).norms()
    with pytest.raises(ValueError, match="empty after the first 3 batches"):
        Calibration(model, labelled(3)).stage(1, 3).gradients()
    with pytest.raises(ValueError, match="can be read only once"):
        Calibration(model, iter(labelled()))
    with pytest.raises(ValueError, match="pass calibration=batches"):
        Calibration(model).norms()
    with pytest.raises(ValueError, match="no loss for a batch of type Tensor"):
        Calibration(model, [torch.ones(2, 6)]).gradients()


def test_nan_in_the_data_is_reported_with_its_batch():
    batches = labelled()
    batches[1][0][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"inputs of '0.weight' in calibration batch 1 hold NaN"):
        Calibration(sequential(), batches).norms()
    with pytest.raises(ValueError, match="the loss of calibration batch 1 is nan"):
        Calibration(sequential(), batches).gradients()


def test_infinite_gradients_are_reported_with_their_layer():
    class Root(PlainAdapter):
        def loss(self, model, batch):
            return model[0].weight.sum() * 0 + (model[2].weight[0, 0] * 0).sqrt()

    with pytest.raises(ValueError, match=r"gradients of '2.weight' in calibration batch 0 hold NaN"):
        Calibration(sequential(), labelled(), Root()).gradients()


def test_half_precision_models_add_up_in_float32():
    model = sequential().bfloat16()
    batches = [(x.bfloat16(), y) for x, y in labelled()]
    calibration = Calibration(model, batches)
    assert calibration.gradients()["0.weight"].dtype == torch.float32
    assert calibration.norms()["0.weight"].dtype == torch.float64


def test_only_prunable_weights_get_gradients_that_are_kept():
    """What the model would train asks for gradients too (reentrant checkpointing needs them); they are dropped."""
    model, seen = sequential(), []
    model[0].bias.requires_grad_(False)

    class Watches(PlainAdapter):
        def prunable(self, model):
            return ["2.weight"]

        def loss(self, model, batch):
            seen.append([name for name, p in model.named_parameters() if not p.requires_grad])
            assert all(p.grad is None for p in model.parameters())
            return super().loss(model, batch)

    assert list(Calibration(model, labelled(2), Watches()).gradients()) == ["2.weight"]
    assert seen == [["0.bias"], ["0.bias"]]


def test_a_mapping_is_called_by_keyword():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x, labels):
            return {"loss": F.cross_entropy(self.linear(x), labels)}

    model = Keywords()
    batches = [{"x": x, "labels": y} for x, y in labelled()]
    assert Calibration(model, batches).gradients()["linear.weight"].abs().sum() > 0
    assert PlainAdapter().rows(batches[0]) == 5


def test_region_batches_of_the_released_code_count_only_word_one():
    from vlp_bench.pruning.statistics.batches import as_released

    ids = torch.tensor([[1, 4, 1], [2, 3, 4]])
    region = Batch(torch.zeros(1, 3, 2, 2), ids, torch.ones(2, 3), idx_to_group_img=torch.zeros(2))
    general = Batch(torch.zeros(2, 3, 2, 2), ids, torch.ones(2, 3))
    assert as_released(region).text_atts.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert as_released(general) is general
    assert region.text_atts.sum() == 6


def test_official_norms_of_a_shared_weight_are_those_of_its_first_reader():
    """An encoder and a decoder of one weight: the released MULTIFLOW records it in the encoder alone.

    (1 + 9) / 2 rows and 4 / 2 rows of the encoder.
    """
    model, x = Tied(), torch.tensor([[1.0, 0, 0, 0, 0, 2.0], [3.0, 0, 0, 0, 0, 0]])
    calibration = Calibration(model, [x])
    decoded = (model.encoder(x).tanh() * 2).detach()
    official, corrected = calibration.norms(compat="official"), calibration.norms()
    torch.testing.assert_close(
        official["encoder.weight"] ** 2, torch.tensor([5.0, 0, 0, 0, 0, 2.0]).double()
    )  # (1 + 9) / 2 rows, 4 / 2 rows
    expected = torch.cat([x, decoded]).double().square().sum(0) / 4
    torch.testing.assert_close(corrected["encoder.weight"] ** 2, expected)
    assert official["head.weight"].equal(corrected["head.weight"])
