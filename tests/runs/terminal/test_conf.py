"""Every file of conf/ composes, and what it names can be built."""

import subprocess
import sys

import pytest

from vlp_bench.construct import construct, maker
from vlp_bench.runs.specification import specify
from vlp_bench.runs.terminal import conf


@pytest.mark.parametrize("pruner", conf.choices("pruner"))
def test_every_pruner_is_built(specified, pruner):
    found = specified(f"pruner={pruner}")
    assert construct(found.config["pruner"]).name == pruner


@pytest.mark.parametrize("trainer", conf.choices("trainer"))
def test_every_trainer_composes(specified, trainer):
    settings = specified(f"trainer={trainer}").config["trainer"]
    assert settings["_target_"] == "lightning.pytorch.Trainer"
    assert settings["num_sanity_val_steps"] == 0  # they would draw from the stream that resuming restores


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ((), "32-true"),
        (("precision=bf16-mixed",), "bf16-mixed"),
        (("trainer=gpu",), "bf16-mixed"),
        (("trainer=gpu", "precision=32-true"), "32-true"),
    ],
)
def test_precision_is_one_word_whatever_the_trainer(specified, words, precision):
    assert specified(*words).config["trainer"]["precision"] == precision


@pytest.mark.parametrize("logger", conf.choices("logger"))
def test_every_logger_keeps_the_csv(specified, logger):
    assert "csv" in specified(f"logger={logger}").config["logger"]


def test_the_papers_benchmark_composes_once_its_files_are_there(tmp_path):
    from omegaconf import OmegaConf

    from vlp_bench.runs.specification import missing_files, register

    register()
    words = ["+exp=xvlm_itr", "benchmark=paper", f"paths.data={tmp_path}/d", f"paths.weights={tmp_path}/w"]
    config = conf.composed(words)
    plain = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    wanted = [place for root in ("data", "weights") for place in missing_files(plain, root).values()]
    assert len(wanted) >= 5
    for place in sorted(wanted, reverse=True):
        file = tmp_path / place
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    found = specify(config, config.hydra)
    assert found.choices["model"] == "xvlm_paper"
    assert construct(found.config["recipe"]).target_batch == 128
    assert callable(maker(found.config["task"]))
    assert found.config["task"]["lr"] == 3e-5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["+exp=clip_dtd"], "exp=clip_dtd is +exp=clip_coop dataset=dtd now"),
        (["+exp=blip_itr", "task=retrieval_blip_mini"], "task=retrieval_blip_mini is +exp=blip_itr benchmark=mini now"),
        (["+exp=clip_coop", "dataset=dogs"], "dataset=dogs: there is no such data set; it is one of caltech101, dtd, "),
        (["+exp=blip_itr", "recipe=none"], "recipe=none: a recipe is part of its task now; set recipe.epochs, "),
        (["+exp=clip_coop", "dataset=dtd"], "  data.source.root         <paths.data>/dtd (paths.data is not set)"),
    ],
)
def test_a_choice_that_moved_says_its_new_name(words, said):
    done = subprocess.run([sys.executable, "-m", "vlp_bench", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr.replace("error: ", "")


def test_what_is_built_upon_is_no_choice():
    for group in conf.groups():
        assert not [choice for choice in conf.choices(group) if choice.startswith("_")]
