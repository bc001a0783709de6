"""What does not go together is refused before anything is pruned, in a line that names the key."""

import pytest

from vlp_bench.runs.object_cache import ObjectCache
from vlp_bench.runs.suitability import inspect
from vlp_bench.runs.trial_construction import construct_all

WRONG = {
    "task.image_size=2": r"task\.image_size=2: expected a multiple of 8, .* or null for the 48",
    "task.image_size=-8": r"task\.image_size=-8: expected a multiple of 8",
    "task.image_size=56": r"data\.train_transform\.size=48: the model takes images of 56 pixels",
    "data.eval_transform.size=40": r"data\.eval_transform\.size=40: the model takes images of 48 pixels",
    "data.eval_transform.size=1000000000": r"data\.eval_transform\.size=1000000000: the model takes images of 48",
    "data.train_transform.size=40": r"data\.train_transform\.size=40: the model takes images of 48 pixels",
    "data.calibration.transform={_target_: vlp_bench.data.transforms.images.Eval, size: 40}":
        r"data\.calibration\.transform\.size=40: the model takes images of 48 pixels here; set it to that$",
    "data.calibration.side=2": r"data\.calibration\.side=2: .* has 6 patches along a side",
    "data.max_tokens=10000": r"data\.max_tokens=10000: the model reads 48 tokens at most",
    "data.calibration.max_tokens=49": r"data\.calibration\.max_tokens=49: the model reads 48 tokens",
    "data.source.train=7": r"training split has 7 captions .* data\.batch_size=8",
    "recipe.target_batch=32": r"recipe\.target_batch=32: an epoch has 3 batches of 8, less than one step",
    "recipe.target_batch=1000000001": r"recipe\.target_batch=1000000001, data\.batch_size=8.* one of 1, 7",
    "+trainer.val_check_interval=1000": r"trainer\.val_check_interval=1000: an epoch has 3 batches",
    "+trainer.limit_val_batches=0": r"trainer\.limit_val_batches=0: a run needs at least one batch",
    "+trainer.limit_train_batches=0": r"trainer\.limit_train_batches=0",
    "+trainer.limit_test_batches=0": r"trainer\.limit_test_batches=0",
    "+trainer.check_val_every_n_epoch=3": r"check_val_every_n_epoch=3: with recipe\.epochs=2",
    "trainer.log_every_n_steps=-1": r"trainer\.log_every_n_steps=-1",
    "checkpoint_minutes=-1": r"checkpoint_minutes=-1: expected 0 or more minutes, or null",
    "checkpoint_minutes=true": r"checkpoint_minutes=true: expected 0 or more minutes",
    "checkpoint_minutes=soon": r"checkpoint_minutes=soon: expected 0 or more minutes",
}  # fmt: skip
RIGHT = (
    "seed=1", "task.image_size=48", "data.train_transform.size=8 recipe.epochs=0", "data.max_tokens=48",
    "+trainer.val_check_interval=3", "+trainer.limit_train_batches=0 recipe.epochs=0", "checkpoint_minutes=0.5",
    "+trainer.val_check_interval=5 +trainer.check_val_every_n_epoch=null", "data.source.train=7 recipe.epochs=0",
)  # fmt: skip


def looked_at(specification):
    construct_all(specification)
    objects, config = ObjectCache(), specification.config
    inspect(objects.model(config), objects.data(config), config)


@pytest.mark.parametrize("word", WRONG)
def test_what_does_not_go_together_is_named_before_anything_is_pruned(word, specified):
    with pytest.raises(ValueError, match=WRONG[word]) as raised:
        looked_at(specified(word))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("words", RIGHT)
def test_what_goes_together_is_not_refused(words, specified):
    looked_at(specified(*words.split()))


@pytest.mark.parametrize(
    ("experiment", "word", "reason"),
    [
        ("xvlm_ic", "task.best=abc", r"task\.best=abc is not computed .* one of truth"),
        ("xvlm_ic", "task.max_length=49", r"task\.max_length=49: the model reads 48 tokens"),
        ("xvlm_ic", "task.beams=100000000", "beams must be 1 to 1000"),
        ("dino_cls", "task.classes=10", r"task\.classes=10, but the data has 48 classes"),
        ("dino_cls", "task.image_size=12", r"task\.image_size=12: expected a multiple of 8"),
    ],
)
def test_a_task_that_does_not_fit_is_named_before_anything_is_pruned(experiment, word, reason):
    from vlp_bench.runs.specification import specification_of

    pytest.importorskip("pycocoevalcap")
    few = [f"data.source.{split}=96" for split in ("train", "val", "test")]
    with pytest.raises(ValueError, match=reason):
        looked_at(specification_of([f"+exp={experiment}", "benchmark=mini", *few, word]))
