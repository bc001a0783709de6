"""`vlp-bench evaluate` and `prune ... evaluate=`: rows, tables, what is stored already; ECoFLaP's rows rehearsed."""

import json
import shutil
import statistics

import pytest
import torch

from tests.runs.own_model.folders import folder, texts
from tests.tasks.foreign.exams import folders_of_classes, folders_when_asked, karpathy, letters, mmlu, text, vqa
from vlp_bench.__main__ import main
from vlp_bench.commands import report
from vlp_bench.commands.masks import about
from vlp_bench.models.checkpoints.locations import content_hash
from vlp_bench.models.checkpoints.pretrained import from_pretrained
from vlp_bench.pruning.solution import Solution
from vlp_bench.results.store import Store
from vlp_bench.runs.own_model import several
from vlp_bench.runs.own_model.evaluate import evaluate, prune_and_evaluate
from vlp_bench.runs.own_model.evaluation_request import check_given, evaluation_of, split
from vlp_bench.runs.own_model.prune import prune
from vlp_bench.runs.own_model.request import places, request_of
from vlp_bench.runs.prune_once import mask_hash
from vlp_bench.runs.pruned_model import source
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


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_another_configuration_or_tokenizer_is_another_run(folders, tmp_path, file):
    """It was the number stored for the same weights under another configuration."""
    place, root = tmp_path / "llama", text(tmp_path / "a")
    shutil.copytree(folders("llama"), place)
    words = ["task=perplexity", "data.format=wikitext", f"out={tmp_path}", f"model={place}", f"data.root={root}"]
    [one], _ = evaluated(*words, "task.window=32")
    content = json.loads((place / file).read_text())
    (place / file).write_text(json.dumps(content | {"rms_norm_eps": 1.0}))
    [other], said = evaluated(*words, "task.window=32")
    assert one.run != other.run
    assert "stored already" not in said
    assert (one.setting == other.setting) == (file == "config.json")
    assert (one.value == other.value) == (file != "config.json")


def test_a_mask_that_is_not_of_the_weights_beside_it_is_refused(folders, tmp_path):
    """As after fine-tuning that let weights return, saved over the pruned ones: rows said a sparsity that wasn't."""
    place, root = folders("llama"), text(tmp_path / "a")
    with console.capture():
        for sparsity in ("0.5", "0.75"):
            prune(*request_of([f"model={place}", "pruner=omp", f"sparsity={sparsity}", f"out={tmp_path}/{sparsity}",
                               "yes=true"]), console)  # fmt: skip
    shutil.copyfile(tmp_path / "0.75" / "mask.safetensors", tmp_path / "0.5" / "mask.safetensors")
    words = ["task=perplexity", "data.format=wikitext", f"out={tmp_path}", f"data.root={root}", "task.window=32"]
    said = (
        r"0\.5/mask\.safetensors is not the mask of the weights beside it \(\d+ weights of \S+ that it removes aren't"
    )
    with pytest.raises(ValueError, match=said):
        evaluated(f"model={tmp_path / '0.5'}", *words)
    with pytest.raises(ValueError, match=said):
        source(tmp_path / "0.5", None, "")
    assert source(tmp_path / "0.75", None, "").solution.sparsity == 0.75
    with pytest.raises(ValueError, match=r"out=.* would replace results=.*: choose another folder"):
        pruned(f"model={place}", "pruner=omp", f"out={tmp_path}/new", "evaluate=perplexity", "data.format=wikitext",
               f"data.root={root}", f"results={tmp_path}/new/rows")  # fmt: skip


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
    assert "ecoflap_llama, llama: test, mean ± std over seeds 0, 1, by sparsity" in said
    [table] = run.glob("compare/ecoflap_llama-own-*/table.md")
    cells = {line.split(" | ")[0].strip("| "): line for line in table.read_text().splitlines() if line.startswith("| ")}
    of = [row.value for row in rows if (row.pruner, row.sparsity) == ("wanda", 0.5)]
    assert f"{statistics.mean(of):.2f} ± {statistics.stdev(of):.2f}" in cells["wanda"]
    dense = next(row.value for row in rows if row.pruner == "dense")
    assert cells["dense"].count(f"{dense:.2f}") == 2
    assert (table.parent / "plot.png").is_file()


def test_seeds_of_equal_weights_are_seeds(folders, tmp_path, monkeypatch):
    """OMP reads no data: its seeds agree, and none of them is dropped; dense is measured whether or not it is named."""
    root = text(tmp_path / "wiki", "wiki.valid.raw")
    words = ["+exp=ecoflap_llama", f"model={folders('llama')}", f"data.root={root}", "task.window=32"]
    more = ["pruner=dense,omp", "sparsity=0.5", "seed=0,1,2", f"results={tmp_path}", f"out={tmp_path / 'all'}"]
    said = published(monkeypatch, "compare", *words, *more)
    rows = [row for row in Store(tmp_path / "runs").rows() if row.pruner == "omp"]
    assert {row.seed for row in rows} == {0, 1, 2}
    assert len({row.value for row in rows}) == 1
    assert len({row.run for row in rows}) == 3
    assert f"{rows[0].value:.2f} ± –" in said
    [chapter] = report.chapters(report.Request(out=str(tmp_path)))
    cells = {line.pruner: line.cells[0].text for line in chapter.tables[0].lines}
    assert cells["omp"] == f"{rows[0].value:.2f} ± –"
    assert float(cells["dense"])  # one number: it has no seeds that could be fewer than others'
    assert not [note for note in chapter.notes if "dense" in note]
    with pytest.raises(ValueError, match="pruner=dense: give at least one beside dense, and each once"):
        list(several.cells([*words, "pruner=dense", "out=x"]))
    with pytest.raises(ValueError, match="seed=1,1: give at least one, and each once"):
        list(several.cells([*words, "seed=1,1", "out=x"]))


def values(row):
    return row.run, row.setting, row.pruner, row.sparsity, row.metric, row.value


def test_the_published_pruner_keeps_its_options_in_a_comparison():
    words = ["+exp=ecoflap_flant5", "model=m", "data.root=d", "pruner=wanda,ecoflap", "out=o", "seed=3"]
    (wanda, _), (ecoflap, _) = (split(own) for own in several.cells(words))
    assert "pruner.allocate.reduce=avg" in ecoflap
    assert "pruner.allocate.reduce=avg" not in wanda
    assert {"pruner=wanda", "seed=3", "out=o/wanda-seed3"} <= set(wanda)
    with pytest.raises(ValueError, match="out= is missing: give the folder that is written to"):
        list(several.cells(["+exp=ecoflap_flant5", "model=m"]))


def test_dense_is_in_the_chapter_of_what_was_pruned_of_it(folders, tmp_path):
    """Measured under another name, from data in another folder: model and data are known by what they hold."""
    place, root = folders("llama"), text(tmp_path / "wiki")
    words = ["task=perplexity", "data.format=wikitext", "task.window=32", f"out={tmp_path / 'r'}"]
    copied, moved = tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(place, copied)
    shutil.copytree(root, moved)
    [dense], _ = evaluated(f"model={copied}", f"data.root={moved}", *words)
    request, options = request_of([f"model={place}", "pruner=omp", f"out={tmp_path / 'out'}", "yes=true"])
    with console.capture():
        prune(request, options, console)
    [pruned_row], said = evaluated(f"model={tmp_path / 'out'}", f"data.root={root}", *words)
    assert dense.setting == pruned_row.setting
    assert f"{dense.value:.2f}" in said
    [again], said = evaluated(f"model={place}", f"data.root={root}", *words)
    assert again == dense
    assert "stored already" in said
    [chapter] = report.chapters(report.Request(out=str(tmp_path / "r")))
    assert chapter.study.pruners == ["dense", "omp"]
    assert chapter.title.startswith("evaluate_perplexity, copy, your own data: ")


def test_the_pattern_stands_in_lists_cards_masks_and_reports(folders, tmp_path):
    place, root = folders("llama"), text(tmp_path / "wiki")
    words = ["data.format=wikitext", f"data.root={root}", "task.window=32", f"calibration={texts(tmp_path)}"]
    common = [f"model={place}", "pruner=wanda", *words, "evaluate=perplexity", f"results={tmp_path / 'r'}"]
    pruned(*common, f"out={tmp_path / 'single'}")
    _, said = pruned(*common, f"out={tmp_path / 'pattern'}", "pruner.solve.within=2:4")
    assert "wanda (2:4) 0.5" in said
    card = (tmp_path / "pattern" / "README.md").read_text()
    assert "removed by **wanda (2:4)**" in card
    assert '"pattern": "2:4"' in card
    assert "pattern" not in (tmp_path / "single" / "README.md").read_text().split("---")[1]
    models = [str(tmp_path / name) for name in ("single", "pattern")]
    _, said = evaluated(f"model={','.join(models)}", "task=perplexity", *words[:3], f"out={tmp_path / 'r'}")
    assert "wanda 0.5" in said
    assert "wanda (2:4) 0.5" in said
    [chapter] = report.chapters(report.Request(out=str(tmp_path / "r")))
    assert {"dense", "wanda (2:4)"} < set(chapter.study.pruners)
    solution = Solution.load(tmp_path / "pattern" / "mask.safetensors")
    assert dict(about(solution, tmp_path / "pattern" / "mask.safetensors"))["method"] == "wanda (2:4)"


def test_recalls_of_a_handful_of_images_are_said_to_measure_nothing(folders, tmp_path):
    words = ["task=retrieval", f"data.root={karpathy(tmp_path / 'pics', 5)}", "data.format=karpathy"]
    rows, said = evaluated(f"model={folders('clip')}", *words, f"out={tmp_path}")
    assert "img_r5, img_r10: 100 for any model: there are but 4 images to choose from" in said
    assert "txt_r" not in said.split("img_r5, img_r10:")[1]  # 15 wrong texts beside the five right ones
    assert {row.value for row in rows if row.metric in ("img_r5", "img_r10")} == {100.0}


@pytest.mark.parametrize(
    ("verb", "words", "keys"),
    [
        ("prune", [], ["model", "calibration", "data.root", "out"]),
        ("run", ["model=x"], ["calibration", "data.root", "out"]),
        ("compare", ["pruner=omp", "data.root=x"], ["model", "out"]),
        ("prune", ["plan=true", "data.root=x"], ["model"]),
        ("evaluate", [], ["model", "data.root"]),
    ],
)
def test_all_that_a_row_lacks_is_said_at_once(verb, words, keys):
    with pytest.raises(ValueError) as said:
        check_given(verb, ["+exp=ecoflap_llama", *words])
    line = str(said.value)
    assert line.startswith(f"{', '.join(f'{key}=' for key in keys[:-1])} and {keys[-1]}= are missing: " if keys[1:]
                           else f"{keys[0]}= is missing: ")  # fmt: skip
    example = line.split("; e.g. ")[1].split()
    assert example[:3] == ["vlp-bench", verb, "+exp=ecoflap_llama"]
    check_given(verb, example[2:])


def test_evaluate_names_all_it_lacks():
    with pytest.raises(
        ValueError, match=r"^model=, task= and data.root= are missing: .*; e.g. vlp-bench evaluate data.format="
    ):
        check_given("evaluate", ["data.format=karpathy"])
    check_given("evaluate", ["model=x", "task=vqa"])  # one alone is said by who needs it


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
        (
            ["+exp=xvlm_itr", "model=x"],
            r"\+exp=xvlm_itr: an experiment of vlp-bench run \(\+exp=xvlm_itr pruner=NAME\), whose model comes with "
            "it; for a folder one of ecoflap_eva, ecoflap_flant5, ecoflap_llama is needed$",
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


def test_a_folder_may_have_a_comma_in_its_name(tmp_path, monkeypatch):
    """Beside a folder of each of its parts, and in a list."""
    for name in ("a", "b", "a,b", "c, d"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert places("a,b") == ["a,b"]
    assert places("c, d") == ["c, d"]
    assert places("b,a,x,hf:owner/name") == ["b", "a", "x", "hf:owner/name"]
    assert places("b,a,b,a") == ["b", "a,b", "a"]
    assert places("[b,a]") == ["b", "a"]
    assert places("") == []
