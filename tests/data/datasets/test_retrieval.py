"""The DataModule: what it promises, what it refuses, and that conf/data builds it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vlp_bench.data.datasets.retrieval import CalibrationSettings, RetrievalData
from vlp_bench.data.datasets.sources import ShapesRetrieval
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.transforms.images import Eval, Light

SOURCE = ShapesRetrieval(train=12, val=5, test=6, general=9, regions=8)
CONF = Path(__file__).parents[3] / "conf"


def settings(**changes: Any) -> CalibrationSettings:
    arguments: dict[str, Any] = {"side": 6, "num_batches": 2, "batch_size": 4}
    return CalibrationSettings(Light(48), Eval(48), **arguments | changes)


def data(calibration: CalibrationSettings | None = None, **changes: Any) -> RetrievalData:
    return RetrievalData(
        SOURCE, train_transform=Light(48), eval_transform=Eval(48), calibration=calibration or settings(), **changes
    )


def composed(group: str, name: str, **paths: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"+{group}={name}", *(f"paths.{key}={value}" for key, value in paths.items())])
    return OmegaConf.to_container(config[group], resolve=True)


def test_every_caption_or_every_image_is_an_item() -> None:
    assert len(data(each="caption", batch_size=10).train_dataloader()) == 6
    assert len(data(each="image", batch_size=10).train_dataloader()) == 1


def test_captions_of_one_image_share_their_identity() -> None:
    loader = data(batch_size=60).train_dataloader()
    (batch,) = loader
    assert sorted(batch.idx.bincount().tolist()) == [5] * 12


def test_galleries_are_read_in_order_and_wholly() -> None:
    for name, size in (("val", 5), ("test", 6)):
        batches = list(getattr(data(eval_batch_size=4), f"{name}_dataloader")())
        assert sum(len(b.images) for b in batches) == size
        assert sum(len(b.text_ids) for b in batches) == 5 * size


def test_calibration_repeats_and_does_not_follow_the_seed_of_the_run() -> None:
    first, again = data(seed=0).calibration(), data(seed=7).calibration()
    assert len(first) == 2
    for left, right, repeated in zip(first, again, first, strict=True):
        for a, b, c in zip(left, right, repeated, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.images, c.images)
            assert torch.equal(a.text_ids_masked, b.text_ids_masked)


def test_calibration_batches_hold_what_the_losses_need() -> None:
    general, region = next(iter(data().calibration()))
    assert not general.is_region
    assert general.masked_ids.shape == (4, 8)
    assert region.image_atts.shape == (4, 37)
    assert (region.target_bbox > 0).all()
    assert (region.text_ids_masked != region.text_ids).any()


def test_calibration_shows_no_image_twice() -> None:
    images = torch.cat([general.images for general, _ in data(settings(batch_size=4)).calibration()])
    assert len({i.numpy().tobytes() for i in images}) == 8


def test_more_calibration_than_there_is_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 batches of 4 images, its general part has 9; lower .*num_batches to 2"):
        data(settings(num_batches=3)).calibration()
    with pytest.raises(ValueError, match=r"its regions part has 8; lower .*num_batches to 0"):
        data(settings(num_batches=1, batch_size=9)).calibration()


def test_fingerprints_name_what_they_depend_on() -> None:
    plain = data()
    assert plain.fingerprint() == data(settings(batch_size=3), seed=1, num_workers=1).fingerprint()
    assert plain.calibration_fingerprint() == data(seed=1, batch_size=2).calibration_fingerprint()
    assert plain.calibration_fingerprint() != data(settings(batch_size=3)).calibration_fingerprint()
    assert plain.calibration_fingerprint() != data(settings(seed=1)).calibration_fingerprint()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
        ({"eval_batch_size": -1}, "data.eval_batch_size must be"),
        ({"num_workers": -1}, "data.num_workers must be 0 or more, got -1"),
        ({"each": "region"}, "data.each must be 'caption' or 'image', got 'region'"),
    ],
)
def test_arguments_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data(**given)


@pytest.mark.parametrize(
    "given, message",
    [({"num_batches": 0}, "num_batches must be at least 1, got 0"), ({"mask": 0.0}, r"in \(0, 1\], got 0.0")],
)
def test_calibration_settings_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**given)


def test_a_batch_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"60 captions for 1 device\(s\), not one batch of data.batch_size=61"):
        data(batch_size=61).train_dataloader()


def test_the_small_data_set_is_built_from_its_yaml() -> None:
    built = instantiate(composed("data", "itr_mini"), _convert_="all")
    assert isinstance(built, RetrievalData)
    assert built.source.sizes["test"] == 500
    transforms = (
        built.train_transform,
        built.eval_transform,
        built.settings.transform,
        built.settings.region_transform,
    )
    assert all(isinstance(t, Eval | Light) and t.size == 48 for t in transforms)  # nothing that flips


def test_the_papers_data_set_is_built_from_its_yaml(tmp_path: Path) -> None:
    (tmp_path / "bert-base-uncased").mkdir()
    (tmp_path / "bert-base-uncased/vocab.txt").write_text("\n".join(vocabulary()))
    built = instantiate(
        composed("data", "itr_paper", data=str(tmp_path), vocab=str(tmp_path / "bert-base-uncased")), _convert_="all"
    )
    assert (built.settings.num_batches, built.settings.batch_size) == (3000, 32)
    assert built.source.files["train"] == tmp_path / "finetune/itr/coco_train.json"
    assert built.train_transform.size == built.eval_transform.size == 384
