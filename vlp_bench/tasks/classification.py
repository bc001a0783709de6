"""Classification: fine-tuned with cross entropy (DINO), or zero-shot by comparing images with sentences (CLIP)."""

from typing import Any, Protocol, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench import processes
from vlp_bench.batch import Batch
from vlp_bench.tasks.finetuning import FineTuning, Shared
from vlp_bench.tasks.gathering import Gathered
from vlp_bench.tasks.optimisation import Diverged


class Accuracy:
    """Percent of images whose class is the likeliest, or among the five likeliest, over all processes."""

    def __init__(self) -> None:
        self.ranks: list[Tensor] = []
        self.chosen: list[Tensor] = []
        self.classes = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """(m, c) logits and (m,) classes. A tie counts as half of those it stands with; Diverged for NaN."""
        if not bool(logits.isfinite().all()):
            raise Diverged("the model gives scores that are not numbers: its weights are broken; lower task.lr")
        self.classes = logits.shape[1]
        own = logits.gather(1, labels[:, None])
        above, equal = (logits > own).sum(1), (logits == own).sum(1) - 1
        self.ranks.append(above + equal / 2)
        self.chosen.append(logits.argmax(1))

    def right(self) -> Tensor:
        """(m,) bool: whose class is the likeliest, alone; of the images of this process."""
        return torch.cat(self.ranks) < 0.5

    def examples(self) -> dict[str, Tensor]:
        """Of each image in the order of the split, over all processes: `predicted` class, `accuracy` 100 or 0."""
        told, n = Gathered[tuple[int, float]](), processes.size()
        right = 100.0 * self.right()
        own = list(zip(torch.cat(self.chosen).tolist(), right.tolist(), strict=True))
        told.add([processes.rank() + n * j for j in range(len(own))], own)
        whole = [each for _, each in sorted(told.whole().items())]
        return {"predicted": torch.tensor([p for p, _ in whole]), "accuracy": torch.tensor([a for _, a in whole])}

    def metrics(self) -> dict[str, float]:
        """`accuracy` and, of more than five classes, `top5`. ValueError if nothing was added."""
        if not self.ranks:
            raise ValueError("there is nothing to classify: the split has no image")
        ranks = torch.cat(self.ranks)
        sums = torch.stack([(ranks < 0.5).sum(), (ranks < 4.5).sum(), torch.tensor(len(ranks), device=ranks.device)])
        top1, top5, count = (processes.mean(sums.double()) * processes.size()).tolist()
        found = {"accuracy": 100 * top1 / count, "top5": 100 * top5 / count}
        return found if self.classes > 5 else {"accuracy": found["accuracy"]}


class Classifier(Protocol):
    """What fine-tuning asks of a model."""

    def classify(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, c) logits."""
        ...

    def classification_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, all of one weight."""
        ...

    def new_classifier(self, classes: int, seed: int = 0) -> None:
        """Classify into so many classes from now on, untrained."""
        ...


class Measured(FineTuning):
    """A task whose validation and test are accuracies: accuracy, and top5 of more than five classes."""

    HEADLINES = ("accuracy",)
    MONITOR = "accuracy"

    def logits(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, c)."""
        raise AssertionError("a classifier gives logits")

    def scores(self, batch: Batch) -> Tensor:
        """(m, c) of a batch; of its images, unless a task reads more."""
        return self.logits(batch.images)

    def _start(self) -> None:
        self.accuracy = Accuracy()

    def _step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.labels is not None, "a labelled batch has labels"
        self.accuracy.add(self.scores(batch).float(), batch.labels)

    def _end(self, split: str) -> None:
        if split == "test":
            self.examples = self.accuracy.examples()
        self.log_dict({f"{split}/{name}": value for name, value in self.accuracy.metrics().items()})

    def on_validation_epoch_start(self) -> None:
        self._start()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._end("val")

    def on_test_epoch_start(self) -> None:
        self._start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._end("test")

    def _data(self) -> Any:
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]


class Classification(Measured):
    """Fine-tunes a Classifier with cross entropy; its classifier starts anew, from this run's seed, after pruning.

    Args:
        model, shared: see `FineTuning`.
        classes: of the data set; ValueError before the first step if it has another number.
    """

    model: Classifier

    def __init__(self, model: nn.Module, *, classes: int, **shared: Unpack[Shared]) -> None:
        if classes < 2:
            raise ValueError(f"task.classes must be at least 2, got {classes}")
        super().__init__(model, **shared)
        self.classes = classes
        self.model.new_classifier(classes, seed=self.seed)

    def setup(self, stage: str) -> None:
        """ValueError if the data has another number of classes."""
        there = len(self._data().classes)
        if there != self.classes:
            raise ValueError(f"task.classes={self.classes}, but the data has {there} classes")

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.classification_losses(batch)

    def logits(self, images: Tensor) -> Tensor:
        return self.model.classify(images)


class DualEncoder(Protocol):
    """What zero-shot classification asks of a model."""

    def embed_images(self, images: Tensor) -> Tensor:
        """(m, 3, h, w) -> (m, e) of length 1."""
        ...

    def embed_texts(self, ids: Tensor, atts: Tensor) -> Tensor:
        """(c, t), (c, t) -> (c, e) of length 1."""
        ...

    def contrastive_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, all of one weight."""
        ...


class ZeroShot(Measured):
    """Gives an image the class whose sentence is nearest by cosine; nothing is trained with `recipe.epochs=0`.

    With epochs, both encoders are fine-tuned with the contrastive loss on (image, sentence of its class).
    """

    model: DualEncoder

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        ids, atts = (tensor.to(batch.images.device) for tensor in self._data().sentences())
        assert batch.labels is not None, "a labelled batch has labels"
        batch.text_ids, batch.text_atts = ids[batch.labels], atts[batch.labels]
        return self.model.contrastive_losses(batch)

    def _start(self) -> None:
        super()._start()
        ids, atts = self._data().sentences()
        with self.trainer.precision_plugin.forward_context(), torch.no_grad():
            self.class_embeds = self.model.embed_texts(ids.to(self.device), atts.to(self.device)).float()

    def logits(self, images: Tensor) -> Tensor:
        return F.normalize(self.model.embed_images(images).float(), dim=-1) @ self.class_embeds.T
