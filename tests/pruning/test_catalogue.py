import shutil

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import vlp_bench
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.allocation import Competition
from vlp_bench.pruning.pruner import Pruner, describe


def test_names_are_files():
    promised = "dense itersnip l2 lamp lmp multiflow multiflow_edges multiflow_nodes omp random snip"
    assert set(promised.split()) <= set(catalogue.names())


@pytest.mark.parametrize("name", catalogue.names())
def test_hydra_and_the_library_build_the_same_pruner(name):
    with initialize_config_dir(str(catalogue.folder().parent), version_base="1.3"):
        config = compose(overrides=[f"+pruner={name}"])
    pruner = instantiate(config.pruner)
    assert isinstance(pruner, Pruner)
    assert describe(pruner) == describe(catalogue.load(name))
    assert pruner.name == name


def test_hydra_overrides_the_allocator_and_the_seed():
    with initialize_config_dir(str(catalogue.folder().parent), version_base="1.3"):
        config = compose(overrides=["+pruner=random", "pruner/allocate=lamp", "pruner.compat=official", "+seed=7"])
    pruner = instantiate(config.pruner)
    assert describe(pruner.allocate)["score"]["_target_"].endswith("lamp")
    assert pruner.solve.score.keywords == {"seed": 7}
    assert pruner.allocate.compat == "official"
    assert describe(catalogue.load("random", {"allocate": "lamp", "compat": "official", "seed": 7})) == describe(pruner)


def test_options_reach_every_part():
    pruner = catalogue.load("multiflow", {"compat": "official", "num_batches": 3, "allocate.between": "block"})
    assert isinstance(pruner.allocate, Competition)
    assert (pruner.allocate.compat, pruner.allocate.between) == ("official", "block")
    assert pruner.solve.score.keywords == {"compat": "official"}
    assert pruner.num_batches == 3


@pytest.mark.parametrize("option", ["_target_", "solve.scope", "steps"])
def test_unknown_options(option):
    with pytest.raises(ValueError, match=r"has no option .*: use one of allocate, solve, compat, num_batches, seed"):
        catalogue.load("multiflow", {option: 1})


def test_an_installed_package_carries_its_files(tmp_path, monkeypatch):
    package = tmp_path / "site" / "vlp_bench"
    shutil.copytree(catalogue.folder(), package / "conf" / "pruner")
    monkeypatch.setattr(vlp_bench, "__file__", str(package / "__init__.py"))
    assert catalogue.folder() == package / "conf" / "pruner"
    assert catalogue.load("omp").name == "omp"
    shutil.rmtree(package / "conf")
    with pytest.raises(FileNotFoundError, match="install vlp_bench again"):
        catalogue.folder()
