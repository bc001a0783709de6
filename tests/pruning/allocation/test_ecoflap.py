import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench
from tests.pruning.toys import Tied, TwoModalities, labelled, sequential
from vlp_bench.pruning.allocation.budgets import apportion
from vlp_bench.pruning.allocation.ecoflap import sensitivity
from vlp_bench.pruning.allocation.ecoflap.allocators import BlockGradient, BlockSensitivity
from vlp_bench.pruning.allocation.ecoflap.proportional_budgets import proportional_budgets
from vlp_bench.pruning.allocation.ecoflap.sensitivity import losses_around
from vlp_bench.pruning.statistics.activation_cache import ActivationCache, blocks_of
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.gradients import SIZES, GradientSizes


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.down(torch.tanh(self.up(x)))


class Stack(nn.Module):
    def __init__(self, depth=10):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            x += 1  # in place: must not reach what was remembered
        return self.head(x)


class BlocksOnly(vlp_bench.PlainAdapter):
    def prunable(self, model):
        return [name for name in super().prunable(model) if "blocks" in name]


@pytest.fixture
def stack():
    torch.manual_seed(0)
    return Stack()


def naive(calibration, epsilon, draws, seed=0):
    """The same estimator with the whole model run every time."""
    found = {}
    for name, layer in calibration.layers.items():
        seeds = sensitivity.noise_seeds(list(calibration.layers), draws, seed, "corrected")[name]
        before = layer.weight.detach().clone()
        found[name] = []
        for s, (x, y) in zip(seeds, calibration.batches, strict=True):
            pair = []
            for sign in (1, -1):
                layer.weight.data = before + sign * (epsilon * sensitivity.noise(layer, s))
                with torch.no_grad():
                    pair.append(float(F.cross_entropy(calibration.model(x), y)))
            found[name].append(tuple(pair))
        layer.weight.data = before
    return found


@pytest.mark.parametrize("keep_in", ["disk", "memory"])
def test_the_same_losses_in_at_most_six_tenths_of_the_block_calls(stack, keep_in):
    calibration = Calibration(stack, labelled(4), BlocksOnly())
    expected = naive(calibration, 1e-2, 4)
    naive_calls = sum(block.calls for block in stack.blocks)
    for block in stack.blocks:
        block.calls = 0
    assert losses_around(calibration, epsilon=1e-2, draws=4, keep_in=keep_in) == expected
    assert sum(block.calls for block in stack.blocks) <= 0.6 * naive_calls


class Towers(Stack):
    """Two stacks that meet in a third; the second stack is run twice, before and after the third."""

    def __init__(self):
        super().__init__(6)

    def part(self, x, first):
        return self.blocks[first + 1](self.blocks[first](x))

    def forward(self, x):
        a, b = self.part(x, 0), self.part(x * 2, 2)
        fused = self.part(a + b, 4)
        return self.head(fused + self.part(x * 3, 2) + self.part(fused - b, 4))


def test_only_what_a_change_reaches_is_run_again():
    torch.manual_seed(0)
    model = Towers()
    calibration = Calibration(model, labelled(1), BlocksOnly())
    replay = ActivationCache(model, calibration.layers.values())
    x, _ = labelled(1)[0]
    with replay.recording():
        model(x)
    for block in model.blocks:
        block.calls = 0
    for number, expected in enumerate([[1, 1, 0, 0, 2, 2], [0, 1, 0, 0, 2, 2], [0, 0, 2, 2, 2, 2], [0, 0, 0, 2, 2, 2]]):
        layer = calibration.layers[f"blocks.{number}.up.weight"]
        before = layer.weight.detach().clone()
        with torch.no_grad():
            layer.weight.add_(0.1)
            whole = model(x)
            counted = [block.calls for block in model.blocks]
            with replay.replaying(layer):
                assert model(x).equal(whole)
            layer.weight.copy_(before)
        assert [block.calls - n for block, n in zip(model.blocks, counted, strict=True)] == expected
        for block in model.blocks:
            block.calls = 0


class Bag:
    """What a block can't be asked about."""

    def __init__(self, x):
        self.x = x


class Opaque(Block):
    def forward(self, bag):
        return super().forward(bag.x)


class Wraps(Stack):
    """Passes its states on in an object of its own."""

    def __init__(self):
        super().__init__(4)
        self.blocks = nn.ModuleList(Opaque() for _ in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = block(Bag(x))
        return self.head(x)


def test_arguments_of_unknown_kind_are_not_taken_for_the_same():
    torch.manual_seed(0)
    model = Wraps()
    calibration = Calibration(model, labelled(2), BlocksOnly())
    expected = naive(calibration, 1e-2, 2)
    for block in model.blocks:
        block.calls = 0
    assert losses_around(calibration, epsilon=1e-2, draws=2) == expected
    # per batch once to record; for each of its 8 matrices, blocks before the matrix's own are given again on both sides
    assert [block.calls for block in model.blocks] == [2 * (1 + 2 * 2 * (i + 1)) for i in range(4)]


def test_outputs_on_disk_go_again(tmp_path, monkeypatch, stack):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    there = []

    class Looks(BlocksOnly):
        def loss(self, model, batch):
            there.append(len(list(tmp_path.glob("*/*"))))
            return super().loss(model, batch)

    losses_around(Calibration(stack, labelled(1), Looks()), epsilon=1e-2, draws=1)
    assert there[0] == 0
    assert set(there[1:]) == {10}  # one file for each block
    assert not list(tmp_path.iterdir())


class Notes(Block):
    """Leaves a note beside its output."""

    def forward(self, x):
        self.notes.append(1)
        return super().forward(x)


class Reads(Stack):
    """Counts the notes that were left in this run."""

    def __init__(self):
        super().__init__()
        self.blocks[5] = Notes()
        self.blocks[5].notes = []

    def forward(self, x):
        self.blocks[5].notes.clear()
        return super().forward(x) * (1 + len(self.blocks[5].notes))


def test_a_model_whose_blocks_do_more_than_they_return_is_run_in_full(caplog):
    calibration = Calibration(Reads(), labelled(2), BlocksOnly())
    found = losses_around(calibration, epsilon=1e-2, draws=2)
    assert "every block is run every time" in caplog.text
    assert found == naive(calibration, 1e-2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_random_state_are_bit_identical_afterwards(stack, dtype):
    stack.to(dtype)
    batches = [(x.to(dtype), y) for x, y in labelled()]
    before = [p.detach().clone() for p in stack.parameters()]
    state, forwards = torch.get_rng_state(), [block.forward for block in stack.blocks]
    losses_around(Calibration(stack, batches), epsilon=1e-3, draws=5)
    assert all(a.equal(b) for a, b in zip(before, stack.parameters(), strict=True))
    assert torch.get_rng_state().equal(state)
    assert [block.forward for block in stack.blocks] == forwards
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in stack.modules())


def test_weights_come_back_after_a_failure(stack):
    class Breaks(vlp_bench.PlainAdapter):
        calls = 0

        def loss(self, model, batch):
            self.calls += 1
            return super().loss(model, batch) * (float("nan") if self.calls > 3 else 1)

    before = [p.detach().clone() for p in stack.parameters()]
    with pytest.raises(ValueError, match="the loss of calibration batch 0 is nan"):
        losses_around(Calibration(stack, labelled(), Breaks()), epsilon=1e-3, draws=5)
    assert all(a.equal(b) for a, b in zip(before, stack.parameters(), strict=True))
    assert all("forward" not in vars(block) for block in stack.blocks)


def test_what_a_loss_changes_on_the_side_is_put_back():
    class Momentum(Stack):
        """A queue and a frozen copy of the head that follows it, as in BLIP."""

        def __init__(self):
            super().__init__()
            self.copy = nn.Linear(6, 3).requires_grad_(False)
            self.register_buffer("queue", torch.zeros(3))

        def forward(self, x):
            self.copy.weight.mul_(0.5).add_(self.head.weight.detach(), alpha=0.5)
            self.queue += 1
            return super().forward(x) + self.copy.weight.sum() + self.queue * 0.1

    torch.manual_seed(0)
    model = Momentum()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = [(loss(), loss()) for loss in Calibration(model, labelled(2), BlocksOnly()).losses_of_batches(2)]
    assert all(first == second for first, second in losses)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_batches_come_again_and_noises_share_one():
    calibration = Calibration(sequential(), labelled(2))
    pairs = losses_around(calibration, epsilon=1e-2, draws=5)["0.weight"]
    assert len(pairs) == len(set(pairs)) == 5
    shared = losses_around(Calibration(sequential(), labelled(2)), epsilon=1e-9, draws=4, noises=2)["0.weight"]
    whole = [loss() for loss in calibration.losses_of_batches(2)]
    assert [plus for plus, _ in shared] == pytest.approx([whole[0], whole[0], whole[1], whole[1]], rel=1e-5)


def test_the_expected_slope_is_the_gradients_length():
    model = sequential()
    batches = labelled(1)
    allocate = BlockSensitivity(draws=400, noises=400, epsilon=1e-2)
    found = allocate.importances(Calibration(model, batches))
    for name, gradient in Calibration(model, batches).gradients().items():
        expected = 400 * (2 / torch.pi) ** 0.5 * float(gradient.norm())
        assert found[name] == pytest.approx(expected, rel=0.15)


def shares(found):
    return {name: own / sum(found.values()) for name, own in found.items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_below_the_rounding_is_warned_of_with_one_that_measures(caplog, precision):
    def measured(calibration, epsilon):
        return shares(BlockSensitivity(draws=24, epsilon=epsilon, keep_in="memory").importances(calibration))

    batches, model = labelled(), sequential()
    expected = measured(Calibration(model, batches), 1e-3)
    assert "epsilon" not in caplog.text
    if precision == "fp32":
        model, batches = model.bfloat16(), [(x.bfloat16(), y) for x, y in batches]
    calibration = Calibration(model, batches, precision=precision)
    assert measured(calibration, 1e-3) != pytest.approx(expected, rel=0.1)
    assert "losses in bfloat16 are rounded by more than a step of epsilon=0.001 moves them" in caplog.text
    assert "use epsilon=0.01 at least, or float32" in caplog.text
    caplog.clear()
    assert measured(calibration, 1e-2) == pytest.approx(expected, rel=0.1)
    assert "epsilon" not in caplog.text


def test_a_block_is_the_module_its_place_is_named_after(stack):
    layers = Calibration(stack, adapter=BlocksOnly()).layers
    assert blocks_of(stack, [layers["blocks.3.up.weight"]]) == [stack.blocks[3]]
    assert set(blocks_of(stack, layers.values())) == set(stack.blocks)


def test_a_tied_weight_moves_both_readers():
    model = Tied()
    layers = Calibration(model).layers
    replay = ActivationCache(model, layers.values())
    x = labelled()[0][0]
    with torch.no_grad(), replay.recording():
        model(x)
    with torch.no_grad():
        model.encoder.weight.add_(0.1)
        expected = model(x)
        with replay.replaying(layers["encoder.weight"]):
            assert model(x).equal(expected)


def test_losses_are_measured_once_for_all_sparsities(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "vlp_bench.pruning.allocation.ecoflap.allocators.losses_around",
        lambda *a, **k: calls.append(1) or losses_around(*a, **k),
    )
    model = sequential()
    vlp_bench.prune(model, "ecoflap", [0.3, 0.5, 0.7], Calibration(model, labelled()))
    assert len(calls) == 1


def test_gradient_sizes_by_hand_and_in_the_pass_of_the_gradients():
    model, batches = sequential(), labelled(3)
    calibration = Calibration(model, batches)
    sizes = dict(zip(SIZES, calibration[GradientSizes()]["2.weight"].tolist(), strict=True))
    w = model[2].weight.detach()
    grads = [torch.autograd.grad(F.cross_entropy(model(x), y), model[2].weight)[0] for x, y in batches]
    assert sizes["gradient"] == pytest.approx(sum(float(g.abs().sum()) for g in grads) / 3)
    assert sizes["magnitude"] == pytest.approx(sum(float((w * g).abs().sum()) for g in grads) / 3)
    assert sizes["squared"] == pytest.approx(sum(float((w * g).square().sum()) for g in grads) / 3)
    calibration.adapter = None  # the pass is over: nothing more is asked
    assert calibration.gradients()["2.weight"].equal(Calibration(model, batches).gradients()["2.weight"])


def test_parts_of_a_batch_make_one_gradient():
    model, (a, b) = sequential(), labelled(2)
    joint = float(Calibration(model, [[a, b]])[GradientSizes()]["0.weight"][0])
    mean = Calibration(model, [a, b]).gradients()["0.weight"].abs().sum()
    assert joint == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.parametrize("build", [BlockSensitivity, BlockGradient])
@pytest.mark.parametrize("granularity", ["layer", "block", "model"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9, 0.97])
def test_totals_are_exact_and_no_group_loses_more_than_allowed(build, granularity, sparsity):
    calibration = Calibration(sequential(), labelled(), TwoModalities())
    kept = build(granularity=granularity)(calibration, sparsity)
    assert sum(kept.values()) == round((1 - sparsity) * 151)
    for name, count in kept.items():
        assert count / calibration.layers[name].size >= 1 - min(1, sparsity + 0.1) - 0.05
    per_modality = build(granularity=granularity, group_by="modality")(calibration, sparsity)
    assert per_modality["0.weight"] == round((1 - sparsity) * 60)


def test_a_block_that_does_not_matter_loses_most():
    model = sequential()
    with torch.no_grad():
        model[4].weight.mul_(1e-3)
        model[2].weight.mul_(1e-3)  # so 0 hardly matters, and 4 does
    for name in ("ecoflap", "ecoflap_first"):
        layers = vlp_bench.prune(model, name, 0.5, labelled()).report["layers"]
        share = {key: layer["kept"] / layer["total"] for key, layer in layers.items()}
        assert share["0.weight"] == pytest.approx(0.4, abs=0.01) if name == "ecoflap" else share["0.weight"] <= 0.5


def test_any_solver_goes_with_it():
    options = {"allocate": "ecoflap", "allocate.draws": 2}
    found = vlp_bench.prune(sequential(), "multiflow", 0.5, labelled(), options=options)
    assert found.kept == round(0.5 * 151)
    sparse = vlp_bench.prune(sequential(), "ecoflap", 0.5, labelled(), options={"solve": "sparsegpt", "draws": 2})
    assert sparse.weights.keys() == sparse.masks.keys()
    assert sparse.report["settings"]["allocate"]["draws"] == 2


def test_shares_by_hand():
    assert apportion(5, [4, 4, 4]) == [2, 1, 2]
    assert proportional_budgets([3, 1], [100, 100], 100, 0.6) == [55, 45]
    assert proportional_budgets([1, 0], [100, 100], 150, 0.9) == [
        100,
        50,
    ]  # what the full group can't take goes to the other
    assert proportional_budgets([0, 0, 0], [10, 20, 30], 30, 1.0) == [5, 10, 15]
    # .4 of each first; 1 left, of which three have a third, rounded up: two of these are taken back, none of the 40
    assert proportional_budgets([0, 1, 1, 1], [100, 10, 10, 10], 53, 0.6) == [40, 4, 4, 5]
    assert proportional_budgets([1, 1], [10, 10], 9, 0.5) == [4, 5]  # .5 of each is one too many


@pytest.mark.parametrize("scores", [[1e-300, 1.0], [1.0, 1.0], [0.0, 5.0], [1e30, 1e-30]])
@pytest.mark.parametrize("kept", [0, 1, 7, 99, 110])
def test_shares_add_up(scores, kept):
    shares = proportional_budgets(scores, [10, 100], kept, 1.0)
    assert sum(shares) == kept
    assert all(0 <= share <= size for share, size in zip(shares, [10, 100], strict=True))


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"granularity": "row"}, "granularity=row: expected one of layer, block, model"),
        ({"max_sparsity": 1.5}, "max_sparsity must be above 0 and at most 1, got 1.5"),
        ({"epsilon": 0.0}, "epsilon must be positive, got 0.0"),
        ({"allocate.keep_in": "tape"}, "keep_in=tape: expected one of memory, disk"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"max_sparsity": 0.4}, "max_sparsity is 0.4, below the sparsity of 0.5"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        vlp_bench.prune(sequential(), "ecoflap", 0.5, labelled(), options=setting)
    with pytest.raises(ValueError, match="at least 0 and finite, got nan"):
        proportional_budgets([float("nan")], [3], 1, 0.6)
