"""Retrieval among texts: recalls by hand, a run on a tiny encoder without and with fine-tuning."""

import platform

import pytest
import torch
from lightning.pytorch import Trainer

from tests.models.tiny import minilm
from vlp_bench.batch import Batch
from vlp_bench.data.datasets.described import DescribedCalibration, DescribedCollate, DescribedData, Docstrings
from vlp_bench.data.readers.docstrings import Described, write
from vlp_bench.data.text import make_tokenizer
from vlp_bench.models.minilm import MiniLM
from vlp_bench.tasks.text_retrieval import TextRetrieval, pair_recall

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "("]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Alphabet(Docstrings):
    """24 pairs: a letter, and that letter said twice."""

    def __init__(self) -> None:
        splits = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
        self.pairs = tuple(Described(s, s, x, f"{x} {x}") for s, x in zip(splits, LETTERS, strict=False))


@pytest.fixture
def data(tmp_path) -> DescribedData:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return DescribedData(
        Alphabet(), calibration=DescribedCalibration(num_batches=2, batch_size=4, seed=1),
        vocab=f"{tmp_path}/vocab.txt", batch_size=4, eval_batch_size=4,
    )  # fmt: skip


@pytest.fixture
def trainer(tmp_path) -> Trainer:
    return Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=str(tmp_path),
    )  # fmt: skip


def model() -> MiniLM:
    torch.manual_seed(0)
    return minilm.model()


def test_recalls_by_hand():
    """The first name finds its text; the second puts it second. Both texts find theirs."""
    metric = pair_recall(torch.tensor([[0.9, 0.1], [0.7, 0.6]]))
    values = metric.compute()
    assert (float(values["txt_r1"]), float(values["img_r1"]), float(values["txt_r5"])) == (50.0, 100.0, 100.0)
    assert metric.ranks_by_query["txt"].tolist() == [0, 1]


def test_a_batch_has_names_and_descriptions_in_turn(data):
    batch = next(iter(data.test_dataloader()))
    assert isinstance(batch, Batch)
    assert batch.examples == 8
    letters = [WORDS[int(row[1])] for row in batch.text_ids]
    assert letters[0::2] == letters[1::2] == list("stuv")
    assert batch.text_atts.sum(1).tolist() == [3, 4] * 4  # [CLS] x [SEP], [CLS] x x [SEP]


def test_calibration_is_training_pairs_drawn_by_its_seed(data):
    first, again = ([batch.text_ids for batch in data.calibration()] for _ in range(2))
    assert len(first) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    seen = {WORDS[int(row[1])] for ids in first for row in ids}
    assert len(seen) == 8
    assert seen <= set(LETTERS[:12])
    told = data.calibration_fingerprint()
    data.settings = DescribedCalibration(num_batches=2, batch_size=4, seed=2)
    assert data.calibration_fingerprint() != told
    assert not torch.equal(next(iter(data.calibration())).text_ids, first[0])


def test_more_calibration_than_there_is_is_refused(data):
    data.settings = DescribedCalibration(num_batches=4, batch_size=4)
    with pytest.raises(
        ValueError, match=r"4 batches of 4 pairs, there are 12; lower data\.calibration\.num_batches to 3"
    ):
        data.calibration()


def test_untrained_it_is_tested_as_it_is(data, trainer):
    task = TextRetrieval(model().eval())
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    [values] = trainer.test(task, data, verbose=False)
    names, texts = (torch.cat(e) for e in zip(*map(task.model.embed_pairs, data.test_dataloader()), strict=True))
    ahead = (names @ texts.T).argmax(1) == torch.arange(6)
    assert values["test/doc_r1"] == pytest.approx(100 * float(ahead.float().mean()))
    assert values["test/doc_r10"] == values["test/name_r10"] == 100.0  # there are six
    assert task.examples["doc_rank"].shape == task.examples["name_rank"].shape == (6,)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())


def test_fine_tuning_brings_pairs_together(data, trainer):
    task = TextRetrieval(model(), lr=5e-3, warmup=0.0)
    batch = next(iter(data.train_dataloader()))
    before = float(task.model.eval().contrastive_losses(batch)["contrastive"].detach())
    task.train()
    trainer.fit(task, data)
    assert float(task.model.eval().contrastive_losses(batch)["contrastive"].detach()) < before
    assert "val/r_mean" in trainer.callback_metrics


def test_pairs_of_another_python_are_refused(tmp_path):
    file = tmp_path / "pairs.jsonl"
    write(file)
    assert Docstrings(platform.python_version(), str(file)).pairs == Docstrings(platform.python_version()).pairs
    with pytest.raises(ValueError, match=r"data\.source\.python=3\.1\.4, but .*pairs\.jsonl is"):
        Docstrings("3.1.4", str(file))
    with pytest.raises(ValueError, match="but the running Python is"):
        Docstrings("3.1.4")


def test_long_texts_are_cut(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    collate = DescribedCollate(make_tokenizer(tmp_path / "vocab.txt", sep=True), max_tokens=5)
    batch = collate([Described("test", "m", "a", " ".join("b" * 20))])
    assert batch.text_ids.shape == (2, 5)
    assert batch.images.shape == (0, 3, 1, 1)
