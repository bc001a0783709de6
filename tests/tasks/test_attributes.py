"""The small ViT's pre-training: its labels by hand, its measure by hand, a run that is cut short, the shipped file."""

import json
from pathlib import Path

import pytest
import torch

from vlp_bench.commands.pretrain_dino import main
from vlp_bench.data.shapes.attributes import LABELS, PARTS, AttributeBatches, attributes
from vlp_bench.data.shapes.scenes import Scene, Thing
from vlp_bench.models.checkpoints.read_write import build, read_metadata, weights_hash
from vlp_bench.tasks.attributes import AttributePretraining, attribute_recall
from vlp_bench.tasks.optimisation import Diverged

ASSET = Path(__file__).parents[2] / "vlp_bench/assets/dino_shapes.safetensors"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]


class Says(torch.nn.Module):
    """A model with fixed answers."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def classify(self, images):
        return self.answers


def test_attributes_by_hand() -> None:
    """A small striped green square at the bottom left, a large solid red circle in the middle."""
    scene = Scene((Thing(1, 3, 0, 1, 2, 0), Thing(0, 0, 1, 0, 1, 1)), look=0)
    shapes, colours, sizes, textures, cells = attributes(scene).split(list(PARTS.values()))
    assert shapes.nonzero().flatten().tolist() == [0, 1]
    assert colours.nonzero().flatten().tolist() == [0, 3]
    assert sizes.tolist() == textures.tolist() == [1, 1]
    assert cells.nonzero().flatten().tolist() == [4, 6]
    assert LABELS == 27


def test_batches_depend_on_seed_and_number_alone() -> None:
    first, again, other = (AttributeBatches(3, 2, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    with pytest.raises(IndexError):
        AttributeBatches(3, 2)[3]


def test_balanced_accuracy_by_hand() -> None:
    """The first label is always said to be there (50 %), the second always rightly told (100 %), the third never."""
    said = torch.tensor([[1.0, 1, -1], [1, -1, 1]])
    true = torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    found = attribute_recall(Says(said), [(torch.zeros(2, 1), true)], {"a": 2, "b": 1})
    assert found == {"a": 75.0, "b": 0.0}


def test_a_loss_that_is_no_number_is_told() -> None:
    task = AttributePretraining(Says(torch.full((1, 2), torch.nan)), steps=100)
    with pytest.raises(Diverged, match="lower lr"):
        task.training_step((torch.zeros(1, 1), torch.zeros(1, 2)), 0)
    with pytest.raises(ValueError, match="more than warmup_steps"):
        AttributePretraining(Says(torch.zeros(1, 2)), steps=50)


def test_the_command_writes_a_model_and_where_it_came_from(tmp_path: Path) -> None:
    words = ["--batch-size", "4", "--width", "16", "--layers", "1", "--warmup-steps", "1", "--precision", "32-true"]
    main([*words, "--out", str(tmp_path), "--steps", "3", "--probe-every", "2"])
    file = tmp_path / "dino_shapes.safetensors"
    assert build(file).config.classes == 48
    told = json.loads((tmp_path / "pretraining.json").read_text())
    assert told["weights"] == weights_hash(file)
    assert "not self-distilled" in read_metadata(file)["trained_on"]
    assert "told/cell" in (tmp_path / "curves/from_0/metrics.csv").read_text()


def test_the_shipped_file_is_the_one_described() -> None:
    told = json.loads(ASSET.with_suffix(".json").read_text())
    assert told["weights"] == weights_hash(ASSET)
    assert ASSET.stat().st_size < 4e6
    model, held_out = build(ASSET), AttributeBatches(1, 8, "itr_val")
    assert model.config.classes == 48
    states = model.encode_image(held_out[0][0])
    assert states.shape == (8, 37, 128)
    assert bool(states.isfinite().all())
