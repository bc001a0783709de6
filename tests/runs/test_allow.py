"""What a configuration may construct: what conf/ names, and what the command line allows."""

import sys

import pytest

from vlp_bench import construct as c
from vlp_bench.runs.terminal.errors import UserError
from vlp_bench.runs.trial_construction import construct_all

MINE = '''
def score(layer, calibration, factor: float = 1.0):
    """The size of a weight, times something."""
    return layer.weight.abs() * factor
'''
SOLVE = ("pruner.solve.score._target_=mine_of_the_tests.score", "~pruner.solve.score.compat")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_of_the_tests.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("mine_of_the_tests", None)


def test_a_score_of_ones_own_is_allowed_by_name(specified, mine):
    with pytest.raises(UserError, match=r"score\._target_=mine_of_the_tests\.score: only .* allow=\[NAME\]"):
        specified(*SOLVE)
    assert "mine_of_the_tests" not in sys.modules
    found = specified(*SOLVE, "allow=[mine_of_the_tests.score]", "+pruner.solve.score.factor=2.0")
    construct_all(found)
    pruner = c.construct(found.config["pruner"], "pruner", found.config["allow"])
    assert pruner.solve.score.func is sys.modules["mine_of_the_tests"].score
    assert pruner.solve.score.keywords == {"factor": 2.0}


def test_its_annotations_count_as_well(specified, mine):
    with pytest.raises(UserError, match=r"pruner\.solve\.score\.factor=abc: expected a finite number"):
        specified(*SOLVE, "allow=[mine_of_the_tests.score]", "+pruner.solve.score.factor=abc")


def test_an_allowed_name_that_is_not_there_is_told(specified, mine):
    with pytest.raises(UserError, match=r"mine_of_the_tests\.nothing cannot be imported"):
        specified("pruner.solve.score._target_=mine_of_the_tests.nothing", "allow=[mine_of_the_tests.nothing]")


def test_allowing_a_name_is_no_other_run(specified):
    assert specified("allow=[mine.score]").run == specified().run


def test_a_stored_configuration_allows_nothing(specified, mine):
    stored = specified(*SOLVE, "allow=[mine_of_the_tests.score]").config
    with pytest.raises(ValueError, match="only what conf/ names"):
        c.construct(stored["pruner"], "pruner")


def test_everything_that_conf_names_can_be_located():
    assert len(c.named()) > 60
    for name in c.named():
        assert callable(c.locate(name))
        assert name.startswith(("vlp_bench.", "lightning.pytorch."))


@pytest.mark.parametrize(
    "name",
    ["vlp_bench.pruning.schedule.one_shot", "lightning.pytorch.loggers.TensorBoardLogger",
     "vlp_bench.tasks.classification.ZeroShot", "vlp_bench.data.datasets.captioning.CaptioningData"],
)  # fmt: skip
def test_parts_that_no_yaml_names_are_found_by_their_kind(name):
    assert callable(c.locate(name))


@pytest.mark.parametrize(
    "name",
    ["os.system", "torch.load", "torch.hub.load", "vlp_bench.runs.provenance._git", "vlp_bench.runs.provenance.commit",
     "vlp_bench.pruning.scores.nothing", "vlp_bench.pruning.scores.torch.load", "vlp_bench.pruning.prune.prune",
     "lightning.pytorch.loggers.logger.os.system", "lightning.pytorch.Trainer.fit", "", ".", "vlp_bench", None, 5, [],
     "vlp_bench.models.checkpoints.read_write.save_model", "vlp_bench.pruning.masks.file_format.write"],
)  # fmt: skip
def test_nothing_else_is(name):
    with pytest.raises(ValueError, match="_target_="):
        c.locate(name)


def test_moved_names_say_where_they_are():
    with pytest.raises(ValueError, match=r"did you mean vlp_bench\.models\.checkpoints\.read_write\.build\?"):
        c.locate("vlp_bench.models.checkpoints.build")
    with pytest.raises(ValueError, match=r"did you mean .*\.GlobalThreshold\?"):
        c.locate("vlp_bench.pruning.allocation.Competition")


def test_a_description_that_is_too_deep_is_refused():
    deep = {"_target_": "vlp_bench.runs.recipe.Recipe"}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ValueError, match="nested more than"):
        c.construct(deep)
