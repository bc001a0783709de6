"""Steps of whole groups: what each step sees, by hand, on Lightning's own trainer."""

import warnings

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vlp_bench.data.loading import EpochSampler, ResumableLoader
from vlp_bench.runs.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")


class Numbers(Dataset[Tensor]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, where: object) -> Tensor:
        return torch.tensor([float(where[1] if isinstance(where, tuple) else where)])  # pyright: ignore[reportArgumentType]


class Watched(pl.LightningModule):
    """Keeps of each step how many examples it saw, its gradient (1 of a whole group), and which examples."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps: list[tuple[int, float]] = []
        self.seen: list[float] = []
        self.validated = 0
        self.total = 0.0
        self.waiting = 0

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.waiting += len(batch)
        self.seen += batch.flatten().tolist()
        return (self.weight * torch.ones_like(batch)).mean()

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.validated += 1

    def on_before_optimizer_step(self, optimizer: object) -> None:
        assert self.weight.grad is not None
        self.steps.append((self.waiting, round(float(self.weight.grad), 5)))
        self.waiting = 0

    def on_train_epoch_end(self) -> None:
        self.waiting = 0

    def configure_optimizers(self) -> torch.optim.SGD:
        self.total = self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), 1e-3)


def trained(count: int, target: int, size: int, epochs: int = 1, **settings: object) -> Watched:
    data, module = Numbers(count), Watched()
    trainer = pl.Trainer(
        **Recipe(epochs, target).trainer_arguments(size) | settings, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loader = ResumableLoader(data, sampler=EpochSampler(data), batch_size=size)
    trainer.fit(module, loader, DataLoader(Numbers(2), batch_size=2))
    return module


@pytest.mark.parametrize("size", [96, 48, 24, 8])
def test_every_step_sees_the_target(size: int) -> None:
    module = trained(200, 96, size, epochs=2)
    assert module.steps == [(96, 1.0)] * 4
    assert module.total == 4  # what the learning rate's schedule is told
    assert module.validated == 2


def test_what_is_left_out_is_another_part_each_epoch() -> None:
    module = trained(20, 8, 2, epochs=2)
    first, second = set(module.seen[:16]), set(module.seen[16:])
    assert len(module.seen) == 32
    assert first != second


@pytest.mark.parametrize("size", [48, 24, 8])
def test_a_set_below_the_target_is_one_step_and_that_is_said_once(size: int) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        module = trained(50, 96, size, epochs=3)
    assert module.steps == [(48, 1.0)] * 3
    [said] = [str(warning.message) for warning in told if "target_batch" in str(warning.message)]
    assert said == (
        "the training set makes 48 examples in whole batches, fewer than recipe.target_batch=96: "
        "each epoch is one step of 48"
    )


def test_a_limit_of_the_trainer_is_kept() -> None:
    assert trained(200, 96, 24, limit_train_batches=5).steps == [(96, 1.0)]
    assert trained(200, 96, 24, limit_train_batches=1.0).steps == [(96, 1.0)] * 2
