"""MiniLM: two pairs of texts a batch, names and descriptions in turn."""

from transformers import BertConfig

from tests.models.tiny import words
from vlp_bench.batch import Batch
from vlp_bench.models.minilm import MiniLM

CONFIG = BertConfig(
    vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16,
)  # fmt: skip


def model(attention: str = "sdpa") -> MiniLM:
    return MiniLM(CONFIG, attention=attention)


def batches() -> list[Batch]:
    return [_without_images(words(seed=0)), _without_images(words(seed=1))]


def _without_images(batch: Batch) -> Batch:
    return Batch(batch.images[:0], batch.text_ids, batch.text_atts)
