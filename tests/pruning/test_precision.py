from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.options import constructor_call
from vlp_bench.pruning.precision import FASTEST, SLOW, multiplies_bf16, resolved, slow_dtype
from vlp_bench.pruning.statistics.calibration import Calibration
from vlp_bench.pruning.statistics.gradients import MeanGradient
from vlp_bench.pruning.statistics.inputs import InputNorms
from vlp_bench.runs.prune_once import about_pruning_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[True, False])
def amx(request, monkeypatch):
    """A processor with matrix units for bfloat16, and one without."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": request.param}, raising=False)
    return request.param


@pytest.fixture
def tf32_everywhere():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


class Noting(nn.Module):
    """Notes what is set, and in what its product is computed, when it is run."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(6, 3), []

    def forward(self, x):
        y = self.linear(x)
        self.seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, y.dtype))
        return y


@pytest.fixture
def has_tf32(monkeypatch):
    """Every device counts as a GPU that has it."""
    monkeypatch.setattr("vlp_bench.pruning.statistics.batch_loop.check_device", lambda *_: None)


@pytest.mark.usefixtures("has_tf32")
@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", ("highest", False, torch.float32)),
        ("tf32", ("high", True, torch.float32)),
        ("bf16", ("highest", False, torch.bfloat16)),
    ],
)
@pytest.mark.parametrize("statistic", [InputNorms(), MeanGradient()])
def test_passes_are_computed_as_said_and_the_process_is_as_before(precision, expected, statistic, tf32_everywhere):
    model = Noting()
    found = Calibration(model, labelled(), precision=precision)[statistic]
    assert set(model.seen) == {expected}
    assert found["linear.weight"].dtype in (torch.float32, torch.float64)
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32


def test_the_settings_come_back_after_an_error(tf32_everywhere):
    with pytest.raises(ValueError, match="batch 0"):
        Calibration(sequential(), [torch.full((2, 3), 1.0)]).norms()
    assert torch.get_float32_matmul_precision() == "high"


def test_inputs_in_bfloat16_are_added_up_in_float64():
    model = nn.Sequential(nn.Identity(), nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    x = torch.randn(1000, 4)
    found = Calibration(model, [x], precision="bf16").norms()["2.weight"]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = model[1](x)
    assert seen.dtype == torch.bfloat16
    expected = seen.double().square().sum(0).div(1000).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_auto_is_fp32_but_where_a_gpu_is_known_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert [resolved("auto", name, CPU) for name in ("multiflow", "wanda")] == ["fp32", "fp32"]
    assert [resolved("auto", name, GPU) for name in ("multiflow", "snip", "wanda", "mine")] == [
        "bf16",
        "bf16",
        "fp32",
        "fp32",
    ]
    assert [resolved(word, "multiflow", GPU) for word in ("fp32", "tf32", "bf16")] == ["fp32", "tf32", "bf16"]
    assert set(FASTEST) <= set(catalogue.names())


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"unknown pruning_precision 'fp16': use one of auto, fp32, tf32, bf16"):
        resolved("fp16", "omp", CPU)
    with pytest.raises(ValueError, match="unknown precision 'auto'"):
        Calibration(sequential(), precision="auto")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("device", "name", "capability"), [(CPU, "cpu", (9, 0)), (GPU, "this GPU", (7, 5))])
def test_tf32_is_refused_where_products_would_be_of_float32(device, name, capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(ValueError, match=f"^pruning_precision=tf32: {name} has no TF32; use fp32, bf16 or auto$"):
        resolved("tf32", "omp", device)
    monkeypatch.setattr(Calibration, "_device", device)
    with pytest.raises(ValueError, match=f"^precision=tf32: {name} has no TF32; use fp32 or bf16$"):
        Calibration(sequential(), labelled(), precision="tf32")


@pytest.mark.parametrize("asked", ["auto", "fp32", "bf16"])
@pytest.mark.parametrize("name", ["omp", "lamp", "l2", "random", "wanda", "snip"])
def test_it_is_said_where_a_precision_has_no_effect(asked, name):
    described = constructor_call(catalogue._composed(name, {}), name) | {"name": name}
    told = about_pruning_precision({"pruning_precision": asked, "pruner": described, "allow": ()})
    idle = asked == "bf16" and name not in ("wanda", "snip")
    assert told == (f"pruning_precision=bf16 has no effect: pruner={name} makes no pass over data" if idle else "")


def test_a_mask_says_its_precision():
    model, batches = sequential(), labelled()
    found = {
        p: vlp_bench.prune(model, "wanda", 0.5, Calibration(model, batches, precision=p)) for p in ("fp32", "bf16")
    }
    assert {p: solution.report["precision"] for p, solution in found.items()} == {"fp32": "fp32", "bf16": "bf16"}


def test_bf16_is_said_to_be_slow_where_it_is(amx, caplog):
    assert multiplies_bf16(CPU) == amx
    assert multiplies_bf16(GPU)
    model = sequential()
    for precision in ("fp32", "bf16", "bf16"):
        Calibration(model, labelled(), precision=precision).norms()
    said = [record.message for record in caplog.records]
    assert said == [] if amx else said == [f"pruning_precision=bf16: {SLOW}; fp32 is faster here"]


def test_a_torch_that_cannot_tell_counts_as_slow(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not multiplies_bf16(CPU)


@pytest.mark.parametrize(
    ("dtype", "units", "slow"),
    [
        (torch.float32, {}, False),
        (torch.bfloat16, {"amx_bf16": True}, False),
        (torch.bfloat16, {"avx512_fp16": True}, True),
        (torch.float16, {"avx512_fp16": True}, False),
        (torch.float16, {"amx_bf16": True}, True),
    ],
)
def test_weights_in_16_bits_are_said_to_be_slow_where_they_are(dtype, units, slow, monkeypatch):
    for architecture in ("x86_64", "aarch64"):  # others nobody has measured
        known = {"architecture": architecture, **units}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert bool(slow_dtype(dtype, CPU)) == (slow and architecture == "x86_64")
        assert slow_dtype(dtype, GPU) == ""


class CastsOf(TorchDispatchMode):
    """Counts the casts of matrices of a shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default and args[0].shape == self.shape
        return func(*args, **(kwargs or {}))


def test_weights_are_cast_once_a_pass_and_anew_in_the_next():
    """A weight may have changed by the next."""
    model, batches = sequential(), labelled(batches=3)
    before = Calibration(model, batches, precision="bf16").norms()
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[0].bias.mul_(2)
    with CastsOf(model[0].weight.shape) as casts:
        after = Calibration(model, batches, precision="bf16").norms()
    assert casts.count == 1
    assert not torch.equal(after["2.weight"], before["2.weight"])
    assert torch.equal(after["2.weight"], Calibration(deepcopy(model), batches, precision="bf16").norms()["2.weight"])
