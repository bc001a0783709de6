import pytest
import torch

import vlp_bench
from tests.pruning.toys import Tied, sequential
from vlp_bench.pruning.masks import packed_checkpoint as packed
from vlp_bench.pruning.masks.bit_packing import FORMS


def sparse(*shape, kept=0.1, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) < kept)).to(dtype).abs()


def same_bits(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.reshape(-1).view(torch.uint8).equal(b.reshape(-1).view(torch.uint8))
    )


@pytest.mark.parametrize("form", FORMS)
def test_everything_comes_back_bit_for_bit(form, tmp_path):
    strange = sparse(20, 30)
    strange[0, :3] = torch.tensor([-0.0, float("nan"), float("inf")])
    strange[1, 0] = torch.tensor([0x7F800001]).int().view(torch.float32)[0]  # a NaN of its own
    state = {
        "strange": strange,
        "half": sparse(40, 50, dtype=torch.float16),
        "brain": sparse(40, 50, dtype=torch.bfloat16),
        "double": sparse(9, 9, dtype=torch.float64),
        "turned": sparse(30, 20).t(),
        "dense": torch.randn(5, 5),
        "count": torch.tensor(3),
        "scalar": torch.tensor(0.0),
        "nothing": torch.zeros(0, 4),
        "zeros": torch.zeros(64),
        "ids": torch.zeros(8, dtype=torch.int64),
    }
    path = packed.write(tmp_path / "p.safetensors", state, {"sparsity": 0.9}, form)
    back, about = packed.read(path)
    assert about == {"sparsity": 0.9}
    assert list(back) == list(state)
    assert all(same_bits(back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("form, most", [("plain", 0.53), ("compact", 0.465)])
def test_bytes_per_weight(form, most, tmp_path):
    state = {f"layers.{i}.weight": sparse(512, 512, seed=i) for i in range(4)}
    path = packed.write(tmp_path / "p", state, form=form)
    assert path.stat().st_size <= most * sum(tensor.numel() for tensor in state.values())


def test_a_pruned_model_with_a_shared_weight(tmp_path):
    model = Tied()
    vlp_bench.prune(model, "omp", 0.5).install(model)
    path = packed.write(tmp_path / "p", model.state_dict())
    back, _ = packed.read(path)
    assert back["encoder.weight"] is back["decoder.weight"]
    other = Tied()
    other.load_state_dict(back)
    x = torch.randn(4, 6)
    assert other(x).equal(model(x))


def test_damage_is_refused(tmp_path):
    path = packed.write(tmp_path / "p", {"w": sparse(50, 50)})
    data = path.read_bytes()
    for length in (0, 5, 60, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"truncated or no packed checkpoint .*: export it again"):
            packed.read(path)
    path.write_bytes(data.replace(rb"50,50]", rb"50,51]"))
    with pytest.raises(ValueError, match="damaged packed checkpoint"):
        packed.read(path)
    vlp_bench.prune(sequential(), "omp", 0.5).save(path)
    with pytest.raises(ValueError, match=r"its format is 'vlp_bench masks 2'"):
        packed.read(path)
    with pytest.raises(FileNotFoundError, match="no packed checkpoint"):
        packed.read(tmp_path / "missing")
