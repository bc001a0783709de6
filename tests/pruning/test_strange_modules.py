"""Modules out of the ordinary: the masks are right, or one line says why there are none."""

import pytest
import torch
from torch import nn

import vlp_bench
from vlp_bench.pruning.statistics.calibration import Calibration

METHODS = ("wanda", "multiflow", "snip", "sparsegpt", "chita", "omp")
WIDTH, CLASSES = 8, 3


def batches(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(6, WIDTH, generator=generator).to(dtype)  # noqa: E731
    return [(draw(), torch.randint(CLASSES, (6,), generator=generator)) for _ in range(3)]


def made(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def plain():
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))


class SharedTowers(nn.Module):
    """Two towers with one layer in common."""

    def __init__(self):
        super().__init__()
        shared = nn.Linear(WIDTH, WIDTH)
        self.vision, self.text = nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.Tanh())
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.vision(x) + self.text(2 * x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.memory = nn.Linear(WIDTH, WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.memory(self.body(x)[:, None])[0][:, 0])


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, 2, 16, batch_first=True, dropout=0.0)
        self.decoder, self.head = nn.TransformerDecoder(layer, 2), nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.decoder(x[:, None], 2 * x[:, None].expand(-1, 3, -1))[:, 0])


def normed():
    model = plain()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


class Adapted(nn.Module):
    """A frozen layer with a low-rank one beside it, as LoRA begins."""

    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2), nn.Linear(2, WIDTH)
        nn.init.zeros_(self.up.weight)
        self.base.requires_grad_(False)

    def forward(self, x):
        return (self.base(x) + self.up(self.down(x)))[:, :CLASSES]


PACKED = [f"decoder.layers.{number}.multihead_attn.in_proj_weight" for number in range(2)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("build, layers", [(SharedTowers, 2), (Recurrent, 2), (normed, 1), (Adapted, 3), (Decoder, 13)])
def test_half_of_what_can_be_pruned(name, build, layers, caplog):
    model = made(build)
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    solution = vlp_bench.prune(model, name, 0.5, batches())
    unseen = PACKED if build is Decoder and name in ("wanda", "multiflow", "sparsegpt") else []
    assert len(solution.masks) == layers - len(unseen)
    assert solution.kept == solution.total // 2
    assert not set(unseen) & set(solution.masks)
    assert len(caplog.records) == (build in (Recurrent, normed)) + bool(unseen)
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen


def test_a_layer_of_two_towers_sees_the_inputs_of_both():
    norms = Calibration(made(SharedTowers), batches()).norms()["vision.0.weight"]
    x = torch.cat([batch for batch, _ in batches()]).double()
    expected = (5 * x.square().sum(0) / (2 * len(x))).sqrt()  # x and 2x, of twice as many rows
    torch.testing.assert_close(norms, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrapped_models_have_the_masks_of_the_models_inside(name, wrap):
    inside, outside = vlp_bench.prune(made(plain), name, 0.5, batches()), wrap(made(plain))
    found = vlp_bench.prune(outside, name, 0.5, batches())
    assert all(a.equal(b) for a, b in zip(found.masks.values(), inside.masks.values(), strict=True))
    inside.install(outside)
    assert (
        int((outside.get_parameter(next(iter(found.masks))) == 0).sum())
        == WIDTH * WIDTH - inside.masks["0.weight"].sum()
    )


@pytest.mark.parametrize("name", ["omp", "wanda", "snip"])
def test_masks_of_ddp_are_those_of_the_model_inside(name, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        outside, inner = nn.parallel.DistributedDataParallel(made(plain)), made(plain)
        found = vlp_bench.prune(outside, name, 0.5, batches())
        expected = vlp_bench.prune(inner, name, 0.5, batches())
        assert {key.removeprefix("module."): mask.tolist() for key, mask in found.masks.items()} == {
            key: mask.tolist() for key, mask in expected.masks.items()
        }
        found.install(inner, other_weights="refuse")
        expected.install(outside, other_weights="refuse")
        assert all(one.equal(other) for one, other in zip(inner.parameters(), outside.parameters(), strict=True))
        assert outside.require_backward_grad_sync
    finally:
        torch.distributed.destroy_process_group()


def test_hooks_are_not_compiled():
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    model = torch.compile(made(plain), backend=backend)
    vlp_bench.prune(model, "wanda", 0.5, batches())
    vlp_bench.prune(model, "snip", 0.5, batches())
    assert not calls


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision(name, dtype):
    model = made(plain).to(dtype)
    solution = vlp_bench.prune(model, name, 0.5, batches(dtype))
    assert solution.kept == solution.total // 2
    solution.install(model)
    weights = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    assert all(weight.dtype == dtype for weight in weights)
    assert sum(int((weight != 0).sum()) for weight in weights) == solution.kept


@pytest.mark.parametrize("name", METHODS)
def test_layers_without_a_shape_are_refused(name):
    model = nn.Sequential(nn.LazyLinear(WIDTH), nn.Linear(WIDTH, CLASSES))
    with pytest.raises(
        ValueError, match=r"'0.weight' has no shape yet \(a lazy layer\): run a batch through the model"
    ):
        vlp_bench.prune(model, name, 0.5, batches())
