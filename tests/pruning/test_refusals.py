"""Models, batches and labels out of the ordinary: pruned, or one line with the cure."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vlp_bench
from tests.pruning.toys import labelled, sequential
from vlp_bench.pruning.adapter import PlainAdapter
from vlp_bench.pruning.statistics.calibration import Calibration

WITH_DATA = ("multiflow", "wanda", "snip", "itersnip", "obd", "ecoflap", "ecoflap_first", "sparsegpt", "chita", "tamt")


def refused(model, name, batches, match, adapter=None):
    with pytest.raises(ValueError, match=match) as error:
        vlp_bench.prune(model, name, 0.5, batches, adapter)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["omp", "snip", "wanda"])
def test_weights_on_the_meta_device(name):
    refused(sequential().to("meta"), name, labelled(), r"'0.weight' is on the meta device.* load the weights first")


class OwnLoss(PlainAdapter):
    def loss(self, model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("name", ["snip", "ecoflap", "chita", "tamt"])
@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_labels_out_of_range(name, label):
    batches = labelled()
    batches[1][1][2] = label
    refused(sequential(), name, batches, f"a label is {label}, but the model gives 3 classes: labels go from 0 to 2")
    if label == 3:
        words = r"batch 1 has a label that the model doesn't know \(Target 3 is out of bounds.\): labels go from 0 to"
        refused(sequential(), name, batches, words, OwnLoss())


def test_labels_of_any_integer_type_and_without_a_class():
    batches = labelled()
    expected = Calibration(sequential(), batches).gradients()["0.weight"]
    short = [(x, y.to(torch.int32)) for x, y in batches]
    assert Calibration(sequential(), short).gradients()["0.weight"].equal(expected)
    one_hot = [(x, F.one_hot(y, 3).float()) for x, y in batches]
    torch.testing.assert_close(Calibration(sequential(), one_hot).gradients()["0.weight"], expected)
    batches[0][1][0] = -100
    assert not Calibration(sequential(), batches).gradients()["0.weight"].equal(expected)


@pytest.mark.parametrize("name", ["snip", "wanda"])
@pytest.mark.parametrize(
    "given, kind", [({"x": torch.ones(2, 6)}, "dict"), (torch.ones(2, 6), "Tensor"), ("a", "str"), (5, "int")]
)
def test_what_is_no_list_of_batches(name, given, kind):
    refused(sequential(), name, given, rf"calibration batches are of type {kind}: pass a list of batches.*\[batch\]")


@pytest.mark.parametrize("name", WITH_DATA)
def test_models_in_float64(name):
    whole = [(x.double(), y) for x, y in labelled()]
    double = vlp_bench.prune(sequential().double(), name, 0.5, whole)
    single = vlp_bench.prune(sequential(), name, 0.5, labelled())
    assert double.kept == single.kept
    for layer, mask in single.masks.items():
        assert (double.masks[layer] == mask).float().mean() > 0.95  # rounding may turn a few round


def test_a_weight_out_of_all_proportion_is_named_by_what_it_does():
    for name, match in (
        ("chita", r"gradients reach 1.6e\+29, beside which its ridge vanishes: raise ridge"),
        ("wanda", r"the inputs of '2.weight' in calibration batch 0 hold NaN or infinity, or overflow: .*weights"),
        ("ecoflap_first", r"the GradientSizes of '0.weight' hold NaN or infinity, or overflow: .*weights"),
    ):
        model = sequential()
        with torch.no_grad():
            model[0].weight[0, 0] = 1e30
        refused(model, name, labelled(), match)


class Padded(nn.Module):
    """An encoder of the library's, which packs what isn't padding where nobody looks."""

    def __init__(self, nested):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested), nn.Linear(16, 3)

    def forward(self, x, pad):
        return self.head(self.encoder(x, src_key_padding_mask=pad)[:, 0])


class Words(PlainAdapter):
    def encode(self, model, batch):
        model(*batch[:2])

    def loss(self, model, batch):
        return F.cross_entropy(model(*batch[:2]), batch[2])

    def token_mask(self, batch, name, tokens):
        return ~batch[1] if name.startswith("encoder") else None


@pytest.mark.parametrize("name", WITH_DATA)
def test_encoders_that_would_pack_what_is_no_padding(name):
    draw = torch.Generator().manual_seed(0)
    pad = torch.arange(6)[None] >= torch.tensor([6, 4, 3, 6])[:, None]
    batches = [(torch.randn(4, 6, 16, generator=draw), pad, torch.tensor([0, 1, 2, 1])) for _ in range(2)]
    masks = []
    for nested in (False, True):
        torch.manual_seed(3)
        model = Padded(nested).eval()
        masks.append(vlp_bench.prune(model, name, 0.5, batches, Words()).masks)
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(masks[1][layer].equal(mask) for layer, mask in masks[0].items())


def test_nested_inputs_are_refused_by_name():
    class Pack(PlainAdapter):
        def encode(self, model, batch):
            model(torch.nested.nested_tensor([batch[0], batch[0][:2]], layout=torch.jagged))

    refused(sequential(), "wanda", labelled(), "the inputs of '0.weight' are nested tensors: give padded", Pack())


@pytest.mark.parametrize("name", ["snip", "obd", "chita", "tamt", "gblm", "force"])
def test_what_needs_gradients_says_that_inference_mode_gives_none(name):
    with torch.inference_mode():
        refused(
            sequential(), name, labelled(), r"^inside torch\.inference_mode\(\) nothing has a gradient: prune outside"
        )
