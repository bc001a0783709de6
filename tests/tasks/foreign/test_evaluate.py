"""Every task on tiny models, against numbers computed in another way; the size of a batch changes nothing."""

import csv
import json
import math
import re
from collections import Counter

import pytest
import torch
from PIL import Image

import vlp_bench
from tests.models.foreign.zoo import built
from tests.runs.own_model.folders import pictures
from tests.tasks.foreign.exams import (
    QUESTIONS,
    folders_of_classes,
    folders_when_asked,
    karpathy,
    letters,
    mmlu,
    text,
    vqa,
)
from vlp_bench.data.datasets.evaluated import CAPTIONS, CLASSES, CORPUS, EXAM, Place
from vlp_bench.data.readers.corpus import read_corpus
from vlp_bench.models.checkpoints.pretrained import from_pretrained
from vlp_bench.models.foreign.likelihood import Told, log_likelihoods

folders = pytest.fixture(scope="module")(folders_when_asked)


def measured(place, task, root, form, options=None, **data):
    return vlp_bench.evaluate(place, task, {"root": str(root), "format": form, **data}, options)


# Retrieval


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_retrieval_is_that_of_a_plain_matrix(folders, tmp_path, name):
    place, root = folders(name), karpathy(tmp_path / "data")
    model, processor = from_pretrained(place), built_processor(name)
    listed = [i for i in json.loads((root / "dataset.json").read_text())["images"] if i["split"] == "test"]
    texts = [s["raw"] for i in listed for s in i["sentences"]]
    pictures = [Image.open(root / "images" / i["filename"]).convert("RGB") for i in listed]
    length = {"padding": "max_length", "max_length": 16} if name == "siglip" else {"padding": True}
    batch = processor(text=texts, images=pictures, return_tensors="pt", truncation=True, **length)
    with torch.no_grad():
        similarity = model(**batch).logits_per_image
    found = measured(place, "retrieval", root, "karpathy", {"batch_size": 4}).values
    owner = [n for n, _ in enumerate(listed) for _ in range(5)]
    for k in (1, 5, 10):
        hits = [any(owner[t] == n for t in similarity[n].topk(k).indices.tolist()) for n in range(len(listed))]
        assert found[f"txt_r{k}"] == pytest.approx(100 * sum(hits) / len(hits))
        hits = [owner[t] in similarity[:, t].topk(k).indices.tolist() for t in range(len(texts))]
        assert found[f"img_r{k}"] == pytest.approx(100 * sum(hits) / len(hits))
    again = measured(place, "retrieval", root, "karpathy", {"batch_size": 64})
    assert again.values == found
    assert "texts" not in again.notes
    for image in (content := json.loads((root / "dataset.json").read_text()))["images"]:
        image["sentences"][0]["raw"] = "a red dog " * (5 if image["imgid"] % 2 else 6)
    (root / "dataset.json").write_text(json.dumps(content))
    longer = sum(image["split"] == "test" and image["imgid"] % 2 == 0 for image in content["images"])
    told = measured(place, "retrieval", root, "karpathy").notes["texts"]
    assert told == f"{longer} of {len(texts)} texts are longer than the 16 tokens that are read, and cut"


def built_processor(name):
    from tests.runs.own_model.folders import PROCESSORS

    return PROCESSORS[name]()


# Answers in words


@pytest.mark.parametrize("name", ["blip2", "blip2_t5", "qwen2_5_vl", "smolvlm"])
def test_vqa_is_that_of_single_answers(folders, tmp_path, name):
    """Every third question is answered by ten people as the model does, every third by two."""
    place, root = folders(name), vqa(tmp_path / "data")
    found = [measured(place, "vqa", root, "salesforce", {"batch_size": size, "max_new": 2}) for size in (1, 5)]
    assert found[0] == found[1]
    assert [one["question_id"] for one in found[0].said] == list(range(12))
    assert found[0].values["accuracy"] == 0
    rows = json.loads((root / "vqa_test.json").read_text())
    for row, one in zip(rows, found[0].said, strict=True):
        agree = (10, 2, 0)[row["question_id"] % 3]
        row["answer"] = [one["answer"]] * agree + ["nothing like it"] * (10 - agree)
    (root / "vqa_test.json").write_text(json.dumps(rows))
    again = measured(place, "vqa", root, "salesforce", {"batch_size": 3, "max_new": 2})
    assert again.values["accuracy"] == pytest.approx((100 + (8 * 200 / 3 + 2 * 100 / 3) / 10 + 0) / 3)


def test_a_prompt_is_read(folders, tmp_path):
    place, root = folders("blip2"), vqa(tmp_path / "data")
    asked = measured(place, "vqa", root, "salesforce", {"prompt": "w30 w31 {} w32"}, limit=3)
    other = measured(place, "vqa", root, "salesforce", {"prompt": "{} the the the"}, limit=3)
    assert len(asked.said) == 3
    assert asked.said != other.said


def test_captions(folders, tmp_path):
    place, root = folders("llava"), karpathy(tmp_path / "data")
    options = {"tokenizer": "regex", "max_new": 5}
    found = [measured(place, "captioning", root, "karpathy", options | {"batch_size": size}) for size in (1, 4)]
    assert found[0] == found[1]
    assert {"cider_regex", "bleu4_regex", "rouge_l_regex"} <= found[0].values.keys()
    said = [set(one["caption"].split()) for one in found[0].said]
    told = [set(" ".join(s["raw"] for s in i["sentences"]).split())
            for i in json.loads((root / "dataset.json").read_text())["images"][1:]]  # fmt: skip
    assert (found[0].values["bleu1_regex"] > 1e-3) == any(own & other for own, other in zip(said, told, strict=True))


# Perplexity


def nll_of(model, ids):
    """(t - 1,) of one row, by hand."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    return [-float(logits[n].log_softmax(-1)[word]) for n, word in enumerate(ids[1:])]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_perplexity_by_hand(folders, tmp_path, name):
    place, root = folders(name), text(tmp_path)
    ids = letters()(read_corpus(root / "wiki.test.raw", "wikitext"))["input_ids"]
    model, window = from_pretrained(place), 32
    blocks = [ids[n * window : (n + 1) * window] for n in range(len(ids) // window)]
    single = [value for block in blocks for value in nll_of(model, block)]
    found = [measured(place, "perplexity", root, "wikitext", {"window": window, "batch_size": n}) for n in (1, 3)]
    for one in found:
        assert one.values["perplexity"] == pytest.approx(math.exp(sum(single) / len(single)), rel=1e-5)
        told = f"{31 * (len(ids) // 32)} tokens in {len(ids) // 32} windows of 32"
        assert one.notes["perplexity"].startswith(told)
        assert ("left out" in one.notes["perplexity"]) == (len(ids) % window > 0)


def test_overlapping_windows_by_hand(folders, tmp_path):
    place, root = folders("llama"), text(tmp_path)
    ids = letters()(read_corpus(root / "wiki.test.raw", "wikitext"))["input_ids"]
    model = from_pretrained(place)
    starts = range(0, len(ids) - 31, 8)
    single = [v for n in starts for v in nll_of(model, ids[n : n + 32])[0 if n == 0 else 31 - 8 :]]
    found = measured(place, "perplexity", root, "wikitext", {"window": 32, "stride": 8})
    assert math.log(found.values["perplexity"]) == pytest.approx(sum(single) / len(single), rel=1e-5)


def test_perplexity_of_an_encoder_decoder(folders, tmp_path):
    """The encoder reads half a window, the decoder says the other half."""
    place, root = folders("t5"), text(tmp_path)
    model = from_pretrained(place)
    ids = letters()(read_corpus(root / "wiki.test.raw", "wikitext"))["input_ids"]
    losses = []
    for n in range(len(ids) // 32):
        block = torch.tensor([ids[n * 32 : n * 32 + 32]])
        with torch.no_grad():
            losses.append(float(model(input_ids=block[:, :16], labels=block[:, 16:]).loss))
    found = measured(place, "perplexity", root, "wikitext", {"window": 32, "batch_size": 2})
    assert found.values["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_wikitext_is_joined_as_its_rows(tmp_path):
    """Each line with its end, nothing for an empty one, a blank line between; an unusual line end is no line end."""
    (tmp_path / "a.raw").write_text(" \n = A = \n \n one\x85two \n", encoding="utf-8")
    assert read_corpus(tmp_path / "a.raw", "wikitext") == "\n\n = A = \n\n\n\n\n one\x85two \n"
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert read_corpus(tmp_path / "b.jsonl", "jsonl") == "one\n\ntwo"


def test_likelihoods_of_several_words_and_padding():
    """Rows of different lengths, several words each, with and without `logits_to_keep`; against single rows."""
    told = [Told((4, 5, 6), (7,)), Told((8,), (9, 10, 11)), Told((4, 5, 6, 7, 8, 9, 10), (11, 12))]
    for name in ("llama", "opt_like", "t5"):
        model = built("gpt2" if name == "opt_like" else name)
        for own, one in zip(log_likelihoods(model, told), told, strict=True):
            assert own.shape == (len(one.said),)
            if name == "t5":
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([one.read]), labels=torch.tensor([one.said])).logits[0]
                expected = [float(logits[n].log_softmax(-1)[word]) for n, word in enumerate(one.said)]
            else:
                expected = [-v for v in nll_of(model, [*one.read, *one.said])[len(one.read) - 1 :]]
            assert own.tolist() == pytest.approx(expected, rel=1e-4)


# Multiple choice


def prompts_by_hand(root):
    """(subject, prompt, right letter) of every question, as MMLU's own code writes them."""

    def rows(split, subject):
        with open(root / split / f"{subject}_{split}.csv", newline="") as file:
            return list(csv.reader(file))

    def told(row):
        return f"{row[0]}\nA. {row[1]}\nB. {row[2]}\nC. {row[3]}\nD. {row[4]}\nAnswer:"

    for subject in sorted(QUESTIONS):
        head = f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}.\n\n"
        before = "".join(f"{told(row)} {row[5]}\n\n" for row in rows("dev", subject))
        yield from ((subject, head + before + told(row), row[5]) for row in rows("test", subject))


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_multiple_choice_by_hand(folders, tmp_path, name):
    place, root, words = folders(name), mmlu(tmp_path), letters()
    model, right = from_pretrained(place), Counter()
    if name == "gpt2":  # it has 64 places, five examples take more
        place = longer_gpt2(tmp_path / "longer")
        model = from_pretrained(place)
    for subject, prompt, letter in prompts_by_hand(root):
        ids = torch.tensor([words(prompt)["input_ids"]])
        with torch.no_grad():
            logits = (
                model(input_ids=ids, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits[0, -1]
                if name == "t5"
                else model(input_ids=ids).logits[0, -1]
            )
        scores = [float(logits[words.convert_tokens_to_ids(own)]) for own in "ABCD"]
        right[subject] += "ABCD"[scores.index(max(scores))] == letter
    found = [measured(place, "multiple_choice", root, "mmlu", {"batch_size": size}) for size in (1, 5)]
    assert found[0] == found[1]
    shares = {subject: 100 * right[subject] / count for subject, count in QUESTIONS.items()}
    assert found[0].values == pytest.approx(
        {"accuracy": 100 * right.total() / 12, "subjects": sum(shares.values()) / 2}
        | {f"subject/{subject}": share for subject, share in shares.items()}
    )


def longer_gpt2(place):
    import transformers as t

    config = built("gpt2").config
    config.n_positions = 512
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = t.GPT2LMHeadModel(config).eval()
        for parameter in model.parameters():
            parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    model.save_pretrained(place)
    letters().save_pretrained(place)
    return place


def test_fewer_examples_where_they_do_not_fit(folders, tmp_path):
    """A Llama with 128 places: each question has as many of the five before it as fit."""
    place, root, words = folders("llama"), mmlu(tmp_path), letters()
    model, chosen, counts = from_pretrained(place), [], set()
    for _, prompt, _ in prompts_by_hand(root):
        head, *before, asked = re.split(r"\n\n(?=what)", prompt)
        ids = [words("\n\n".join([head, *before[:n], asked]))["input_ids"] for n in range(6)]
        count = max(n for n, own in enumerate(ids) if len(own) <= 128)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[count]])).logits[0, -1]
        scores = [float(logits[words.convert_tokens_to_ids(own)]) for own in "ABCD"]
        chosen.append("ABCD"[scores.index(max(scores))])
        counts.add(count)
    found = measured(place, "multiple_choice", root, "mmlu")
    assert [one["answer"] for one in found.said] == chosen
    assert max(counts) < 5
    with pytest.raises(ValueError, match=r"a question of anatomy has \d+ tokens, the window 20: raise task.window"):
        measured(place, "multiple_choice", root, "mmlu", {"window": 20})
    with pytest.raises(
        ValueError, match=r"anatomy has 5 answered questions in dev/, 6 are asked for: set task.shots=5"
    ):
        measured(place, "multiple_choice", root, "mmlu", {"shots": 6})


# Classes


def test_classification_by_names_in_order_and_by_a_file(folders, tmp_path):
    place, names = folders("vit"), ("ant", "bee", "cow", "doe", "eel")
    root = folders_of_classes(tmp_path / "data", names)
    model = from_pretrained(place)
    processor = built_processor("vit")
    logits = {}
    for name in names:
        pictures = [Image.open(root / "val" / name / f"{n}.png").convert("RGB") for n in range(3)]
        with torch.no_grad():
            logits[name] = model(**processor(images=pictures, return_tensors="pt")).logits.argmax(1).tolist()
    by = lambda order: 100 * sum(n == order.index(name) for name in names for n in logits[name]) / 15  # noqa: E731
    found = measured(place, "classification", root, "imagefolder", {"batch_size": 4})
    assert found.values == {"accuracy": pytest.approx(by(list(names)))}
    assert "in the order of their folders' names" in found.notes["accuracy"]
    turned = list(names[::-1])
    index = tmp_path / "index.json"
    index.write_text(json.dumps({str(n): [name, f"the {name}"] for n, name in enumerate(turned)}))
    found = measured(place, "classification", root, "imagefolder", {"labels": str(index)})
    assert found.values["accuracy"] == pytest.approx(by(turned))
    index = tmp_path / "classes.txt"
    index.write_text("".join(f"{name} the {name}\n" for name in turned))
    assert measured(place, "classification", root, "imagefolder", {"labels": str(index)}).values == found.values
    model.config.id2label = {n: f"{name}, the {name}" for n, name in enumerate(turned)}
    by_name = vlp_bench.evaluate(model, "classification", {"root": str(root), "format": "imagefolder"}, folder=place)
    assert by_name.values == found.values
    assert not by_name.notes
    (root / "val" / "fox").mkdir()
    with pytest.raises(ValueError, match="1 of 6 class folders, the first is fox, are not in the labels"):
        vlp_bench.evaluate(model, "classification", {"root": str(root), "format": "imagefolder"}, folder=place)


def test_zero_shot_classification_and_top5(folders, tmp_path):
    names = ("a", "red", "dog", "blue", "cat", "of", "the")
    place, root = folders("clip"), folders_of_classes(tmp_path / "data", names)
    model, processor = from_pretrained(place), built_processor("clip")
    pictures = [Image.open(root / "val" / name / f"{n}.png").convert("RGB") for name in sorted(names) for n in range(3)]
    texts = [f"w30 {name} w31" for name in sorted(names)]
    with torch.no_grad():
        scores = model(**processor(text=texts, images=pictures, return_tensors="pt", padding=True)).logits_per_image
    right = torch.arange(7).repeat_interleave(3)[:, None]
    share = lambda k: 100 * float((scores.topk(k).indices == right).any(1).double().mean())  # noqa: E731
    found = measured(place, "classification", root, "imagefolder", {"template": "w30 {} w31"})
    assert found.values == pytest.approx({"accuracy": share(1), "top5": share(5)})


# Errors, each in one line


@pytest.mark.parametrize(
    "name, task, said",
    [
        ("vit", "retrieval", r"=retrieval is for CLIP, SigLIP .* ViTForImageClassification; .* asked: classification$"),
        ("clip", "vqa", r"=vqa is for BLIP-2, LLaVA.* CLIPModel; CLIPModel can be asked: classification, retrieval$"),
        ("bert", "perplexity", r"task=perplexity is for Llama, FlanT5 .* BertForMaskedLM$"),
        ("blip2", "multiple_choice", r"task=multiple_choice is for Llama.* need no image, .*: captioning, vqa$"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_asked(folders, tmp_path, name, task, said):
    form = {"retrieval": "karpathy", "vqa": "salesforce", "perplexity": "wikitext", "multiple_choice": "mmlu"}[task]
    make = {"retrieval": karpathy, "vqa": vqa, "perplexity": text, "multiple_choice": mmlu}[task]
    with pytest.raises(ValueError, match=said):
        measured(folders(name), task, make(tmp_path / "data"), form)


@pytest.mark.parametrize(
    "task, form, options, data, said",
    [
        ("perplexty", "text", {}, {}, r"task=perplexty: there is no such task; allowed: .*; did you mean perplexity"),
        ("perplexity", "text", {"windw": 3}, {}, r"task.windw=3: there is no value .* did you mean window\?"),
        ("perplexity", "txt", {}, {}, r"data.format=txt: there is no such format here; allowed: wikitext, text, jsonl"),
        ("perplexity", "text", {"window": 500}, {}, r"task.window=500: expected .* from 2 to the 128 that"),
        ("perplexity", "text", {"window": 8, "stride": 9}, {}, r"task.stride=9: the window has 8 tokens"),
        ("perplexity", "text", {}, {"test": "short.txt"}, r"2 tokens, less than a window: set task.window=2"),
        ("captioning", "coco", {}, {"split": "val"}, r"has the val split of format coco\? none .* data.test=FILE"),
        ("perplexity", "text", {}, {"tset": "a"}, r"data.tset=a: there is no value data.tset; .* did you mean test"),
        ("multiple_choice", "mmlu", {}, {}, r"test holds no .csv: MMLU's are dev/<subject>_dev.csv"),
        ("vqa", "salesforce", {"prompt": "what?"}, {}, r"task.prompt='what\?': it needs \{\} where the question comes"),
        ("vqa", "salesforce", {"beams": 0}, {}, r"beams=0, max_new=10: at least 1 of each is needed"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(folders, tmp_path, task, form, options, data, said):
    root = text(tmp_path / "data")
    (tmp_path / "data" / "short.txt").write_text("red dog\n")
    data = {key: str(root / value) if key == "test" else value for key, value in data.items()}
    with pytest.raises(ValueError, match=said) as error:
        measured(folders("llama"), task, root, form, options, **data)
    assert "\n" not in str(error.value)


def test_a_file_is_named_by_itself_or_below_the_root(tmp_path, monkeypatch):
    root = text(tmp_path / "data")
    (root / "other.txt").write_text("red dog\n")
    monkeypatch.chdir(tmp_path)
    for test in ("other.txt", "data/other.txt", str(root / "other.txt")):
        assert Place("data", "text", test=test).read(CORPUS).text == "red dog\n"
    with pytest.raises(ValueError, match=r"^data.test=a.txt: there is nothing .* data, which holds other.txt, wiki"):
        Place("data", "text", test="a.txt").read(CORPUS)
    with pytest.raises(ValueError, match=r"this is a file; give its folder, data.root=data, and data.test=other.txt$"):
        Place("data/other.txt", "text").read(CORPUS)


def test_no_split_of_a_format_of_folders_is_one_line_without_contradiction(tmp_path, caplog):
    folder = tmp_path / "flat"
    pictures(folder, 3, listed=False)
    with pytest.raises(
        ValueError,
        match=r"which folder has the test split .* \(looked for a folder test or .*\); .*FOLDER$",
    ):
        Place(str(folder), "files").read(CAPTIONS)
    assert not caplog.records  # no word of a validation split, which is not there either
    assert len(Place(str(folder), "files", test=str(folder)).read(CAPTIONS).records) == 3
    folder.rename(tmp_path / "val")
    assert len(Place(str(tmp_path), "files").read(CAPTIONS).records) == 3
    assert "what is tested is the validation split" in caplog.text


@pytest.mark.parametrize(
    ("kind", "place", "message"),
    [
        (
            CORPUS,
            {"format": "text", "limit": 3},
            r"data\.limit=3: this means nothing for corpus .*: leave it out; the keys are",
        ),
        (CORPUS, {"format": "text", "images": "x"}, r"data\.images=x: this means nothing for"),
        (EXAM, {"format": "mmlu", "names": "x"}, r"data\.names=x: this means nothing for"),
        (CLASSES, {"format": "imagefolder", "images": "x"}, r"data\.images=x: this means nothing for"),
        (
            CLASSES,
            {"format": "imagefolder", "limit": -3},
            r"data\.limit=-3: expected a number of records, or 0 for all",
        ),
        (
            CLASSES,
            {"format": "imagefolder", "split": "train"},
            r"data\.split=train: which folder of .* is it\? It has ",
        ),
        (
            CAPTIONS,
            {"format": "parquet", "images": "x"},
            r"data\.images=x: this means nothing for captions in the format parquet",
        ),
        (CAPTIONS, {"format": "karpathy", "names": "x"}, r"data\.names=x: this means nothing for"),
    ],
)
def test_keys_of_the_data_that_would_not_be_heeded(tmp_path, kind, place, message):
    with pytest.raises(ValueError, match=message) as error:
        Place(str(tmp_path), **place).read(kind)
    assert "\n" not in str(error.value)
