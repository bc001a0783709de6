import shutil

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from vlp_bench import construct
from vlp_bench.pruning import catalogue
from vlp_bench.pruning.allocation.global_threshold import GlobalThreshold
from vlp_bench.pruning.pruner import Pruner, describe


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


def test_hydra_gives_any_solver_any_allocator_schedule_and_sweep():
    overrides = ["+pruner=multiflow", "pruner/allocate=ecoflap", "pruner.allocate.epsilon=0.01"]
    overrides += ["+pruner/sweep=block_by_block", "+seed=5"]
    with initialize_config_dir(str(catalogue.folder().parent), version_base="1.3"):
        pruner = instantiate(compose(overrides=overrides).pruner)
        first = instantiate(compose(overrides=["+pruner=ecoflap", "pruner.draws=7", "pruner/solve=sparsegpt"]).pruner)
    assert (pruner.allocate.epsilon, pruner.allocate.draws, pruner.allocate.seed) == (0.01, 4, 5)
    assert describe(pruner.sweep)["_target_"].endswith("block_by_block")
    assert (first.allocate.draws, first.draws, first.solve.block_size) == (7, 7, 128)


@pytest.mark.parametrize(
    "name, options",
    [
        ("itersnip", {"steps": 5, "batches_per_step": 2, "schedule": "linear", "num_batches": 10}),
        ("chita", {"ridge": 10.0, "block_size": 50, "memory_gb": 1.5}),
        ("chita_pp", {"ridge": 10.0, "steps": 5, "batches_per_step": 2, "schedule": "constant"}),
        ("sparsegpt", {"block_size": 64}),
        ("ecoflap", {"epsilon": 0.1, "draws": 2, "max_sparsity": 0.8, "granularity": "layer", "seed": 3}),
        ("ecoflap_first", {"max_sparsity": 0.8, "granularity": "model"}),
    ],
)
def test_options_have_the_names_that_pruners_share(name, options):
    built = describe(catalogue.load(name, options))
    text = repr(built)
    for option, value in options.items():
        if option != "schedule":
            assert built[option] == value
        assert text.count(f"'{option}': {value!r}") == 2 or option in (
            "num_batches",
            "batches_per_step",
            "schedule",
            "seed",
        )


def test_options_reach_every_part():
    pruner = catalogue.load("multiflow", {"compat": "official", "num_batches": 3, "allocate.group_by": "block"})
    assert isinstance(pruner.allocate, GlobalThreshold)
    assert (pruner.allocate.compat, pruner.allocate.group_by) == ("official", "block")
    assert pruner.solve.score.keywords == {"compat": "official"}
    assert pruner.num_batches == 3


@pytest.mark.parametrize("option", ["_target_", "solve.scope", "steps"])
def test_unknown_options(option):
    allowed = "allocate, solve, compat, modality, num_batches, seed"
    with pytest.raises(ValueError, match=rf"has no option .*: use one of {allowed}"):
        catalogue.load("multiflow", {option: 1})


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
