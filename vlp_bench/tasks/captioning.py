"""Captioning: prune once, learn to continue the prompt, generate with beam search, compare with what people said."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack, cast

import torch
from torch import Tensor, nn

from vlp_bench.batch import Batch
from vlp_bench.data.records import CaptionedImage
from vlp_bench.metrics.caption_scores import CaptionMetrics, CaptionScorer
from vlp_bench.metrics.truth import Truth
from vlp_bench.models.beam import BeamRule
from vlp_bench.models.captioning import Captioner
from vlp_bench.tasks.finetuning import FineTuning, FineTuningArguments
from vlp_bench.tasks.result_file import write_json

CAPTIONS = "captions.json"  # in a run's folder


class Pictures(Protocol):
    """What the task asks of its data."""

    @property
    def end(self) -> int:
        """The token that ends a caption."""
        ...

    def described(self, split: str) -> Sequence[CaptionedImage]:
        """The images of "train", "val" or "test" with their captions; `Batch.idx` counts them."""
        ...

    def prompted(self, b: int) -> Tensor:
        """(b, t) ids every caption starts from."""
        ...

    def words(self, ids: Tensor) -> list[str]:
        """(b, t) generated ids -> the text after the prompt."""
        ...


class Captioning(FineTuning):
    """Fine-tunes a Captioner and logs what its scorers say of generated captions.

    Args:
        model, shared: see `FineTuning`; `task_model` makes the Captioner.
        scorers: compare captions with references; each brings metrics of its own.
        best: the metric whose best validation epoch is tested; on images that are not the embedded world's, CIDEr in
            place of that world's truth.
        beams, max_length, min_length: of generation; lengths in tokens, the prompt and [CLS] included.

    Raises:
        ValueError: an argument is out of its range.
    """

    HEADLINES = ("truth", "cider", "cider_regex", "bleu4", "bleu4_regex")
    MONITOR = "cider"
    LEGEND = "times 100 (truth: captions true in every clause; _regex: words cut without Java)"
    model: Captioner

    def __init__(
        self,
        model: nn.Module,
        *,
        scorers: Sequence[CaptionScorer],
        best: str = "cider",
        beams: int = 3,
        max_length: int = 20,
        min_length: int = 5,
        **shared: Unpack[FineTuningArguments],
    ) -> None:
        if not scorers:
            raise ValueError("scorers: at least one must say how good a caption is")
        BeamRule(beams, max_length, min_length)  # refuses what cannot be, before anything is pruned
        super().__init__(model, **shared)
        self.scorers, self.best = list(scorers), best
        self.lengths = {"beams": beams, "max_length": max_length, "min_length": min_length}
        self.examples: dict[str, Tensor] = {}
        self._chosen: dict[str, str] = {}

    @property
    def monitor(self) -> str:
        return self.best

    @classmethod
    def check(cls, data: Any, *, trained: bool, **arguments: Any) -> None:
        if trained:
            chooser(arguments.get("best", cls.MONITOR), arguments["scorers"], data)

    def meet(self, data: Any) -> None:
        """ValueError if the metric that chooses the epoch is not computed of the validation images."""
        chosen = chooser(self.best, self.scorers, cast(Pictures, data))
        if chosen != self.best:
            self._chosen = {"epoch": f"chosen by {chosen} of the validation images"}
        self.best = chosen

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return self.model.captioning_losses(batch)

    # Evaluation

    @property
    def pictures(self) -> Pictures:
        return cast(Pictures, self.trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]

    def setup(self, stage: str) -> None:
        if self.trainer.is_global_zero:
            for scorer in self.scorers:
                scorer.prepare()

    def _start(self, split: str) -> None:
        self.metrics = CaptionMetrics(self.pictures.described(split), self.scorers).to(self.device)

    def on_validation_epoch_start(self) -> None:
        self._start("val")

    def on_test_epoch_start(self) -> None:
        self._start("test")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._describe(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._describe(batch)

    def _describe(self, batch: Batch) -> None:
        assert batch.idx is not None, "an evaluation batch says which images it holds"
        self.metrics.update(batch.idx, self.pictures.words(self.described_by(batch.images)))

    def described_by(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, t) generated ids."""
        rule = BeamRule(**self.lengths, eos=self.pictures.end, pad=self.model.pad_id)
        prompt = self.pictures.prompted(len(images)).to(self.device)
        return self.model.generate(self.model.encode_image(images), prompt, rule)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")
        if self.trainer.is_global_zero:
            self.examples = {name: torch.tensor(each) for name, each in self.metrics.scores.examples.items()}
            file = Path(self.trainer.default_root_dir) / CAPTIONS
            write_captions(file, self.metrics.images, self.metrics.captions)

    def _log_metrics(self, split: str) -> None:
        self.log_of_all(split, self.metrics.compute())
        self.notes = {**self.metrics.scores.notes, **self._chosen}


def chooser(best: str, scorers: Sequence[CaptionScorer], data: Pictures) -> str:
    """The metric that chooses the epoch: `best`, on the user's own images CIDEr in place of the world's truth.

    Raises:
        ValueError: it is not computed of the validation images.
    """
    images = data.described("val")
    names = [name for scorer in scorers for name in scorer.names(images)]
    if best in Truth.NAMES and best not in names:
        best = next((name for name in names if name.startswith("cider")), best)
    if best not in names:
        raise ValueError(
            f"task.best={best} is not computed of the {len(images)} validation images, so no epoch can be chosen by "
            f"it; set task.best to one of {', '.join(names)}"
        )
    return best


def write_captions(file: Path, images: Sequence[CaptionedImage], captions: Mapping[int, str]) -> None:
    """The result file of the COCO and NoCaps servers: `[{"image_id": ..., "caption": ...}, ...]`."""
    rows: list[dict[str, Any]] = [{"image_id": i, "caption": captions[n]} for n, i in enumerate(server_ids(images))]
    write_json(file, rows)


def read_captions(file: Path, images: Sequence[CaptionedImage]) -> dict[int, str]:
    """What `write_captions` wrote for these images, by their places.

    Raises:
        ValueError: the file is broken, or describes other images.
    """
    try:
        written = [(row["image_id"], str(row["caption"])) for row in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} cannot be read ({error!r}); compute the run again with force=true") from error
    if [name for name, _ in written] != server_ids(images):
        raise ValueError(f"{file} describes {len(written)} images that are not the {len(images)} of the test split")
    return {place: caption for place, (_, caption) in enumerate(written)}


def server_ids(images: Sequence[CaptionedImage]) -> list[int | str]:
    """As `server_id`; the identities of all where two images would have one (`a/1.jpg` and `b/1.jpg`)."""
    found = [server_id(image) for image in images]
    return found if len({*found}) == len(found) else [image.image_id for image in images]


def server_id(image: CaptionedImage) -> int | str:
    """The number at the end of the file's name, as COCO's files have it; where there is none, the identity."""
    digits = Path(image.image).stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else image.image_id
