"""The papers' data settings of captions and questions, on a small copy of the embedded world in the official files."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vlp_bench.data.minicopy.writing import write

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    root = write(tmp_path_factory.mktemp("copy") / "data", images=12).root
    for split in ("train", "val"):  # the copy has GQA's test questions alone
        (root / f"gqa/{split}_balanced_questions.json").write_bytes(
            (root / "gqa/testdev_balanced_questions.json").read_bytes()
        )
    return root


def built(name, root, *words):
    stage, _, whole = name.rpartition("/")
    chosen = [f"+data={whole}", *([f"+data/{stage}={whole}"] if stage else [])]
    given = [*chosen, f"paths.data={root}", f"paths.vocab={root}/bert-base-uncased/vocab.txt"]
    small = ["data.batch_size=2", "data.eval_batch_size=2", "data.num_workers=0", *words]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*given, *small])
    return instantiate(OmegaConf.to_container(config.data, resolve=True), _convert_="all")


@pytest.mark.parametrize(
    "name, words",
    [
        ("vqa_paper", ()),
        ("vqa_okvqa_paper", ()),
        ("vqa_gqa_paper", ("data.train_on_val=true",)),  # its validation is a copy of its training here
    ],
)
def test_questions(copy, name, words, monkeypatch):
    from vlp_bench.data.datasets import questions

    monkeypatch.setattr(questions, "most_frequent", lambda asked, least: sorted({a for q in asked for a in q.answers}))
    data = built(name, copy, *words)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (2, 3, 384, 384)
    assert len(batch.answer_ids) == int(batch.answer_counts.sum())
    answers, ids, _ = data.candidates()
    assert len(answers) == len(ids) > 1
    assert [q.question_id for q in data.asked("test")]
    assert next(iter(data.test_dataloader())).answer_ids is None


def test_an_honest_validation_leaves_its_questions_out_of_training(copy):
    whole, honest = built("vqa_paper", copy), built("vqa_paper", copy, "data.train_on_val=false")
    assert len(whole.asked("train")) - len(honest.asked("train")) == len(whole.asked("val"))


@pytest.mark.parametrize("name, side", [("captioning_paper", 384), ("captioning_nocaps_paper", 384),
                                        ("pretrain/captioning_paper", 224)])  # fmt: skip
def test_captions(copy, name, side):
    data = built(name, copy)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (2, 3, side, side)
    assert data.written.decode(batch.text_ids[0]).startswith("[CLS] a picture of ")
    tested = data.described("test")
    assert all(image.captions for image in tested)
    assert next(iter(data.test_dataloader())).images.shape == (2, 3, side, side)
    assert all(image.domain for image in tested) is (name == "captioning_nocaps_paper")
