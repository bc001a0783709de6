"""BLIP-2's zero-shot tasks at the papers' settings, from command line to rows, with a tiny model of random weights."""

import json
from dataclasses import replace

import pytest
import torch

from vlp_bench.results.store import Store
from vlp_bench.runs.specification import specification_of
from vlp_bench.runs.terminal.conf import composed

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    from vlp_bench.data.minicopy.writing import write

    return write(tmp_path_factory.mktemp("copy") / "data", images=16).root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders in the hub's layout: the pre-trained model with its tokenizer, and the two fine-tuned ones."""
    from transformers import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval

    from tests.models.tiny import blip2
    from vlp_bench.data.shapes.phrases import vocabulary

    root, words = tmp_path_factory.mktemp("weights"), _tokenizer(list(vocabulary()))
    config = replace(blip2.SIZES, vocab_size=len(words)).config("sdpa")
    config.image_text_hidden_size = 8
    config.qformer_config.vocab_size, config.qformer_config.use_qformer_text_input = 100, True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("blip2-flan-t5-xl", "blip2-flan-t5-xl-coco"):
            Blip2ForConditionalGeneration(config).save_pretrained(root / name)
        Blip2ForImageTextRetrieval(config).save_pretrained(root / "blip2-itm-vit-g-coco")
    words.save_pretrained(root / "blip2-flan-t5-xl")
    return root


def _tokenizer(words):
    """A tokenizer of whole words in FlanT5's form: padding 0, the end 1."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    known = ["<pad>", "</s>", "<unk>", "Question", ":", "Short", "answer", "?", "a", "photo", "of"]
    listed = list(dict.fromkeys([*known, *words]))
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(listed)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def performed(copy, weights, tmp_path):
    """Runs an experiment: what was seen, its numbers by (split, metric), its rows and its folder."""
    from tests.runs.test_run import performed as run

    def ran(exp, *words):
        size = "32" if exp in ("blip2_ic", "blip2_itr") else "16"
        small = [
            f"+exp={exp}", f"paths.data={copy}", f"paths.weights={weights}", f"paths.out={tmp_path}/out",
            f"paths.vocab={copy}/bert-base-uncased/vocab.txt", "trainer=cpu", "pruner=omp", "sparsity=0.5",
            f"data.eval_transform.size={size}", "data.calibration.transform.size=16", "data.calibration.num_batches=2",
            "data.calibration.batch_size=4", "data.num_workers=0", *words,
        ]  # fmt: skip
        found = specification_of(small)
        seen = run(found)
        rows = Store(found.out / "runs").last(found.run)
        return seen, {(row.split, row.metric): row.value for row in rows}, rows, found.folder

    return ran


@pytest.mark.parametrize("exp", ["blip2_vqa", "blip2_okvqa", "blip2_gqa"])
def test_questions_are_answered_in_words(performed, exp):
    seen, numbers, rows, folder = performed(exp)
    assert 0 <= numbers["test", "accuracy"] <= 100
    assert abs(numbers["mask", "sparsity"] - 0.5) < 1e-3
    assert "accuracy" in seen
    answers = json.loads((folder / "answers.json").read_text())
    assert len(answers) == 4
    assert all(isinstance(row["answer"], str) for row in answers)
    assert ("test", "majority") not in numbers
    note = rows[0].provenance["notes"].get("accuracy_lemmas", "")
    assert note.startswith("not computed: spaCy") is (
        exp == "blip2_okvqa" and ("test", "accuracy_lemmas") not in numbers
    )


def test_pictures_are_described_and_scored_by_domain(performed):
    words = ("task.image_size=32", "task.scorers.0.tokenizer=regex", "task.scorers.0.meteor=false")
    _, numbers, rows, folder = performed("blip2_ic", *words)
    notes = rows[0].provenance["notes"]
    for domain, images in (("in-domain", 2), ("near-domain", 1), ("out-domain", 1)):
        assert ("test", f"{domain}/bleu4_regex") in numbers
        assert (("test", f"{domain}/cider_regex") in numbers) is (images > 1)
        assert (f"{domain}/cider_regex" in notes) is (images == 1)
    assert len(json.loads((folder / "captions.json").read_text())) == 4


def test_images_and_texts_are_found(performed, copy):
    files = [f"data.source.{split}={copy}/finetune/itr/coco_test.json" for split in ("train", "val", "test")]
    _, numbers, _, _ = performed("blip2_itr", "task.image_size=32", *files, f"data.source.images={copy}/images/coco")
    assert 0 <= numbers["test", "img_r1"] <= numbers["test", "img_r10"] == 100  # of four
    assert ("test", "itc_img_r1") in numbers


def test_texts_without_images_count_in_calibration(performed, copy):
    shard = f"data.source.text={copy}/c4/c4-train.00000-of-01024.json.gz"
    alone = performed("blip2_gqa", "pruner=snip")[2]
    both = performed("blip2_gqa", "pruner=snip", "data.calibration.parts=[general,text]", shard)[2]
    assert alone[0].provenance["mask"] != both[0].provenance["mask"]


def test_a_small_one_there_is_not():
    from hydra.errors import MissingConfigException

    from vlp_bench.runs.terminal.errors import explain

    with pytest.raises(MissingConfigException) as found:
        composed(["+exp=blip2_vqa", "benchmark=mini"])
    told = explain(found.value)
    assert told is not None
    assert told == "benchmark=mini has no model for this experiment (blip2_mini); its benchmarks: paper"
    assert "\n" not in told
