import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import vlp_bench
from tests.pruning.test_xvlm import CONFIG, batch
from tests.pruning.toys import Tied, TwoModalities, labelled, sequential
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.pruning.pruner import Pruner
from vlp_bench.pruning.statistics import block_sequential as resume
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.sweep import blocks
from vlp_bench.pruning.sweep import whole_passes as in_whole_passes


def wanda_by_hand(model, linears, forward, sparsity):
    """Prunes the linear layers, which sit in one block, for good: |w|·‖x‖, per row."""
    inputs = {name: [] for name in linears}
    hooks = [
        m.register_forward_pre_hook(lambda m, a, n=n: inputs[n].append(a[0].flatten(0, -2))) for n, m in linears.items()
    ]
    with torch.no_grad():
        forward(model)
    for hook in hooks:
        hook.remove()
    for name, module in linears.items():
        metric = module.weight.detach().abs() * torch.cat(inputs[name]).norm(dim=0)
        cut = metric.sort(dim=1).values[:, int(sparsity * metric.shape[1]) - 1 :][:, :1]
        module.weight.data[metric <= cut] = 0


@pytest.fixture(scope="module")
def t5():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    )
    return T5ForConditionalGeneration(config).eval()


def captions(batches=2):
    g = torch.Generator().manual_seed(3)
    draw = lambda *size: torch.randint(1, 40, size, generator=g)  # noqa: E731
    return [{"input_ids": draw(3, 7), "labels": draw(3, 5)} for _ in range(batches)]


def test_every_block_of_an_encoder_decoder_sees_its_own_inputs(t5):
    found = vlp_bench.prune(t5, "wanda", 0.5, captions())
    before = {name: p.detach().clone() for name, p in t5.named_parameters()}
    stacks = [("encoder", 0), ("encoder", 1), ("decoder", 0), ("decoder", 1)]
    for stack, number in stacks:
        prefix = f"{stack}.block.{number}."
        linears = {n: m for n, m in t5.named_modules() if isinstance(m, nn.Linear) and n.startswith(prefix)}
        wanda_by_hand(t5, linears, lambda model: [model(**batch) for batch in captions()], 0.5)
    expected = {name: p.detach() != 0 for name, p in t5.named_parameters() if name in found.masks}
    t5.load_state_dict(before, strict=False)
    assert len(expected) == 2 * 6 + 2 * 10
    assert all(mask.equal(expected[name]) for name, mask in found.masks.items())


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_the_weights_come_back(t5, name):
    before = {key: p.detach().clone() for key, p in t5.named_parameters()}
    vlp_bench.prune(t5, name, 0.5, captions())
    assert all(p.equal(before[key]) for key, p in t5.named_parameters())
    broken = [*captions(1), {"input_ids": "no ids"}]
    with pytest.raises((ValueError, AttributeError, TypeError)):
        vlp_bench.prune(t5, name, 0.5, broken)
    assert all(p.equal(before[key]) for key, p in t5.named_parameters())


def test_blocks_come_in_the_order_of_the_data_not_of_the_names():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(6, 3), nn.Linear(6, 6)

        def forward(self, x):
            return self.last(self.first(x))

    assert blocks(Calibration(Backwards(), labelled())) == [["first.weight"], ["last.weight"]]
    assert blocks(Calibration(Backwards())) == [["last.weight"], ["first.weight"]]


def test_a_later_block_sees_the_pruned_one_before_it():
    """On (3, 1) the dense first layer gives (8, 3.5) where 8·1 > 3.5·2; pruned (5, 3), where 5·1 < 3·2."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 5.0], [1.0, 0.5]]))
        model[1].weight.copy_(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    x = torch.tensor([[3.0, 1.0]])
    at_once = vlp_bench.prune(model, "wanda", 0.5, [x], options={"sweep": "at_once"})
    in_turn = vlp_bench.prune(model, "wanda", 0.5, [x])
    assert at_once.masks["0.weight"].tolist() == [[False, True], [True, False]]
    assert at_once.masks["1.weight"].tolist() == [[True, False]] * 2
    assert in_turn.masks["1.weight"].tolist() == [[False, True]] * 2


def test_a_tied_weight_is_solved_once_with_the_inputs_of_both_readers():
    model = Tied()
    seen = []

    def solve(calibration, budgets):
        seen.append((list(budgets), calibration.norms()))
        return pruner.solve(calibration, budgets)

    pruner = vlp_bench.pruning.catalogue.load("wanda")
    Pruner(allocate=pruner.allocate, solve=solve, sweep=pruner.sweep).prune(model, 0.5, [labelled()[0][0]])
    assert [names for names, _ in seen] == [["encoder.weight"], ["head.weight"]]
    expected = Calibration(model, [labelled()[0][0]]).norms()["encoder.weight"]
    torch.testing.assert_close(seen[0][1]["encoder.weight"], expected)


def test_the_report_names_the_data():
    first, other = (
        vlp_bench.prune(sequential(), "wanda", 0.5, labelled(seed=seed), TwoModalities()).report["hashes"]
        for seed in (1, 2)
    )
    assert first["calibration"] != other["calibration"]
    assert first["calibration"] is not None


class Twice(nn.Module):
    """A stack of blocks; `again` runs the first of them once more at the end, as tied layers do."""

    def __init__(self, again=False):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(4))
        self.again = again
        self.runs = [0] * 4
        for number, layer in enumerate(self.layers):
            layer.register_forward_hook(lambda *_, number=number: self._count(number))

    def _count(self, number):
        self.runs[number] += 1

    def forward(self, x):
        kept = x
        for layer in self.layers:
            x = x + layer(x)
        repeat = self.again == "always" or (self.again == "sometimes" and kept[0, 0] > 0)
        return self.layers[0](x) if repeat else x


def whole_passes(model, batches, name="wanda"):
    pruner, calibration = vlp_bench.pruning.catalogue.load(name), Calibration(model, batches)
    budgets = pruner.allocate(calibration, 0.5)
    return in_whole_passes(pruner.solve, calibration, budgets, blocks(calibration))


@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "wanda_pp"])
@pytest.mark.parametrize("again", [False, "always", "sometimes"])
def test_resumed_passes_give_what_whole_passes_give(again, name, caplog):
    model = Twice(again)
    batches = [-torch.rand(5, 6), torch.rand(5, 6), torch.randn(5, 6)]
    found, expected = vlp_bench.prune(model, name, 0.5, batches), whole_passes(model, batches, name)
    assert all(mask.equal(expected.masks[key]) for key, mask in found.masks.items())
    assert all(weight.equal(expected.weights[key]) for key, weight in found.weights.items())
    assert ("batches run through the model in different ways" in caplog.text) == (again == "sometimes")


def test_every_block_is_computed_twice_at_most(monkeypatch):
    counted = []
    run = resume._Run._forward
    monkeypatch.setattr(
        resume._Run,
        "_forward",
        lambda self, block, forward: run(
            self, block, lambda *args, **kwargs: counted.append(forward) or forward(*args, **kwargs)
        ),
    )
    batches = [torch.randn(5, 6) for _ in range(3)]
    vlp_bench.prune(Twice(), "wanda", 0.5, batches)
    first_batch, blocks_, passes = 1, 4, 2
    assert len(counted) <= blocks_ * (first_batch + passes * len(batches))
    assert len(counted) > blocks_ * len(batches)


def test_regions_of_a_vision_language_model_resume_too():
    xvlm = XVLM(CONFIG).eval()
    data = [[batch(2 * i, region=False), batch(2 * i + 1, region=True)] for i in range(2)]
    found, expected = vlp_bench.prune(xvlm, "wanda", 0.5, data), whole_passes(xvlm, data)
    assert all(mask.equal(expected.masks[key]) for key, mask in found.masks.items())


class Chain(nn.Module):
    """Blocks, each fed with what the one before gave; `glance` lets the end look back at an early one's output."""

    def __init__(self, glance=None):
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(5))
        self.head = nn.Linear(6, 3)
        self.glance = glance

    def forward(self, x):
        seen = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            seen.append(x)
            if self.glance == "in place" and number == 1:
                x.mul_(1.5)
        return self.head(x + seen[1] if self.glance == "late" else x)


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("glance", [None, "late", "in place"])
def test_what_was_let_go_of_is_made_again_where_somebody_asks_for_it(glance, name, monkeypatch):
    model, batches = Chain(glance), [torch.randn(5, 6) for _ in range(3)]
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    restarts = []
    again = resume.Resuming.again
    monkeypatch.setattr(
        resume.Resuming, "again", lambda self, missing: restarts.append(missing.call) or again(self, missing)
    )
    found, expected = vlp_bench.prune(model, name, 0.5, batches), whole_passes(model, batches, name)
    assert restarts == {None: [], "late": [1], "in place": [1]}[glance]
    assert all(mask.equal(expected.masks[key]) for key, mask in found.masks.items())
    assert all(weight.equal(expected.weights[key]) for key, weight in found.weights.items())
    assert all(p.equal(before[key]) for key, p in model.named_parameters())


def test_one_output_a_batch_is_kept_of_a_chain(monkeypatch):
    made = []
    let_go = resume.Resuming.finish

    def finish(self, names):
        made.append(sum(type(out) is torch.Tensor for tape in self._tapes for out in tape.outputs))
        let_go(self, names)

    monkeypatch.setattr(resume.Resuming, "finish", finish)
    vlp_bench.prune(Chain(), "wanda", 0.5, [torch.randn(5, 6) for _ in range(3)])
    assert made == [0, 3, 3, 3, 3]


def test_a_solved_block_is_dense_again_as_soon_as_nothing_reads_it():
    model, seen = Chain(), []
    before = {key: p.detach().clone() for key, p in model.named_parameters()}

    def solve(calibration, budgets):
        seen.append([key for key, p in model.named_parameters() if not p.equal(before[key])])
        return pruner.solve(calibration, budgets)

    pruner = vlp_bench.pruning.catalogue.load("wanda")
    Pruner(allocate=pruner.allocate, solve=solve, sweep=pruner.sweep).prune(model, 0.5, [torch.randn(5, 6)])
    assert seen == [[]] * 6


class Shuffled:
    """Padded texts, a row a batch, in another order every time."""

    def __init__(self, orders):
        ids = torch.randint(1, 30, (4, 6), generator=torch.Generator().manual_seed(0))
        masks = torch.arange(6) < torch.tensor([[6], [5], [3], [2]])
        self.rows = [{"input_ids": i[None], "attention_mask": m[None].long()} for i, m in zip(ids, masks, strict=True)]
        self.orders, self.parts = iter(orders), 1

    def __iter__(self):
        shown = [self.rows[number] for number in next(self.orders)]
        return iter([shown[i : i + self.parts] for i in range(0, 4, self.parts)] if self.parts > 1 else shown)


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_batches_that_change_their_order_are_refused(name):
    """What blocks gave is of the first pass: the masks of another order would be those of other tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).eval()
    adapter, as_they_lie = vlp_bench.TransformersAdapter(model), range(4)
    same = Shuffled([as_they_lie] * 20)
    found = vlp_bench.prune(model, name, 0.5, same, adapter)
    listed = vlp_bench.prune(model, name, 0.5, same.rows, adapter)
    assert all(found.masks[own].equal(listed.masks[own]) for own in listed.masks)
    orders = [[*range(turn, 4), *range(turn)] for turn in range(4)] * 5
    with pytest.raises(ValueError, match=r"calibration batch 0 is another than in the first pass, .* list\(batches\)"):
        vlp_bench.prune(model, name, 0.5, Shuffled(orders), adapter)
    in_parts = Shuffled([[0, 1, 2, 3], [0, 1, 3, 2]] * 10)
    in_parts.parts = 2
    with pytest.raises(ValueError, match="calibration batch 1 is another than in the first pass"):
        vlp_bench.prune(model, name, 0.5, in_parts, adapter)
