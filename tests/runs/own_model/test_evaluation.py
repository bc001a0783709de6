"""`vlp-bench evaluate` and `prune ... evaluate=`: rows, tables, what is stored already; ECoFLaP's rows rehearsed."""

import json

import pytest
import torch

from tests.runs.own_model.folders import folder, texts
from tests.tasks.foreign.exams import folders_of_classes, folders_when_asked, karpathy, letters, mmlu, text, vqa
from vlp_bench.__main__ import main
from vlp_bench.commands import report
from vlp_bench.models.checkpoints.locations import content_hash
from vlp_bench.models.checkpoints.pretrained import from_pretrained
from vlp_bench.pruning.solution import Solution
from vlp_bench.results.store import Store
from vlp_bench.runs.own_model import several
from vlp_bench.runs.own_model.evaluate import evaluate, prune_and_evaluate
from vlp_bench.runs.own_model.evaluation_request import evaluation_of, split
from vlp_bench.runs.own_model.request import request_of
from vlp_bench.runs.prune_once import mask_hash
from vlp_bench.runs.terminal.console import console

folders = pytest.fixture(scope="module")(folders_when_asked)


def evaluated(*words):
    with console.capture() as captured:
        rows = evaluate(evaluation_of(list(words)), console)
    return rows, captured.get()


def pruned(*words):
    pruning, evaluation = split([*words, "yes=true"])
    request, options = request_of(pruning)
    with console.capture() as captured:
        rows = prune_and_evaluate(request, options, evaluation, console)
    return rows, captured.get()


def test_a_row_tells_where_it_comes_from(folders, tmp_path):
    place, root = folders("clip"), karpathy(tmp_path / "pics")
    words = (
        f"model={place}",
        "task=retrieval",
        f"data.root={root}",
        "data.format=karpathy",
        f"out={tmp_path}",
        "task.batch_size=3",
    )
    rows, said = evaluated(*words)
    assert {row.metric for row in rows} > {"txt_r1", "img_r10", "r_mean"}
    first = rows[0]
    assert (first.exp, first.model, first.task, first.pruner) == ("evaluate_retrieval", "clip", "retrieval", "dense")
    assert (first.benchmark, first.sparsity, first.rows, first.split) == ("own", 0.0, len(rows), "test")
    origin = first.provenance
    assert origin["weights"] == content_hash(place)
    assert origin["mask"] is None
    assert origin["data"]
    assert origin["hardware"]["threads"]
    assert origin["config"]["task"] == {"name": "retrieval", "batch_size": 3}
    assert origin["config"]["data"]["root"] == str(root)
    assert list(Store(tmp_path / "runs").rows()) == rows
    assert "retrieval on 11 examples of pics (karpathy)" in said
    again, said = evaluated(*words)
    assert again == rows
    assert "stored already (force=true measures again)" in said


def test_other_data_weights_or_options_are_another_run(folders, tmp_path):
    place, root = folders("llama"), text(tmp_path / "a")
    words = ["task=perplexity", "data.format=wikitext", f"out={tmp_path}", f"model={place}", f"data.root={root}"]
    [one], _ = evaluated(*words, "task.window=32")
    [other], _ = evaluated(*words, "task.window=16")
    (root / "wiki.test.raw").write_text((root / "wiki.test.raw").read_text().replace("red", "blue"))
    [third], _ = evaluated(*words, "task.window=32")
    assert len({one.run, other.run, third.run}) == len({one.setting, other.setting, third.setting}) == 3


def test_dense_and_pruned_in_one_command(folders, tmp_path):
    place, root = folders("llama"), text(tmp_path / "wiki")
    on = ["data.format=wikitext", f"data.root={root}", "task.window=32"]
    words = ["pruner=wanda", "sparsity=0.5,0.75", f"calibration={texts(tmp_path)}", f"out={tmp_path / 'out'}"]
    rows, said = pruned(f"model={place}", *words, "evaluate=perplexity", *on, f"results={tmp_path / 'r'}")
    assert [(row.pruner, row.sparsity) for row in rows] == [("dense", 0), ("wanda", 0.5), ("wanda", 0.75)]
    assert len({row.setting for row in rows}) == 1
    assert {row.provenance["weights"] for row in rows} == {content_hash(place)}  # of what was pruned
    solution = Solution.load(tmp_path / "out" / "0.75" / "mask.safetensors")
    assert rows[2].provenance["mask"] == mask_hash(solution)
    assert f"{rows[2].value - rows[0].value:+.2f}" in said
    ids = letters()(text_of(root))["input_ids"]
    model = from_pretrained(tmp_path / "out" / "0.75")
    blocks = torch.tensor(ids[: len(ids) // 32 * 32]).view(-1, 32)
    with torch.no_grad():
        losses = [float(model(input_ids=row[None], labels=row[None]).loss) for row in blocks]
    assert rows[2].value == pytest.approx(float(torch.tensor(losses).mean().exp()), rel=1e-4)
    later, said = evaluated(f"model={tmp_path / 'out' / '0.75'}", "task=perplexity", *on, f"out={tmp_path / 'r'}")
    assert later == rows[2:]
    assert f"{rows[0].value:.2f}" in said  # the stored dense one stands beside it
    with console.capture() as captured:
        page = report.report(report.Request(out=str(tmp_path / "r")))
    assert "evaluate_perplexity" in captured.get()
    shown = (page / "report.md").read_text()
    assert "**perplexity (smaller is better)**" in shown
    best = min(rows[1:], key=lambda row: row.value)
    assert f"{best.value:.2f}" in shown


def text_of(root):
    from vlp_bench.data.readers.corpus import read_corpus

    return read_corpus(root / "wiki.test.raw", "wikitext")


def test_what_was_said_lies_beside_the_rows(folders, tmp_path):
    place, root = folders("blip2"), vqa(tmp_path / "vqa")
    rows, _ = evaluated(
        f"model={place}", "task=vqa", f"data.root={root}", "data.format=salesforce", f"out={tmp_path}", "data.limit=5",
        "task.prompt=Question: {} Short answer:",
    )  # fmt: skip
    [file] = tmp_path.glob("runs/*/said.json")
    assert [one["question_id"] for one in json.loads(file.read_text())] == [0, 1, 2, 3, 4]
    assert rows[0].provenance["config"]["task"]["prompt"] == "Question: {} Short answer:"


def test_a_number_that_is_none_is_an_error_row(folders, tmp_path):
    """Weights so large that the likelihood of a word underflows: perplexity beyond all numbers."""
    place = folder("llama", tmp_path / "large")
    letters().save_pretrained(place)
    model = from_pretrained(place)
    model.lm_head.weight.data.mul_(1e6)
    model.save_pretrained(place)
    words = [
        f"model={place}",
        "task=perplexity",
        f"data.root={text(tmp_path / 'w')}",
        "data.format=text",
        f"out={tmp_path}",
    ]
    [row], said = evaluated(*words)
    assert row.status == "ERR"
    assert "perplexity: it is larger than any number" in row.message
    assert "–" in said
    _, said = evaluated(*words)
    assert "stored already" not in said


# ECoFLaP's own rows, on tiny models


def test_ecoflap_flant5(folders, tmp_path):
    rows, _ = pruned(
        "+exp=ecoflap_flant5", f"model={folders('t5')}", f"calibration={texts(tmp_path)}", f"out={tmp_path / 'out'}",
        f"data.root={mmlu(tmp_path / 'mmlu')}", f"results={tmp_path}",
    )  # fmt: skip
    told = {(row.exp, row.task, row.pruner, row.sparsity) for row in rows}
    assert told == {
        ("ecoflap_flant5", "multiple_choice", own, level) for own, level in (("dense", 0), ("ecoflap", 0.5))
    }
    assert {"accuracy", "subjects", "subject/anatomy"} <= {row.metric for row in rows}
    report = Solution.load(tmp_path / "out" / "mask.safetensors").report
    assert "avg" in json.dumps(report["settings"])
    assert rows[0].provenance["config"]["task"]["shots"] == 5


def test_ecoflap_llama_and_another_pruner(folders, tmp_path):
    root = text(tmp_path / "wiki", "wiki.valid.raw")
    text(tmp_path / "wiki", "wiki.test.raw", count=50)
    words = [
        "+exp=ecoflap_llama", f"model={folders('llama')}", f"calibration={texts(tmp_path)}", f"data.root={root}",
        f"results={tmp_path}", "task.window=32",
    ]  # fmt: skip
    first, _ = pruned(*words, f"out={tmp_path / 'a'}")
    second, said = pruned(*words, f"out={tmp_path / 'b'}", "pruner=sparsegpt")
    assert [(row.pruner, row.sparsity) for row in (*first, *second)] == [
        ("dense", 0), ("ecoflap", 0.6), ("dense", 0), ("sparsegpt", 0.6)
    ]  # fmt: skip
    assert "stored already" in said  # the dense one
    assert len({row.setting for row in (*first, *second)}) == 1


def test_ecoflap_eva(folders, tmp_path):
    """A ViT in its place: its loss is that of images in class folders."""
    root = folders_of_classes(tmp_path / "net", ("ant", "bee", "cow", "doe", "eel"), each=4)
    rows, _ = pruned(
        "+exp=ecoflap_eva", f"model={folders('vit')}", f"calibration={root / 'val'}", f"out={tmp_path / 'out'}",
        f"data.root={root}", f"results={tmp_path}",
    )  # fmt: skip
    assert [(row.metric, row.pruner) for row in rows] == [("accuracy", "dense"), ("accuracy", "ecoflap")]


def published(monkeypatch, verb, *words):
    """What a command line of `vlp-bench` does."""
    monkeypatch.setattr("sys.argv", ["vlp-bench", verb, *words, "yes=true"])
    with console.capture() as captured:
        main()
    return captured.get()


def test_run_and_compare_take_these_rows(folders, tmp_path, monkeypatch):
    root = text(tmp_path / "wiki", "wiki.valid.raw")
    words = [
        "+exp=ecoflap_llama", f"model={folders('llama')}", f"calibration={texts(tmp_path)}", f"data.root={root}",
        "task.window=32", "num_samples=8",
    ]  # fmt: skip
    run, prune = tmp_path / "run", tmp_path / "prune"
    published(monkeypatch, "run", *words, f"results={run}", f"out={run / 'pruned'}")
    published(monkeypatch, "prune", *words, f"results={prune}", f"out={prune / 'pruned'}")
    assert [values(row) for row in Store(run / "runs").rows()] == [values(row) for row in Store(prune / "runs").rows()]
    more = ["pruner=wanda,ecoflap", "sparsity=0.5,0.6", "seed=0,1", f"results={run}", f"out={tmp_path / 'all'}"]
    said = published(monkeypatch, "compare", *words, *more)
    rows = list(Store(run / "runs").rows())
    cells = {(row.pruner, row.sparsity, row.seed) for row in rows if row.pruner != "dense"}
    assert cells == {
        (pruner, level, seed) for pruner in ("wanda", "ecoflap") for level in (0.5, 0.6) for seed in (0, 1)
    }
    assert len({row.setting for row in rows}) == 1
    assert said.count("stored already") == 2  # dense, and ECoFLaP at 60 % with seed 0
    assert all(f"{row.value:.2f}" in said for row in rows)


def values(row):
    return row.run, row.setting, row.pruner, row.sparsity, row.metric, row.value


def test_the_published_pruner_keeps_its_options_in_a_comparison():
    words = ["+exp=ecoflap_flant5", "model=m", "data.root=d", "pruner=wanda,ecoflap", "out=o", "seed=3"]
    (wanda, _), (ecoflap, _) = (split(own) for own in several.cells(words))
    assert "pruner.allocate.reduce=avg" in ecoflap
    assert "pruner.allocate.reduce=avg" not in wanda
    assert {"pruner=wanda", "seed=3", "out=o/wanda-seed3"} <= set(wanda)
    with pytest.raises(ValueError, match="out= is missing: give the folder that the pruned models are written below"):
        list(several.cells(["+exp=ecoflap_flant5", "model=m"]))


@pytest.mark.parametrize(
    "words, said",
    [
        (["task=vqa", "data.root=x"], "model= is missing"),
        (["model=x", "data.root=x"], "task= is missing: give one of captioning, classification"),
        (["model=x", "task=vqaa", "data.root=x"], "task=vqaa: there is no such task; .*; did you mean vqa"),
        (["model=x", "task=vqa"], "data.root= is missing"),
        (["model=x,x", "task=vqa", "data.root=x"], "model=x,x: a model stands there twice"),
        (
            ["model=x", "task=vqa", "data.root=x", "taks.beams=2"],
            r"taks.beams=2: expected key=value with a key of model, ",
        ),
        (["+exp=ecoflap", "model=x"], r"\+exp=ecoflap: one of ecoflap_eva, ecoflap_flant5, ecoflap_llama is needed"),
        (["+exp=ecoflap_llama", "model=x"], "data.root= is missing"),
    ],
)
def test_words_that_cannot_be(words, said):
    with pytest.raises(ValueError, match=said):
        evaluation_of(words)


def test_what_cannot_be_measured_is_said_before_anything_is_pruned(folders, tmp_path):
    words = ["pruner=omp", f"out={tmp_path / 'out'}", f"results={tmp_path / 'r'}"]
    with pytest.raises(ValueError, match="evaluate= is missing: give what is measured, one of captioning"):
        split([*words, "model=x", "data.root=x"])
    llama, at = [f"model={folders('llama')}", "evaluate=perplexity"], f"data.root={tmp_path}"
    asked = [f"model={folders('vit')}", "evaluate=vqa", f"data.root={vqa(tmp_path / 'v')}", "data.format=salesforce"]
    for more, said in (
        (asked, "task=vqa is for BLIP-2"),
        ([*llama, at, "data.format=text"], "which file is the text"),
        ([*llama, at], "data.format= is missing: for task=perplexity give one of wikitext, text, jsonl"),
    ):
        with pytest.raises(ValueError, match=said):
            pruned(*words, *more)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "r").exists()


def test_words_of_a_preset_give_way(tmp_path):
    pruning, evaluation = split(
        ["+exp=ecoflap_flant5", "data.root=x", "pruner=wanda", "sparsity=0.7", "out=o", "model=m"]
    )
    assert "pruner.allocate.reduce=avg" not in pruning
    assert {"pruner=wanda", "sparsity=0.7", "num_samples=128", "max_length=512"} <= set(pruning)
    assert "sparsity=0.5" not in pruning
    assert evaluation.options == {"shots": 5}
    assert evaluation.data == {"format": "mmlu", "root": "x"}
    other = evaluation_of(["+exp=ecoflap_flant5", "task=perplexity", "data.root=x", "model=m"])
    assert (other.options, other.data) == ({}, {"root": "x"})
    assert split(["model=m", "pruner=omp"]) == (["model=m", "pruner=omp"], None)
