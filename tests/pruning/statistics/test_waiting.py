"""What is asked of a device while statistics are taken there. The meta device stands for it: it can't answer."""

import pytest
import torch
from torch import nn

from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.layers import find_layers
from vlp_bench.pruning.solvers.sparsegpt import all_columns, column_by_column
from vlp_bench.pruning.statistics.batches import fingerprints, numbers_on_host
from vlp_bench.pruning.statistics.input_moments import InputMoments
from vlp_bench.pruning.statistics.inputs import InputNorms, InputProducts, InputWatch
from vlp_bench.pruning.statistics.token_masks import TokenMasks


class Masked(PlainAdapter):
    """The first token of every row counts."""

    def token_mask(self, batch, name, tokens):
        return torch.arange(tokens).expand(len(batch), tokens) < 1


@pytest.mark.parametrize("statistic", [InputNorms(), InputProducts(), InputMoments()])
def test_no_layer_waits_for_the_device(statistic):
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    layers, seen = find_layers(model).values(), []
    watch = InputWatch(layers, [statistic], seen.append)
    x = torch.zeros(2, 3, 4, device="meta")
    with watch.watching(), torch.no_grad():
        watch.new_part(TokenMasks(Masked(), model, x))
        model.to("meta")(x)
    assert [(event.layer, event.numbers) for event in seen] == [(f"{i}.weight", (2, 2)) for i in range(3)]
    assert all(event.tensors[0].is_meta for event in seen)


def test_whole_numbers_come_to_the_processor_and_the_rest_stays():
    batch = {"ids": torch.ones(2, dtype=torch.long), "images": torch.zeros(2, device="meta"), "name": "x"}
    found = numbers_on_host(batch)
    assert found["images"] is batch["images"]
    assert found["ids"].device.type == "cpu"
    assert found["name"] == "x"


def test_fingerprints_tell_batches_apart():
    one, other = ([torch.arange(6.0), {"a": torch.tensor([n])}] for n in (1, 2))
    assert fingerprints(one) == fingerprints([torch.arange(6.0), {"a": torch.tensor([1])}])
    assert fingerprints(one)[0] == fingerprints(other)[0]
    assert fingerprints(one)[1] != fingerprints(other)[1]


def test_columns_at_once_are_columns_one_by_one():
    g = torch.Generator().manual_seed(0)
    w, gone = torch.randn(7, 5, dtype=torch.float64, generator=g), torch.rand(7, 5, generator=g) < 0.5
    upper = torch.randn(7, 7, dtype=torch.float64, generator=g).triu() + 4 * torch.eye(7, dtype=torch.float64)
    found = []
    for sweep in (column_by_column, all_columns):
        own, errors = w.clone(), torch.empty_like(w)
        sweep(own, gone, upper, errors)
        assert own[gone].eq(0).all()
        found.append((own, errors))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
