"""Classification: fine-tuned with cross entropy (DINO), or zero-shot by comparing images with sentences (CLIP)."""

from typing import Any, Protocol, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp_bench import processes
from vlp_bench.batch import Batch
from vlp_bench.metrics.classification import ClassAccuracy, majority_accuracy
from vlp_bench.tasks.finetuning import FineTuning, FineTuningArguments
from vlp_bench.tasks.optimisation import finite


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
        self.accuracy = ClassAccuracy().to(self.device)
        self._seen = 0

    def _numbers(self, batch: Batch) -> Tensor:
        """(m,) numbers in the split: a process is dealt every n-th example (`data.loading.own_share`), in order."""
        assert batch.labels is not None, "a labelled batch has labels"
        places = self._seen + torch.arange(len(batch.labels), device=self.device)
        return processes.rank() + processes.size() * places

    def _step(self, batch: Batch, batch_idx: int) -> None:
        numbers, logits = self._numbers(batch), finite(self.scores(batch).float())
        self._measure(batch, numbers, logits)
        self._seen += len(numbers)

    def _measure(self, batch: Batch, numbers: Tensor, logits: Tensor) -> None:
        """(b,) numbers in the split, (b, c) logits."""
        assert batch.labels is not None, "a labelled batch has labels"
        self.accuracy.update(numbers, logits, batch.labels)

    def _end(self, split: str) -> None:
        values = self.accuracy.compute() | self.baselines(split)
        if split == "test":
            right = 100.0 * self.accuracy.right.cpu()
            self.examples = {"predicted": self.accuracy.predicted.cpu(), "accuracy": right}
        self.log_of_all(split, values)

    def baselines(self, split: str) -> dict[str, Any]:
        """`majority`: accuracy in percent of always saying the class that is commonest in training."""
        return {"majority": majority_accuracy(self._data().labels("train"), self._data().labels(split))}

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

    HEADLINES = ("accuracy", "majority")
    LEGEND = "in % (majority: always saying the commonest training class)"
    model: Classifier

    def __init__(self, model: nn.Module, *, classes: int, **shared: Unpack[FineTuningArguments]) -> None:
        if classes < 2:
            raise ValueError(f"task.classes must be at least 2, got {classes}")
        super().__init__(model, **shared)
        self.classes = classes
        self.model.new_classifier(classes, seed=self.seed)

    @classmethod
    def check(cls, data: Any, *, trained: bool, **arguments: Any) -> None:
        """ValueError if the data has another number of classes."""
        in_data, classes = len(data.classes), arguments["classes"]
        if in_data != classes:
            raise ValueError(f"task.classes={classes}, but the data has {in_data} classes; set it to that")

    def setup(self, stage: str) -> None:
        self.check(self._data(), trained=True, classes=self.classes)

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

    def baselines(self, split: str) -> dict[str, Any]:
        """None: a test alone needs no training set."""
        return {}

    def logits(self, images: Tensor) -> Tensor:
        return F.normalize(self.model.embed_images(images).float(), dim=-1) @ self.class_embeds.T
