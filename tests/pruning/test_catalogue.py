import ast
import re
import shutil
from inspect import signature

import pytest
import yaml
from hydra import compose, initialize_config_dir

from vlp_bench import construct
from vlp_bench.pruning import catalogue, choices
from vlp_bench.pruning.allocation.ecoflap.allocators import BlockSensitivity
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.allocation.uniform import Uniform
from vlp_bench.pruning.choices import declared, generated
from vlp_bench.pruning.pruner import Pruner, describe
from vlp_bench.pruning.schedule import power
from vlp_bench.pruning.solvers.keep_top import KeepTop

OLD = {
    "allocate": "ecoflap ecoflap_first evenly everything l2_normalised lamp magnitude magnitude_by_modality obd random "
    "signed snip total uniform",
    "solve": "chita l2_normalised lamp magnitude multiflow multiflow_inverted multiflow_nodes obd random signed snip "
    "sparsegpt train_masks wanda",
    "schedule": "constant exponential linear power",
    "sweep": "at_once block_by_block",
}


def test_names_are_files():
    promised = (
        "dense random omp lmp l2 lamp snip itersnip chita chita_pp tamt wanda sparsegpt ecoflap ecoflap_first obd "
        "multiflow multiflow_edges multiflow_nodes"
    )
    assert set(promised.split()) <= set(catalogue.names())


@pytest.mark.parametrize("name", catalogue.names())
def test_hydra_and_the_library_build_the_same_pruner(name):
    with initialize_config_dir(str(catalogue.folder().parent), version_base="1.3"):
        config = compose(overrides=[f"+pruner={name}"])
    pruner = catalogue.build(config.pruner)
    assert isinstance(pruner, Pruner)
    assert describe(pruner) == describe(catalogue.load(name))
    assert pruner.name == name


def test_hydra_overrides_the_allocator_and_the_seed():
    with initialize_config_dir(str(catalogue.folder().parent), version_base="1.3"):
        config = compose(overrides=["+pruner=random", "pruner/allocate=lamp", "pruner.compat=official", "+seed=7"])
    pruner = catalogue.build(config.pruner)
    assert describe(pruner.allocate)["score"]["_target_"].endswith("lamp")
    assert pruner.solve.score.keywords == {"seed": 7}
    assert pruner.allocate.compat == "official"
    assert describe(catalogue.load("random", {"allocate": "lamp", "compat": "official", "seed": 7})) == describe(pruner)


def test_hydra_gives_any_solver_any_allocator_schedule_and_sweep():
    overrides = ["+pruner=multiflow", "pruner/allocate=ecoflap", "pruner.allocate.epsilon=0.01"]
    overrides += ["+pruner/sweep=block_by_block", "+seed=5"]
    with initialize_config_dir(str(catalogue.folder().parent), version_base="1.3"):
        pruner = catalogue.build(compose(overrides=overrides).pruner)
        first = catalogue.build(
            compose(overrides=["+pruner=ecoflap", "pruner.draws=7", "pruner/solve=sparsegpt"]).pruner
        )
    assert (pruner.allocate.epsilon, pruner.allocate.draws, pruner.allocate.seed) == (0.01, 4, 5)
    assert describe(pruner.sweep)["_target_"].endswith("block_by_block")
    assert (first.allocate.draws, first.solve.block_size) == (7, 128)


@pytest.mark.parametrize(
    "name, options",
    [
        ("itersnip", {"steps": 5, "batches_per_step": 2, "schedule": "linear", "num_batches": 10}),
        ("chita", {"ridge": 10.0, "memory_gb": 1.5}),
        ("chita_pp", {"ridge": 10.0, "steps": 5, "batches_per_step": 2, "schedule": "constant"}),
        ("sparsegpt", {"block_size": 64}),
        ("ecoflap", {"epsilon": 0.1, "draws": 2, "max_sparsity": 0.8, "granularity": "layer", "seed": 3}),
        ("ecoflap_first", {"max_sparsity": 0.8, "granularity": "model"}),
    ],
)
def test_shortcuts_reach_the_part_they_are_for_and_no_other_place(name, options):
    text = repr(describe(catalogue.load(name, options)))
    for option, value in options.items():
        if option == "schedule":
            assert f"schedule.{value}" in text
        else:
            assert text.count(f"'{option}': {value!r}") == (2 if option == "seed" else 1)  # ECoFLaP draws with it too


def test_a_shortcut_has_one_meaning_and_one_default():
    """Any part may be put into any pruner: what it reads there must be what the pruner's file means."""
    found = {}
    for group in ("allocate", "solve", "schedule"):
        for file in (catalogue.folder() / group).glob("*.yaml"):
            for key, default in re.findall(r"oc\.select:\.\.(\w+),(\S+?)}", file.read_text(encoding="utf-8")):
                found.setdefault(key, set()).add(yaml.safe_load(default))
    assert (found["block_size"], found["block_weights"]) == ({128}, {10000})
    for file in catalogue.folder().glob("*.yaml"):
        for key, own in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            if key in found and key != "seed":
                found[key].add(own)
    assert {key: values for key, values in found.items() if len(values) > 1} == {}


@pytest.mark.parametrize("columns", ["sparsegpt", "thanos"])
def test_columns_of_a_block_are_not_weights_of_a_block(columns):
    assert catalogue.load("chita", {"solve": columns}).solve == catalogue.load(columns).solve
    assert catalogue.load(columns, {"solve": "chita"}).solve == catalogue.load("chita").solve
    assert catalogue.load("chita_pp", {"block_weights": 50}).solve.block_size == 50
    assert catalogue.load("chita", {"solve": columns, "block_size": 64}).solve.block_size == 64
    with pytest.raises(ValueError, match=r"'chita' has no option 'block_size': use one of .* block_weights,"):
        catalogue.load("chita", {"block_size": 64})


def test_options_reach_every_part():
    pruner = catalogue.load("multiflow", {"compat": "official", "num_batches": 3, "allocate.group_by": "block"})
    assert isinstance(pruner.allocate, GlobalThreshold)
    assert (pruner.allocate.compat, pruner.allocate.group_by) == ("official", "block")
    assert pruner.solve.score.keywords == {"compat": "official"}
    assert pruner.num_batches == 3


OF_MULTIFLOW = "allocate, solve, compat, modality, num_batches, seed"


@pytest.mark.parametrize(
    "options, allowed",
    [
        ({"_target_": 1}, OF_MULTIFLOW),
        ({"steps": 1}, OF_MULTIFLOW),
        ({"ridge": 7}, OF_MULTIFLOW),
        ({"scope.deep": 1}, OF_MULTIFLOW),
        ({"solve.scope": 1}, "solve.score, solve.within, solve.compat"),
        ({"solve.score.seed": 1}, "solve.score.compat"),
        ({"allocate.between": "model"}, "allocate.score, allocate.group_by"),
    ],
)
def test_unknown_options(options, allowed):
    with pytest.raises(ValueError, match=rf"'multiflow' has no option .*: use one of {allowed}"):
        catalogue.load("multiflow", options)


def test_an_option_of_a_part_that_was_exchanged_is_refused_where_it_is_given():
    assert catalogue.load("ecoflap", {"allocate": "uniform"}).allocate == Uniform()
    with pytest.raises(ValueError, match=r"'omp' has no option 'solve\.score\.compat': solve\.score takes none$"):
        catalogue.load("omp", {"solve.score.compat": "official"})
    with pytest.raises(ValueError, match=r"'ecoflap' has no option 'draws': use one of .*compat"):
        catalogue.load("ecoflap", {"allocate": "uniform", "draws": 7})
    assert catalogue.load("wanda", {"solve": "sparsegpt", "block_size": 64}).solve.block_size == 64


def test_a_key_that_moved_names_its_new_place():
    with pytest.raises(ValueError, match=r"no option 'allocate.between' \(it is allocate.group_by now\)"):
        catalogue.load("multiflow", {"allocate.between": "model"})


@pytest.mark.parametrize("group, old", [(group, name) for group, names in OLD.items() for name in names.split()])
def test_the_choices_of_the_first_release_are_there(group, old):
    assert old in catalogue.names(group)
    with initialize_config_dir(str(catalogue.folder().parent), version_base="1.3"):
        config = compose(
            overrides=["+pruner=ecoflap_first", f"{'+' * (group == 'schedule')}pruner/{group}={old}", "+pruner.steps=2"]
        )
    steps = {"steps": 2} if group == "schedule" else {}
    found = catalogue.load("ecoflap_first", {group: old, **steps})
    assert describe(catalogue.build(config.pruner)) == describe(found)


def test_a_score_is_configured_by_its_signature():
    assert generated("solve")["random"]["score"]["seed"] == "${oc.select:...seed,0}"
    assert generated("allocate")["wanda"]["score"]["compat"] == "${...compat}"
    assert "inverted" not in generated("solve")  # of another score, which it must be given
    assert generated("schedule")["power"] == {
        "_target_": "vlp_bench.pruning.schedule.power",
        "_partial_": True,
        "steps": "${..steps}",
    }


def test_an_argument_with_a_default_is_an_option_wherever_it_stands(monkeypatch):
    text = "def mine(layer, calibration, power=0.5, *, shift=1): ...\ndef other(layer, calibration, power): ..."
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    monkeypatch.setattr(choices, "_definitions", lambda module: functions)
    node = generated("solve")
    assert {name: part["score"] for name, part in node.items()} == {
        "mine": {"_target_": "vlp_bench.pruning.scores.mine", "_partial_": True, "power": 0.5, "shift": 1}
    }
    assert declared("vlp_bench.pruning.scores.mine") == ["power", "shift"]


@pytest.mark.parametrize("part", [Pruner, BlockSensitivity, GlobalThreshold, KeepTop])
def test_what_is_read_from_the_source_is_what_the_constructor_takes(part):
    assert declared(f"{part.__module__}.{part.__qualname__}") == list(signature(part.__init__).parameters)[1:]


def test_of_a_function_its_options_are_read_not_what_it_is_called_with():
    assert declared(f"{power.__module__}.{power.__qualname__}") == ["steps"]
    assert list(signature(power).parameters) == ["sparsity", "steps"]


def test_nothing_is_said_of_what_is_not_ours():
    assert declared("torch.nn.Linear") is declared("vlp_bench.pruning.scores.nothing") is None


def test_an_installed_package_carries_its_files(tmp_path, monkeypatch):
    package = tmp_path / "site" / "vlp_bench"
    shutil.copytree(catalogue.folder(), package / "conf" / "pruner")
    (package / "conf" / "config.yaml").touch()
    monkeypatch.setattr(construct, "PACKAGE", package)
    assert catalogue.folder() == package / "conf" / "pruner"
    assert catalogue.load("omp").name == "omp"
    shutil.rmtree(package / "conf")
    with pytest.raises(FileNotFoundError, match="install vlp_bench again"):
        catalogue.folder()


@pytest.mark.parametrize("solve", ["wanda_2_4", "alps", "ria_2_4_permuted"])
def test_what_a_method_says_of_its_own_solver_is_not_said_of_another(solve):
    alone = describe(catalogue.load("omp", {"solve": solve}).solve)
    for name in catalogue.names():
        assert describe(catalogue.load(name, {"solve": solve}).solve) == alone, name


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"values": print},
            r"values=<built-in function print>: use one of least_squares; a part of your own .* Pruner",
        ),
        ({"values": 3}, "values=3: use one of least_squares"),
        ({"values.damping": 0.1}, r"has no values that 'values\.damping' is of: choose one of least_squares"),
        ({"tokens": {"alpha": 2}}, "has no tokens that 'tokens' is of: choose one of .*atv"),
    ],
)
def test_a_part_that_a_pruner_has_not_yet_is_named_with_its_choices(options, said):
    with pytest.raises(ValueError, match=said):
        catalogue.load("omp", options)
