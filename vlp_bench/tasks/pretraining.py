"""Pre-training of the small models of the embedded world, and the masked-word accuracy that tells what they learnt."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vlp_bench.batch import Batch
from vlp_bench.models.blip.model import BLIP
from vlp_bench.models.next_word_losses import next_word_losses, replace_first, targets
from vlp_bench.models.xvlm.model import XVLM
from vlp_bench.tasks.optimisation import Diverged, warmed_adamw


class Pretraining(pl.LightningModule):
    """XVLM's ITC + ITM + MLM, and the box loss where a batch describes regions (Zeng et al., X-VLM, Eq. 6); BLIP's
    ITC + ITM + LM (Li et al., BLIP, section 3.2).

    Steps for which `words_only` is true train MLM alone (XVLM). AdamW with linear warm-up over `warmup_steps` and a
    cosine to zero at `steps`. The generator of ITM's negatives is seeded by (seed, step), so that a resumed run draws
    what the undisturbed one draws.
    """

    def __init__(
        self,
        model: XVLM | BLIP,
        *,
        steps: int,
        lr: float = 1e-3,
        warmup_steps: int = 150,
        words_only: Callable[[int], bool] = lambda step: False,
        weight_decay: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.98),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if steps <= warmup_steps:
            raise ValueError(f"steps must be more than warmup_steps {warmup_steps}, got {steps}")
        self.model = model
        self.steps, self.lr, self.warmup_steps, self.words_only = steps, lr, warmup_steps, words_only
        self.weight_decay, self.betas, self.seed = weight_decay, betas, seed

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The sum of the batch's losses."""
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.global_step)
        if isinstance(self.model, XVLM) and self.words_only(self.global_step):
            losses = {"mlm": self.model.word_loss(batch)}
        else:
            losses = self.model.pretraining_losses(batch, generator)
        total = torch.stack(list(losses.values())).sum()
        if not total.isfinite():
            worst = ", ".join(f"{k} {v.item():g}" for k, v in losses.items())
            raise Diverged(f"the loss is not finite at step {self.global_step} ({worst}); lower lr, now {self.lr:g}")
        kind = "region" if batch.is_region else "general"
        self.log_dict({f"{kind}/{k}": v for k, v in losses.items()}, batch_size=len(batch.images))
        self.log("loss", total, prog_bar=True, logger=False, batch_size=len(batch.images))
        return total

    def configure_optimizers(self) -> Any:
        """AdamW, its learning rate set at every step."""
        optimizer, schedule = warmed_adamw(
            self.model,
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            schedule="cosine",
            warmup=self.warmup_steps / self.steps,
            total=self.steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch on the device."""
        return batch.to(device)


@torch.inference_mode()
def word_accuracy(model: XVLM | BLIP, batches: Sequence[Batch], *, shuffled: bool = False) -> float:
    """Percent of masked words (the first of each caption) that the model fills in rightly.

    XVLM says its most likely word of all. BLIP, which reads from left to right, says which of the words hidden anywhere
    in `batches` makes the whole caption likeliest. `shuffled` shows every caption the image of one half a batch away
    (neighbours may share theirs): the control, what words alone give away. Batches are moved to where the model is.
    """
    device = next(model.parameters()).device
    batches = [batch.to(device) for batch in batches]
    hidden = [_need_words(batch)[:, 0] for batch in batches]
    choice = torch.cat(hidden).unique()
    hits: list[Tensor] = []
    for batch, true in zip(batches, hidden, strict=True):
        images = batch.images.roll(len(batch.images) // 2, 0) if shuffled else batch.images
        shown = replace(batch, images=images)
        predicted = (
            model.predict_words(shown)[:, 0].argmax(-1) if isinstance(model, XVLM) else likeliest(model, shown, choice)
        )
        hits.append(predicted == true)
    return 100 * torch.cat(hits).float().mean().item()


@torch.inference_mode()
def likeliest(model: BLIP, batch: Batch, words: Tensor) -> Tensor:
    """(b,) the id of `words` (c,) that, at the first masked position, makes each caption likeliest to the decoder."""
    ids, atts, where = batch.text_ids, batch.text_atts, batch.masked_pos
    assert ids is not None and atts is not None and where is not None, "a batch of hidden words has texts"  # noqa: PT018
    images = model.encode_image(batch.images)
    losses = []
    for word in words.tolist():
        filled = replace_first(ids.scatter(1, where[:, :1], word), model.config.dec_id)
        logits = model.predict_words(filled, atts, images)
        losses.append(next_word_losses(logits, targets(filled, model.config.pad_id)).sum(1))
    return words[torch.stack(losses, 1).argmin(1)]


def _need_words(batch: Batch) -> Tensor:
    assert batch.masked_ids is not None, "a batch of hidden words says which they are"
    return batch.masked_ids
