"""The programs in docs/prune-your-own-model.md, run as they stand; and the layers that its table promises."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import vlp_bench
from vlp_bench.pruning.layers import PlainAdapter, find_layers

DOC = Path(__file__).parents[1] / "docs" / "prune-your-own-model.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", DOC.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run(number):
    """The names a program leaves behind, its random numbers kept to itself."""
    space = {"__name__": "program"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(PROGRAMS[number], f"{DOC.name}, program {number + 1}", "exec"), space)
    return space


def zeros(model, masks):
    """Share of the masked weights that are zero in the model."""
    parameters = dict(model.named_parameters())
    removed = sum(int((parameters[name] == 0).sum()) for name in masks)
    return removed / sum(mask.numel() for mask in masks.values())


def test_each_program_has_at_most_forty_lines():
    assert len(PROGRAMS) == 4
    assert all(sum(bool(line.strip()) for line in program.splitlines()) <= 40 for program in PROGRAMS)


def test_any_model_of_transformers(capsys):
    found = run(0)
    assert len(found["result"][0.75].masks) == 28 - 12
    assert zeros(found["model"], found["result"][0.75].masks) == pytest.approx(0.75, abs=1e-3)
    assert "text_model.embeddings.token_embedding.weight embedding" in capsys.readouterr().out


def test_vision_transformer():
    found = run(1)
    result, model = found["result"], found["model"]
    assert len(result[0.9].masks) == 2 * 6
    for sparsity, solution in result.items():
        assert solution.sparsity == pytest.approx(sparsity, abs=1e-4)
    assert zeros(model, result[0.9].masks) == pytest.approx(0.9, abs=1e-3)
    assert model.classifier.weight.count_nonzero() == model.classifier.weight.numel()


def test_causal_language_model(capsys):
    found = run(2)
    result, model = found["result"], found["model"]
    assert capsys.readouterr().out.startswith("0.5 0.5 14")
    assert zeros(model, result.masks) == pytest.approx(0.5, abs=1e-3)
    assert all(name.startswith("model.layers.") for name in result.masks)
    assert len({layer["kept"] / layer["total"] for layer in result.report["layers"].values()}) > 1  # ECoFLaP's shares


def test_padding_does_not_count():
    """Other words under the padding change nothing, with the program's adapter and without; as words they do."""
    found = run(2)
    moved = [
        dict(batch, input_ids=batch["input_ids"] + (batch["attention_mask"] == 0) * 7) for batch in found["batches"]
    ]
    norms = lambda batches, adapter: vlp_bench.Calibration(found["model"], batches, adapter).norms()  # noqa: E731
    first, second = norms(found["batches"], found["adapter"]), norms(moved, found["adapter"])
    assert all(torch.allclose(first[name], second[name], rtol=1e-5) for name in first)
    plain, other = norms(found["batches"], None), norms(moved, None)
    assert all(first[name].equal(plain[name]) for name in first)
    assert all(torch.allclose(plain[name], other[name], rtol=1e-5) for name in plain)
    bare = [[{"input_ids": batch["input_ids"]} for batch in batches] for batches in (found["batches"], moved)]
    plain, other = norms(bare[0], None), norms(bare[1], None)
    assert any(not torch.allclose(plain[name], other[name], rtol=1e-3) for name in plain)


def test_an_adapter_of_one_s_own():
    found = run(3)
    result, model = found["result"], found["model"]
    rows = {row.modality: row for row in result[0.75].table() if not row.block}
    assert {"vision", "text", "fusion"} <= set(rows)
    assert all(rows[modality].sparsity == pytest.approx(0.75, abs=1e-3) for modality in ("vision", "text", "fusion"))
    assert zeros(model, result[0.75].masks) == pytest.approx(0.75, abs=1e-3)
    assert set(found["vision"].masks) == {n for n in result[0.75].masks if ".vision_model." in n}


def test_towers_without_an_adapter_are_named_once(caplog):
    found = run(3)
    caplog.clear()
    for sparsity in (0.5, [0.5, 0.75]):
        vlp_bench.prune(found["model"], "multiflow", sparsity, found["batches"])
    said = [record.getMessage() for record in caplog.records if "modalities" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("model.vision_model, model.text_model look like modalities of their own")
    assert "vlp_bench.TransformersAdapter(model)" in said[0]


def test_heads_of_language_models_are_pruned_when_asked(caplog):
    from transformers import LlamaConfig, LlamaForCausalLM

    class Everything(PlainAdapter):
        output_embeddings = True

    config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config)
    assert "lm_head.weight" not in find_layers(model)
    assert "lm_head.weight scores the words and stays dense (an adapter with output_embeddings = True" in caplog.text
    assert "lm_head.weight" in find_layers(model, Everything())
    assert "lm_head.weight" in vlp_bench.prune(model, "omp", 0.5).report["dense"]


def test_siglip(caplog):
    """Its pooling head asks with a probe: what packs that head's projections stays dense, the rest is pruned."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    class Sum(PlainAdapter):
        def loss(self, model, batch):
            return model(**batch).pooler_output.square().sum()

    config = SiglipVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    model, batches = SiglipVisionModel(config), [{"pixel_values": torch.randn(3, 3, 8, 8)}]
    packed = next(name for name, _ in model.named_parameters() if name.endswith("in_proj_weight"))
    for name in ("wanda", "multiflow", "sparsegpt", "ria", "ecoflap_first"):
        solution = vlp_bench.prune(model, name, 0.5, batches, Sum())
        assert solution.sparsity == pytest.approx(0.5, abs=1e-3)
        assert packed not in solution.masks
        assert packed.replace("in_proj_weight", "out_proj.weight") in solution.masks
    assert packed in vlp_bench.prune(model, "snip", 0.5, batches, Sum()).masks
    said = [record.getMessage() for record in caplog.records if packed in record.getMessage()]
    reason = "it packs three projections that read different tensors here"
    assert said == [f"what reaches {packed} can't be seen, so it stays dense: {reason}"]


# What the table promises


def test_conv1d_of_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    ids = [{"input_ids": torch.randint(50, (3, 8)), "labels": torch.randint(50, (3, 8))}]
    for name in ("omp", "multiflow", "wanda", "snip", "sparsegpt"):
        solution = vlp_bench.prune(model, name, 0.75, ids)
        assert solution.sparsity == pytest.approx(0.75, abs=1e-3)
        assert solution.masks["transformer.h.0.attn.c_attn.weight"].shape == (16, 48)
        assert len(solution.masks) == 2 * 4


class Attending(nn.Module):
    """`nn.MultiheadAttention` with packed weights, reading one tensor or two."""

    def __init__(self, cross=False):
        super().__init__()
        self.attention, self.head, self.cross = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2), cross

    def forward(self, x):
        return self.head(self.attention(x, x.flip(1) if self.cross else x, x)[0].mean(1))


@pytest.mark.parametrize("name", ["omp", "multiflow", "wanda", "snip"])
def test_packed_attention(name):
    batches = [(torch.randn(4, 5, 8), torch.randint(2, (4,)))]
    solution = vlp_bench.prune(Attending(), name, 0.5, batches)
    assert list(solution.masks) == ["attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]
    assert solution.kept == (24 * 8 + 64 + 16) // 2


@pytest.mark.parametrize("name", ["multiflow", "wanda", "sparsegpt", "ria", "ecoflap"])
def test_packed_attention_that_reads_two_tensors_stays_dense(name, caplog):
    batches, model = [(torch.randn(4, 5, 8), torch.randint(2, (4,)))], Attending(cross=True)
    solutions = vlp_bench.prune(model, name, [0.5, 0.75], batches)
    assert list(solutions[0.5].masks) == ["attention.out_proj.weight", "head.weight"]
    assert solutions[0.75].kept == (64 + 16) // 4
    assert solutions[0.5].report["dense"] == ["attention.in_proj_weight"]
    vlp_bench.prune(model, "wanda", 0.5, batches)
    said = [record.getMessage() for record in caplog.records]
    reason = "it packs three projections that read different tensors here"
    assert said == [f"what reaches attention.in_proj_weight can't be seen, so it stays dense: {reason}"]
    solutions[0.5].install(model)
    assert vlp_bench.prune(Attending(cross=True), "snip", 0.5, batches).total == 3 * 64 + 64 + 16


def test_a_model_of_which_nothing_can_be_seen_is_refused():
    class Packed(vlp_bench.PlainAdapter):
        def prunable(self, model):
            return ["attention.in_proj_weight"]

    batches = [(torch.randn(4, 5, 8), torch.randint(2, (4,)))]
    with pytest.raises(ValueError, match=r"'attention.in_proj_weight' can't be seen: it packs three projections that"):
        vlp_bench.prune(Attending(cross=True), "multiflow", 0.5, batches, Packed())


def test_experts_of_a_mixture_are_pruned_one_by_one():
    from transformers import MixtralConfig, MixtralForCausalLM

    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, num_local_experts=3,
        )
    )  # fmt: skip
    solution = vlp_bench.prune(model, "lmp", 0.5)
    assert solution.masks["model.layers.0.mlp.experts.gate_up_proj[2]"].shape == (32, 8)
    assert int(solution.masks["model.layers.0.mlp.experts.down_proj[0]"].sum()) == 64
    solution.install(model)
    assert int((model.model.layers[0].mlp.experts.down_proj == 0).sum()) == 3 * 64


def test_other_matrices_stay_dense_and_are_named(caplog):
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "memory": nn.LSTM(4, 4), "turned": nn.Linear(4, 4)})
    nn.utils.parametrizations.orthogonal(model["turned"])
    model.register_parameter("position", nn.Parameter(torch.zeros(1, 6, 4)))
    with caplog.at_level(logging.WARNING):
        assert list(find_layers(model)) == ["body.weight"]
    for name in ("memory.weight_ih_l0", "memory.weight_hh_l0", "turned.parametrizations.weight.original", "position"):
        assert name in caplog.text
    assert "body" not in caplog.text


def test_a_matrix_that_is_named_is_pruned_or_refused_by_name():
    class Named(PlainAdapter):
        def prunable(self, model):
            return ["memory.weight_ih_l0"]

        def encode(self, model, batch):
            model["memory"](batch)

    model = nn.ModuleDict({"memory": nn.LSTM(4, 4)})
    assert vlp_bench.prune(model, "omp", 0.5, adapter=Named()).sparsity == 0.5
    with pytest.raises(ValueError, match=r"'memory.weight_ih_l0' can't be seen: LSTM reads it in a way of its own"):
        vlp_bench.prune(model, "multiflow", 0.5, [torch.randn(3, 4)], Named())
