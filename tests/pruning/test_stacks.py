"""Experts that one parameter holds are pruned matrix by matrix, as if each were a linear layer of its own."""

import itertools
import json
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench
from tests.support.forked import together
from vlp_bench.models.foreign.adapter import TransformersAdapter
from vlp_bench.models.stacks import stack_of, with_slices
from vlp_bench.pruning import sweep
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.another_sparsity import another_sparsity
from vlp_bench.pruning.another_sparsity import write as write_scores
from vlp_bench.pruning.layers import find_layers
from vlp_bench.pruning.selection.thresholds import keep_largest_per_row
from vlp_bench.pruning.solution import Solution
from vlp_bench.pruning.statistics.block_sequential import ControlFlowChanged
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.inputs import InputNorms, InputProducts

EXPERTS, WIDTH, HIDDEN, CLASSES = 3, 6, 5, 4
WITH_DATA = (
    "wanda",
    "multiflow",
    "ria",
    "snip",
    "obd",
    "fisher",
    "sparsegpt",
    "itersnip",
    "tamt",
    "chita",
    "ria",
    "owl",
    "dlp",
    "gblm",
    "pruner_zero",
    "wanda_pp",
    "wanda_bias",
    "alps",
    "dsnot",
    "thanos",
)
DATA_FREE = ("omp", "lmp", "l2", "lamp", "erk", "ri")


class Stacked(nn.Module):
    """Experts in two parameters, stored one way or the other."""

    def __init__(self, transposed):
        super().__init__()
        self.is_transposed = transposed
        up, down = (EXPERTS, HIDDEN, WIDTH), (EXPERTS, WIDTH, HIDDEN)
        self.up = nn.Parameter(torch.randn(down if transposed else up))
        self.down = nn.Parameter(torch.randn(up if transposed else down))

    def apply_one(self, number, x):
        if self.is_transposed:
            return (x @ self.up[number]).relu() @ self.down[number]
        return F.linear(F.linear(x, self.up[number]).relu(), self.down[number])

    def forward(self, x, chosen):
        y = torch.zeros_like(x)
        for number in chosen.unique():
            rows = (chosen == number).nonzero().view(-1)
            y = y.index_add(0, rows, self.apply_one(number, x[rows]))
        return y


class Separate(Stacked):
    """The same experts as linear layers."""

    def __init__(self, stacked):
        nn.Module.__init__(self)
        self.up, self.down = nn.ModuleList(), nn.ModuleList()
        for name in ("up", "down"):
            for matrix in getattr(stacked, name).detach():
                weight = matrix.t() if stacked.is_transposed else matrix
                layer = nn.Linear(*weight.shape[::-1], bias=False)
                layer.weight = nn.Parameter(weight.clone())
                getattr(self, name).append(layer)

    def apply_one(self, number, x):
        return self.down[number](self.up[number](x).relu())


class Mixture(nn.Module):
    """Every token goes to one expert, by its first features."""

    def __init__(self, transposed=False, routed=EXPERTS):
        super().__init__()
        self.inner, self.experts = nn.Linear(WIDTH, WIDTH), Stacked(transposed)
        self.head, self.routed = nn.Linear(WIDTH, CLASSES), routed

    def forward(self, x, mask=None):
        chosen = x[..., : self.routed].argmax(-1).flatten()
        h = self.inner(x)
        h = self.experts(h.flatten(0, 1), chosen).view_as(h) + h
        mask = torch.ones_like(h[..., 0]) if mask is None else mask
        return self.head((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def mixture(**options):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Mixture(**options)


def separate(**options):
    model = mixture(**options)
    model.experts = Separate(model.experts)
    return model


def drawn(batches=2, rows=4, tokens=6):
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(rows, tokens, WIDTH, generator=generator), torch.randint(CLASSES, (rows,), generator=generator))
        for _ in range(batches)
    ]


def as_separate(name):
    """experts.up[1] -> experts.up.1.weight."""
    stack, number = stack_of(name) or (name, None)
    return name if number is None else f"{stack}.{number}.weight"


class Blocks(PlainAdapter):
    """The same blocks for both, as Wanda and others go from block to block."""

    def place(self, name):
        return vlp_bench.Place("all", name.split(".")[0])


NAMES = ["inner.weight", *(f"experts.{part}[{i}]" for part in ("up", "down") for i in range(3)), "head.weight"]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", [*WITH_DATA, *DATA_FREE])
def test_the_masks_are_those_of_separate_layers(name, transposed):
    batches = None if name in DATA_FREE else drawn()
    stacked = vlp_bench.prune(mixture(transposed=transposed), name, 0.5, batches, Blocks())
    apart = vlp_bench.prune(separate(transposed=transposed), name, 0.5, batches, Blocks())
    assert sorted(stacked.masks) == sorted(NAMES)
    assert stacked.total == apart.total
    assert stacked.kept == apart.kept == stacked.total // 2
    for layer, mask in stacked.masks.items():
        sliced = transposed and "[" in layer
        assert (mask.t() if sliced else mask).equal(apart.masks[as_separate(layer)]), layer
    for layer, values in stacked.weights.items():
        sliced = transposed and "[" in layer
        torch.testing.assert_close(values.t() if sliced else values, apart.weights[as_separate(layer)])


@pytest.mark.parametrize("transposed", [False, True])
def test_the_statistics_are_those_of_separate_layers(transposed):
    stacked = Calibration(mixture(transposed=transposed), drawn())
    apart = Calibration(separate(transposed=transposed), drawn())
    for statistic in (InputNorms(), InputProducts()):
        for layer, found in stacked[statistic].items():
            torch.testing.assert_close(found, apart[statistic][as_separate(layer)])
    for layer, found in stacked.gradients().items():
        torch.testing.assert_close(found, apart.gradients()[as_separate(layer)])


class Padded(PlainAdapter):
    """Batches are (x, label, mask); the parts of an unpadded one have no padding."""

    def encode(self, model, batch):
        model(batch[0], batch[2])

    def token_mask(self, batch, name, tokens):
        return batch[2].bool() if name != "head.weight" else None


def padded_and_not():
    padded, unpadded = [], []
    for x, label in drawn():
        lengths = torch.tensor([6, 4, 1, 5])
        mask = (torch.arange(6) < lengths[:, None]).float()
        padded.append((x.masked_fill(mask[..., None] == 0, 50.0), label, mask))
        unpadded.append(
            [(x[i : i + 1, :n], label[i : i + 1], mask[i : i + 1, :n]) for i, n in enumerate(lengths.tolist())]
        )
    return padded, unpadded


@pytest.mark.parametrize("transposed", [False, True])
def test_padding_does_not_reach_the_experts(transposed):
    padded, unpadded = padded_and_not()
    model = mixture(transposed=transposed)
    found, expected = (Calibration(model, batches, Padded()) for batches in (padded, unpadded))
    for layer, norms in expected.norms().items():
        torch.testing.assert_close(found.norms()[layer], norms)
    with_padding = Calibration(model, padded, type("Careless", (Padded,), {"token_mask": lambda *_: None})())
    assert not torch.allclose(with_padding.norms()["experts.up[0]"], expected.norms()["experts.up[0]"])
    assert "forward" not in vars(model.experts)


@pytest.mark.parametrize("name", ["wanda", "multiflow", "snip", "sparsegpt", "chita", "ecoflap_first"])
def test_an_expert_that_no_token_reaches_is_refused_by_name(name):
    with pytest.raises(ValueError, match=r"no calibration batch reaches 'experts\.up\[2\]'"):
        vlp_bench.prune(mixture(routed=2), name, 0.5, drawn())

    class Without(PlainAdapter):
        def prunable(self, model):
            return [layer for layer in super().prunable(model) if not layer.endswith("[2]")]

    solution = vlp_bench.prune(mixture(routed=2), name, 0.5, drawn(), Without())
    assert "experts.up[2]" not in solution.masks
    assert "experts.up[1]" in solution.masks
    assert solution.sparsity == pytest.approx(0.5, abs=0.01)
    assert solution.report["dense"] == ["experts.up[2]", "experts.down[2]"]


def test_one_option_leaves_experts_dense(caplog):
    class Dense(PlainAdapter):
        experts = False

    assert list(find_layers(mixture(), Dense())) == ["inner.weight", "head.weight"]
    assert not caplog.records


def test_an_adapter_may_name_a_whole_stack_or_some_of_it():
    class Named(PlainAdapter):
        def prunable(self, model):
            return ["experts.down", "experts.up[1]"]

    assert sorted(find_layers(mixture(), Named())) == sorted(
        ["experts.up[1]", *(f"experts.down[{i}]" for i in range(3))]
    )
    for wrong in ("experts.up[3]", "head.weight[0]", "experts.nothing[0]"):
        Named.prunable = lambda self, model, wrong=wrong: [wrong]
        with pytest.raises(ValueError, match=r"but the model has no parameter of that name"):
            find_layers(mixture(), Named())


def test_a_place_is_asked_for_the_stack():
    class Placed(PlainAdapter):
        def place(self, name):
            assert "[" not in name
            return vlp_bench.Place("all", name)

    layers = find_layers(mixture(), Placed())
    assert layers["experts.up[2]"].place.block == "experts.up"


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_files_installing_and_training(form, tmp_path):
    model = mixture(transposed=True)
    solution = vlp_bench.prune(model, "wanda", 0.75, drawn())
    loaded = Solution.load(solution.save(tmp_path / "mask.safetensors", form))
    assert loaded.report == json.loads(json.dumps(solution.report))
    loaded.install(model)
    for name, mask in solution.masks.items():
        stack, number = stack_of(name) or (name, None)
        weight = model.get_parameter(stack) if number is None else model.get_parameter(stack)[number]
        assert not weight[~mask].any()
        assert weight[mask].all()
    keeper = vlp_bench.KeepPruned(loaded.masks).attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for x, label in drawn():
        F.cross_entropy(model(x), label).backward()
        keeper.mask_gradients()
        optimizer.step()
    keeper.verify()
    assert model.experts.up[0][~solution.masks["experts.up[0]"]].count_nonzero() == 0
    with torch.no_grad():
        model.experts.up[1][~solution.masks["experts.up[1]"]] = 1.0
        model.experts.up.data[1] = torch.where(solution.masks["experts.up[1]"], model.experts.up.data[1], 1.0)
    assert keeper.revived() == {"experts.up": int((~solution.masks["experts.up[1]"]).sum())}


def test_new_weights_are_installed_in_the_stack():
    model = mixture()
    solution = vlp_bench.prune(model, "sparsegpt", 0.5, drawn())
    solution.install(model)
    torch.testing.assert_close(model.experts.up[2].detach(), solution.weights["experts.up[2]"], rtol=0, atol=0)


def test_another_sparsity_from_a_file(tmp_path):
    model = mixture(transposed=True)
    calibration = Calibration(model, drawn())
    half = vlp_bench.prune(model, "multiflow", 0.5, calibration)
    file = write_scores(tmp_path / "scores.safetensors", calibration)
    weights = with_slices(dict(model.named_parameters()), half.masks)
    found = another_sparsity(half, 0.75, file, weights)
    expected = vlp_bench.prune(model, "multiflow", 0.75, drawn())
    assert all(found.masks[name].equal(mask) for name, mask in expected.masks.items())


def test_exports_hold_the_pruned_stacks(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    from vlp_bench.commands.export import main

    model = mixture(transposed=True)
    dense, mask = tmp_path / "dense.safetensors", tmp_path / "mask.safetensors"
    save_file(dict(model.state_dict()), dense)
    solution = vlp_bench.prune(model, "sparsegpt", 0.5, drawn())
    solution.save(mask)
    main(["write", str(mask), str(tmp_path / "out.safetensors"), "--as", "dense", "--weights", str(dense)])
    solution.install(model)
    exported = load_file(tmp_path / "out.safetensors")
    assert exported.keys() == model.state_dict().keys()
    assert all(value.equal(exported[name]) for name, value in model.state_dict().items())
    main(["report", str(mask), "--weights", str(dense), "--tokens", "1", "--device", "cpu", "--rounds", "1"])
    assert "8 layers, 240 weights, 50.00 % zero" in capsys.readouterr().out


def test_the_model_is_as_before():
    model = mixture()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("wanda", "snip", "sparsegpt", "tamt", "itersnip"):
        vlp_bench.prune(model, name, [0.5, 0.75], drawn())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.experts._forward_pre_hooks
    assert not model.experts._forward_hooks
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_experts_that_lie_about_their_orientation_stay_dense(caplog):
    model = mixture()
    model.experts.is_transposed = True
    model.experts.apply_one = lambda number, x: F.linear(
        F.linear(x, model.experts.up[number]).relu(), model.experts.down[number]
    )
    solution = vlp_bench.prune(model, "wanda", 0.5, drawn())
    assert list(solution.masks) == ["inner.weight", "head.weight"]
    assert "read the other way round" in caplog.text


# The library's experts


def tiny(family, **options):
    import transformers

    text = {"vocab_size": 30, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
    of = {"Llama4": "Llama4TextConfig"}.get(family, f"{family}Config")
    config = getattr(transformers, of)(**text | options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{family}ForCausalLM")(config).eval()


FAMILIES = {
    "Mixtral": {"num_local_experts": 3},
    "Qwen3Moe": {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "head_dim": 4},
    "GptOss": {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 4},
    "Llama4": {"num_local_experts": 3, "intermediate_size_mlp": 16, "interleave_moe_layer_step": 1, "head_dim": 4},
    "Olmoe": {"num_experts": 3, "num_experts_per_tok": 2},
}


class Words(PlainAdapter):
    def token_mask(self, batch, name, tokens):
        return batch["attention_mask"].bool()


def texts():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([12, 12, 9, 5])
    mask = (torch.arange(12) < lengths[:, None]).long()
    padded, parts = [], []
    for _ in range(2):
        ids = torch.randint(1, 30, (4, 12), generator=generator) * mask
        labels = ids.masked_fill(mask == 0, -100)
        padded.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
        rows = [slice(i, i + 1) for i in range(4)]
        parts.append([{k: v[row, : int(lengths[row])] for k, v in padded[-1].items()} for row in rows])
    return padded, parts


@pytest.mark.parametrize("answers", [lambda model: Words(), TransformersAdapter], ids=["own", "transformers"])
@pytest.mark.parametrize("chosen", [1, 2])
def test_tokens_that_come_in_the_order_of_experts_are_not_taken_for_the_masks(caplog, answers, chosen):
    """JetMoe's are sorted: where there is padding its experts stay dense, though a mask may have their length."""
    model = tiny("JetMoe", num_local_experts=3, num_experts_per_tok=chosen, kv_channels=4)
    padded, parts = texts()
    assert "doesn't tell which of its tokens are padding" not in caplog.text
    adapter = answers(model)
    assert any("[" in name for name in vlp_bench.prune(model, "multiflow", 0.5, parts, adapter).masks)
    assert not any("[" in name for name in vlp_bench.prune(model, "multiflow", 0.5, padded, adapter).masks)
    assert "doesn't tell which of its tokens are padding" in caplog.text
    assert "input_linear.weight[" not in caplog.text


@pytest.mark.parametrize("answers", [lambda model: Words(), TransformersAdapter], ids=["own", "transformers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_of_transformers(family, answers):
    model = tiny(family, **FAMILIES[family])
    padded, parts = texts()
    adapter = answers(model)
    found, expected = (Calibration(model, batches, adapter) for batches in (padded, parts))
    experts = [name for name in found.layers if "[" in name]
    assert len(experts) == 2 * 2 * 3
    for name in experts:
        torch.testing.assert_close(found.norms()[name], expected.norms()[name], rtol=1e-4, atol=1e-6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("omp", "wanda", "multiflow", "snip", "sparsegpt"):
        solution = vlp_bench.prune(model, name, 0.5, padded, adapter)
        assert solution.sparsity == pytest.approx(0.5, abs=1e-3)
        assert len(solution.masks) >= 2 * 10
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Late(Mixture):
    """Goes by the inner layer's outputs; of all patterns of signs one alone comes to the last expert."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.inner.weight.mul_(0.01)[EXPERTS - 1] = 1.0
            self.inner.bias.zero_()[0] = WIDTH - 1.5

    def forward(self, x, mask=None):
        h = self.inner(x)
        chosen = h[..., [0, EXPERTS - 1]].argmax(-1).flatten() * (EXPERTS - 1)
        return self.head((self.experts(h.flatten(0, 1), chosen).view_as(h) + h).mean(1))


class Reached(Blocks):
    """The expert that one pattern comes to, and what sends it there."""

    def prunable(self, model):
        last = f".{EXPERTS - 1}.weight" if isinstance(model.experts, Separate) else f"[{EXPERTS - 1}]"
        return ["inner.weight", *(f"experts.{part}{last}" for part in ("up", "down"))]


def late(kind):
    """Model and batches."""
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=WIDTH))).view(2, 4, 8, WIDTH)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Late()
    model.experts = Separate(model.experts) if kind == "separate" else model.experts
    return model, [(x, torch.arange(4) % CLASSES) for x in signs]


@pytest.mark.parametrize("passes", ["resumed", "whole"])
@pytest.mark.parametrize("kind", ["stacked", "separate"])
@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt"])
def test_an_expert_that_gets_no_token_behind_pruned_blocks_is_judged_by_size(pruner, kind, passes, caplog, monkeypatch):
    """Its budget holds, the largest of each row (of the layer) stay, nothing is made up for."""
    model, batches = late(kind)
    if passes == "whole":
        monkeypatch.setattr(sweep._Resumed, "solved", Mock(side_effect=ControlFlowChanged("experts")))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = vlp_bench.prune(model, pruner, 0.9, batches, adapter=Reached())
    name = Reached().prunable(model)[1]
    assert f"no token comes to '{name}' (and to 1 more experts) any more" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    weight, kept = find_layers(model, Reached())[name].weight.detach(), found.masks[name]
    assert int(kept.sum()) == 3
    if pruner == "wanda":
        assert kept.equal(keep_largest_per_row(weight.abs(), 3))
    else:
        assert weight[kept].abs().min() > weight[~kept].abs().max()
        torch.testing.assert_close(found.weights[name][kept], weight[kept])


@pytest.mark.parametrize("kind", ["stacked", "separate"])
@pytest.mark.parametrize("pruner", ["snip", "wanda", "gblm", "wanda_pp"])
def test_an_expert_may_get_no_token_after_a_step(pruner, kind, caplog):
    """Its gradient is zero then; scores of inputs tell its weights apart by size."""
    model, batches = late(kind)
    options = {"schedule": "constant", "schedule.steps": 2, "allocate": "uniform"}
    found = vlp_bench.prune(model, pruner, 0.9, batches, adapter=Reached(), options=options)
    assert "any more" in caplog.text
    assert found.sparsity == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt", "gblm"])
def test_lost_experts_of_two_processes_are_those_of_one(pruner, tmp_path):
    """The passes that look for them end at the same batch everywhere."""
    model, batches = late("separate")

    def masks():
        return dict(vlp_bench.prune(model, pruner, 0.9, Calibration(model, batches, Reached(), shared=True)).masks)

    alone = masks()
    for found in together(2, masks, tmp_path):
        assert all(torch.equal(found[name], mask) for name, mask in alone.items())


@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt"])
def test_an_expert_that_was_never_reached_is_refused_before_anything_is_pruned(pruner, monkeypatch):
    model = mixture(routed=2)
    monkeypatch.setattr(sweep._Resumed, "solved", Mock(side_effect=AssertionError))
    with pytest.raises(ValueError, match=r"no calibration batch reaches 'experts\.up\[2\]'"):
        vlp_bench.prune(model, pruner, 0.5, drawn(), adapter=Blocks())
