"""Whole heads and neurons: what goes together, the masks, and the smaller model, whose outputs are the masked one's."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import vlp_bench
from tests.models.tiny import blip, blip2, blip2_opt, dino, towers, words
from tests.models.tiny import clip as tiny_clip
from tests.pruning.test_xvlm import CONFIG, batch
from tests.pruning.toys import labelled, sequential
from vlp_bench.models.checkpoints.pretrained import from_pretrained, save_pretrained
from vlp_bench.models.checkpoints.read_write import load_model, save_model
from vlp_bench.models.units import find_units, shrink
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.scores import magnitude
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.input_moments import Fluctuations
from vlp_bench.pruning.structured.budgets import COARSE, UnitBudgets, _equal_shares
from vlp_bench.pruning.structured.groups import Units
from vlp_bench.pruning.structured.keep_units import KeepUnits
from vlp_bench.pruning.structured.materialise import materialised
from vlp_bench.pruning.structured.scores import flap, magnitude_sp, mean_score, wanda_sp

IDS = {"input_ids": torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(0))}
TWO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def bert():
    return BertModel(BertConfig(vocab_size=50, hidden_dropout_prob=0.0, **TWO)), [IDS]


def clip():
    vision = {"image_size": 16, "patch_size": 8, **TWO}
    text = {"vocab_size": 50, "eos_token_id": 2, **TWO}
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)), [
        IDS | {"pixel_values": pixels}
    ]


def llama():
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 32, "intermediate_size": 24}
    config = LlamaConfig(vocab_size=50, num_hidden_layers=2, tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config), [IDS]


def t5(gate="gated-gelu"):
    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_heads=4, num_layers=2, feed_forward_proj=gate)
    return T5ForConditionalGeneration(config), [IDS | {"decoder_input_ids": IDS["input_ids"][:, :4]}]


def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), [torch.randn(3, 5, 16)]


OTHERS = {"bert": bert, "clip": clip, "llama": llama, "t5": t5, "t5-relu": lambda: t5("relu"), "encoder": encoder}
OURS = {
    "xvlm": lambda: (XVLM(CONFIG), [batch(0, region=False)]),
    "blip": lambda: (blip.model(), blip.batches()),
    "dino": lambda: (dino.model(), dino.batches()),
}


def built(name):
    torch.manual_seed(0)
    model, batches = (OTHERS | OURS)[name]()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_()
    return model.eval(), batches


@torch.no_grad()
def outputs(model, data):
    """Everything a model says, flat."""
    if isinstance(data, dict):
        found = model(**data)
        return [found[key] for key in found if isinstance(found[key], torch.Tensor)]
    if isinstance(data, torch.Tensor):
        return [model(data)]
    states = model.encode_image(data.images)
    if not hasattr(model, "fuse"):
        return [states, model.classify(data.images)]
    texts = model.encode_text(data.text_ids, data.text_atts)
    said = [states, texts, model.match(texts, data.text_atts, states)]
    decoder = getattr(model, "text_decoder", None)
    return said if decoder is None else [*said, model.predict_words(data.text_ids, data.text_atts, states)]


def near(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def cut(name, pruner="wanda_sp", sparsity=0.25):
    model, batches = built(name)
    solution = vlp_bench.prune(model, pruner, sparsity, batches)
    solution.install(model)
    return model, materialised(model, solution.masks), batches[0], solution


@pytest.mark.parametrize("name", [*OTHERS, *OURS])
@pytest.mark.parametrize("pruner", ["wanda_sp", "magnitude_sp", "flap"])
def test_the_smaller_model_gives_the_masked_ones_outputs(name, pruner):
    model, small, data, solution = cut(name, pruner)
    assert solution.sparsity >= 0.25
    near(outputs(small, data), outputs(model, data))
    removed = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.parameters())
    assert removed >= solution.total - solution.kept  # biases go too


@pytest.mark.parametrize("built_by", [blip2, blip2_opt, tiny_clip, towers])
def test_the_other_models_lose_the_same(built_by):
    """By their loss; BLIP-2's vision attention has no units."""
    torch.manual_seed(0)
    model, batches = built_by.model().eval(), built_by.batches()
    solution = vlp_bench.prune(model, "magnitude_sp", 0.2, batches)
    solution.install(model)
    small = materialised(model, solution.masks)
    with torch.no_grad():
        found, wanted = (float(each.adapter.loss(each, batches[0])) for each in (small, model))
    assert found == pytest.approx(wanted, rel=1e-5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", OURS)
def test_ours_are_stored_and_loaded_at_any_widths(name, tmp_path):
    model, small, data, _ = cut(name, "flap")
    near(outputs(load_model(save_model(tmp_path / "m.safetensors", small)), data), outputs(model, data))
    near(outputs(from_pretrained(save_pretrained(small, tmp_path / "folder")), data), outputs(model, data))


def halved(name, *kinds):
    """The model without the second half of the units of these kinds, masked and cut; and what to show it."""
    model, batches = built(name)
    small, groups = copy.deepcopy(model), [group for group in find_units(model) if group.what in kinds]
    for group in groups:
        for own in (own for own in group.slices if own.reads):
            own.parameter.data.index_fill_(1, own.places(group.units, torch.arange(group.units // 2, group.units)), 0)
    return model, shrink(small, {group.name: torch.arange(group.units // 2) for group in groups}), batches[0]


@pytest.mark.parametrize("name", ["llama", "t5", "t5-relu"])
def test_transformers_are_stored_and_loaded_where_widths_are_equal(name, tmp_path):
    model, small, data = halved(name, "heads", "neurons")
    loaded = from_pretrained(save_pretrained(small, tmp_path))
    near(outputs(loaded, data), outputs(model, data))
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["bert", "clip"])
def test_neurons_alone_are_stored_where_heads_cannot_be_told(name, tmp_path):
    model, small, data = halved(name, "neurons")
    near(outputs(from_pretrained(save_pretrained(small, tmp_path)), data), outputs(model, data))


@pytest.mark.parametrize("name, word", [("bert", "BertConfig"), ("clip", "CLIPConfig")])
def test_a_configuration_that_cannot_tell_is_named(name, word, tmp_path):
    """Their heads are hidden_size / heads wide."""
    with pytest.raises(ValueError, match=rf"{word} can't say that '.*' is \(.*\): a head has hidden_size"):
        save_pretrained(halved(name, "heads")[1], tmp_path)


def dinov2():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16, "patch_size": 4}
    return Dinov2Model(Dinov2Config(**sizes, mlp_ratio=2)).eval()


def bart():
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_layers": 1, "decoder_layers": 1}
    sizes = {"vocab_size": 64, "d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 48}
    return BartModel(BartConfig(**heads, **sizes, max_position_embeddings=16)).eval()


def first_neurons(model, share):
    """The model with this share of the neurons of each network, cut."""
    groups = [group for group in find_units(model) if group.what == "neurons"]
    return shrink(model, {group.name: torch.arange(int(group.units * share)) for group in groups})


@pytest.mark.parametrize("make, count", [(dinov2, 2 * 32 * 65), (bart, 32 * 65 + 24 * 65)])
def test_widths_that_a_configuration_tells_otherwise_are_stored(make, count, tmp_path):
    """As a multiple of the hidden size (DINOv2), or the encoder's and the decoder's (BART)."""
    whole, small = make(), first_neurons(make(), 0.5)
    loaded = from_pretrained(save_pretrained(small, tmp_path))
    assert {n: p.shape for n, p in loaded.named_parameters()} == {n: p.shape for n, p in small.named_parameters()}
    assert sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in loaded.parameters()) == count


def test_a_width_between_two_multiples_says_so(tmp_path):
    with pytest.raises(
        ValueError, match=r"Dinov2Config can't say that .* have one width, a multiple of hidden_size \(32\)"
    ):
        save_pretrained(first_neurons(dinov2(), 0.75), tmp_path)


def test_what_the_model_itself_refuses_is_one_line(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = BertModel(BertConfig(vocab_size=64, **sizes))
    heads = [group for group in find_units(model) if group.what == "heads"]
    small = shrink(model, {group.name: torch.arange(3) for group in heads})
    said = (
        r"^\w+ refuses the sizes that are left \(.*\): a head has hidden_size / heads there, .* leave=\[.*\]; or write"
    )
    with pytest.raises(ValueError, match=said):
        save_pretrained(small, tmp_path)


def test_a_configuration_with_rules_of_its_own_is_named(tmp_path):
    small = built("llama")[0]
    heads = [group.name for group in find_units(small) if group.what == "heads"]
    with pytest.raises(
        ValueError, match=r"LlamaConfig refuses the sizes that are left \(The hidden size \(32\) is not a"
    ):
        save_pretrained(shrink(small, dict.fromkeys(heads, torch.arange(3))), tmp_path)


def test_towers_that_share_weights_are_cut_once_for_both():
    model, small, _, solution = cut("blip", "flap")
    for name, parameter in model.named_parameters(remove_duplicate=False):
        twin = name.replace("text_encoder.", "text_decoder.bert.")
        if twin != name and dict(model.named_parameters(remove_duplicate=False)).get(twin) is parameter:
            assert small.get_parameter(name) is small.get_parameter(twin)
    assert small.text_encoder.encoder.layer[0].intermediate.dense.out_features == len(
        small.text_decoder.bert.encoder.layer[0].intermediate.dense.weight
    )
    losses = small.pretraining_losses(words(seed=0))  # momentum copies have followed
    assert all(loss.isfinite() for loss in losses.values())
    assert solution.masks.keys() == vlp_bench.prune(built("blip")[0], "lmp", 0.5).masks.keys()


def test_a_key_value_head_goes_with_all_its_queries():
    _, small, _, solution = cut("llama", sparsity=0.3)
    attention = small.model.layers[0].self_attn
    assert attention.q_proj.out_features == 2 * attention.k_proj.out_features < 32
    rows = solution.masks["model.layers.0.self_attn.q_proj.weight"].any(1).view(4, -1)
    assert rows.all(1).equal(solution.masks["model.layers.0.self_attn.v_proj.weight"].any(1).view(4, -1).all(1))
    assert rows.any(1).equal(rows.all(1))


def test_t5_heads_are_cut_in_all_blocks_with_their_position_biases():
    groups = {group.name: group for group in find_units(built("t5")[0])}
    whole = groups["encoder.block.0.layer.0.SelfAttention heads"]
    assert len(whole.slices) == 2 * 4 + 1
    assert "encoder.block.1.layer.0.SelfAttention heads" not in groups
    _, small, _, _ = cut("t5", sparsity=0.4)
    table = small.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    assert table.embedding_dim == small.encoder.block[1].layer[0].SelfAttention.n_heads < 4


def test_fused_projections_lose_a_head_in_each_third():
    model, batches = built("blip")
    solution = vlp_bench.prune(model, "wanda_sp", 0.5, batches)
    thirds = solution.masks["vision_model.encoder.layers.0.self_attn.qkv.weight"].any(1).view(3, 2, 8).all(2)
    assert thirds.sum(1).tolist() == [1, 1, 1]
    assert thirds[0].equal(thirds[1])
    assert thirds[0].equal(thirds[2])


# scores and budgets


def by_hand():
    """Two neurons' columns, read by one output; inputs of the second layer are the first's outputs."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[2].weight.copy_(torch.tensor([[3.0, -1.0]]))
    calibration = Calibration(model, [torch.tensor([[1.0, 0.0], [1.0, 4.0]])])
    return calibration, calibration[Units()][0]


def test_scores_by_hand():
    calibration, group = by_hand()
    assert wanda_sp(group, calibration).tolist() == pytest.approx([3.0 * 2**0.5 / 2**0.5, 1.0 * (16 / 2) ** 0.5])
    assert magnitude_sp(group, calibration).tolist() == [3.0, 1.0]
    assert mean_score(group, calibration, score=magnitude).tolist() == pytest.approx([4 / 3, 2 / 3])
    assert flap(group, calibration).tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])  # variances 0 and 4
    assert group.cost == 3


def test_heads_are_squared_and_averaged():
    model, batches = built("bert")
    calibration = Calibration(model, batches)
    group = next(group for group in calibration[Units()] if group.group.what == "heads")
    layer = group.reads.layer
    seen = []
    with layer.readers[0].module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach())):
        model(**batches[0])
    x, w = seen[0].double().numpy().reshape(-1, 16), layer.matrix.double().numpy()
    squares = (x.var(0) * (w**2).sum(0)) ** 2
    expected = ((squares - squares.mean()) / squares.std(ddof=1)).reshape(2, 8).mean(1)
    np.testing.assert_allclose(flap(group, calibration), expected, rtol=1e-5)


def test_released_fluctuations_are_no_variance():
    """Row 2 after row 1: mean (1 + 5) / 2 = 3 of rows' means 1 and 5; (4 - 3)² + (6 - 3)² = 10, over 2 rows."""
    model, data = nn.Sequential(nn.Linear(1, 1)), [torch.tensor([[[1.0], [1.0]], [[4.0], [6.0]]])]
    assert Calibration(model, data)[Fluctuations()]["0.weight"].tolist() == [5.0]
    three = [torch.tensor([[[1.0]], [[5.0]], [[6.0]]])]  # then mean 4: 2 · 1/2 + (6 - 4)² / 3
    assert Calibration(model, three)[Fluctuations()]["0.weight"].tolist() == pytest.approx([1 + 4 / 3])


@pytest.mark.parametrize("name", [*OTHERS, *OURS])
@pytest.mark.parametrize("between", ["model", "group"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25, 0.4])
def test_never_less_and_little_more_goes_than_asked(name, between, sparsity):
    model, batches = built(name)
    calibration = Calibration(model, batches)
    budgets = UnitBudgets(score=magnitude_sp, between=between)(calibration, sparsity)
    solved = KeepUnits(score=magnitude_sp)(calibration, budgets)
    kept = sum(int(mask.sum()) for mask in solved.masks.values())
    assert kept == sum(budgets.values())
    costs = [group.cost for group in calibration[Units()]]
    room = max(costs) if between == "model" else sum(costs)
    assert 0 <= round((1 - sparsity) * calibration.total) - kept < room


def test_a_sparsity_that_coarse_units_overshoot_is_told(caplog):
    """What units can make exactly is nobody's news; a hair more than that costs another unit."""
    model, batches = built("bert")
    calibration, budgets = Calibration(model, batches), UnitBudgets(score=magnitude_sp)

    def reached(asked):
        return 1 - sum(budgets(calibration, asked).values()) / calibration.total

    exact = reached(0.25)
    caplog.clear()
    with caplog.at_level("WARNING"):
        assert reached(exact) == pytest.approx(exact)
        assert caplog.records == []
        more = reached(exact + 2 / calibration.total)
    assert more > exact + COARSE
    assert f"whole units make it {100 * more:.1f} %" in caplog.text


@pytest.mark.parametrize(
    "asked, gone",
    [(0, [0, 0]), (1, [0, 1]), (50, [0, 50]), (60, [1, 30]), (61, [1, 31]), (119, [1, 89]), (149, [2, 89])],
)
def test_neurons_make_up_for_coarse_heads(asked, gone):
    """3 heads of 30 weights and 90 neurons of 1: at a third of each 60 go; for 50 the head would be too much."""
    groups = [SimpleNamespace(units=3, cost=30), SimpleNamespace(units=90, cost=1)]
    assert _equal_shares(groups, asked) == gone


def test_equal_shares_leave_equal_widths():
    _, small, _, _ = cut("bert")
    for what in ("heads", "neurons"):
        assert len({group.units for group in find_units(small) if group.what == what}) == 1


def test_equal_scores_keep_the_lower_index():
    calibration, group = by_hand()
    with torch.no_grad():
        calibration.layers["2.weight"].weight.fill_(1.0)
    solve = KeepUnits(score=lambda group, calibration: torch.ones(group.units))
    assert solve(calibration, {"0.weight": 2, "2.weight": 1}).masks["2.weight"].tolist() == [[True, False]]
    assert group.units == 2


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="weights should go, and the units hold 117 beside the last of each group"):
        vlp_bench.prune(sequential(), "wanda_sp", 0.99, labelled())
    with pytest.raises(ValueError, match=r"budgets of '0 neurons' are 5 of '0.weight', 5.5.* of '2.weight', of 10"):
        KeepUnits(score=magnitude_sp)(Calibration(sequential()), {"0.weight": 30, "2.weight": 39, "4.weight": 21})
    with pytest.raises(ValueError, match=r"'4.weight' has no units and should keep 10 of 21 weights: use"):
        KeepUnits(score=magnitude_sp)(Calibration(sequential()), {"0.weight": 30, "2.weight": 35, "4.weight": 10})
    with pytest.raises(ValueError, match="no attention heads or feed-forward neurons are known in these layers"):
        vlp_bench.prune(nn.Sequential(nn.Linear(6, 3)), "magnitude_sp", 0.5)
    with pytest.raises(ValueError, match="no whole attention head or feed-forward neuron is gone under this mask"):
        materialised(sequential(), vlp_bench.prune(sequential(), "omp", 0.5).masks)
    with pytest.raises(ValueError, match=r"'0 neurons' has units 0 to 9, at least one of which stays"):
        shrink(sequential(), {"0 neurons": torch.tensor([10])})
    with pytest.raises(ValueError, match=r"the model has no 'heads': it has 0 neurons"):
        shrink(sequential(), {"heads": torch.tensor([0])})


def test_masks_of_single_weights_are_cut_where_whole_units_happen_to_be_gone():
    model = sequential()
    masks = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters() if p.ndim == 2}
    masks["2.weight"][:, [2, 7]] = False
    masks["0.weight"][3] = False  # a neuron of constant output, which is still read
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0)
    small = materialised(model, masks)
    assert small[0].out_features == 8
    near([small(labelled()[0][0])], [model(labelled()[0][0])])


def test_a_smaller_model_is_trained_pruned_and_cut_again():
    model, small, data, _ = cut("xvlm")
    small.train()
    small.retrieval_losses(data)["itc"].backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in small.parameters())
    again = vlp_bench.prune(small.eval(), "wanda_sp", 0.2, [data])
    again.install(small)
    near(outputs(materialised(small, again.masks), data), outputs(small, data))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["flap", "wanda_sp", "magnitude_sp"])
@pytest.mark.parametrize("compat", ["corrected", "official"])
def test_the_laws_of_every_pruner_hold(name, compat):
    model = sequential()
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    found = [vlp_bench.prune(model, name, [0.2, 0.5], labelled(), options={"compat": compat}) for _ in range(2)]
    assert all(p.equal(before[key]) for key, p in model.named_parameters())
    for sparsity in (0.2, 0.5):
        first, second = (f[sparsity] for f in found)
        assert all(mask.equal(second.masks[key]) for key, mask in first.masks.items())
        assert first.report["method"] == name
        assert first.report["compat"] == compat
    for key, mask in found[0][0.5].masks.items():
        assert not (mask & ~found[0][0.2].masks[key]).any()


def test_any_score_of_weights_can_be_taken():
    options = {"allocate": "units_evenly", "solve": "units"}
    solution = vlp_bench.prune(sequential(), "magnitude_sp", 0.5, labelled(), options=options)
    assert solution.masks["2.weight"].any(0).equal(solution.masks["0.weight"].all(1))
    assert catalogue.load("magnitude_sp", options).solve.score.keywords["score"].func.__name__ == "obd"
