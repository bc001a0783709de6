"""Tiny, randomly initialised models of transformers as a stranger brings them, and a batch with padding for each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers as t

LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SEEN = LAYERS | {"image_size": 16, "patch_size": 4}
WORDS = LAYERS | {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
READ = WORDS | {"num_key_value_heads": 2, "max_position_embeddings": 128}
PAIR = WORDS | {"max_position_embeddings": 16, "projection_size": 32}
GATES = {"num_experts_per_tok": 2, "num_local_experts": 4}
IMAGE, VIDEO, BEGIN, END = 63, 62, 60, 61
QWEN = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": BEGIN, "vision_end_token_id": END}
TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 4, "out_hidden_size": 32}
STAGES = {"depths": [1, 1, 2, 1], "embed_dim": [8, 16, 32, 32], "num_heads": [1, 2, 4, 4], "num_groups": [1, 2, 4, 4]}
STEPS = {"patch_size": [7, 3, 3, 3], "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1], "projection_dim": 32}
DAVIT = STAGES | STEPS | {"window_size": 4}
TURNS = {"rope_type": "default", "mrope_section": [1, 1, 2]}
B, T = 3, 24


def words(images: int = 0, at: int = 0) -> dict[str, torch.Tensor]:
    """Texts padded on the right, with `images` image tokens from column `at` on."""
    ids, mask = torch.randint(3, 58, (B, T)), torch.ones(B, T, dtype=torch.long)
    ids[:, at : at + images] = IMAGE
    for row, length in enumerate((T, 21, 22)):
        ids[row, length:], mask[row, length:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def pixels(side: int = 16) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(B, 3, side, side)}


def labelled(side: int = 16) -> dict[str, torch.Tensor]:
    return {**pixels(side), "labels": torch.randint(5, (B,))}


def typed(batch: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """With the kind of every token: 1 for a piece of an image."""
    return {**batch, name: (batch["input_ids"] == IMAGE).long()}


def packed() -> dict[str, torch.Tensor]:
    """Qwen's patches, in one row."""
    patches = {"pixel_values": torch.randn(B * 16, 96), "image_grid_thw": torch.tensor([[1, 4, 4]] * B)}
    return {**typed(words(4, at=2), "mm_token_type_ids"), **patches}


def navit() -> dict[str, torch.Tensor]:
    """SigLIP2's: images of another shape, filled up with patches that don't count."""
    mask = torch.ones(B, 16, dtype=torch.long)
    mask[1, 12:] = 0
    shapes = torch.tensor([[4, 4], [3, 4], [4, 4]])
    looks = {"pixel_values": torch.randn(B, 16, 48), "pixel_attention_mask": mask, "spatial_shapes": shapes}
    return {"input_ids": torch.randint(3, 58, (B, 16)), **looks}


def tiled() -> dict[str, torch.Tensor]:
    """SmolVLM's: one image a row, the second half empty."""
    mask = torch.ones(B, 1, 16, 16, dtype=torch.long)
    mask[1, :, 8:] = 0
    return {**words(4), "pixel_values": torch.randn(B, 1, 3, 16, 16), "pixel_attention_mask": mask}


def crops() -> dict[str, torch.Tensor]:
    """LLaVA-OneVision's: the whole image and one tile; 4 · 4 patches, each twice, a sign for every line."""
    sizes = {"image_sizes": torch.tensor([[16, 16]] * B), "batch_num_images": torch.ones(B, dtype=torch.long)}
    ids, mask = torch.randint(3, 58, (B, 48)), torch.ones(B, 48, dtype=torch.long)
    ids[:, :36] = IMAGE
    ids[1, 44:], mask[1, 44:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(B, 2, 3, 16, 16), **sizes}


def mllama() -> dict[str, torch.Tensor]:
    tiles = {"aspect_ratio_ids": torch.ones(B, 1, dtype=torch.long), "aspect_ratio_mask": torch.tensor([[[1, 0]]] * B)}
    looks = {"cross_attention_mask": torch.ones(B, T, 1, 2, dtype=torch.long)}
    return {**words(), "pixel_values": torch.randn(B, 1, 2, 3, 16, 16), **tiles, **looks}


def instructed() -> dict[str, torch.Tensor]:
    """InstructBLIP's: an instruction for the Q-Former beside the text."""
    asked = words()
    return {
        **words(4),
        **pixels(),
        "qformer_input_ids": asked["input_ids"],
        "qformer_attention_mask": asked["attention_mask"],
    }


def answered() -> dict[str, torch.Tensor]:
    """BLIP's questions: answers for the decoder beside what the encoder reads."""
    ids, mask = torch.randint(3, 58, (B, 6)), (torch.arange(6) < torch.tensor([[6], [3], [4]])).long()
    said = {"decoder_input_ids": ids * mask, "decoder_attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    return {**words(), **pixels(), **said}


@dataclass(frozen=True)
class Kind:
    """A model and what is known of it.

    Attributes:
        blocks: repeated layers by modality.
        layers: prunable weights.
        loss: whether its batch has one.
        pads: whether padding may be added to its texts (a model without attention mask has only seen full length).
        stays: names of some that stay dense.
    """

    model: Callable[[], Any]
    batch: Callable[[], dict[str, torch.Tensor]]
    blocks: dict[str, int]
    layers: int
    stays: tuple[str, ...]
    loss: bool = True
    pads: bool = True


def _vision(kind: str, **more: Any) -> dict[str, Any]:
    return SEEN | {"model_type": kind} | more


def _text(kind: str, **more: Any) -> dict[str, Any]:
    return READ | {"model_type": kind} | more


def _opt() -> dict[str, Any]:
    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    places = {"word_embed_proj_dim": 32, "max_position_embeddings": 64}
    return {"model_type": "opt", **sizes, **places, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _bart() -> dict[str, Any]:
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "vocab_size": 64,
        "max_position_embeddings": 64,
    }
    signs = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return sizes | heads | signs | {"forced_eos_token_id": 2}


def _t5(**more: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    signs = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return sizes | signs | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} | more


def _blip2(text: dict[str, Any], **more: Any) -> t.Blip2Config:
    bridge = LAYERS | {"encoder_hidden_size": 32, "vocab_size": 64, "cross_attention_frequency": 2}
    return t.Blip2Config(
        vision_config=SEEN, qformer_config=bridge, text_config=text, num_query_tokens=4, image_token_index=IMAGE, **more
    )


def _speaking(kind: Any, config: Any, vision: dict[str, Any], text: dict[str, Any], **more: Any) -> Any:
    return kind(config(vision_config=vision, text_config=text, **more))


ZOO: dict[str, Kind] = {
    "vit": Kind(
        lambda: t.ViTForImageClassification(t.ViTConfig(**SEEN, num_labels=5)),
        labelled, {"vision": 2}, 12, ("classifier.weight", "vit.embeddings.position_embeddings"),
    ),
    "swin": Kind(
        lambda: t.SwinForImageClassification(
            t.SwinConfig(image_size=32, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5)
        ),
        lambda: labelled(32), {"vision": 4}, 25, ("classifier.weight",),
    ),
    "dinov2": Kind(
        lambda: t.Dinov2Model(t.Dinov2Config(**{k: v for k, v in SEEN.items() if k != "intermediate_size"})),
        pixels, {"vision": 2}, 12, ("embeddings.position_embeddings",), loss=False,
    ),
    "siglip": Kind(
        lambda: t.SiglipModel(t.SiglipConfig(text_config=PAIR, vision_config=SEEN)),
        lambda: {"input_ids": torch.randint(3, 58, (B, 16)), **pixels()}, {"vision": 2, "text": 2}, 28,
        ("vision_model.head.attention.in_proj_weight", "text_model.embeddings.token_embedding.weight"), pads=False,
    ),
    "siglip2": Kind(
        lambda: t.Siglip2Model(
            t.Siglip2Config(text_config=PAIR, vision_config=LAYERS | {"patch_size": 4, "num_patches": 16})
        ),
        navit, {"vision": 2, "text": 2}, 28, ("vision_model.embeddings.patch_embedding.weight",), pads=False,
    ),
    "clip": Kind(
        lambda: t.CLIPModel(
            t.CLIPConfig(text_config=PAIR | {"max_position_embeddings": 64}, vision_config=SEEN, projection_dim=16)
        ),
        lambda: {**words(), **pixels()}, {"vision": 2, "text": 2}, 26,
        ("text_model.embeddings.position_embedding.weight",),
    ),
    "blip": Kind(
        lambda: t.BlipForConditionalGeneration(
            t.BlipConfig(
                text_config=PAIR | {"encoder_hidden_size": 32, "sep_token_id": 2, "max_position_embeddings": 64},
                vision_config=SEEN,
            )
        ),
        lambda: {**words(), **pixels()}, {"vision": 2, "text": 2, "fusion": 2}, 28,
        ("text_decoder.cls.predictions.transform.dense.weight", "text_decoder.bert.embeddings.word_embeddings.weight"),
    ),
    "blip_questions": Kind(
        lambda: t.BlipForQuestionAnswering(
            t.BlipConfig(
                text_config=PAIR | {"encoder_hidden_size": 32, "sep_token_id": 2, "max_position_embeddings": 64},
                vision_config=SEEN,
            )
        ),
        answered, {"vision": 2, "text": 4, "fusion": 4}, 48,
        ("text_decoder.cls.predictions.transform.dense.weight", "text_encoder.embeddings.word_embeddings.weight"),
        pads=False,  # transformers' decoder looks at a question's padding too
    ),
    "blip2": Kind(
        lambda: t.Blip2ForConditionalGeneration(_blip2(_opt())),
        lambda: {**words(4), **pixels()}, {"vision": 2, "text": 2, "fusion": 2}, 37,
        ("language_model.model.decoder.embed_tokens.weight", "query_tokens"),
    ),
    "blip2_t5": Kind(
        lambda: t.Blip2ForConditionalGeneration(_blip2(_t5(model_type="t5"), use_decoder_only_language_model=False)),
        lambda: {**words(4), **pixels()}, {"vision": 2, "text": 4, "fusion": 2}, 61, ("language_model.shared.weight",),
    ),
    "blip2_matching": Kind(
        lambda: t.Blip2ForImageTextRetrieval(
            t.Blip2Config(
                vision_config=SEEN,
                qformer_config=WORDS | {"encoder_hidden_size": 32, "use_qformer_text_input": True},
                text_config=_opt(), num_query_tokens=4, image_text_hidden_size=16,
            )
        ),
        lambda: {**words(), **pixels(), "use_image_text_matching_head": True}, {"vision": 2, "fusion": 2}, 30,
        ("itm_head.weight", "embeddings.word_embeddings.weight"), loss=False,
    ),
    "instructblip": Kind(
        lambda: t.InstructBlipForConditionalGeneration(
            t.InstructBlipConfig(
                vision_config=SEEN, qformer_config=WORDS | {"encoder_hidden_size": 32}, text_config=_opt(),
                num_query_tokens=4, image_token_index=IMAGE,
            )
        ),
        instructed, {"vision": 2, "text": 2, "fusion": 2}, 41, ("qformer.embeddings.word_embeddings.weight",),
    ),
    "t5_backbone": Kind(lambda: t.T5Model(t.T5Config(**_t5())), words, {"text": 4}, 36, ("shared.weight",), loss=False),
    "t5": Kind(lambda: t.T5ForConditionalGeneration(t.T5Config(**_t5())), words, {"text": 4}, 36, ("shared.weight",)),
    "bart": Kind(
        lambda: t.BartForConditionalGeneration(t.BartConfig(**_bart())),
        words, {"text": 4}, 32, ("model.shared.weight",),
    ),
    "bert": Kind(
        lambda: t.BertForMaskedLM(t.BertConfig(**LAYERS, vocab_size=64, max_position_embeddings=64)),
        words, {"text": 2}, 12, ("cls.predictions.transform.dense.weight", "bert.embeddings.word_embeddings.weight"),
    ),
    "gpt2": Kind(
        lambda: t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
            )
        ),
        words, {"text": 2}, 8, ("transformer.wte.weight", "transformer.wpe.weight"),
    ),
    "xlnet": Kind(
        lambda: t.XLNetLMHeadModel(t.XLNetConfig(vocab_size=64, d_model=32, n_layer=2, n_head=4, d_inner=64)),
        words, {"text": 2}, 4, ("transformer.layer.0.rel_attn.q", "transformer.word_embedding.weight"),
    ),
    "fsmt": Kind(
        lambda: t.FSMTForConditionalGeneration(
            t.FSMTConfig(**_bart(), langs=["en", "de"], src_vocab_size=64, tgt_vocab_size=64, tie_word_embeddings=False)
        ),
        words, {"text": 4}, 32, ("model.decoder.output_projection.weight",),
    ),
    "longformer": Kind(
        lambda: t.LongformerForMaskedLM(
            t.LongformerConfig(**WORDS, max_position_embeddings=64, attention_window=[10, 10])
        ),
        words, {"text": 2}, 18, ("lm_head.dense.weight",),
    ),
    "llama": Kind(
        lambda: t.LlamaForCausalLM(t.LlamaConfig(**READ)), words, {"text": 2}, 14,
        ("lm_head.weight", "model.embed_tokens.weight"),
    ),
    "mixtral": Kind(
        lambda: t.MixtralForCausalLM(t.MixtralConfig(**READ, **GATES)), words, {"text": 2}, 8,
        ("lm_head.weight", "model.layers.0.mlp.gate.weight"),
    ),
    "llava": Kind(
        lambda: _speaking(
            t.LlavaForConditionalGeneration, t.LlavaConfig, _vision("clip_vision_model"), _text("llama"),
            image_token_index=IMAGE,
        ),
        lambda: {**words(16), **pixels()}, {"vision": 2, "text": 2}, 28, ("lm_head.weight",),
    ),
    "llava_onevision": Kind(
        lambda: _speaking(
            t.LlavaOnevisionForConditionalGeneration, t.LlavaOnevisionConfig,
            _vision("siglip_vision_model", vision_use_head=False), _text("qwen2"),
            image_token_index=IMAGE, video_token_index=VIDEO, image_grid_pinpoints=[[16, 16], [16, 32], [32, 16]],
        ),
        crops, {"vision": 2, "text": 2}, 28, ("lm_head.weight",),
    ),
    "qwen2_5_vl": Kind(
        lambda: _speaking(
            t.Qwen2_5_VLForConditionalGeneration, t.Qwen2_5_VLConfig,
            TOWER | {"spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [1]},
            READ | {"rope_scaling": TURNS | {"type": "mrope"}}, **QWEN,
        ),
        packed, {"vision": 2, "text": 2}, 26, ("lm_head.weight", "model.visual.patch_embed.proj.weight"),
    ),
    "qwen3_vl": Kind(
        lambda: _speaking(
            t.Qwen3VLForConditionalGeneration, t.Qwen3VLConfig,
            TOWER | {"spatial_merge_size": 2, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            READ | {"head_dim": 8, "rope_scaling": TURNS}, **QWEN,
        ),
        packed, {"vision": 2, "text": 2, "fusion": 1}, 26, ("lm_head.weight", "model.visual.pos_embed.weight"),
    ),
    "smolvlm": Kind(
        lambda: _speaking(
            t.SmolVLMForConditionalGeneration, t.SmolVLMConfig, SEEN, _text("llama"), scale_factor=2,
            image_token_id=IMAGE, pad_token_id=0,
        ),
        tiled, {"vision": 2, "text": 2}, 27, ("lm_head.weight",),
    ),
    "idefics3": Kind(
        lambda: _speaking(
            t.Idefics3ForConditionalGeneration, t.Idefics3Config, SEEN, _text("llama"), scale_factor=2,
            image_token_id=IMAGE, pad_token_id=0,
        ),
        tiled, {"vision": 2, "text": 2}, 27, ("lm_head.weight",),
    ),
    "gemma3": Kind(
        lambda: _speaking(
            t.Gemma3ForConditionalGeneration, t.Gemma3Config, SEEN | {"vision_use_head": False},
            READ | {"head_dim": 8, "sliding_window": 8}, mm_tokens_per_image=4, image_token_index=IMAGE,
            boi_token_index=BEGIN, eoi_token_index=END,
        ),
        lambda: {**typed(words(4, at=1), "token_type_ids"), **pixels()}, {"vision": 2, "text": 2}, 26,
        ("model.language_model.embed_tokens.weight", "model.multi_modal_projector.mm_input_projection_weight"),
    ),
    "paligemma": Kind(
        lambda: _speaking(
            t.PaliGemmaForConditionalGeneration, t.PaliGemmaConfig,
            _vision("siglip_vision_model", vision_use_head=False, projection_dim=32), _text("gemma", head_dim=8),
            projection_dim=32, image_token_index=IMAGE,
        ),
        lambda: {**words(16), **pixels(), "token_type_ids": torch.zeros(B, T, dtype=torch.long)},
        {"vision": 2, "text": 2}, 27, ("model.language_model.embed_tokens.weight",),
    ),
    "internvl": Kind(
        lambda: _speaking(
            t.InternVLForConditionalGeneration, t.InternVLConfig,
            LAYERS | {"image_size": [16, 16], "patch_size": [4, 4]}, _text("qwen2"), image_token_id=IMAGE,
            image_seq_length=4, downsample_ratio=0.5,
        ),
        lambda: {**words(4), **pixels()}, {"vision": 2, "text": 2}, 28,
        ("model.vision_tower.embeddings.position_embeddings",),
    ),
    "mllama": Kind(
        lambda: _speaking(
            t.MllamaForConditionalGeneration, t.MllamaConfig,
            {
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
                "attention_heads": 4, "image_size": 16, "patch_size": 4, "max_num_tiles": 2, "vision_output_dim": 64,
                "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            },
            READ | {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            image_token_index=IMAGE,
        ),
        mllama, {"vision": 3, "text": 2, "fusion": 1}, 33, ("lm_head.weight",),
    ),
    "florence2": Kind(
        lambda: t.Florence2ForConditionalGeneration(
            t.Florence2Config(
                vision_config=DAVIT, text_config={"model_type": "bart", **_bart()}, image_token_id=IMAGE
            )
        ),
        lambda: {**words(5), **pixels(64), "labels": torch.randint(3, 58, (B, 6))},
        {"vision": 5, "text": 4}, 73, ("model.language_model.shared.weight",),
    ),
    "vilt": Kind(
        lambda: t.ViltForQuestionAnswering(
            t.ViltConfig(**SEEN, vocab_size=64, max_position_embeddings=64, num_labels=5)
        ),
        lambda: {**words(), **pixels(), "pixel_mask": torch.ones(B, 16, 16), "labels": torch.rand(B, 5)},
        {"fusion": 2}, 13, ("classifier.3.weight",),
    ),
    "git": Kind(
        lambda: t.GitForCausalLM(t.GitConfig(vision_config=SEEN, **WORDS, max_position_embeddings=64)),
        lambda: {**words(), **pixels()}, {"vision": 2, "fusion": 2}, 25, ("output.weight",),
    ),
}  # fmt: skip


def built(name: str, seed: int = 0) -> Any:
    """The model in evaluation mode, its weights large enough that every path makes a difference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ZOO[name].model().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    parameter.normal_()  # learned tokens that begin at zero
                parameter.mul_(4 if parameter.ndim == 2 else 1)
    return model


def batches(name: str) -> list[dict[str, torch.Tensor]]:
    """Two of them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return [ZOO[name].batch() for _ in range(2)]
