"""Reports: from stored rows, masks, curves and examples to a page whose every figure shows something."""

import csv
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.results.test_row import ORIGIN, row
from vlp_bench.pruning.solution import Solution
from vlp_bench.results import examples
from vlp_bench.results.report import figures, gallery, material, page, tables
from vlp_bench.results.store import Store

VALUES = {("omp", 0.5): 60.0, ("lamp", 0.5): 70.0, ("omp", 0.9): 20.0, ("lamp", 0.9): 10.0, ("dense", 0.0): 80.0}
NONE = pd.DataFrame(columns=["pruner", "sparsity", "metric", "value", "table"])
PUBLISHED = pd.DataFrame({"pruner": ["omp"], "sparsity": [0.5], "metric": ["txt_r1"], "value": [63.5], "table": ["4"]})


def origin(seed, pruner="omp", **changes):
    config = {"seed": seed, "recipe": {"epochs": 2}, "pruner": {"name": pruner}, "data": {"seed": seed}, **changes}
    return ORIGIN | {"config": config, "hardware": {"machine": "x86_64", "gpus": []}}


def fill(root, benchmark="mini"):
    """Two pruners, two sparsities, three seeds, dense; SNIP failed. OMP misses half of what others find."""
    store = Store(root / "runs")
    for (pruner, sparsity), value in VALUES.items():
        for seed in (0, 1, 2):
            run = f"{pruner}-{sparsity:g}-{seed}"
            common = {"run": run, "pruner": pruner, "sparsity": sparsity, "seed": seed, "setting": f"s{seed}",
                      "benchmark": benchmark, "provenance": origin(seed, pruner), "rows": 3}  # fmt: skip
            numbers = {"txt_r1": value + seed, "img_r1": value - seed}
            lines = [row(metric=m, value=v, **common) for m, v in numbers.items()]
            store.append(run, [*lines, row(metric="seconds", value=1.0 + seed, split="mask", **common)])
            curves = root / "runs" / run / "curves" / "version_0"
            curves.mkdir(parents=True)
            (curves / "metrics.csv").write_text(f"step,train/loss,val/txt_r1\n1,{9 - seed},\n2,5,\n2,,{value}\n")
            ranks = torch.arange(20) % (4 if pruner == "omp" else 2)
            examples.write(root / "runs" / run, {"txt_rank": ranks, "img_rank": ranks, "text_image": torch.arange(20),
                                                 "txt_first": torch.arange(20)})  # fmt: skip
    lost = {"pruner": "snip", "sparsity": 0.5, "seed": 0, "setting": "s0", "benchmark": benchmark}
    store.append("lost", [row(run="lost", metric="r_mean", value=math.nan, status="ERR", message="no number",
                              provenance=origin(0, "snip"), **lost)])  # fmt: skip
    return store


def mask(pruner, sparsity, every):
    layers = {f"{m}.{i}.weight": torch.arange(64) % every == 0 for m in ("vision", "text") for i in (0, 1)}
    report = {
        "layers": {
            name: {"kept": int(kept.sum()), "total": 64, "modality": name.split(".")[0], "block": name[:-7]}
            for name, kept in layers.items()
        }
    }
    return material.mask_of(Solution(layers, {}, report), pruner, sparsity, ())


MASKS = [mask("omp", 0.5, 2), mask("lamp", 0.5, 4)]
WEIGHTS = {name: np.linspace(0.01, 1, 64) * np.where(np.arange(64) % 2, 0.005, 1) for name in MASKS[0].blocks}
SCORES = {"|w|": WEIGHTS, "lamp": {name: values**2 for name, values in WEIGHTS.items()}}


def study_of(root, **kwargs):
    fill(root, **kwargs)
    [study] = material.studies(Store(root / "runs"))
    return replace(study, masks=MASKS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a report on the embedded world."""
    root = tmp_path_factory.mktemp("mini")
    picture = gallery.Exhibit(gallery.data_uri(Image.new("RGB", (8, 8), "red")), "a <b> & c", "x", "y", "what is it?")
    shown = [page.Gallery("dense", "omp at 50 %", [picture]), page.Gallery("omp", "dense", [], graded=False)]
    chapter = page.chapter(study_of(root), PUBLISHED, baseline="omp", scores=SCORES, galleries=shown)
    content = page.files("A title", [chapter], "omp")
    page.write(root / "report", content)
    return root / "report"


class Reader(HTMLParser):
    """What a page holds: figures with the marks and texts in them, addresses, ids, open tags."""

    VOID = ("meta", "br", "img", "link", "input", "hr")
    MARKS = ("path", "use", "image", "rect", "polygon", "line")

    def __init__(self):
        super().__init__()
        self.figures, self.addresses, self.ids, self.open, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        self.addresses += [v for k, v in attrs if k in ("href", "xlink:href", "src") and v]
        if tag == "figure":
            self.figures.append({"id": given["id"], "marks": 0, "text": "", "box": None})
        elif self.figures and "figure" in self.open:
            self.figures[-1]["marks"] += tag in self.MARKS
            if tag == "svg":
                self.figures[-1]["box"] = [float(x) for x in given["viewbox"].split()]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closed out of turn at {self.getpos()}"

    def handle_data(self, data):
        if "text" in self.open and self.figures:
            self.figures[-1]["text"] += data + "\n"


@pytest.fixture(scope="module")
def read(written):
    reader = Reader()
    reader.feed((written / "index.html").read_text(encoding="utf-8"))
    return reader


def test_every_tag_is_closed_and_every_id_is_one(read):
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))


def test_the_page_needs_nothing_but_itself(read, written):
    inside = set(read.ids)
    for address in read.addresses:
        assert address.startswith("data:image/") or address.removeprefix("#") in inside, address[:80]
    assert "script" not in read.tags
    assert "@import" not in (written / "index.html").read_text(encoding="utf-8")


def test_no_figure_is_empty(read):
    kinds = [figure["id"][9:] for figure in read.figures]
    assert kinds == ["c", "kseconds", "m500h", "m500o", "w0", "w1", "t500", "t900"]
    for figure in read.figures:
        assert figure["marks"] >= 8, figure["id"]
        assert len(figure["text"].split()) >= 5, figure["id"]
        assert figure["box"][2] > 100, figure["id"]
        assert figure["box"][3] > 100, figure["id"]


def test_figures_name_what_they_show(read):
    text = {figure["id"][9:]: figure["text"] for figure in read.figures}
    assert {"sparsity (%)", "text R@1 (%)", "image R@1 (%)", "omp", "lamp", "dense"} <= set(text["c"].split("\n"))
    assert "vision · vision.0" in text["m500h"]
    assert {"50", "75"} <= set(text["m500h"].split())  # removed by OMP and by LAMP, in per cent
    assert "50" in text["m500o"].split()  # every fourth of every second: half of the union
    assert "omp at 50 %" in text["w0"]
    assert "|w|" in text["w0"]
    assert "score of lamp" in text["w1"]
    assert "at 50 %" not in text["w1"]  # it keeps every fourth, which no threshold says
    assert "train/loss" in text["t500"]


def test_text_follows_light_and_dark(written):
    html = (written / "index.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert "currentColor" in html
    assert "#010203" not in html


def test_captions_are_escaped(written):
    html = (written / "index.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt; &amp; c" in html
    assert "a <b>" not in html


def test_galleries_say_who_is_right_what_was_asked_and_where_nothing_is_wrong(written):
    html = (written / "index.html").read_text(encoding="utf-8")
    assert "<h3>dense right, omp at 50 % wrong</h3>" in html
    assert "<dt>question</dt><dd>what is it?</dd>" in html
    assert "<h3>omp better, dense worse</h3>" in html


def test_published_numbers_never_stand_in_a_table_of_the_embedded_world(written):
    html = (written / "index.html").read_text(encoding="utf-8")
    ours = re.findall(r'<table class="metric">.*?</table>', html, re.DOTALL)
    theirs = re.findall(r'<table class="published">.*?</table>', html, re.DOTALL)
    assert len(ours) == 2
    assert not [t for t in ours if "63.50" in t or "difference" in t]
    assert len(theirs) == 1
    assert "63.50" in theirs[0]
    assert "not to be compared" in html


def test_numbers_on_the_papers_benchmark_stand_beside_the_published(tmp_path):
    chapter = page.chapter(study_of(tmp_path, benchmark="paper"), PUBLISHED, baseline="omp")
    first = chapter.tables[0]
    omp = next(line for line in first.lines if line.pruner == "omp")
    assert (omp.cells[0].mean, omp.cells[0].published, omp.cells[0].difference) == (61.0, 63.5, -2.5)
    html = page.html("t", [chapter], "omp")
    assert "-2.50" in html
    assert 'class="published"' not in html
    assert "| omp | <u>61.00 ± 1.00</u> | 63.50 | -2.50 |" in tables.markdown(first)
    assert r"\underline{61.00 $\pm$ 1.00} [63.50]" in tables.latex(first, "c")


def test_best_is_bold_second_underlined_and_failures_are_counted(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "| lamp | **71.00 ± 1.00** | <u>11.00 ± 1.00</u> |" in text
    assert "| dense | 81.00 ± 1.00 | 81.00 ± 1.00 |" in text  # never marked: nothing was removed
    assert "| snip | ERR (1) | – |" in text
    assert "1 run failed (ERR)" in text


def test_fewer_seeds_than_others_are_marked_and_never_first():
    """One lucky seed of b beside three of a and c."""
    means, seeds = {"a": 60.0, "b": 90.0, "c": 50.0, "dense": 95.0}, {"a": 3, "b": 1, "c": 3, "dense": 3}
    rows = [
        {"pruner": p, "sparsity": 0.0 if p == "dense" else 0.5, "metric": "m", "mean": means[p], "std": float("nan"),
         "seeds": seeds[p], "failed": 0}
        for p in means
    ]  # fmt: skip
    table = tables.metric_table(pd.DataFrame(rows), PUBLISHED, ["dense", "a", "b", "c"], [0.5], "m", beside=False)
    assert {line.pruner: line.cells[0].place for line in table.lines} == {"dense": 0, "a": 1, "b": 0, "c": 2}
    assert "| b | 90.00 (1 seed) |" in tables.markdown(table)


def test_the_latex_tables_are_booktabs(written):
    text = (written / "tables.tex").read_text(encoding="utf-8")
    for word in (r"\toprule", r"\midrule", r"\bottomrule", r"\textbf{71.00 $\pm$ 1.00}", r"50 \%"):
        assert word in text, word
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert "±" not in text


def test_the_csv_holds_every_cell(written):
    with open(written / "results.csv", encoding="utf-8") as file:
        found = {(r["pruner"], r["sparsity"], r["metric"]): r for r in csv.DictReader(file)}
    assert float(found["omp", "0.5", "txt_r1"]["mean"]) == 61.0
    assert found["snip", "0.5", "txt_r1"]["failed"] == "1"


def test_differences_and_tests_inside_a_seed_are_told(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "Difference to omp" in text
    assert "| lamp | 50 % | text R@1 (%) | +10.00 |" in text
    inside = next(line for line in text.splitlines() if line.startswith("| lamp | 50 % | 0 | text"))
    # of twenty examples LAMP has ten right, OMP five of those
    assert inside.split(" | ")[4:] == ["+25.00", inside.split(" | ")[5], "5", "0", "0.062", inside.split(" | ")[9]]


def test_two_recipes_are_two_studies(tmp_path):
    store = Store(tmp_path)
    for run, epochs in (("a", 1), ("b", 2)):
        store.append(run, [row(run=run, provenance=origin(0, recipe={"epochs": epochs}))])
    assert sorted(len(study.origin) for study in material.studies(store)) == [1, 1]


def test_seeds_and_places_do_not_part_a_study(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 1):
        given = origin(seed, paths={"out": str(seed)}, trainer={"devices": seed})
        store.append(f"r{seed}", [row(run=f"r{seed}", seed=seed, provenance=given)])
    [study] = material.studies(store)
    assert study.seeds == [0, 1]


def test_variants_of_a_pruner_are_told_apart(tmp_path):
    store = Store(tmp_path)
    for run, ridge in (("a", 0.1), ("b", 10)):
        given = origin(0, recipe={"epochs": 1}) | {}
        given["config"]["pruner"] = {"name": "chita", "ridge": ridge, "solve": {"ridge": ridge}}
        store.append(run, [row(run=run, pruner="chita", provenance=given)])
    [study] = material.studies(store)
    assert study.pruners == ["chita (ridge=0.1)", "chita (ridge=10)"]


def test_another_solver_is_told_by_its_name_alone(tmp_path):
    store = Store(tmp_path)
    score = {"_target_": "vlp_bench.pruning.scores.wanda", "compat": "corrected"}
    keep = {"_target_": "vlp_bench.pruning.solvers.keep_top.KeepTop", "within": "output", "score": score}
    for run, solve in (("a", keep), ("b", {"_target_": "vlp_bench.pruning.solvers.sparsegpt.SparseGPT", "damping": 1})):
        given = origin(0, recipe={"epochs": 1}) | {}
        given["config"]["pruner"] = {"name": "ecoflap", "solve": solve}
        store.append(run, [row(run=run, pruner="ecoflap", provenance=given)])
    [study] = material.studies(store)
    assert study.pruners == ["ecoflap (solve=KeepTop)", "ecoflap (solve=SparseGPT)"]


def test_runs_outside_a_report_name_nothing_in_it(tmp_path):
    store = Store(tmp_path)
    for run, ridge in (("a", 0.1), ("b", 10)):
        given = origin(0)
        given["config"]["pruner"] = {"name": "chita", "ridge": ridge}
        store.append(run, [row(run=run, pruner="chita", provenance=given)])
    [study] = material.studies(store, runs={"b"})
    assert (study.pruners, list(study.origin)) == (["chita"], ["b"])


def test_the_pruning_seed_is_that_of_the_calibration(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 3):
        given = origin(0, data={"calibration": {"seed": seed}})
        store.append(f"r{seed}", [row(run=f"r{seed}", provenance=given)])
    [study] = material.studies(store)
    assert sorted(study.frame["pruning_seed"]) == [0, 3]


def test_a_report_on_nothing_is_refused(tmp_path):
    from vlp_bench.commands.report import Request, report
    from vlp_bench.runs.terminal.errors import UserError

    with pytest.raises(UserError, match="no stored run"):
        report(Request(out=str(tmp_path)))


@pytest.mark.parametrize(
    ("word", "said"), [("examples=few", "a whole number"), ("out", "key=value"), ("a=b", "a key of")]
)
def test_a_mistyped_request_is_explained(word, said):
    from vlp_bench.commands.report import Request
    from vlp_bench.runs.terminal.errors import UserError
    from vlp_bench.runs.terminal.key_value import parse

    with pytest.raises(UserError, match=said):
        parse(Request, [word])


def test_own_data_are_a_chapter_of_their_own_and_say_so(tmp_path):
    store = fill(tmp_path)
    mine = {"data": {"root": "my/pictures", "train": None}, "paths": {"data": None}}
    for seed in (0, 1, 2):
        common = {"run": f"own-{seed}", "pruner": "omp", "sparsity": 0.5, "seed": seed, "setting": f"o{seed}",
                  "benchmark": "own", "provenance": origin(seed, "omp", **mine), "rows": 1}  # fmt: skip
        store.append(f"own-{seed}", [row(metric="txt_r1", value=50.0, **common)])
    shipped, own = sorted(material.studies(store), key=lambda study: study.benchmark)
    assert (len(shipped.runs()), len(own.runs())) == (len(VALUES) * 3 + 1, 3)
    chapters = [page.chapter(study, PUBLISHED, baseline="omp") for study in (shipped, own)]
    assert [chapter.title for chapter in chapters] == [
        "xvlm_itr, benchmark=mini", "xvlm_itr, your own data: my/pictures"]  # fmt: skip
    html = page.files("A title", chapters[1:], "omp")["index.html"]
    assert "on data of one&#39;s own" in html or "on data of one's own" in html
    assert "embedded world" not in html


def test_fewer_seeds_are_never_bold():
    columns = ["pruner", "sparsity", "metric", "mean", "std", "seeds", "failed"]
    rows = [("omp", 0.5, "txt_r1", 60.0, 1.0, 3, 0), ("lamp", 0.5, "txt_r1", 50.0, 1.0, 3, 0),
            ("snip", 0.5, "txt_r1", 90.0, math.nan, 1, 0)]  # fmt: skip
    summary = pd.DataFrame(rows, columns=columns)
    table = tables.metric_table(summary, NONE, ["lamp", "omp", "snip"], [0.5], "txt_r1", beside=False)
    assert {line.pruner: line.cells[0].place for line in table.lines} == {"omp": 1, "lamp": 2, "snip": 0}


def test_a_dot_is_no_curve(tmp_path):
    study = study_of(tmp_path)
    drawn = figures.training("t", study, 0.5, 0) or ""
    assert "train/loss" in drawn
    assert "val/txt_r1" not in drawn  # logged once
    for file in tmp_path.glob("runs/*/curves/*/metrics.csv"):
        file.write_text("step,train/loss,val/txt_r1\n1,9,\n2,,50\n")
    assert figures.training("t", study, 0.5, 0) is None


def test_one_seed_has_no_interval(tmp_path):
    """A bar is drawn where there is an interval; a single seed, or seeds that agree, leave the mark alone."""
    study = study_of(tmp_path)
    table = page.summary(study.frame, ["txt_r1"])
    bars = [figures.curves("c", given, ["omp", "lamp"], ["txt_r1"]).count("LineCollection") for given in (
        table, table.assign(low=math.nan, high=math.nan))]  # fmt: skip
    paths = [len(re.findall(r"<path d=\"M", figures.curves("c", given, ["omp", "lamp"], ["txt_r1"]))) for given in (
        table, table.assign(low=math.nan, high=math.nan))]  # fmt: skip
    assert bars[0] >= bars[1]
    assert paths[0] > paths[1]


def test_a_chapter_of_rehearsals_says_so_first_and_has_nothing_published(tmp_path):
    store = Store(tmp_path)
    for run, rehearse in (("real", False), ("small", True)):
        given = origin(0, rehearse=rehearse)
        store.append(
            run, [row(run=run, pruner="omp", sparsity=0.5, benchmark="paper", metric="txt_r1", provenance=given)]
        )
    chapters = {
        c.study.rehearsed: c for s in material.studies(store) if (c := page.chapter(s, PUBLISHED, baseline="omp"))
    }
    assert chapters[True].title == "xvlm_itr, a rehearsal, benchmark=paper"
    assert chapters[False].title == "xvlm_itr, benchmark=paper"
    said = (
        "This is a rehearsal: few steps of everything, to see that the command goes through; the numbers mean nothing."
    )
    content = page.files("t", [chapters[True]], "omp")
    for name, first in (("index.html", "recipe"), ("report.md", "| pruner")):
        assert content[name].index(said) < content[name].index(first)
    assert not [name for name in content if "63.5" in content[name]]
    assert "a rehearsal" in content["tables.tex"]
    assert [line.split(",")[-1] for line in content["results.csv"].split()] == ["rehearsal", "True"]
    real = page.files("t", [chapters[False]], "omp")
    assert "63.50" in real["report.md"]
    assert not [name for name in real if said in real[name]]


def test_a_pattern_is_part_of_a_pruners_name(tmp_path):
    store = Store(tmp_path)
    keep = "vlp_bench.pruning.solvers.keep_top.KeepTop"
    for run, pruner, solve in (
        ("a", "wanda", {"_target_": keep, "within": "2:4"}),
        ("b", "omp", {"_target_": keep, "within": "layer"}),
        ("c", "flap", {"solve": {"_target_": "vlp_bench.pruning.structured.keep_units.KeepUnits"}}),
    ):
        given = origin(0)
        given["config"]["pruner"] = {"name": pruner, "solve": solve}
        store.append(run, [row(run=run, pruner=pruner, provenance=given)])
    [study] = material.studies(store)
    assert study.pruners == ["flap (units)", "omp", "wanda (2:4)"]
    assert [study.called(name) for name in ("flap", "omp", "snip")] == ["flap (units)", "omp", None]
    [study] = material.studies(store, runs={"a"})
    assert study.pruners == ["wanda (2:4)"]


def test_published_numbers_stand_beside_the_pattern_they_are_of(tmp_path):
    """FLAP's are of units, as its own; Wanda's are no 2:4."""
    store, keep = Store(tmp_path), "vlp_bench.pruning.solvers.keep_top.KeepTop"
    units = {"solve": {"_target_": "vlp_bench.pruning.structured.keep_units.KeepUnits"}}
    for run, pruner, solve in (("a", "wanda", {"_target_": keep, "within": "2:4"}), ("c", "flap", units)):
        given = origin(0)
        given["config"]["pruner"] = {"name": pruner, "solve": solve}
        common = {"sparsity": 0.5, "benchmark": "paper", "metric": "txt_r1"}
        store.append(run, [row(run=run, pruner=pruner, value=60.0, provenance=given, **common)])
    [study] = material.studies(store)
    published = pd.concat([PUBLISHED.assign(pruner=name) for name in ("wanda", "flap")])
    [table] = page.chapter(study, published, baseline="omp").tables
    differences = {line.pruner: line.cells[0].difference for line in table.lines if line.cells[0].seeds}
    assert differences["flap (units)"] == -3.5
    assert math.isnan(differences["wanda (2:4)"])
