"""Pre-training of the small model, at a size that trains in seconds."""

import json

import pytest
import torch
from torch.utils.data import DataLoader

from vlp_bench.batch import Batch
from vlp_bench.commands import gate, pretrain
from vlp_bench.data.shapes.curriculum import Curriculum, Remaining
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.shapes.probes import batches, cases
from vlp_bench.data.shapes.world import World
from vlp_bench.data.text import make_tokenizer
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.checkpoints.read_write import load_model, save_model
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.models.xvlm.towers import XVLMConfig
from vlp_bench.runs.pretraining import PretrainingRun
from vlp_bench.tasks.optimisation import Diverged
from vlp_bench.tasks.pretraining import Pretraining, likeliest, word_accuracy

SIZES = {"width": 16, "vision-layers": 2, "text-layers": 1, "fusion-layers": 1}
TINY = [f"--{k}={v}" for k, v in (SIZES | {"batch-size": 8, "warmup-steps": 2, "workers": 0}).items()]


@pytest.fixture(autouse=True)
def few_probes(monkeypatch) -> None:
    """A run looks at 30 scenes in place of 300, and at 20 words of a kind in place of 200, whatever it asks for."""
    many, all_cases = World.told_apart, cases
    monkeypatch.setattr("vlp_bench.data.shapes.probes.cases", lambda scenes, most: all_cases(scenes, min(most, 20)))
    monkeypatch.setattr(World, "told_apart", lambda world, split, number: many(world, split, min(number, 30)))


@pytest.fixture
def model() -> XVLM:
    torch.manual_seed(0)
    sizes = {"vision_layers": 2, "vision_heads": 2, "local_attn_depth": 1, "text_layers": 2, "fusion_layers": 1}
    images = {"image_size": 48, "patch_size": 8, "stem": "conv", "vision_width": 16, "text_width": 16}
    words = {"vocab_size": len(vocabulary()), "embed_dim": 8, "dropout": 0.0, "max_positions": 48, "text_heads": 2}
    return XVLM(XVLMConfig(**images, **sizes, **words), attention="eager")


def test_words_alone_come_first(model, monkeypatch):
    course = Curriculum(20, 8, named=0.0, region_every=5, where=0.6)
    task = Pretraining(model, steps=20, warmup_steps=2, words_only=course.words_only)
    monkeypatch.setattr(Pretraining, "log_dict", lambda self, values, **_: seen.append(set(values)))
    monkeypatch.setattr(Pretraining, "log", lambda *_, **__: None)
    seen: list[set[str]] = []
    for step in (4, 8, 13, 14, 19):
        monkeypatch.setattr(Pretraining, "global_step", step)
        task.training_step(course[step], step).backward()
    every, boxes = {"itc", "itm", "mlm"}, {"bbox", "giou"}
    wanted = [("region", {"mlm"}), ("general", every), ("general", {"mlm"}), ("region", every | boxes)]
    wanted.append(("region", every | boxes))
    assert seen == [{f"{kind}/{name}" for name in names} for kind, names in wanted]


def test_a_lost_training_says_where(model, monkeypatch):
    task = Pretraining(model, steps=10, warmup_steps=2)
    with torch.no_grad():
        model.text_encoder.cls.predictions.bias.fill_(torch.nan)
    monkeypatch.setattr(Pretraining, "global_step", 1)
    with pytest.raises(Diverged, match=r"not finite at step 1 \(.*mlm nan.*\); lower lr, now 0.001"):
        task.training_step(Curriculum(10, 8)[0], 0)
    with pytest.raises(ValueError, match="more than warmup_steps 150, got 100"):
        Pretraining(model, steps=100)


def test_accuracy_counts_right_words_and_the_control_sees_other_images(model, monkeypatch):
    hidden = cases(World(0).told_apart("itr_val", 12), 10)["colour"]
    (batch,) = batches(hidden, make_tokenizer(vocabulary()))
    right = torch.nn.functional.one_hot(batch.masked_ids, len(vocabulary())).float()
    right[0, 0] = right[0, 0].roll(1)

    def predict(shown):
        assert torch.equal(shown.images, batch.images) != shuffled
        return right

    monkeypatch.setattr(model, "predict_words", predict)
    for shuffled in (False, True):
        assert word_accuracy(model, [batch], shuffled=shuffled) == pytest.approx(90.0)


def test_probes_go_to_where_the_model_is(model, monkeypatch):
    batch, asked = Batch(torch.zeros(2, 3, 4, 4), masked_ids=torch.tensor([[1], [0]])), []
    monkeypatch.setattr(Batch, "to", lambda self, device: asked.append(device) or self)
    monkeypatch.setattr(model, "predict_words", lambda shown: torch.eye(2)[:, None])
    assert word_accuracy(model.to("meta"), [batch]) == 0.0
    assert asked == [torch.device("meta")]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about loggers and workers
def test_an_interrupted_pretraining_ends_with_the_same_weights(tmp_path):
    def run(name: str, *more: str):
        torch.manual_seed(1)
        words = ["--out", str(tmp_path / name), "--steps", "6", "--probe-every", "3", "--precision", "32-true", *TINY]
        pretrain.main([*words, *more])
        return load_model(tmp_path / name / "xvlm_shapes.safetensors").state_dict()

    whole = run("whole")
    half = tmp_path / "half"
    half.mkdir()
    _stop_at(3, tmp_path / "half")
    assert (half / "last.ckpt").is_file()
    resumed = run("half")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert json.loads((half / "pretraining.json").read_text())["first_step"] == 3
    header = (tmp_path / "whole" / "curves" / "from_0" / "metrics.csv").read_text().splitlines()[0]
    assert "words/relation" in header
    assert "control/relation" in header


def _stop_at(step: int, out) -> None:
    """What a killed run leaves: its checkpoint after `step` of 6 steps."""
    args = pretrain.parser().parse_args(["--out", str(out), "--steps", "6", "--precision", "32-true", *TINY])
    trainer = PretrainingRun(args).trainer(dict)
    trainer.fit_loop.epoch_loop.max_steps = step
    recipe = {"steps": args.steps, "lr": args.lr, "warmup_steps": args.warmup_steps, "seed": args.seed}
    course = Curriculum(args.steps, args.batch_size, args.seed)
    module = Pretraining(XVLM(pretrain._config(args), attention="eager"), words_only=course.words_only, **recipe)
    trainer.fit(module, DataLoader(course, batch_size=None, sampler=Remaining(0, args.steps)))
    trainer.save_checkpoint(out / "last.ckpt")


def test_the_gate_measures_every_attribute(model):
    found = gate.accuracies(model.eval(), cases(World(0).told_apart("itr_val", 30), 20))
    assert set(found) == {"colour", "shape", "size", "texture", "relation", "count"}
    assert all(0 <= own <= 100 and 0 <= control <= 100 for own, control in found.values())


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about loggers and workers
def test_a_blip_starts_from_an_xvlm_and_fills_words_by_likelihood(tmp_path, model):
    source = tmp_path / "xvlm.safetensors"
    save_model(source, model)
    words = ["--model", "blip", "--init", str(source), "--out", str(tmp_path / "blip"), "--steps", "4", *TINY]
    pretrain.main([*words, "--probe-every", "4", "--precision", "32-true"])
    blip = load_model(tmp_path / "blip" / "blip_shapes.safetensors")
    assert isinstance(blip, BLIP)
    assert blip.config.vocab_size == len(vocabulary()) + 2
    assert "words/count" in (tmp_path / "blip" / "curves" / "from_0" / "metrics.csv").read_text()
    with pytest.raises(SystemExit):
        pretrain.main(["--init", str(tmp_path / "blip" / "blip_shapes.safetensors"), "--out", str(tmp_path), *TINY])

    (batch,) = batches(cases(World(0).told_apart("itr_val", 12), 6)["colour"], make_tokenizer(vocabulary(), sep=True))
    choice = torch.arange(5, 9)
    said = likeliest(blip, batch, choice)
    images = blip.encode_image(batch.images)
    for row, word in enumerate(said.tolist()):
        found = [_log_likelihood(blip, batch, images, row, other) for other in choice.tolist()]
        assert choice[int(torch.tensor(found).argmax())] == word


def _log_likelihood(blip, batch, images, row, word) -> float:
    """Of one whole caption with the word filled in, token by token."""
    ids = batch.text_ids[row].clone()
    ids[batch.masked_pos[row, 0]] = word
    ids = ids[: int(batch.text_atts[row].sum())]
    ids[0] = blip.config.dec_id
    with torch.no_grad():
        logits = blip.predict_words(ids[None], None, images[row : row + 1])[0].log_softmax(-1)
    return sum(float(logits[t, ids[t + 1]]) for t in range(len(ids) - 1))
