import logging

import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import Tied, labelled, sequential
from vlp_bench.pruning.allocation.uniform import GlobalBudget
from vlp_bench.pruning.solvers.chita import solver as chita
from vlp_bench.pruning.solvers.chita.block_problem import Problem, largest_of, ridge, solve_block
from vlp_bench.pruning.solvers.chita.rows import Block, Row, Rows, cut, fitting, plan
from vlp_bench.pruning.solvers.chita.solver import Chita
from vlp_bench.pruning.solvers.chita.support_bounds import look
from vlp_bench.pruning.statistics.calibration import Calibration


def largest(b, k, alive=None):
    return largest_of(lambda i: b, k, [alive])[0]


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("batches, n", [(3, 8), (8, 3), (5, 5)])
def test_ridge_is_where_the_gradient_of_the_objective_vanishes(batches, n):
    rows, w, linear, target, damping = (
        draws(batches, n),
        draws(n, seed=1),
        draws(n, seed=2),
        draws(batches, seed=3),
        0.3,
    )
    v = ridge(rows, w, linear, target, damping).requires_grad_(True)
    objective = (target - rows @ v).square().sum() / 2 + linear @ v + damping / 2 * (v - w).square().sum()
    objective.backward()
    assert v.grad.abs().max() < 1e-9


def problem(b, gradient, k, objective, compat="corrected", curvature=1.0):
    b, gradient = torch.tensor(b), torch.tensor(gradient)
    problem = Problem([b], [gradient], lambda v: curvature * v(0), lambda v: objective(v(0)), 0.0, [None])
    step = problem.step([largest(b, k)], compat)
    return step(0), step.support[0]


def test_a_step_that_keeps_its_support_is_the_exact_line_search():
    values, support = problem([3.0, 1.0, 0.5], [1.0, 2.0, 0.0], 2, None)
    assert support.tolist() == [True, True, False]
    assert values.tolist() == [2.0, -1.0, 0.0]  # t = 5 / 5
    values, _ = problem([3.0, 1.0, 0.5], [1.0, 2.0, 0.0], 2, None, curvature=2.0)
    assert values.tolist() == [2.75, 0.5, 0.0]


def test_a_step_that_would_bring_in_another_weight_is_shortened_and_grows_while_it_helps():
    """Steps 1, 1/2 and 1/4 let entry 1 outgrow entry 0; 1/8 doesn't. From there 1/8 to 1 improve, 2 no longer does."""
    seen = []

    def objective(v):
        seen.append(v.tolist())
        return float((v - torch.tensor([0.0, 9.0])).square().sum())

    values, support = problem([2.0, 1.0], [0.5, -6.0], 1, objective)
    assert seen == [[2.0, 0.0], [1.9375, 0.0], [0.0, 2.5], [0.0, 4.0], [0.0, 7.0], [0.0, 13.0]]
    assert values.tolist() == [0.0, 7.0]
    assert support.tolist() == [False, True]


def test_a_line_search_that_fails_keeps_the_weights_and_official_loses_them():
    worse = iter(range(100))
    corrected, support = problem([2.0, 1.0], [0.5, -6.0], 1, lambda v: next(worse))
    assert corrected.tolist() == [2.0, 0.0]
    assert support.tolist() == [True, False]
    worse = iter(range(100))
    official, _ = problem([2.0, 1.0], [0.5, -6.0], 1, lambda v: next(worse), compat="official")
    assert official.tolist() == [0.0, 0.0]


def test_without_curvature_there_is_no_step():
    values, _ = problem([2.0, 1.0], [0.0, 0.0], 1, None, curvature=0.0)
    assert values.tolist() == [2.0, 0.0]


def test_what_is_gone_comes_last():
    b, alive = torch.tensor([0.0, 3.0, 0.0, 1.0]), torch.tensor([True, False, True, True])
    assert largest(b, 2, alive).tolist() == [True, False, False, True]
    assert largest(b, 3, alive).tolist() == [True, False, True, True]


def test_sizes_can_be_put_where_there_is_room():
    parts, room = [torch.tensor([-2.0, 1.0]), torch.tensor([3.0, -4.0])], [torch.empty(2), torch.empty(2)]
    found = largest_of(lambda i: parts[i], 2, [None, torch.tensor([True, False])], memory=room)
    assert [mask.tolist() for mask in found] == [[True, False], [True, False]]
    assert [sizes.tolist() for sizes in room] == [[2.0, 1.0], [3.0, -1.0]]


def test_a_block_is_solved_exactly_on_its_support():
    rows, w = draws(4, 12), draws(12, seed=1)
    five, linear = largest(w, 5), rows.sum(0) / 100
    values, support = solve_block(rows, w * five, w, 100, five, 0.5, None, "corrected")
    assert support.sum() == 5
    assert support.equal(w.abs() >= w.abs().sort(descending=True).values[4])
    assert values[support].allclose(ridge(rows[:, support], w[support], linear[support], rows @ w, 0.5))
    assert not values[~support].any()


@pytest.mark.parametrize("batches", [4, 8])
def test_the_released_rounding_is_of_the_same_answer(batches):
    rows, w = draws(batches, 12), draws(12, seed=1)
    six = largest(w, 6)
    exact, _ = solve_block(rows, w * six, w, 100, six, 0.5, None, "corrected")
    double, _ = solve_block(rows, w * six, w, 100, six, 0.5, None, "official")
    torch.testing.assert_close(double, exact, rtol=1e-12, atol=1e-12)
    given = [tensor.float() for tensor in (rows, w * six, w)]
    single, _ = solve_block(*given, 100, six, 0.5, None, "official")
    assert 0 < (single - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("batches", [4, 30])
def test_a_small_ridge_does_not_enlarge_the_rounding_of_the_linear_part(batches):
    """A linear part in float32 is no combination of the rows any more; divided by the ridge, values were 2 % off."""
    rows, w = draws(batches, 60).float(), draws(60, seed=1).float()
    support, damping = largest(w, 20), batches * 1e-6
    exact, dense = rows.double(), w.double()
    columns = exact[:, support]
    expected = ridge(columns, dense[support], columns.sum(0) / 3, exact @ dense, damping)
    for values in (
        solve_block(rows, w * support, w, 3, support, damping, None, "corrected")[0],
        look(rows, w, 3, support, damping)[0],
    ):
        assert (values[support] - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("seed", [4, 5, 7, 10])
def test_a_search_from_near_the_minimum_sees_what_its_first_step_improves(seed):
    """Of an objective of a few tenths some 1e-8, which float32 doesn't tell: the search ended before it had begun."""
    rows, w = draws(4, 40, seed=seed).float(), draws(40, seed=seed + 1000).float()
    exact, one = rows.double(), largest(w, 1)
    column = exact[:, one]
    least = ridge(column, w[one].double(), column.sum(0) / 3, exact @ w.double(), 0.04)
    b = torch.zeros(40).masked_scatter(one, 1.001 * least.float())
    values, support = solve_block(rows, b, w, 3, one, 0.04, None, "corrected")
    expected, other = solve_block(exact, b.double(), w.double(), 3, one, 0.04, None, "corrected")
    assert support.equal(other)
    assert not support.equal(one)
    assert values.dtype == w.dtype
    torch.testing.assert_close(values.double(), expected, rtol=1e-6, atol=1e-6)


class Steep(vlp_bench.PlainAdapter):
    """Large gradients, counted."""

    calls = 0

    def loss(self, model, batch):
        self.calls += 1
        return 10 * super().loss(model, batch)


TIGHT = 4 * 3 * 38 / 1e9  # three rows of one block of seven


@pytest.mark.parametrize(
    "memory_gb, ridge, kept, passes, changing",
    [
        (1.0, 0.3, 30, 1, 3),  # rows stay in memory
        (TIGHT, 0.3, 100, 7, 0),
        (TIGHT, 0.3, 30, 7 + 3, 3),  # those three again
        (
            TIGHT,
            0.01,
            60,
            1 + 2 + 7,
            None,
        ),  # all of the first group would have to be gone through again: wait for the step
        (TIGHT, 0.3, 15, 7 + 2 + 7, None),  # the model's own support may change, after all
    ],
)
def test_at_sight_or_after_the_step_the_answer_is_the_same(
    memory_gb, ridge, kept, passes, changing, monkeypatch, caplog
):
    settings, adapter = Chita(ridge=ridge, block_size=20, memory_gb=memory_gb), Steep()
    calibration = Calibration(sequential(), labelled(3), adapter)
    adapter.calls = 0
    with caplog.at_level(logging.INFO):
        found = settings(calibration, {"all": kept})
    assert adapter.calls == 3 * passes
    assert ("a step may change the support of" in caplog.text) == bool(changing)
    assert not changing or f"may change the support of {changing} of 7 blocks" in caplog.text
    monkeypatch.setattr(chita._Run, "_at_sight", lambda run: (None, run.blocks))
    waited = settings(calibration, {"all": kept})
    for name, mask in waited.masks.items():
        assert mask.equal(found.masks[name])
        torch.testing.assert_close(found.weights[name], waited.weights[name], rtol=1e-3, atol=1e-5)


def test_masks_of_earlier_stages_are_part_of_the_memory(caplog):
    calibration = Calibration(sequential(), labelled(3))
    settings = Chita(block_size=20, memory_gb=4 * 3 * 151 / 1e9)
    with caplog.at_level(logging.INFO):
        first = settings(calibration, {"all": 100})
        settings(calibration.stage(1, alive=first.masks), {"all": 50})
    assert [record.message[:15] for record in caplog.records if "passes" in record.message] == [
        "CHITA: 1 passes",
        "CHITA: 2 passes",
    ]


def test_rows_keep_what_the_blocks_need():
    blocks = [Block("a", 2, 5), Block("a", 5, 6), Block("b", 0, 3)]
    rows, a, b = Rows(blocks, "float32"), torch.arange(8.0), torch.arange(3.0)
    rows.add({"a": a, "b": b})
    rows.add({"a": a * 10})
    a.zero_()  # a part is copied, so that the whole can go; a whole is kept as it is
    pieces = [(block, piece.tolist()) for block, piece in rows.pieces(set(blocks))]
    assert pieces == list(zip(blocks, [[[2, 3, 4], [20, 30, 40]], [[5], [50]], [[0, 1, 2], [0, 0, 0]]], strict=True))
    assert rows.products("b", torch.ones(3)).tolist() == [3, 0]
    assert rows._rows["b"][0].values.data_ptr() == b.data_ptr()


def test_blocks_by_hand():
    calibration = Calibration(sequential())  # 60, 70 and 21 weights
    found = [(block.name[0], block.start, block.stop) for block in cut(calibration, 30)]
    assert found == [("0", 0, 30), ("0", 30, 60), ("2", 0, 35), ("2", 35, 70), ("4", 0, 21)]
    assert [b.stop - b.start for b in cut(Calibration(nn.Sequential(nn.Linear(10, 10))), 30)] == [33, 33, 34]


def test_the_plan_holds_its_budget():
    blocks = [Block("a", 0, 100), Block("a", 100, 200), Block("b", 0, 150)]
    assert plan(blocks, 5, 1.0).passes == 1
    tight = plan(blocks, 5, 5e-6)  # 5000 bytes: 250 weights of five rows
    assert [len(group) for group in tight.groups] == [2, 1]
    assert (tight.passes, tight.bytes) == (2, 4000)
    assert str(tight) == "2 passes over the data, 0.00 GB of gradient rows at a time, as float32"
    assert plan(blocks, 5, 5e-6, waiting=True).passes == 4
    tighter = plan(blocks, 5, 5e-6, taken=1001)  # a byte less than for 200 weights
    assert [len(group) for group in tighter.groups] == [1, 1, 1]
    with pytest.raises(
        ValueError, match="memory_gb is 3e-06, of which 1e-06 are taken: the rows of one block need 2e-06; give"
    ) as refused:
        plan(blocks, 5, 3e-6, taken=1001)
    assert "smaller blocks (pruner.block_weights, block_size in Python)" in str(refused.value)


def test_memory_changes_the_passes_not_the_answer(caplog):
    class Counts(vlp_bench.PlainAdapter):
        calls = 0

        def loss(self, model, batch):
            self.calls += 1
            return super().loss(model, batch)

    answers = []
    for memory_gb, passes in ((1.0, 1), (4 * 3 * 75 / 1e9, 3)):
        adapter, model = Counts(), sequential()
        with caplog.at_level(logging.INFO):
            answers.append(
                vlp_bench.prune(
                    model, "chita", 0.5, labelled(3), adapter, options={"memory_gb": memory_gb, "block_weights": 30}
                )
            )
        assert adapter.calls == 3 * passes
        assert f"CHITA: {passes} passes over the data" in caplog.text
        assert "CHITA: gradients take about" in caplog.text
    first, second = answers
    for name, mask in first.masks.items():
        assert mask.equal(second.masks[name])
        torch.testing.assert_close(first.weights[name], second.weights[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [sequential, Tied])
def test_weights_live_on_the_mask_and_never_return(build):
    found = vlp_bench.prune(build(), "chita_pp", [0.5, 0.9], labelled(4), options={"steps": 3, "block_weights": 20})
    for solution in found.values():
        assert all(not solution.weights[name][~mask].any() for name, mask in solution.masks.items())
        assert solution.weights.keys() == solution.masks.keys()


def test_a_large_ridge_leaves_the_largest_weights_as_they_are():
    model = sequential()
    strong = vlp_bench.prune(model, "chita", 0.5, labelled(), options={"ridge": 1e8})
    largest_only = vlp_bench.prune(model, "omp", 0.5)
    for name, mask in largest_only.masks.items():
        assert strong.masks[name].equal(mask)
        torch.testing.assert_close(strong.weights[name], model.get_parameter(name).detach() * mask)


def test_the_objective_is_lower_than_with_the_mask_alone():
    model, batches = nn.Sequential(nn.Linear(6, 3)), labelled(8)
    w = model[0].weight.detach().flatten()
    solution = vlp_bench.prune(model, "chita", 0.6, batches, options={"ridge": 0.01})
    rows = torch.stack([own["0.weight"].flatten() for own in Calibration(model, batches).gradients_of_batches()])

    def objective(v):
        off = v.flatten() - w
        return (rows @ off).square().sum() / 2 + (rows.sum(0) / 5) @ off + 8 * 0.01 / 2 * off.square().sum()

    assert objective(solution.weights["0.weight"]) < objective(w.view(3, 6) * solution.masks["0.weight"]) - 1e-3


def test_total_is_one_budget():
    calibration = Calibration(sequential())
    assert sum(GlobalBudget()(calibration, 0.63).values()) == round(0.37 * 151)
    assert sum(GlobalBudget(compat="official")(calibration, 0.63).values()) == int((1 - 0.63) * 151)


@pytest.mark.parametrize("setting", ["ridge", "block_size", "memory_gb"])
def test_bad_settings(setting):
    with pytest.raises(ValueError, match=f"^{setting} must be (positive|at least 1), got 0$"):
        Chita(**{setting: 0})


def test_lossy_rows_take_fewer_passes_and_give_nearly_the_same():
    blocks = [Block("a", 0, 100), Block("a", 100, 200), Block("b", 0, 150)]
    forms = ("float32", "bfloat16", "int8")
    assert [plan(blocks, 5, 5e-6, precision).passes for precision in forms] == [2, 1, 1]
    assert [plan(blocks, 5, 3e-6, precision).passes for precision in forms] == [3, 2, 1]
    exact, *rounded = (
        vlp_bench.prune(sequential(), "chita", 0.5, labelled(6), options={"solve.rows": rows, "block_weights": 30})
        for rows in forms
    )
    for found in rounded:
        for name, weights in exact.weights.items():
            assert 0 < (weights - found.weights[name]).norm() < 0.02 * weights.norm()
    with pytest.raises(ValueError, match="unknown rows 'int4': use one of auto, float32, bfloat16, int8"):
        Chita(rows="int4")


def test_auto_keeps_rows_exactly_where_they_fit():
    assert [fitting(350, 5, gb) for gb in (7e-6, 6.9e-6, 3.4e-6, 1e-7)] == ["float32", "bfloat16", "int8", "int8"]
    auto, exact = (
        vlp_bench.prune(sequential(), "chita", 0.5, labelled(6), options={"solve.rows": rows, "block_weights": 30})
        for rows in ("auto", "float32")
    )
    assert all(weights.equal(exact.weights[name]) for name, weights in auto.weights.items())


def test_rows_of_int8_have_a_factor_for_each_block():
    gradient = torch.tensor([127.0, -63.4, 0.0, 0.004, -0.002, 0.0, 0.0])
    row = Row.of(gradient, [3, 2, 2], "int8")
    assert row.values.tolist() == [127, -63, 0, 127, -64, 0, 0]
    assert row.factors.tolist() == pytest.approx([1.0, 0.004 / 127, 0.0])
    rows = Rows([Block("a", 0, 3), Block("a", 3, 5), Block("a", 5, 7)], "int8")
    rows.add({"a": gradient})
    rows.add({"other": gradient})
    found = {(block.start, block.stop): piece.clone() for block, piece in rows.pieces(rows.blocks)}
    torch.testing.assert_close(found[0, 3], torch.tensor([[127.0, -63.0, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(found[3, 5], torch.tensor([[0.004, -64 * 0.004 / 127], [0.0, 0.0]]))
    v = torch.arange(7.0)
    torch.testing.assert_close(rows.products("a", v), torch.cat([found[key] for key in found], 1).double() @ v.double())


def test_a_step_of_a_model_is_that_of_its_layers_laid_side_by_side():
    b, g, rows = draws(40), draws(40, seed=1) / 20, draws(6, 40, seed=2)
    parts = lambda v: list(v.split([15, 25]))  # noqa: E731
    joined = lambda v: torch.cat([v(0), v(1)])  # noqa: E731
    objective = lambda v: float(((rows @ (v - b)).square().sum() / 2) + (g * 5) @ v)  # noqa: E731
    for gradient in (g, g * 5):
        whole = Problem([b], [gradient], lambda v: rows @ v(0), lambda v: objective(v(0)), 0.1, [None]).step(
            [largest(b, 12)]
        )
        split = Problem(
            parts(b),
            parts(gradient),
            lambda v: rows @ joined(v),
            lambda v: objective(joined(v)),
            0.1,
            [None, None],
        ).step(largest_of(lambda i: parts(b)[i], 12, [None, None]))
        assert torch.cat(split.support).equal(whole.support[0])
        torch.testing.assert_close(joined(split), whole(0))
