"""`rehearse=true`: small, said, and never among the results."""

import pytest

from vlp_bench.runs.rehearsal import MOST
from vlp_bench.runs.run import run
from vlp_bench.runs.specification import register, specification_of, specify
from vlp_bench.runs.terminal.conf import choices, composed


def specification(*words):
    return specification_of(words)


def test_sizes_are_cut_and_the_folder_is_another(tmp_path):
    out = f"paths.out={tmp_path}"
    whole, small = (specification("+exp=xvlm_itr", out, *words) for words in ([], ["rehearse=true"]))
    assert small.config["recipe"]["epochs"] == 1
    assert small.config["data"]["source"] | {"twins": 0, "_target_": ""} == {
        "train": 96, "val": 32, "test": 32, "general": 32, "regions": 32, "twins": 0, "world": 0, "_target_": "",
    }  # fmt: skip
    assert small.out == tmp_path / "rehearsal"
    assert whole.out == tmp_path
    assert len({whole.run, small.run}) == len({whole.setting, small.setting}) == 2
    assert whole.as_shipped
    assert not small.as_shipped
    assert whole.config["benchmark"]["says"] in small.config["benchmark"]["says"]
    assert small.config["benchmark"]["says"].startswith("a rehearsal")


def test_the_key_is_no_part_of_a_runs_identity():
    assert specification("+exp=xvlm_itr").run == specification("+exp=xvlm_itr", "rehearse=false").run


def test_smaller_values_and_other_runs_stay():
    assert specification("+exp=xvlm_itr", "rehearse=true", "data.source.test=8").config["data"]["source"]["test"] == 8
    assert specification("+exp=clip_zeroshot", "rehearse=true").config["recipe"]["epochs"] == 0


@pytest.mark.parametrize("pruner", choices("pruner"))
def test_every_pruner_can_be_rehearsed(pruner):
    config = specification("+exp=xvlm_itr", "rehearse=true", f"pruner={pruner}").config
    assert (config["pruner"].get("num_batches") or 0) <= MOST["pruner.num_batches"]
    assert config["pruner"].get("batches_per_step") is None


def test_the_folder_hydra_makes_is_the_runs(tmp_path):
    register()
    config = composed(["+exp=xvlm_itr", "rehearse=true", f"paths.out={tmp_path}"])
    folder = specify(config, config.hydra).folder
    assert config.hydra.run.dir == str(folder)
    assert f"{config.hydra.sweep.dir}/{config.hydra.sweep.subdir}" == str(folder)


def test_a_rehearsal_runs_and_says_so(tiny, tmp_path, specified, capsys):
    small = specified("rehearse=true", "sparsity=0.5")
    run(small)
    header, numbers = " ".join(capsys.readouterr().out.split()).split("pruned in")
    assert "a rehearsal: few steps of everything" in header
    assert "the numbers mean nothing" in numbers.split("test, ")[0]
    assert (tmp_path / "out" / "rehearsal" / "runs" / small.name / "rows.jsonl").is_file()
    assert '"rehearse":true' in (small.folder / "rows.jsonl").read_text().replace(" ", "")
    assert not (tmp_path / "out" / "runs").exists()
    assert not list((tmp_path / "out").glob("masks"))
