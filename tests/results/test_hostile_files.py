"""Rows that somebody else wrote: what is wrong costs itself alone, and nothing of them is run, drawn or computed."""

import csv
import json
import math

import pytest

from tests.results.test_report import origin
from tests.results.test_row import ORIGIN, row
from vlp_bench.construct import construct
from vlp_bench.results.report import material, page
from vlp_bench.results.store import Store

DEEP = '{"a":' * 10_000 + "1" + "}" * 10_000


def changed(**values):
    """The line of a row with some of its values exchanged; without its sum, as of an earlier version."""
    content = json.loads(row().to_json()) | values
    del content["sum"]
    return json.dumps(content)


def provenance(**values):
    return changed(provenance=ORIGIN | values)


def nested(depth):
    found = {}
    for _ in range(depth):
        found = {"a": found}
    return found


BAD = {
    "a value of 400 digits": changed().replace("50.0", "1" + "0" * 400),
    "a seed of 30 digits": changed(seed=10**30),
    "a sparsity of 400 digits": changed().replace("0.9", "1" + "0" * 400),
    "a sparsity above 1": changed(sparsity=1.5),
    "no rows": changed(rows=0),
    "infinite": changed().replace("50.0", "Infinity"),
    "nested 10,000 deep": changed().replace("50.0", DEEP),
    "a configuration 500 deep": provenance(config=nested(500)),
    "a list for the configuration": provenance(config=[1]),
    "a list for the data": provenance(config={"data": [1]}),
    "a text for the calibration": provenance(config={"data": {"calibration": "x"}}),
    "a list for the versions": provenance(versions=["3.11"]),
    "a text for the hardware": provenance(hardware="x"),
    "a number among the GPUs": provenance(hardware={"gpus": [1]}),
    "a list for the processor": provenance(hardware={"processor": ["x"]}),
    "a mapping for the mask": provenance(mask={"a": 1}),
    "a list of seconds": provenance(seconds=[1]),
    "seconds of 400 digits": provenance(seconds=0).replace('"seconds": 0', '"seconds": 1' + "0" * 400),
    "a number for the time": provenance(time=5),
    "a list of notes": provenance(notes=["x"]),
    "a pruner with an escape sequence": changed(pruner="\x1b[2J"),
    "a list for the metric": changed(metric=["txt_r1"]),
    "a very long line": changed(message="x" * 2_000_000),
    "a value twice": changed().replace('"value": 50.0', '"value": 60.0, "value": 50.0'),
    "a key of the provenance twice": provenance().replace('"dirty":', '"dirty": true, "dirty":'),
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD.keys())
def test_a_bad_row_costs_itself_alone_and_is_named_once(tmp_path, line):
    path = Store(tmp_path).append("one", [row(run="good", provenance=origin(0))])
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    store = Store(tmp_path)
    assert [found.run for found in store.rows()] == ["good"]
    assert list(store.query()["value"]) == [50.0]
    assert store.done("good")
    [study] = material.studies(store)
    chapter = page.chapter(study, study.frame.iloc[:0], baseline="omp")
    assert "xvlm_itr" in page.files("t", [chapter], "omp")["index.html"]
    [problem] = store.problems
    assert str(path) in problem
    assert "line 2" in problem
    assert len(problem) < 400


# What a stored configuration names is not run

TARGETS = (
    "os.system", "torch.hub.load", "torch.load", "torch.utils.collect_env.run", "vlp_bench.runs.provenance._git",
    "builtins.eval", "subprocess.run", "vlp_bench.runs.provenance.subprocess.run", "vlp_bench.construct.construct",
    "hydra.utils.instantiate", "vlp_bench.models.checkpoints.read_write.save_model",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_no_stored_configuration_calls_what_is_not_listed(tmp_path, target):
    from vlp_bench.commands.report import _model
    from vlp_bench.runs.object_cache import ObjectCache
    from vlp_bench.sweeps.galleries import _examples

    bait = {"_target_": target, "args": f"touch {tmp_path}/owned"}
    config = {"model": bait, "data": {"_target_": "vlp_bench.data.datasets.retrieval.RetrievalData", "source": bait},
              "allow": [target]}  # fmt: skip
    store = Store(tmp_path / "runs")
    store.append("one", [row(provenance=ORIGIN | {"config": config})])
    [study] = material.studies(store)
    with pytest.raises(ValueError, match=r"model\._target_=.*only what conf/ names"):
        _model(study, [tmp_path.cwd()])
    with pytest.raises(ValueError, match=r"data\.source\._target_=.*only what conf/ names"):
        _examples(study, "abc", [tmp_path.cwd()])
    with pytest.raises(ValueError, match="only what conf/ names"):
        ObjectCache().data(study.origin["abc"]["config"])
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("target", ["lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.Trainer",
                                    "vlp_bench.runs.tracking.CarefulWandb"])  # fmt: skip
def test_a_row_or_a_mask_makes_no_logger(tmp_path, monkeypatch, target):
    from vlp_bench.commands.report import _model
    from vlp_bench.pruning.another_sparsity import rebuilt
    from vlp_bench.results.named_files import confined

    monkeypatch.chdir(tmp_path)
    bait = {"_target_": target, "save_dir": "x"}
    store = Store(tmp_path / "runs")
    store.append("one", [row(provenance=ORIGIN | {"config": {"model": bait}})])
    [study] = material.studies(store)
    rooms = r"only what is of vlp_bench\.data or vlp_bench\.models belongs here"
    with pytest.raises(ValueError, match=rf"^model\._target_={target}: {rooms}$"):
        _model(study, [tmp_path])
    with pytest.raises(ValueError, match=rf"^data\.source\._target_={target}: {rooms}$"):
        confined({"source": bait}, [tmp_path], "data", "cure")
    with pytest.raises(ValueError, match=rf"^settings\.solve\._target_={target}: only what is of vlp_bench\.pruning"):
        rebuilt({"_target_": "vlp_bench.pruning.pruner.Pruner", "solve": bait})
    assert [file.name for file in tmp_path.iterdir()] == ["runs"]


def test_weights_in_a_package_import_nothing(tmp_path, monkeypatch):
    from vlp_bench.models.checkpoints.locations import located

    (tmp_path / "evil_of_the_tests").mkdir()
    (tmp_path / "evil_of_the_tests/__init__.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    assert located("pkg://evil_of_the_tests/w.safetensors") == tmp_path / "evil_of_the_tests/w.safetensors"
    with pytest.raises(FileNotFoundError, match="is not installed"):
        located("pkg://nothing_of_the_tests/w.safetensors")
    assert not (tmp_path / "owned").exists()


def test_texts_of_a_stored_configuration_stay_texts():
    text = "${oc.create:{_target_: os.getcwd}}"
    assert construct({"a": text, "b": ["${oc.env:HOME}"]}) == {"a": text, "b": ["${oc.env:HOME}"]}


def test_a_report_with_a_hostile_row_is_written_and_says_what_it_left_out(tmp_path, capsys):
    from vlp_bench.commands.report import Request, report

    config = {"model": {"_target_": "os.system", "command": f"touch {tmp_path}/owned"}, "pruner": {"name": "<script>"}}
    Store(tmp_path / "runs").append("one", [row(provenance=ORIGIN | {"config": config})])
    folder = report(Request(out=str(tmp_path)))
    assert "<script>" not in (folder / "index.html").read_text(encoding="utf-8")
    assert not (tmp_path / "owned").exists()


# Names are shown as they are

NAMES = (
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "a~b^c_d&e%f#g{h}",
    "$x^{2}$",
    "[l](javascript:x)",
    "+1",
    "@a",
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("names")
    store = Store(root / "runs")
    for number, name in enumerate(NAMES):
        common = {"pruner": name, "exp": "<img src=x>|y", "provenance": origin(0, "p")}
        store.append(f"r{number}", [row(run=f"r{number}", **common)])
    [study] = material.studies(Store(root / "runs"))
    return page.files("A *title*", [page.chapter(study, study.frame.iloc[:0], baseline="omp")], "omp")


def test_no_file_of_a_report_holds_html_of_a_name(files):
    for name in ("index.html", "report.md"):
        assert "<script>" not in files[name]
        assert "<img src=x>" not in files[name]
    assert "&lt;script&gt;" in files["index.html"]


def test_markdown_shows_names_as_they_are(files):
    text = files["report.md"]
    assert "# A \\*title\\*" in text
    assert "| &lt;script>alert(1)&lt;/script> |" in text
    assert "| =cmd\\|' /C calc'!A0 |" in text
    assert "| \\[l\\](javascript:x) |" in text
    assert "a\\~b^c_d&e%f#g{h}" in text


def test_latex_shows_names_as_they_are(files):
    text = files["tables.tex"]
    assert r"a\textasciitilde{}b\textasciicircum{}c\_d\&e\%f\#g\{h\}" in text
    assert r"\textless{}script\textgreater{}" in text
    assert r"\$x\textasciicircum{}\{2\}\$" in text


def test_a_spreadsheet_computes_no_name(files):
    found = [line["pruner"] for line in csv.DictReader(files["results.csv"].splitlines())]
    assert set(found) == {name if name[0] not in "=+@" else f"'{name}" for name in NAMES}


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", " =1", "\n+1", "＝1", "＠a", "\u3000=1"])
def test_what_a_spreadsheet_would_compute_gets_an_apostrophe(text):
    assert page._cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["omp", "'=1", "a=1", "1", "", -1.5, 0, None])
def test_other_cells_stay(value):
    assert page._cell(value) == value


def test_a_dollar_in_a_name_is_no_formula_of_a_figure(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 1, 2):
        store.append(f"r{seed}", [row(run=f"r{seed}", seed=seed, pruner="$\\frac$", value=50.0 + seed,
                                      provenance=origin(seed, "p"))])  # fmt: skip
    [study] = material.studies(store)
    [drawing, *_] = page.chapter(study, study.frame.iloc[:0], baseline="omp").drawings
    assert "$\\frac$" in drawing.svg


# Order is that of appending


def test_a_clock_that_was_wrong_hides_no_later_result(tmp_path):
    store = Store(tmp_path)
    future = {"status": "ERR", "value": math.nan, "message": "lost"}
    store.append("one", [row(run="a", provenance=ORIGIN | {"time": "2030-01-01"}, **future)])
    store.append("one", [row(run="a", value=61.0, provenance=ORIGIN | {"time": "2026-01-01"})])
    assert list(store.query()["value"]) == [61.0]
    assert [found.value for found in store.last("a")] == [61.0]
    assert store.done("a")
    [study] = material.studies(store)
    assert study.origin["a"]["time"] == "2026-01-01"


# One's own data are no embedded world


def test_a_title_says_whose_data_they_are(tmp_path):
    store = Store(tmp_path)
    drawn = {"source": {"_target_": "vlp_bench.data.datasets.sources.ShapesRetrieval", "train": 24}}
    own = {"source": {"_target_": "vlp_bench.data.datasets.files.FilesRetrieval", "train": "/d/mine/train.json"}}
    for run, data in (("a", drawn), ("b", own)):
        store.append(run, [row(run=run, provenance=origin(0, data=data, paths={"data": "/d"}))])
    chapters = [page.chapter(study, study.frame.iloc[:0], baseline="omp") for study in material.studies(store)]
    assert sorted(chapter.title for chapter in chapters) == [
        "xvlm_itr, benchmark=mini", "xvlm_itr, benchmark=mini, data: mine/train.json",
    ]  # fmt: skip
    html = page.html("t", [chapter for chapter in chapters if chapter.study.source], "omp")
    assert "embedded world" not in html


@pytest.mark.parametrize(("train", "papers"), [("/d/coco_train.json", True), ("/elsewhere/mine.json", False)])
def test_published_numbers_stand_beside_the_papers_data_alone(tmp_path, train, papers):
    source = {"source": {"_target_": "vlp_bench.data.datasets.files.FilesRetrieval", "train": train}}
    store = Store(tmp_path)
    store.append("a", [row(run="a", benchmark="paper", provenance=origin(0, data=source, paths={"data": "/d"}))])
    [study] = material.studies(store)
    assert study.papers is papers


def test_the_page_says_what_two_seeds_cannot(tmp_path):
    store = Store(tmp_path)
    for pruner, value in (("omp", 60.0), ("lamp", 70.0)):
        for seed in (0, 1):
            run = f"{pruner}{seed}"
            store.append(run, [row(run=run, seed=seed, pruner=pruner, value=value, setting=f"s{seed}",
                                   provenance=origin(seed, "p"))])  # fmt: skip
    [study] = material.studies(store)
    text = page.files("t", [page.chapter(study, study.frame.iloc[:0], baseline="omp")], "omp")["report.md"]
    assert "Two seeds only, hence no interval or p in at least one place: lamp, omp." in text
    assert "| lamp | 90 % | text R@1 (%) | +10.00 | – (2 seeds) | – | – | 2 |" in text
    assert "< 0.001" not in text


# A row does not choose which of the reader's files are opened

INSIDE = ("salesforce", "a photo of a {}.", "", "pkg://vlp_bench/assets/xvlm_shapes.safetensors", "images/1.png")
OUTSIDE = (
    "/etc/passwd", "../../secret.json", "~root/../../../x/../../../../../../etc/passwd", "link/secret.json",
    "pkg://torch/version.py", "a\0b", "hf:nobody-of-the-tests/nothing", "hf:../../etc", "hf:", "//host/share/x",
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "work/link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a row made a connection"))
    return tmp_path


@pytest.mark.parametrize("text", INSIDE)
def test_what_a_row_may_name_stays_as_it_is(here, text):
    from vlp_bench.results.named_files import confined, roots

    description = {"a": [text, 5, None, {"b": text}]}
    assert confined(description, roots("out"), "data", "cure") == description


@pytest.mark.parametrize("text", OUTSIDE)
def test_a_file_elsewhere_is_refused_by_its_key(here, text):
    from vlp_bench.results.named_files import confined, roots

    with pytest.raises(ValueError, match=r"(data\.a\.0=.*; cure$)|not in the local hub cache") as raised:
        confined({"a": [text]}, roots("out"), "data", "cure")
    assert "\n" not in str(raised.value)


def test_a_folder_of_the_command_line_may_be_named(here):
    from vlp_bench.results.named_files import confined, roots

    secret = str(here / "secret.json")
    assert confined(secret, roots("out", f"x,{here}"), "data", "cure") == secret
    assert confined(secret, roots(here), "data", "cure") == secret


def test_nothing_leads_out_of_a_package():
    from vlp_bench.models.checkpoints.locations import located

    for text in ("pkg://vlp_bench/../torch/version.py", "pkg://vlp_bench//etc/passwd"):
        with pytest.raises(ValueError, match="it leads out of the package vlp_bench"):
            located(text)


def test_a_report_opens_no_weights_that_a_row_names_elsewhere(here):
    from vlp_bench.commands.report import _model

    model = {"_target_": "vlp_bench.models.checkpoints.read_write.build", "weights": str(here / "secret.json")}
    Store(here / "work/runs").append("one", [row(provenance=ORIGIN | {"config": {"model": model}})])
    [study] = material.studies(Store(here / "work/runs"))
    with pytest.raises(ValueError, match=r"model\.weights=.*secret\.json: a row names a file outside .*files=FOLDER"):
        _model(study, [here / "work"])


def test_an_export_takes_nothing_from_where_a_row_points(here):
    from vlp_bench.runs.pruned_model import _weights_of

    origin = ORIGIN | {"config": {"model": {"weights": str(here / "secret.json")}}}
    with pytest.raises(ValueError, match=r"model\.weights=.*a row names a file outside .*--weights FILE"):
        _weights_of(origin, None, here / "work")
    with pytest.raises(ValueError, match="does not name the weights it began with"):
        _weights_of(ORIGIN | {"config": {}}, None, here / "work")
    with pytest.raises(ValueError, match="the run began with other weights"):
        _weights_of(origin, str(here / "secret.json"), here / "work")
    same = origin | {"weights": "44136fa355b3678a"}  # of {}
    assert _weights_of(same, str(here / "secret.json"), here / "work") == str(here / "secret.json")
