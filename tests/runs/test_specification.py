"""A run's identity: changed by what decides its numbers, and by nothing else."""

import pytest

from vlp_bench.runs.prune_once import pruner_essence
from vlp_bench.runs.specification import digest, missing_files, weights_of


@pytest.mark.parametrize(
    "word",
    [
        "sparsity=0.5",
        "seed=1",
        "pruner=omp",
        "task.lr=1e-3",
        "recipe.epochs=1",
        "data.batch_size=4",
        "trainer.precision=bf16-mixed",
    ],
)
def test_what_decides_the_numbers_makes_another_run(specified, word):
    assert specified().run != specified(word).run


@pytest.mark.parametrize(
    "word",
    [
        "paths.out=/elsewhere",
        "logger=wandb",
        "trainer.accelerator=auto",
        "force=true",
        "debug=true",
        "trainer.devices=2",
    ],
)
def test_what_does_not_decide_the_numbers_is_the_same_run(specified, word):
    assert specified().run == specified(word).run


def test_the_weights_count_by_content_not_by_place(specified, tiny_weights, tmp_path):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(tiny_weights.read_bytes())
    assert specified(f"model.weights={moved}").run == specified().run
    moved.write_bytes(tiny_weights.read_bytes() + b" ")
    assert specified(f"model.weights={moved}").run != specified().run


def test_the_weights_hash_is_the_models_own(specified, tiny_weights):
    from vlp_bench.models.checkpoints.read_write import weights_hash

    assert specified().weights == weights_hash(tiny_weights)


def test_dense_is_one_run_whatever_the_sparsity(specified):
    first, second = specified("pruner=dense", "sparsity=0.9"), specified("pruner=dense", "sparsity=0")
    assert first.run == second.run
    assert first.config["sparsity"] == 0.0


def test_runs_that_differ_in_pruner_and_sparsity_alone_may_be_compared(specified):
    base = specified()
    assert base.setting == specified("pruner=omp", "sparsity=0.5").setting
    assert base.setting == specified("pruner=dense").setting
    assert base.setting != specified("seed=1").setting
    assert base.setting != specified("task.lr=1e-3").setting


def test_the_folder_says_what_runs_there(specified, tmp_path):
    found = specified("pruner=omp", "sparsity=0.63", "seed=2")
    assert found.folder == tmp_path / "out/runs" / f"xvlm_itr-mini-omp-0.63-seed2-{found.run}"


def test_the_command_of_a_neighbour(specified):
    found = specified("pruner=multiflow", "sparsity=0.9", "pruner.num_batches=3", "force=true", "seed=1")
    command = found.command(pruner="dense", sparsity=0)
    assert command.startswith("vlp-bench run +exp=xvlm_itr ")
    assert command.endswith("seed=1 pruner=dense sparsity=0")
    assert "force" not in command
    assert "num_batches=3" not in command


def test_the_weights_may_lie_in_a_package():
    assert len(weights_of({"model": {"weights": "pkg://vlp_bench/batch.py"}})) == 16
    assert weights_of({"model": {}}) is None


def test_every_value_below_paths_data_must_be_there(tmp_path):
    from omegaconf import OmegaConf

    config = OmegaConf.create(
        {
            "paths": {"data": None},
            "data": {"a": "${paths.data}/a.json", "deep": [{"b": "${paths.data}"}], "c": "${seed}"},
            "seed": 0,
        }
    )
    assert set(missing_files(config, "data")) == {"data.a", "data.deep.0.b"}
    config.paths.data = str(tmp_path)
    assert missing_files(config, "data") == {"data.a": f"{tmp_path}/a.json"}
    (tmp_path / "a.json").touch()
    assert missing_files(config, "data") == {}


def test_a_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (("pruner=ecoflap", "pruner/allocate=uniform"), ("pruner=wanda",)),  # its own options have lost their part
        (("pruner=lmp", "pruner/solve=lamp", "pruner/allocate=lamp"), ("pruner=lamp",)),
        (("pruner=ecoflap", "pruner.allocate.keep_in=memory"), ("pruner=ecoflap",)),
        (("pruner=chita", "pruner.memory_gb=1"), ("pruner=chita",)),
        (("pruner=wanda", "seed=3"), ("pruner=wanda",)),
    ],
)
def test_a_mask_is_known_by_what_decides_it(specified, words, same):
    first, second = specified(*words), specified(*same)
    assert pruner_essence(first.config) == pruner_essence(second.config)


@pytest.mark.parametrize(
    ("pruner", "word"),
    [
        ("chita", "pruner.ridge=0.01"),
        ("chita", "pruner.solve.rows=bfloat16"),
        ("ecoflap", "pruner.draws=7"),
        ("itersnip", "pruner.steps=7"),
        ("wanda", "pruner.compat=official"),
        ("wanda", "pruner.solve.within=layer"),
        ("multiflow", "pruner.num_batches=2"),
        ("random", "seed=3"),
    ],
)
def test_what_decides_a_mask_makes_another(specified, pruner, word):
    first, second = specified(f"pruner={pruner}"), specified(f"pruner={pruner}", word)
    assert pruner_essence(first.config) != pruner_essence(second.config)


def test_the_pruner_of_a_run_is_its_constructor_call(specified):
    found = specified("pruner=chita", "pruner.ridge=0.01", "pruner.compat=official").config["pruner"]
    assert set(found) == {"_target_", "name", "allocate", "solve", "num_batches", "seed"}
    assert (found["solve"]["ridge"], found["solve"]["compat"], found["allocate"]["compat"]) == (0.01, *["official"] * 2)
