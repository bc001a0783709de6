import json

import pytest
import torch
from torch import nn

import vlp_bench
from tests.pruning.toys import TwoModalities, labelled, sequential
from vlp_bench.pruning.keep_pruned import KeepPruned
from vlp_bench.pruning.masks import safetensors_files as files
from vlp_bench.pruning.solution import Solution


@pytest.fixture
def solution():
    return vlp_bench.prune(sequential(), "omp", 0.63, adapter=TwoModalities())


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_round_trip(solution, form, tmp_path):
    weights = {"0.weight": torch.randn(10, 6) * solution.masks["0.weight"]}
    path = Solution(solution.masks, weights, solution.report).save(tmp_path / "new" / "m.safetensors", form)
    loaded = Solution.load(path)
    assert list(loaded.masks) == list(solution.masks)
    assert all(loaded.masks[name].equal(mask) for name, mask in solution.masks.items())
    assert loaded.masks["0.weight"].dtype == torch.bool
    assert loaded.weights["0.weight"].equal(weights["0.weight"])
    assert loaded.report == solution.report == json.loads(json.dumps(solution.report))
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]


def test_nothing_is_left_of_a_write_that_fails(solution, tmp_path, monkeypatch):
    path = solution.save(tmp_path / "m.safetensors")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Solution(solution.masks).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_install_zeroes_and_overwrites(solution):
    model = sequential()
    new = torch.full((7, 10), 5.0)
    Solution(solution.masks, {"2.weight": new}).install(model)
    dense = sequential()
    for name, mask in solution.masks.items():
        expected = new if name == "2.weight" else dense.get_parameter(name)
        assert model.get_parameter(name)[mask].equal(expected[mask])
        assert not model.get_parameter(name)[~mask].any()


def test_install_zeroes_nan():
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, float("nan"))
    Solution({"weight": torch.tensor([[False, False]])}).install(model)
    assert model.weight.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_install_writes_positive_zeros_and_touches_nothing_else(dtype):
    model = torch.nn.Linear(4, 1, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-3.0, -0.0, -3.0, torch.inf]]))
    before = model.weight._version
    Solution({"weight": torch.tensor([[True, True, False, False]])}).install(model)
    assert model.weight.tolist() == [[-3.0, 0.0, 0.0, 0.0]]
    assert model.weight.signbit().tolist() == [[True, True, False, False]]
    assert model.weight._version > before


def test_masks_of_another_model_change_nothing(solution):
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Linear(10, 10))
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"no parameter '2.weight'"):
        solution.install(model)
    with pytest.raises(ValueError, match=r"mask of '0.weight' has shape \(10, 6\), the model's weight \(10, 7\)"):
        solution.install(torch.nn.Sequential(torch.nn.Linear(7, 10)))
    assert model[0].weight.equal(before)


def test_masks_of_a_model_with_fewer_layers_are_refused():
    two, three = (nn.Sequential(*[nn.Linear(6, 6) for _ in range(count)]) for count in (2, 3))
    solution = vlp_bench.prune(two, "omp", 0.5)
    before = three[0].weight.clone()
    with pytest.raises(
        ValueError, match=r"these masks say nothing of '2.weight': the model they were found for had no"
    ):
        solution.install(three)
    assert three[0].weight.equal(before)
    solution.install(nn.Sequential(*[nn.Linear(6, 6) for _ in range(2)]))  # other weights of the same model


def test_masks_of_some_layers_say_which_others_stayed_dense(tmp_path):
    solution = vlp_bench.prune(sequential(), "multiflow", 0.5, labelled(), TwoModalities(), {"modality": "vision"})
    assert solution.report["dense"] == ["2.weight", "4.weight"]
    model = sequential()
    Solution.load(solution.save(tmp_path / "m")).install(model)
    assert int((model[0].weight == 0).sum()) == 30
    assert model[2].weight.equal(sequential()[2].weight)


def test_a_mask_that_the_report_tells_of_and_that_is_not_there():
    solution = vlp_bench.prune(sequential(), "omp", 0.5)
    fewer = {name: mask for name, mask in solution.masks.items() if name != "2.weight"}
    with pytest.raises(ValueError, match=r"these masks say nothing of '2.weight'"):
        Solution(fewer, {}, solution.report).install(sequential())
    report = {key: value for key, value in solution.report.items() if key != "dense"}  # of an earlier version
    with pytest.raises(ValueError, match=r"the mask of '2.weight' is missing: the report tells of 1 more"):
        Solution(fewer, {}, report).install(sequential())


def test_masks_made_by_hand_are_held_to_what_can_be_pruned():
    masks = {f"{number}.weight": torch.ones(6, 6).bool() for number in range(2)}
    three = nn.Sequential(*[nn.Linear(6, 6) for _ in range(3)])
    masks["0.weight"][0] = False
    before = three[0].weight.clone()
    with pytest.raises(ValueError, match=r"these masks say nothing of '2.weight': .* or install with partial=True"):
        Solution(masks).install(three)
    assert three[0].weight.equal(before)
    Solution(masks).install(three, partial=True)
    assert not three[0].weight[0].any()
    solution = vlp_bench.prune(nn.Sequential(nn.Linear(6, 6)), "omp", 0.5)
    solution.install(three, partial=True)
    assert int((three[0].weight == 0).sum()) >= 18


def test_other_weights_are_said_allowed_or_refused(caplog):
    dense = sequential()
    solution = vlp_bench.prune(dense, "omp", 0.5)
    for model in (dense, sequential()):
        for _ in range(2):  # what is pruned already is not another model
            solution.install(model, other_weights="refuse")
    other = sequential(seed=1)
    before = other[0].weight.clone()
    with pytest.raises(ValueError, match=r"aren't those that these masks were found for .*other_weights=\"allow\""):
        solution.install(other, other_weights="refuse")
    assert other[0].weight.equal(before)
    assert not caplog.records
    solution.install(sequential(seed=1), other_weights="allow")
    assert not caplog.records
    solution.install(other)
    assert len(caplog.records) == 1
    assert "their hash differs" in caplog.text
    with pytest.raises(ValueError, match=r"unknown other_weights 'Warn'.*did you mean warn\?"):
        solution.install(other, other_weights="Warn")


def test_a_model_inside_another_is_found():
    solution = vlp_bench.prune(sequential(), "omp", 0.5)
    outer = nn.ModuleDict({"model": sequential()})
    solution.install(outer, other_weights="refuse")
    assert int((outer["model"][0].weight == 0).sum()) == int((~solution.masks["0.weight"]).sum())
    with pytest.raises(ValueError, match=r"these masks say nothing of 'head.weight'"):
        solution.install(nn.ModuleDict({"model": sequential(), "head": nn.Linear(3, 3)}))


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [compiled, Wrapper, lambda model: Wrapper(compiled(model))])
def test_wrapped_models_are_the_models_inside(wrap):
    plain = vlp_bench.prune(sequential(), "omp", 0.5)
    wrapped = vlp_bench.prune(wrap(sequential()), "omp", 0.5)
    assert list(wrapped.masks) != list(plain.masks)
    inner, outer = sequential(), wrap(sequential())
    wrapped.install(inner)
    plain.install(outer)
    for (name, mask), weight in zip(plain.masks.items(), [p for p in outer.parameters() if p.ndim == 2], strict=True):
        assert (inner.get_parameter(name) != 0).equal(mask)
        assert (weight != 0).equal(mask)
    assert KeepPruned(plain.masks).attach(outer).revived() == KeepPruned(wrapped.masks).attach(inner).revived() == {}
    KeepPruned(wrapped.masks).attach(nn.ModuleDict({"model": inner})).verify()


class Lightning(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.model = module


@pytest.mark.parametrize("wrap", [lambda model: model, compiled, Wrapper])
def test_a_mask_found_on_what_holds_a_model_fits_the_model(wrap):
    held = vlp_bench.prune(Lightning(wrap(sequential())), "omp", 0.5)
    assert all(name.startswith("model.") for name in held.masks)
    inner = sequential()
    held.install(inner, other_weights="refuse")
    for name, mask in vlp_bench.prune(sequential(), "omp", 0.5).masks.items():
        assert (inner.get_parameter(name) != 0).equal(mask)
    with pytest.raises(ValueError, match=r"the model has no parameter 'model\..*0\.weight'"):
        held.install(nn.ModuleDict({"other": nn.Linear(2, 2)}))


def test_a_name_that_fits_twice_is_refused():
    twice = nn.ModuleDict({"module": nn.Linear(2, 2), "_orig_mod": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"'weight' fits several parameters of the model: module\.weight, _orig_mod\."):
        Solution({"weight": torch.ones(2, 2).bool()}).install(twice)


def test_a_solution_is_described_in_one_line():
    solution = vlp_bench.prune(sequential(), "omp", 0.63)
    assert repr(solution) == "<Solution of omp: 56 of 151 weights kept in 3 layers>"
    assert repr(Solution({})) == "<Solution of unknown: 0 of 0 weights kept in 0 layers>"


@pytest.mark.parametrize("form", ["plain", "compact"])
def test_every_truncation_and_many_damages_are_refused(solution, form, tmp_path):
    path = solution.save(tmp_path / "m.safetensors", form)
    data = path.read_bytes()
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="truncated or no mask file"):
            Solution.load(path)
    path.write_bytes(b"PK\x03\x04 something else entirely")
    with pytest.raises(ValueError, match="truncated or no mask file"):
        Solution.load(path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"damaged mask file .*: prune again"):
        Solution.load(path)


def test_foreign_and_missing_files(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match=r"foreign.safetensors is no mask file: its format is None"):
        Solution.load(tmp_path / "foreign.safetensors")
    with pytest.raises(FileNotFoundError, match="no mask file at"):
        Solution.load(tmp_path / "missing")


def test_nan_weights_in_a_file_are_refused(solution, tmp_path):
    path = Solution(solution.masks, {"0.weight": torch.full((10, 6), float("nan"))}).save(tmp_path / "m")
    with pytest.raises(ValueError, match="NaN"):
        Solution.load(path)


def test_table_adds_up(solution):
    rows = solution.table()
    assert [(row.modality, row.block, row.total) for row in rows] == [
        ("vision", "0", 60),
        ("vision", "", 60),
        ("text", "2", 70),
        ("text", "4", 21),
        ("text", "", 91),
        ("", "", 151),
    ]
    assert rows[-1].kept == solution.kept == round(0.37 * 151)
    assert rows[4].kept == rows[2].kept + rows[3].kept
    assert rows[-1].sparsity == pytest.approx(solution.sparsity)
