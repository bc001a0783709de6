"""experiments/: every sweep.yaml is whole, composes into runs, and plans what nobody has to name."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest

from vlp_bench.commands import experiment, ridge
from vlp_bench.data.bert_vocabulary import PACKAGE
from vlp_bench.results import published
from vlp_bench.runs.terminal.conf import choices
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.sweeps import plans
from vlp_bench.sweeps.grid import Grid

PUBLISHED = [name for name in plans.names() if (plans.FOLDER / name / "published.csv").is_file()]


def test_every_table_has_a_folder():
    tables = {"table04", "table05", "table06", "table07", "table08", "table09", "table10", "table11"}
    assert tables | {"main", "ecoflap", "every", "gentle", "grid", "minilm", "readable", "upop"} == {
        name.partition("_")[0] for name in plans.names()
    }


@pytest.mark.parametrize("name", plans.names())
def test_a_folder_says_what_is_claimed_the_command_and_the_cost(name):
    text = (plans.FOLDER / name / "README.md").read_text(encoding="utf-8")
    for heading in ("## Claim", "## Command", "## Cost", "## What came out"):
        assert heading in text, heading
    assert f"vlp-bench experiment {name}" in text


def every_sweep():
    """Every folder with each of its experiments; the first of each always, others where there is time.

    That every pruner of the catalogue composes is tested where configurations are, so every_method waits, too.
    """
    for name in plans.names():
        for number, exp in enumerate(dict.fromkeys(exp for part in plans.load(name) for exp in part.exp)):
            yield pytest.param(name, exp, marks=[pytest.mark.slow] if number or name == "every_method" else [])


@pytest.mark.parametrize(("name", "exp"), list(every_sweep()))
def test_every_sweep_composes_into_valid_specifications(name, exp):
    from vlp_bench.sweeps.specifications import specifications

    assert exp in choices("exp")
    narrow = set[Grid]()
    for part in plans.load(name):
        if exp in part.exp:
            grid = next(iter(part.grids(exp, [f"benchmark={part.benchmark or 'mini'}"], {}, 1)))
            if part.benchmark == "paper":  # composed, then looked for: the files are not here
                with pytest.raises(UserError, match="benchmark=paper needs files"):
                    specifications(replace(grid, sparsities=grid.sparsities[:1], seeds=grid.seeds[:1]))
                continue
            if part.benchmark == "minilm" and find_spec(PACKAGE) is None:
                with pytest.raises(UserError, match=r"pip install 'vlp_bench\[vocab\]'"):
                    specifications(replace(grid, sparsities=grid.sparsities[:1], seeds=grid.seeds[:1]))
                continue
            [*_, last] = part.grids(exp, [f"benchmark={part.benchmark or 'mini'}"], {"chita": 1.0}, 1)
            narrow |= {replace(g, sparsities=(0.63,), seeds=(0,)) for g in (grid, last)}
    for own in narrow:
        assert {cell.config["experiment"] for cell in specifications(own)} == {exp}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_are_read(name):
    frame = published.load([plans.FOLDER / name / "published.csv"])
    assert len(frame) > 4
    assert set(frame["model"]) <= {"xvlm", "blip", "dino", "clip", "blip2"}


def test_numbers_of_a_table_beside_an_experiment():
    frame = published.load(plans.FOLDER.glob(published.FILES))
    found = published.of(frame, "xvlm_itr").set_index(["pruner", "sparsity", "metric"])["value"]
    assert found["multiflow", 0.9, "txt_r1"] == 46.9  # supplement, Table 4
    assert found["dense", 0.0, "img_r1"] == 60.9
    assert not [pruner for pruner, *_ in found.index if pruner.startswith("chita")]  # one epoch: another run
    printed = published.of(frame, "blip_itr").set_index(["pruner", "sparsity", "metric"])["value"]
    assert (printed["dense", 0.0, "img_r1"], printed["upop", 0.5, "txt_r1"]) == (64.3, 77.4)  # UPop's README


def test_what_is_not_fine_tuned_stands_beside_no_fine_tuned_run():
    found = published.of(published.load(plans.FOLDER.glob(published.FILES)), "blip_ic")
    values = found.set_index(["pruner", "sparsity", "metric"])["value"]
    assert values["ecoflap", 0.5, "cider"] == 132.3  # 111.0 without
    assert ("wanda", 0.5, "cider") not in values.index


def test_a_table_that_somebody_adds_is_read(tmp_path):
    (tmp_path / "mine").mkdir()
    line = "a paper,1,blip,mine,0.5,coco_itr,txt_r1,80.0,,"
    (tmp_path / "mine" / "published_1.csv").write_text(
        "\n".join([",".join(published.COLUMNS), line, ""]), encoding="utf-8"
    )
    found = published.of(published.load(tmp_path.glob(published.FILES)), "blip_itr")
    assert found[["pruner", "value"]].to_numpy().tolist() == [["mine", 80.0]]


def test_an_experiment_of_one_benchmark_needs_no_word_for_it():
    assert experiment.Request("minilm").benchmark == "minilm"
    assert experiment.Request("ecoflap").benchmark == "mini"
    assert experiment.Request("ecoflap", ("benchmark=paper",)).benchmark == "paper"


def test_the_data_tell_which_labelled_set_is_meant():
    frame = published.load(plans.FOLDER.glob(published.FILES))
    for root, value in (("x/cifar-10-binary.tar.gz", 99.1), ("x/cifar-100-binary.tar.gz", 91.7), ("flowers", 98.8)):
        found = published.of(frame, "dino_cls", f"root={root}")
        assert found.loc[found["pruner"].eq("dense"), "value"].tolist() == [value]
    assert published.of(frame, "dino_cls", "ShapesLabelled").empty


@pytest.mark.parametrize(
    ("exp", "cell", "value"),
    [
        ("clip_oxford_flowers", ("dense", 0.0, "accuracy"), 71.3),
        ("dino_flowers102", ("dense", 0.0, "accuracy"), 98.8),
        ("blip2_vqa", ("sparsegpt", 0.6, "accuracy"), 48.68),
        ("blip2_ic", ("ecoflap", 0.7, "cider"), 38.28),
        ("blip2_itr", ("wanda", 0.7, "txt_r1"), 7.6),
    ],
)
def test_each_set_has_its_own_numbers(exp, cell, value):
    frame = published.load(plans.FOLDER.glob(published.FILES))
    assert published.of(frame, exp).set_index(["pruner", "sparsity", "metric"])["value"][cell] == value


def test_some_parts_are_of_one_benchmark(monkeypatch):
    monkeypatch.setattr("vlp_bench.commands.experiment.specifications", lambda grid: grid.overrides[:1])
    planned = {words: {word for group in experiment.plan(experiment.Request("ecoflap", words)) for word in group}
               for words in ((), ("benchmark=paper",))}  # fmt: skip
    mini, paper = planned.values()
    assert mini == {"+exp=blip_itr", "+exp=blip_vqa", "+exp=xvlm_itr", "+exp=clip_zeroshot"}
    assert mini - paper == {"+exp=clip_zeroshot"}
    assert {"+exp=clip_coop", "+exp=blip2_gqa"} <= paper - mini
    with pytest.raises(UserError, match="one of"):
        plans.parse("parts: [{exp: [e], pruner: [omp], sparsity: [0.5], seed: [0], benchmark: tiny}]")


def test_other_columns_are_refused(tmp_path):
    file = tmp_path / "published.csv"
    file.write_text("model,value\nxvlm,1\n")
    with pytest.raises(ValueError, match=r"published\.csv has the columns"):
        published.load([file])


def test_the_main_benchmark_is_whole():
    [part] = plans.load("main_benchmark")
    runs = sum(len(grid.cells()) for grid in part.grids("xvlm_itr", [], {"chita": 1.0, "chita_pp": 0.1}, 2))
    assert runs == 3 + 8 * 3 * 3  # dense once a seed; eight pruners, three sparsities, three seeds


def test_dense_is_planned_without_the_options_of_a_pruner():
    [part] = plans.parse("parts: [{exp: [e], pruner: [ecoflap], sparsity: [0.5], seed: [0], "
                          "overrides: [recipe.epochs=0, pruner/solve=sparsegpt]}]")  # fmt: skip
    dense, sparse = part.grids("e", ["benchmark=mini"], {}, 1)
    assert dense.pruners == ("dense",)
    assert dense.overrides == ("+exp=e", "recipe.epochs=0", "benchmark=mini")
    assert "pruner/solve=sparsegpt" in sparse.overrides


def test_a_chosen_ridge_goes_to_its_pruner_alone():
    [part] = plans.parse("parts: [{exp: [e], pruner: [omp, chita], sparsity: [0.5], seed: [0], ridge: chosen}]")
    _, together, chita = part.grids("e", [], {"chita": 10.0}, 1)
    assert (together.pruners, chita.pruners) == (("omp",), ("chita",))
    assert "pruner.ridge=10" in chita.overrides
    assert not [word for word in together.overrides if "ridge" in word]


def test_alone_means_one_mask_a_pass():
    [part] = plans.parse("parts: [{exp: [e], pruner: [omp, snip], sparsity: [0.5, 0.9], seed: [0], dense: false, "
                          "fresh_statistics: true}]")  # fmt: skip
    grids = list(part.grids("e", [], {}, 1))
    assert [(g.pruners, g.sparsities) for g in grids] == [
        (("omp",), (0.5,)), (("omp",), (0.9,)), (("snip",), (0.5,)), (("snip",), (0.9,)),
    ]  # fmt: skip


def test_a_grid_is_crossed():
    [part] = plans.parse("parts: [{exp: [e], pruner: [chita], sparsity: [0.5], seed: [0], dense: false, "
                          "grid: {a: [1, 2], b: [3]}}]")  # fmt: skip
    assert [grid.overrides[1:] for grid in part.grids("e", [], {}, 1)] == [("a=1", "b=3"), ("a=2", "b=3")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: []", "one key, parts"),
        ("parts: [{exp: [e], pruners: [omp]}]", "did you mean pruner"),
        ("parts: [{exp: [e], pruner: [], sparsity: [0.5], seed: [0]}]", "at least one pruner"),
        ("parts: [{exp: [e], pruner: [omp], sparsity: [0.5], seed: [0], ridge: 1}]", "ridge=1: expected text"),
        ("parts: [{exp: [e]}]", "pruner"),
    ],
)
def test_a_sweep_that_is_not_whole_is_refused(text, said):
    with pytest.raises(UserError, match=said):
        plans.parse(text)


def test_an_unknown_experiment_is_named():
    with pytest.raises(UserError, match="did you mean table10_ridge"):
        plans.load("table10_ridges")


def test_the_command_line_narrows():
    request = experiment.Request.parse(
        ["table04_baselines", "seed=1,7", "sparsity=0.9,0.63,0.5", "dry=true", "benchmark=paper", "paths.out=o"]
    )
    part = request.narrowed(plans.load("table04_baselines")[0])
    assert (part.seed, part.sparsity) == ((1,), (0.63, 0.9))  # no run is added to the plan
    assert (request.dry, request.benchmark, request.out) == (True, "paper", "o")
    assert request.words == ("benchmark=paper", "paths.out=o")
    with pytest.raises(UserError, match=r"no run with sparsity=0.8, seed=any: its sparsities are \[0.63, 0.75, 0.9\]"):
        experiment.plan(experiment.Request.parse(["table04_baselines", "sparsity=0.8"]))


def test_the_best_ridge_is_that_of_the_best_average():
    choice = ridge.best("chita", {1e-5: 0.4, 0.1: 65.0, 1.0: None, 10.0: 65.0}, ["r"])
    assert choice.ridge == 10.0  # of equals the larger
    assert choice.average_r1 == {"1e-05": 0.4, "0.1": 65.0, "10": 65.0}


def test_no_ridge_without_a_result():
    with pytest.raises(UserError, match="no ridge led to a result"):
        ridge.best("chita", {0.1: None}, ["r"])


def test_a_stored_choice_comes_back_and_a_broken_one_is_named(tmp_path):
    choice = ridge.Choice("chita", 0.1, {"0.1": 65.0}, ("a", "b"))
    ridge._write(tmp_path / "c.json", choice)
    assert ridge.read(tmp_path / "c.json") == choice
    (tmp_path / "c.json").write_text(json.dumps({"pruner": "chita"}))
    with pytest.raises(UserError, match="delete it and choose again"):
        ridge.read(tmp_path / "c.json")


def test_only_chita_has_a_ridge():
    with pytest.raises(UserError, match="a ridge belongs to chita and chita_pp"):
        ridge.choose("omp", ["+exp=xvlm_itr"])


def test_the_name_may_stand_anywhere():
    asked = experiment.Request.parse(["workers=1", "ecoflap", "seed=0,1", "task.lr=1e-3"])
    assert asked == experiment.Request("ecoflap", ("task.lr=1e-3",), workers=1, seed=(0, 1))
    with pytest.raises(UserError, match=r"ecoflop: there is no such experiment.*did you mean ecoflap"):
        experiment.plan(experiment.Request.parse(["ecoflop"]))


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("pruner=nope", "pruner=nope: table08_edges_nodes says itself which are run"),
        ("+exp=xvlm_vqa", "says itself which are run"),
        ("x", "x: every word after the experiment's name is key=value"),
        ("workers=0", "workers=0: expected one number of processes, at least 1"),
        ("workers=2,3", "workers=2,3: expected one number of processes"),
    ],
)
def test_words_that_would_change_nothing_are_refused(word, reason):
    with pytest.raises(UserError, match=reason):
        experiment.Request.parse(["table08_edges_nodes", word])


def test_a_sparsity_keeps_all_its_digits():
    from vlp_bench.sweeps.grid import Grid
    from vlp_bench.sweeps.specifications import specifications

    [cell] = specifications(Grid.parse(["+exp=xvlm_itr", "pruner=omp", "sparsity=0.9765625", "seed=0"]))
    assert cell.config["sparsity"] == 0.9765625
