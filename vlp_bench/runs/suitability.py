"""What does not go together is said before anything is pruned: model, data and task, by the key that is wrong."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

from vlp_bench.construct import maker
from vlp_bench.data import checking
from vlp_bench.data.datasets.own import own_keys
from vlp_bench.data.readers.checked import brief


def inspect(model: Any, data: Any, config: Mapping[str, Any]) -> None:
    """Hold model, data and task against each other before anything is computed.

    Raises:
        ValueError: images of another size than the model takes, texts that are longer than it reads or whose words it
            does not know, images that are not there, a training set of less than a batch, or a task that does not fit
            the data.
    """
    with nullcontext() if "source" in config["data"] else own_keys():
        _inspect(model, data, config)


def _inspect(model: Any, data: Any, config: Mapping[str, Any]) -> None:
    trained, sizes = config["recipe"]["epochs"] > 0, getattr(model, "config", None)
    if isinstance(getattr(sizes, "image_size", None), int):
        _check_images(sizes, data, config, trained=trained)
    _check_lengths(sizes, data, config)
    data.inspect(getattr(sizes, "vocab_size", None), training=trained)
    _check_answers(sizes, data, trained=trained)
    _check_there(data, trained=trained)
    task: Any = maker(config["task"], "task", config.get("allow", ()))
    task.func.check(data, trained=trained, **task.keywords)
    if trained:
        _check_training(data, config["trainer"], config["recipe"]["target_batch"])


def _check_there(data: Any, *, trained: bool) -> None:
    """ValueError for images that are not there: evaluation replaces none, training as many as it may."""
    splits = checking.splits_read(data)
    allowed = {"train": data.max_broken, "val": 0, "test": 0} if trained else {"test": 0}
    for name, most in allowed.items():
        if name in splits and (said := checking.lacks(splits[name](), most)):
            cure = f"; data.max_broken={most} is how many are replaced" if name == "train" else ""
            raise ValueError(f"the {name} split {said}; fetch them, or leave their records out{cure}")


def _check_images(sizes: Any, data: Any, config: Mapping[str, Any], *, trained: bool) -> None:
    pruned_at, patch = sizes.image_size, sizes.patch_size
    tuned = config["task"].get("image_size") or pruned_at
    if tuned % patch or tuned < patch:
        raise ValueError(
            f"task.image_size={tuned}: expected a multiple of {patch}, the pixels of the model's patches, or null for "
            f"the {pruned_at} it is pruned at"
        )
    for key, transform in _transforms(data, trained=trained):
        wanted = pruned_at if key.startswith("calibration") else tuned
        given = getattr(transform, "size", wanted)
        if given != wanted:
            other = "" if key.startswith("calibration") else f", or task.image_size={given}"
            raise ValueError(
                f"data.{key}.size={given}: the model takes images of {wanted} pixels here; set it to that{other}"
            )
    settings: Any = getattr(data, "settings", None)
    if "regions" in getattr(settings, "parts", ()) and settings.side != pruned_at // patch:
        raise ValueError(
            f"data.calibration.side={settings.side}: an image of {pruned_at} pixels has {pruned_at // patch} patches "
            "along a side; set it to that"
        )


def _transforms(data: Any, *, trained: bool) -> Iterator[tuple[str, Any]]:
    """The transforms that a run will use, by their keys."""
    if trained:
        yield "train_transform", getattr(data, "train_transform", None)
    yield "eval_transform", getattr(data, "eval_transform", None)
    settings: Any = getattr(data, "settings", None)
    yield "calibration.transform", getattr(settings, "transform", None)
    if "regions" in getattr(settings, "parts", ()):
        yield "calibration.region_transform", settings.region_transform


def _check_lengths(sizes: Any, data: Any, config: Mapping[str, Any]) -> None:
    """A text has no more tokens than the model has positions."""
    most = getattr(sizes, "max_positions", None)
    lengths = {
        "data.max_tokens": getattr(data, "max_tokens", None),
        "data.calibration.max_tokens": getattr(getattr(data, "settings", None), "max_tokens", None),
        "task.max_length": config["task"].get("max_length"),
    }
    for key, length in lengths.items():
        if most is not None and length is not None and length > most:
            raise ValueError(f"{key}={length}: the model reads {most} tokens at most; lower it")


def _check_answers(sizes: Any, data: Any, *, trained: bool) -> None:
    """What is ranked is there, and no answer has more tokens than the model reads."""
    most = getattr(sizes, "max_positions", None)
    if most is None or not hasattr(data, "longest_answer"):
        return
    answer, length = data.longest_answer(training=trained)
    if length > most:
        raise ValueError(
            f"the answer {brief(answer)} has {length} tokens, the model reads {most} at most and no answer is cut: "
            "shorten it, or leave its questions out"
        )


def _check_training(data: Any, trainer: Mapping[str, Any], target: int) -> None:
    """There is a whole step to train on, and a validation comes before the training ends."""
    batches = len(data.train_dataloader())
    if batches * data.batch_size < target:
        raise ValueError(
            f"recipe.target_batch={target}: an epoch has {batches} batches of {data.batch_size}, less than one step; "
            "lower it or give more data"
        )
    every = trainer.get("val_check_interval")
    if isinstance(every, int) and trainer.get("check_val_every_n_epoch", 1) is not None and every > batches:
        raise ValueError(
            f"trainer.val_check_interval={every}: an epoch has {batches} batches; lower it, or count over epochs with "
            "+trainer.check_val_every_n_epoch=null"
        )
