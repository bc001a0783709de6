"""Order by law; a loader that was stopped goes on where it was."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from vlp_bench.batch import Batch
from vlp_bench.data.items import CaptionDataset, Collate
from vlp_bench.data.loading import EpochSampler, GalleryCollate, GalleryDataset, ResumableLoader, in_order
from vlp_bench.data.records import CaptionedImage
from vlp_bench.data.shapes.phrases import vocabulary
from vlp_bench.data.shapes.world import World
from vlp_bench.data.text import make_tokenizer
from vlp_bench.data.transforms.images import Light

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
RECORDS = World(0).images("itr_train", 11)
COLLATE = Collate(make_tokenizer(vocabulary()))


def dataset(seed: int = 0) -> CaptionDataset:
    return CaptionDataset(RECORDS, World(0), Light(48, 2), each="image", seed=seed)


def loader(seed: int = 0, workers: int = 0, batch_size: int = 3) -> ResumableLoader:
    data = dataset(seed)
    sampler = EpochSampler(data, seed=seed)
    return ResumableLoader(data, sampler=sampler, batch_size=batch_size, collate_fn=COLLATE, num_workers=workers)


def images(batches: list[Batch]) -> Tensor:
    return torch.cat([b.images for b in batches])


def epoch(loader: ResumableLoader, number: int) -> list[Batch]:
    loader.order.set_epoch(number)
    return list(loader)


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide() -> None:
    def order(seed: int, number: int) -> list[tuple[int, int]]:
        sampler = EpochSampler(dataset(), seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert sorted(order(0, 2)) == [(2, i) for i in range(11)]
    assert order(0, 2) == order(0, 2)
    orders = {tuple(i for _, i in order(seed, number)) for seed, number in itertools.product(range(3), repeat=2)}
    assert len(orders) == 9  # seed 0 in epoch 1 is not seed 1 in epoch 0


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_an_epoch_without_overlap(world: int) -> None:
    parts = [list(EpochSampler(dataset(), num_replicas=world, rank=rank)) for rank in range(world)]
    assert {len(part) for part in parts} == {11 // world}
    assert len(EpochSampler(dataset(), num_replicas=world, rank=0)) == 11 // world
    assert len({place for part in parts for place in part}) == world * (11 // world)


def test_the_last_incomplete_batch_is_dropped() -> None:
    assert len(loader()) == len(list(loader())) == math.floor(11 / 3)


def test_workers_do_not_matter() -> None:
    assert torch.equal(images(epoch(loader(workers=0), 4)), images(epoch(loader(workers=2), 4)))


@pytest.mark.parametrize("handed_out", [0, 1, 2, 3])
def test_a_stopped_epoch_goes_on(handed_out: int) -> None:
    first = loader()
    first.order.set_epoch(5)
    seen = list(itertools.islice(first, handed_out))
    again = loader()
    again.load_state_dict(first.state_dict() if handed_out else {"epoch": 5, "batches": 0})
    rest = epoch(again, 5)
    assert torch.equal(images(seen + rest), images(epoch(loader(), 5)))
    assert torch.equal(images(epoch(again, 6)), images(epoch(loader(), 6)))


def test_a_state_of_another_epoch_skips_nothing() -> None:
    again = loader()
    again.load_state_dict({"epoch": 4, "batches": 3})
    assert len(epoch(again, 5)) == 3


def test_a_sample_depends_on_epoch_and_index_alone() -> None:
    data = dataset()
    assert torch.equal(data[(3, 7)].image, dataset()[(3, 7)].image)
    assert not torch.equal(data[(3, 7)].image, data[(4, 7)].image)


def test_no_loader_draws_from_the_global_stream() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sampled = loader()
    sampled.generator = torch.Generator()
    list(sampled)
    gallery = GalleryDataset(RECORDS, World(0), Light(48, 0))
    list(in_order(gallery, GalleryCollate(COLLATE), batch_size=4, num_workers=0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_gallery_batch_holds_every_caption_of_its_images() -> None:
    records = [
        CaptionedImage(RECORDS[0].image, ("a red circle", "one thing"), "a"),
        CaptionedImage(RECORDS[1].image, ("two things in the picture",), "b"),
        CaptionedImage(RECORDS[2].image, ("a square", "a thing", "there is a blue square"), "c"),
    ]
    gallery = GalleryDataset(records, World(0), Light(48, 0))
    first, second = in_order(gallery, GalleryCollate(COLLATE), batch_size=2, num_workers=0)
    assert first.idx_to_group_img.tolist() == [0, 0, 1]
    assert second.idx_to_group_img.tolist() == [0, 0, 0]
    assert first.text_ids.shape == (3, 6)  # [CLS] and five words
    assert first.images.shape == (2, 3, 48, 48)


def test_each_process_gets_its_share_and_nothing_twice() -> None:
    from vlp_bench.data.loading import Dealt

    shares = [list(Dealt(range(7), world=3, rank=rank)) for rank in range(3)]  # pyright: ignore[reportArgumentType]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(Dealt(range(7), world=3, rank=rank)) for rank in range(3)] == [3, 2, 2]  # pyright: ignore[reportArgumentType]
