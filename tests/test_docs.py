"""The documentation: no broken link, no command or key that is not there, the page of keys up to date."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

import vlp_bench
from vlp_bench.__main__ import is_verb
from vlp_bench.__main__ import verbs as program_verbs
from vlp_bench.runs.own_model import several
from vlp_bench.runs.own_model.evaluation_request import evaluation_of, is_preset, split
from vlp_bench.runs.own_model.request import request_of, selection_of
from vlp_bench.runs.specification import register
from vlp_bench.runs.terminal import conf, key_value
from vlp_bench.sweeps import plans
from vlp_bench.sweeps.grid import Grid

ROOT = Path(__file__).resolve().parents[1]


def program(name):
    """docs/`name`.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = sorted((ROOT / "docs").glob("*.md"))
READ = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "experiments").glob("**/README.md"))]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(params=READ, ids=name)
def page(request):
    return request.param


def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("https://", "mailto:")):
            assert (page.parent / target).exists(), target


def commands(page):
    """The command lines of a page: lines of its code blocks, and what stands in backticks, without remarks."""
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^ *```(?:bash|sh|console)?\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    plain = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in fences for line in block.replace("\\\n", " ").splitlines()]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", plain) if len(span.split()) > 1]
    told = [re.sub(r"\s+#.*", "", line).strip() for line in [*lines, *spans]]
    return [line for line in dict.fromkeys(told) if re.match(PROGRAMS, line)]


PROGRAMS = r"(vlp-bench|make|python|pip|torchrun)\s"
PLACEHOLDERS = {"FILE", "DIR", "FOLDER", "MASK", "SOURCE", "OUT", "NAME", "VERB"}
UNTESTED = {  # commands that no test performs, and why
    r"vlp-bench .*\b(pruner=outlier|model=mine_paper|pruner=mine)\b": "its file is what the page tells how to write",
    r"vlp-bench run \+exp=NAME$": "NAME stands for any of those listed",
    r"vlp-bench VERB": "VERB stands for any of those listed",
    r"python -m vlp_bench( VERB.*)?$": "says that this is the same program",
    r"torchrun ": "tests/runs/test_ddp.py starts it",
    r"pip install pre-commit": "a tool of its own",
}


def test_every_command_is_one_that_would_be_performed(page):
    """Each is parsed as its verb parses it, and composed if it is a run; a page may not show a command we refuse."""
    for line in commands(page):
        if not any(re.match(pattern, line) for pattern in UNTESTED):
            program, *words = shlex.split(line)
            try:
                CHECKS[program](words)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{page.name}: {line}: {error}") from error


def test_commands_are_found(tmp_path):
    text = "`make\nx` and `not one`\n\n```bash\nvlp-bench run a=1 \\\n  b=2   # remark\n```\n  ```yaml\npip x\n  ```\n"
    (tmp_path / "page.md").write_text(text)
    assert [line.split() for line in commands(tmp_path / "page.md")] == [
        ["vlp-bench", "run", "a=1", "b=2"],
        ["make", "x"],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "vlp-bench statsu",
        "vlp-bench run +exp=xvlm_itr pruner=nosuch",
        "vlp-bench run +exp=xvlm_itr recipe.epoch=1",
        "vlp-bench compare +exp=xvlm_itr sparsity=much",
        "vlp-bench experiment table99",
        "vlp-bench report too=FOLDER",
        "vlp-bench evaluate model=FOLDER task=vqaa data.root=FOLDER",
        "vlp-bench prune +exp=nosuch model=FOLDER out=PRUNED",
        "vlp-bench masks shwo FILE",
        "vlp-bench list pruner",
        "make tset",
        "pip install 'vlp_bench[nosuch]'",
        "python benchmarks/nosuch.py",
        "python benchmarks/chita.py --nosuch 3",
    ],
)
def test_a_wrong_command_would_be_noticed(line):
    program, *words = shlex.split(line)
    with pytest.raises((Exception, SystemExit)):
        CHECKS[program](words)


def composed(words):
    """Compose every run of a command line, whatever files it names."""
    from vlp_bench.sweeps.expand import expand

    register()
    given = [word for word in words if word not in ("-m", "--multirun", "--emit-sbatch", "--force", "--cfg", "job")]
    if not any(word.startswith("+exp=") for word in given):
        given.insert(0, "+exp=xvlm_itr")
    for own in expand(given):
        conf.composed(own)


def of_a_folder(words):
    for own in several.cells(words):
        request_of(split(own)[0])


def grid(words):
    if is_preset(words):
        of_a_folder(words)
        return
    cells = Grid.parse(words)
    assert cells.pruners
    composed([*cells.overrides, *(f"pruner={pruner}" for pruner in cells.pruners[:1])])
    assert set(cells.pruners) <= set(conf.choices("pruner"))


def experiment(words):
    from vlp_bench.commands.experiment import Request

    request = Request.parse(words) if words else None
    assert request is None or plans.load("ecoflap" if request.name in PLACEHOLDERS else request.name)


def by_fields(module):
    def check(words):
        key_value.parse(import_module(f"vlp_bench.commands.{module}").Request, words)

    return check


def by_parser(module):
    def check(words):
        if words:
            import_module(f"vlp_bench.commands.{module}").parser().parse_args(words)

    return check


def data(words):
    assert words[0] in ("check", "mini-copy", "docstrings")
    if any(word.startswith("+exp=") for word in words):
        composed([word for word in words[1:] if not word.startswith("--")])


def listing(words):
    assert not words or words[0] in import_module("vlp_bench.commands.list").KINDS


def a_run_or_nothing(words):
    if is_preset(words):
        return of_a_folder(words)
    return composed(words) if {"--help", "-sc"}.isdisjoint(words) else None


VERBS = {
    "run": a_run_or_nothing,
    "compare": grid,
    "ridge": grid,
    "status": lambda words: composed(words) if words else None,
    "experiment": experiment,
    "data": data,
    "list": listing,
    "report": by_fields("report"),
    "rescore": by_fields("rescore"),
    "prune": lambda words: request_of(split(words)[0]) if words else None,
    "evaluate": lambda words: evaluation_of(words) if words else None,
    "model": lambda words: selection_of(words) if words else None,
    "sync": by_fields("wandb_sync"),
    **{verb: by_parser(verb) for verb in ("masks", "export", "weights", "gate", "pretrain")},
    "pretrain-dino": by_parser("pretrain_dino"),
}


def ours(words):
    if not is_verb(words[0]):
        return words[0] in ("-h", "--help", "--version") or a_run_or_nothing(words)
    assert words[0] in program_verbs(), f"no verb {words[0]}"
    return VERBS[words[0]](words[1:])


def test_every_verb_can_be_checked():
    assert set(VERBS) == set(program_verbs())


def make(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {word for word in words if "=" not in word} <= set(targets)


def python(words):
    if words[0] == "-m":
        module = words[1].replace(".", "/")
        assert words[1] == "pytest" or (ROOT / f"{module}.py").is_file() or (ROOT / module / "__main__.py").is_file()
        return ours(words[2:]) if words[1] == "vlp_bench" else None
    file = ROOT / words[0]
    text = file.read_text(encoding="utf-8")
    assert not [word for word in words[1:] if word.startswith("--") and f'"{word}"' not in text]
    return None


def pip(words):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {extra for word in words for found in re.findall(r"\[(.*?)\]", word) for extra in found.split(",")}
    assert words[0] == "install"
    assert named <= set(extras)


CHECKS = {"vlp-bench": ours, "make": make, "python": python, "pip": pip}


def test_every_file_of_the_papers_has_a_line():
    """Whatever conf/ looks for below paths.data or paths.weights has its place and its origin in docs/papers.md."""
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "conf").rglob("*.yaml")]
    places = {place for text in texts for place in re.findall(r"\$\{paths\.(?:data|weights)\}/([\w./-]+)", text)}
    assert len(places) > 30
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    for place in places:
        name = place.rpartition("/")[2]
        folder = "/".join(place.split("/")[:2]) if place.startswith("images/") else place.split("/")[0]
        assert any(f"{folder}/" in line or name in line for line in lines), place


def test_every_page_is_in_the_navigation():
    def pages(node):
        if isinstance(node, str):
            return [node]
        return [page for item in (node.values() if isinstance(node, dict) else node) for page in pages(item)]

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages(settings["nav"])) == sorted(page.name for page in PAGES)


def test_every_promise_names_a_test_that_exists():
    """Each promise is an item of the page and ends in tests of the repository; only what is not promised has none."""
    promised, _ = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").split("## Not promised")
    for item in re.split(r"^\* ", promised, flags=re.MULTILINE)[1:]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", item)
        assert named, f"no test holds: {item}"
        for file, test in named:
            assert (ROOT / file).is_file(), file
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_the_page_of_keys_is_up_to_date():
    keys = program("keys")
    assert keys.PAGE.read_text(encoding="utf-8") == keys.page(), "run: python docs/keys.py"


@pytest.fixture
def results():
    return program("results")


def test_the_texts_show_the_recorded_results(results):
    for file, text in results.texts(pd.read_csv(results.DATA)).items():
        assert file.read_text(encoding="utf-8") == text, f"{file}: run python docs/results.py"


def test_results_by_hand(results):
    values = {"dense": (0.0, 90.0), "omp": (0.9, 30.0), "lamp": (0.9, 20.0), "l2": (0.9, 40.0), "tamt": (0.9, 10.0)}
    rows = [
        {"exp": "xvlm_itr", "pruner": name, "sparsity": level, "seed": 0, "metric": "txt_r1", "value": value}
        | {"split": "test", "status": "ok", "run": name, "setting": "a", "seconds": 60.0}
        for name, (level, value) in values.items()
    ]
    frame = pd.DataFrame(rows)
    text = results.page(frame)
    assert text.startswith("## A readable range")
    assert "\n## The small models, all side by side\n" in text
    assert "seed 0 alone; 5 runs, 5 minutes" in text
    assert "At 90 %: l2 40.0, omp 30.0, lamp 20.0, tamt 10.0." in text
    # Table 4 of the supplement, text R@1 at 90 %: TAMT 21.6, LAMP 21.4, L2 14.8
    assert "The paper's order of those it prints: tamt, lamp, l2 (rank correlation -1.00)." in text
    more = frame.assign(exp="blip_vqa", metric="accuracy", value=[90, 45, 20, 10, 40])
    section = results.section(pd.concat([frame, more[more["pruner"] != "lamp"]]))
    assert "| 90 % | XVLM, text R@1 (%) | BLIP, accuracy (%) |" in section
    assert "| l2 | **40.00** | 10.00 |" in section
    assert "| lamp | 20.00 | – |" in section
    assert "| omp | 30.00 | **45.00** |" in section
    # LAMP has not run everywhere
    told = "Average rank over 2 columns of the 3 pruners that have run in all: omp 1.5, l2 2.0, tamt 2.5."
    assert told in section
    flow = frame[frame["pruner"] == "omp"].assign(pruner="multiflow", value=25.0)
    # one cell: the signed-rank test of one difference has p = 1
    assert "l2 +15.0 (ahead in 1 of 1 models), omp +5.0 (ahead in 1 of 1 models), lamp -5.0" in results.section(
        pd.concat([frame, flow])
    )
    assert "`xvlm_ic`: not run yet." in results.came_out(frame, "table04_baselines")
    assert "`dino_cifar100`: needs the papers' files." in results.came_out(frame, "table06_dino")
    others = [frame.assign(pruner="multiflow_edges"), frame.assign(exp="dino_cls", metric="accuracy")]
    assert results.section(pd.concat([frame, more[more["pruner"] != "lamp"], *others])) == section


def test_recorded_runs_stay_unless_their_setting_has_changed(results):
    def frame(*runs):
        return pd.DataFrame([{"exp": e, "seed": s, "setting": t, "run": r} for e, s, t, r in runs])

    old = frame(("itr", 0, "a", "1"), ("itr", 0, "a", "2"), ("itr", 1, "b", "3"), ("vqa", 0, "c", "4"))
    again = results.merged(old, frame(("itr", 0, "a", "2"), ("vqa", 0, "d", "5")))
    assert list(again["run"]) == ["2", "5", "1", "3"]  # the old run of vqa had another recipe
    assert list(results.merged(old.iloc[:0], old)["run"]) == ["1", "2", "3", "4"]


def rows(exp, pruner, sparsity, values, split="test", **more):
    common = {"exp": exp, "pruner": pruner, "sparsity": sparsity, "seed": 0, "split": split, "status": "ok"}
    return [common | {"metric": m, "value": v, "run": f"{pruner}{sparsity}"} | more for m, v in values.items()]


def test_recorded_cells_stay_until_they_are_run_again_whatever_their_version(results):
    columns = [*results.COLUMNS[:4], "epochs", *results.COLUMNS[4:], *results.ORIGIN]
    cells = (("omp", 0.9, "old"), ("lamp", 0.9, "other"), ("omp", 0.63, "third"))
    old = pd.DataFrame(
        [dict.fromkeys(columns, 0) | dict(zip(("pruner", "sparsity", "run"), c, strict=True)) for c in cells]
    )
    new = old.iloc[:1].assign(run="new")
    assert results._not_again(old, new)["run"].tolist() == ["other", "third"]
    assert results._not_again(pd.DataFrame(columns=[*results.COLUMNS, *results.ORIGIN]), new).empty


def test_the_benchmarks_own_pruners_are_collected_each_once(results, monkeypatch, tmp_path):
    more = dict.fromkeys(results.ORIGIN, "") | {"setting": "a"}
    listed = [row for name in ("omp", "wanda") for row in rows("xvlm_itr", name, 0.9, {"txt_r1": 1.0}, **more)]
    monkeypatch.setattr(results, "Store", lambda folder: SimpleNamespace(query=lambda **asked: pd.DataFrame(listed)))
    monkeypatch.setattr(results, "DATA", tmp_path / "results.csv")
    results.collect(tmp_path)
    assert pd.read_csv(results.DATA)["pruner"].tolist() == ["omp"]  # Wanda's rows are of ECoFLaP's folder
    listed.append(listed[0] | {"run": "another ridge"})
    with pytest.raises(ValueError, match="several runs"):
        results.collect(tmp_path)


def test_metrics_of_captions_are_held_against_each_other(results):
    captions = {"omp": (30.0, 3.0), "snip": (20.0, 1.0), "lamp": (10.0, 2.0)}
    listed = [
        row
        for name, (meteor, cider) in captions.items()
        for row in rows("xvlm_ic", name, 0.63, {"meteor": meteor, "cider": cider})
    ]
    told = results.came_out(pd.DataFrame(listed), "table09_meteor_spice")
    # ranks 1 2 3 and 1 3 2: 1 - 6 * 2 / (3 * 8)
    assert "Rank correlation of METEOR and CIDEr over these pruners: 0.50 at 63 %." in told
    assert "| snip | 20.00 | – |" in told


def test_recipes_seconds_and_ridges_by_hand(results):
    tuned = [
        *rows("blip_vqa", "dense", 0.0, {"accuracy": 80.0}, epochs=1),
        *rows("blip_vqa", "dense", 0.0, {"accuracy": 70.0}, epochs=0),
        *rows("blip_vqa", "wanda", 0.5, {"accuracy": 60.0}, epochs=0),
    ]
    text = "".join(results._recipes(pd.DataFrame(tuned)))
    assert "`blip_vqa`, not fine-tuned, accuracy (%) (2 runs of the embedded world; seed 0):" in text
    assert "| dense | 70.00 |" in text
    assert "80.00" not in text  # dense alone says nothing
    spent = [*rows("xvlm_itr", "snip", 0.9, {"seconds": 2.0}, "mask"), *rows("xvlm_itr", "snip", 0.9, {"txt_r1": 5.0})]
    assert "| snip | 2.00 |" in "".join(results._seconds(pd.DataFrame(spent)))
    grid = [
        *rows("blip_itr", "chita (ridge=0.1)", 0.63, {"txt_r1": 10.0, "img_r1": 20.0}),
        *rows("blip_itr", "chita (ridge=1.0)", 0.63, {"txt_r1": 30.0, "img_r1": 20.0}),
    ]
    text = "".join(results._ridges(pd.DataFrame(grid)))
    assert "| ridge | BLIP, chita |" in text
    assert "| 0.1 | 15.0 |" in text
    assert "| 1 | **25.0** |" in text


def test_keys_by_hand():
    keys = program("keys")
    text = "# what it is\ndefaults:\n  - a\nlr: 1e-4   # peak\nsource:\n  size: [1, 2]\n"
    assert list(keys.entries(text)) == [("lr", "1e-4", "peak"), ("source.size", "[1, 2]", "")]
    assert keys.remark(text) == "what it is"


@pytest.fixture
def tutorial():
    return program("tutorial")


def test_the_tutorial_uses_public_names_alone(tutorial):
    cells = [cell for cell in tutorial.read()["cells"] if cell["cell_type"] == "code"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [module for module in froms if module.startswith("vlp_bench")]
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "vlp_bench"}
    assert {"prune", "KeepPruned"} <= used <= set(vlp_bench.__all__)


def test_the_tutorial_is_stored_with_what_it_prints(tutorial, tmp_path, monkeypatch):
    """The page is the notebook's; what comes before whole runs prints the same again."""
    notebook = tutorial.read()
    assert tutorial.PAGE.read_text(encoding="utf-8") == tutorial.page(notebook), "run: python docs/tutorial.py"
    cells = notebook["cells"]
    short = next(n for n, cell in enumerate(cells) if "## Whole runs" in "".join(cell["source"]))
    assert all(tutorial.printed(cell) for cell in cells if "print(" in "".join(cell["source"]))
    monkeypatch.chdir(tmp_path)
    assert list(tutorial.run(cells[:short])) == [tutorial.printed(cell) for cell in cells[:short]]


def test_a_tutorial_by_hand(tutorial):
    source = ["x = 1\n", "print(x + 1)"]
    cells = [{"cell_type": "markdown", "source": ["# A"]}, {"cell_type": "code", "source": source, "outputs": []}]
    notebook = tutorial.stored({"cells": cells}, list(tutorial.run(cells)))
    assert tutorial.printed(notebook["cells"][1]) == "2\n"
    assert tutorial.page(notebook) == "# A\n\n```python\nx = 1\nprint(x + 1)\n```\n\n```text\n2\n```\n"


@pytest.mark.slow
def test_the_tutorial_runs(tutorial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "bin" / "vlp-bench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vlp_bench "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    *_, last = tutorial.run(tutorial.read()["cells"])
    assert "index.html" in last
    assert (tmp_path / "page" / "index.html").is_file()


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(tmp_path):
    """As `make docs` does; where its tools are not installed, that target installs them."""
    pytest.importorskip("mkdocs", reason="needs the extra 'docs'")
    pytest.importorskip("material", reason="needs the extra 'docs'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        place = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert (tmp_path / "site" / place).is_file(), page.name


def test_the_readme_is_one_page():
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(text.split()) <= 900


def test_the_readme_shows_the_rooms():
    """The tree names every folder of the package that holds code, and none that is not there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("vlp_bench/\n") : text.index("experiments/     ")]
    named = set(re.findall(r"(\w+)/ ", tree))
    package = ROOT / "vlp_bench"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")} | {"assets"}
    inner = {path.parent.name for path in (package / "pruning").glob("*/__init__.py")}
    assert named == rooms | inner


def test_what_projects_are_asked_for_is_there_and_well_formed():
    for file in (
        ".github/workflows/ci.yml",
        ".pre-commit-config.yaml",
        "CITATION.cff",
        ".github/ISSUE_TEMPLATE/bug.yml",
    ):
        assert yaml.safe_load((ROOT / file).read_text(encoding="utf-8")), file
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    steps = [
        step["run"].split("#")[0].split() for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    for program, *words in steps:
        assert (ROOT / program).is_file() if program.startswith(".ci/") else CHECKS[program](words) is None
    version = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    assert version == vlp_bench.__version__
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_sdist_holds_what_the_tests_read():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    for pattern in settings["sdist"]["include"]:
        assert list(ROOT.glob(pattern.lstrip("/"))), f"{pattern} of the sdist is not there"
    shipped = {pattern.lstrip("/") for pattern in settings["sdist"]["include"]}
    assert {
        "vlp_bench",
        "hydra_plugins",
        "conf",
        "tests",
        "benchmarks",
        "docs",
        "experiments",
        ".ci",
        ".github",
    } <= shipped
    assert set(settings["wheel"]["force-include"]) <= {*shipped, "docs/results.csv"}


def test_the_page_of_every_method_says_what_its_rows_say():
    written = program("every_method")
    assert written.PAGE.read_text(encoding="utf-8") == written.text(written.rows())


def test_a_cell_that_no_experiment_has_is_empty_and_one_that_was_not_run_is_not():
    written = program("every_method")
    asked = written.planned("xvlm_itr")
    assert {("wanda", "2:4"), ("omp", "50 %"), ("ria, permuted", "2:4")} <= asked
    assert not {("omp", "2:4"), ("ria, permuted", "50 %")} & asked
    found = {("wanda", "50 %"): 63.66, ("omp", "50 %"): 0.0}
    table = list(written.table(["wanda", "omp", "lamp"], ["50 %", "2:4"], found, {}, asked))
    assert table == [["method", "50 %", "2:4"], ["wanda", "63.7", "–"], ["omp", "0.0", ""]]


def test_methods_that_made_one_mask_are_named():
    written = program("every_method")
    common = {"exp": "xvlm_itr", "sparsity": 0.63, "pattern": "weights", "split": "test"}
    masks = {"wanda": "a", "omp": "b", "atv": "a"}
    rows = [common | {"pruner": p, "mask": m, "metric": k} for p, m in masks.items() for k in ("txt_r1", "img_r1")]
    assert written.equals(pd.DataFrame(rows), "xvlm_itr") == "One mask at 63 %: atv = wanda.\n"
    assert written.equals(pd.DataFrame(rows[:4]), "xvlm_itr") == ""


def test_rows_of_every_method_stand_in_minilms_once(tmp_path):
    written = program("every_method")
    written.ENCODER = tmp_path / "results.csv"
    old = pd.read_csv(ROOT / "experiments" / "minilm" / "results.csv")
    ours = pd.read_csv(written.ROWS)
    both = old["pruner"].eq("l2") & old["run"].isin(ours["run"])
    assert both.any()
    old.loc[~both, :].to_csv(written.ENCODER, index=False)
    for _ in range(2):
        written.share(ours)
    new = pd.read_csv(written.ENCODER)
    assert set(new["run"]) == set(old["run"])
    assert not new.duplicated(["run", "metric"]).any()
    assert new["epochs"].isin(old["epochs"]).all()


def test_lines_of_a_method_are_those_that_no_other_comes_to():
    sizes = program("method_sizes")
    scores = "vlp_bench.pruning.scores"
    assert (scores, "relative_importance") in sizes.reached({(scores, "ri")})  # which it calls
    assert (scores, "ria") not in sizes.reached({(scores, "ri")})
    found = sizes.sizes()
    assert found["omp"][1:3] == (0, 0)  # a score, a threshold and a solver that others have
    assert found["fisher"][2] == 1
    assert found["chita"][3] > 100  # with CHITA++


def test_a_grid_is_analysed_in_its_largest_part_without_gaps(results):
    grid = pd.DataFrame(
        {"a": [1.0, 2, 3, np.nan], "b": [1.0, 2, 3, 4], "c": [3.0, 1, 2, np.nan], "d": [9.0] + 3 * [np.nan]}
    )
    assert results.complete(grid).equals(grid.loc[:2, ["a", "b", "c"]])
    assert results.analysed(grid)
    assert not results.analysed(grid.loc[:1, :])


def test_one_run_a_cell_is_kept_the_last(results):
    cell = {"exp": "xvlm_itr", "pruner": "omp", "sparsity": 0.9, "seed": 0, "epochs": 2}
    rows = [cell | {"run": run, "time": time} for run, time in (("new", "2026-11-27"), ("old", "2026-11-26"))]
    other = cell | {"seed": 1, "run": "other", "time": "2026-11-25"}
    assert list(results._newest(pd.DataFrame([*rows, other]))["run"]) == ["new", "other"]
