"""What no calibration batch reaches is refused by name; what is reached and has a gradient of zero is pruned."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import vlp_bench
from tests.pruning.toys import sequential
from tests.support.forked import together
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.runs.own_model.reach import unreached

OF_INPUTS = (
    "multiflow",
    "wanda",
    "sparsegpt",
    "ecoflap",
    "ria",
    "owl",
    "dlp",
    "tamp",
    "atv",
    "dsnot",
    "thanos",
    "alps",
    "wanda_pp",
)
OF_GRADIENTS = ("snip", "itersnip", "obd", "ecoflap_first", "chita", "tamt", "fisher", "force", "gblm", "pruner_zero")


class Experts(nn.Module):
    """Tokens go to the first `used` of three experts in turn; the others are called with no row."""

    def __init__(self, used, dead=False):
        super().__init__()
        self.inp, self.out = nn.Linear(8, 8), nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.used, self.dead = used, dead

    def forward(self, x):
        h = self.inp(x).flatten(0, 1)
        y, route = torch.zeros_like(h), torch.arange(len(h)) % self.used
        for number, expert in enumerate(self.experts):
            chosen = (route == number).nonzero().view(-1)
            given = expert(h[chosen])
            y = y.index_add(0, chosen, given * 0 if self.dead and number == 2 else given)
        return self.out(y).mean(0, keepdim=True)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.unused, self.b = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.b(self.a(x).mean(1).relu())[:1]


def tokens(batches=2):
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 5, 8, generator=draw), torch.tensor([1])) for _ in range(batches)]


@pytest.mark.parametrize("name", OF_INPUTS + OF_GRADIENTS)
def test_an_expert_without_tokens_and_an_unused_layer_are_refused_by_name(name):
    torch.manual_seed(0)
    options = {"steps": 2} if name == "itersnip" else None
    model = Experts(2)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"no calibration batch reaches 'experts.2.weight': .*prunable\(\)"):
        vlp_bench.prune(model, name, 0.5, tokens(), options=options)
    assert all(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))
    with pytest.raises(ValueError, match=r"no calibration batch reaches 'unused.weight': .*prunable\(\)"):
        vlp_bench.prune(Unused(), name, 0.5, tokens(), options=options)


class Reading(nn.Module):
    """A block that multiplies with the weight of a module it doesn't call, as Mamba does with `dt_proj`."""

    def __init__(self, turned):
        super().__init__()
        self.inp, self.read, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.turned = turned

    def forward(self, x):
        h, weight = self.inp(x), self.read.weight
        h = h @ weight.T if self.turned else (weight @ h.transpose(1, 2)).transpose(1, 2)
        return self.out(h.mean(1))[:1]


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("name", ["wanda", "multiflow", "tamp"])
def test_a_weight_that_is_read_without_calling_its_module_stays_dense_and_it_is_said_why(name, turned, caplog):
    solution = vlp_bench.prune(Reading(turned), name, 0.5, tokens())
    assert set(solution.masks) == {"inp.weight", "out.weight"}
    said = "what reaches read.weight can't be seen, so it stays dense: its weight is read without calling its module"
    assert said in [record.message for record in caplog.records]
    adapter: Any = PlainAdapter()
    why = {"read.weight": "its weight is read without calling its module, so what reaches it can't be seen"}
    assert unreached(Reading(turned), adapter, tokens(), "activations") == why
    assert unreached(Unused(), adapter, tokens(), "activations") == {"unused.weight": "no calibration batch reaches it"}
    assert "read.weight" in vlp_bench.prune(Reading(turned), "snip", 0.5, tokens()).masks


class Later(Experts):
    """The last expert is reached in the second batch alone."""

    def forward(self, x):
        self.used = 3 if x[0, 0, 0] > 0 else 2
        return super().forward(x)


@pytest.mark.parametrize("name", OF_INPUTS + OF_GRADIENTS)
def test_one_batch_that_reaches_a_layer_is_enough(name):
    torch.manual_seed(0)
    batches = tokens()
    batches[0][0][0, 0, 0], batches[1][0][0, 0, 0] = -1, 1
    options = {"steps": 2} if name == "itersnip" else None
    solution = vlp_bench.prune(Later(2), name, 0.5, batches, options=options)
    assert solution.sparsity == pytest.approx(0.5, abs=1e-2)
    assert solution.masks["experts.2.weight"].any()


def test_a_gradient_of_zero_is_one():
    model = Experts(3, dead=True)
    gradients = Calibration(model, tokens()).gradients()
    assert gradients["experts.2.weight"].eq(0).all()
    assert vlp_bench.prune(model, "snip", 0.5, tokens()).masks["experts.2.weight"].sum() == 0


def test_a_weight_that_is_read_without_its_module_is_reached_where_its_gradient_is():
    class Functional(Unused):
        def forward(self, x):
            return super().forward(F.linear(x, self.unused.weight))

    assert Calibration(Functional(), tokens()).gradients()["unused.weight"].ne(0).any()


@pytest.mark.parametrize("name", OF_INPUTS + OF_GRADIENTS)
def test_batches_without_rows_are_refused(name):
    nothing = [(torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))]
    with pytest.raises(ValueError, match=r"no calibration batch reaches|loss of calibration batch 0 is nan: leave the"):
        vlp_bench.prune(sequential(), name, 0.5, nothing)


class Hidden(PlainAdapter):
    """Nothing that the output layer reads counts."""

    def token_mask(self, batch, name, tokens):
        return torch.zeros(20, tokens, dtype=torch.bool) if name == "out.weight" else None


def test_a_layer_whose_tokens_all_do_not_count_is_refused_but_in_official_mode():
    with pytest.raises(ValueError, match=r"no calibration batch reaches 'out.weight'.* no token there that counts"):
        Calibration(Experts(3), tokens(), Hidden()).norms()
    assert Calibration(Experts(3), tokens(), Hidden()).norms(compat="official")["out.weight"].tolist() == [0.0] * 8


def test_processes_agree_on_what_is_reached(tmp_path):
    """Three batches, two processes: the expert is reached by a batch of one of them, or by none."""
    torch.manual_seed(0)
    state = Later(2).state_dict()

    def run(sign):
        def ask():
            model, batches = Later(2), tokens(3)
            model.load_state_dict(state)
            for number, (x, _) in enumerate(batches):
                x[0, 0, 0] = sign if number == 1 else -1
            found = []
            for question in ("norms", "gradients"):
                try:
                    found.append(getattr(Calibration(model, batches, shared=True), question)())
                except ValueError as reason:
                    found.append(str(reason))
            return found

        return ask

    alone = run(1)()
    for number, found in enumerate((*together(2, run(1), tmp_path / "a"), *together(2, run(-1), tmp_path / "b"))):
        for mine, whole in zip(found, alone, strict=True):
            if number < 2:
                assert all(mine[name].equal(own) for name, own in whole.items())
            else:
                assert "no calibration batch reaches 'experts.2.weight'" in mine


class Checkpointed(nn.Module):
    def __init__(self, reentrant=None, start="embedding"):
        super().__init__()
        self.embedding, self.position = nn.Embedding(50, 16), nn.Parameter(torch.randn(6, 16))
        self.l1, self.l2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)
        self.reentrant, self.start = reentrant, start

    def body(self, x):
        return self.l2(self.l1(x).relu())

    def forward(self, ids):
        h = self.embedding(ids) if self.start == "embedding" else self.position.expand(*ids.shape, 16) * ids[..., None]
        h = h + (self.body(h) if self.reentrant is None else checkpoint(self.body, h, use_reentrant=self.reentrant))
        return self.head(h.mean(1))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # passes of activations need no gradients
@pytest.mark.parametrize("start", ["embedding", "parameter", "frozen"])
@pytest.mark.parametrize("name", OF_GRADIENTS)
def test_reentrant_checkpointing_gives_the_same_masks(name, start):
    draw = torch.Generator().manual_seed(0)
    ids, labels = (lambda: torch.randint(50, (8, 6), generator=draw)), lambda: torch.randint(5, (8,), generator=draw)
    batches = [(ids(), labels()) for _ in range(3)]
    masks = []
    for reentrant in (None, True, False):
        torch.manual_seed(1)
        model = Checkpointed(reentrant, start)
        model.requires_grad_(start != "frozen")
        asked = [p.requires_grad for p in model.parameters()]
        masks.append(vlp_bench.prune(model, name, 0.5, batches).masks)
        assert [p.requires_grad for p in model.parameters()] == asked
        assert all(p.grad is None for p in model.parameters())
    assert masks[0]["l1.weight"].any()
    for other in masks[1:]:
        assert all(other[layer].equal(mask) for layer, mask in masks[0].items())
