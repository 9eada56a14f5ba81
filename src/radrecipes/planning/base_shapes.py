"""Shapes of the recipes' base models, so that a plan needs neither their files nor access to them.

Only what determines the shape of a tensor, from each model's `config.json` as public code repeats it (litgpt's `config.py`,
defaults of Transformers' configuration classes). A configuration on this machine takes precedence.
"""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

_COLUMNS = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "tie_word_embeddings"),
)


def _shape(*columns: Any, **other_fields: Any) -> dict[str, Any]:
    """Fields of a configuration; of BioGPT and encoders it has only the first six of [`_COLUMNS`]."""
    return dict(zip(_COLUMNS, columns, strict=False)) | other_fields


_LLAMA_8B = _shape("llama", 128_256, 4096, 14_336, 32, 32, 8, False)
SHAPES: dict[str, dict[str, Any]] = {
    "epfl-llm/meditron-7b": _shape("llama", 32_017, 4096, 11_008, 32, 32, 32, False),
    "EPFLiGHT/Meditron3-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "meta-llama/Llama-3.2-3B-Instruct": _shape("llama", 128_256, 3072, 8192, 28, 24, 8, True),
    "BioMistral/BioMistral-7B": _shape("mistral", 32_000, 4096, 14_336, 32, 32, 8, False),
    "Qwen/Qwen3-0.6B": _shape("qwen3", 151_936, 1024, 3072, 28, 16, 8, True, head_dim=128),
    "Qwen/Qwen3-4B": _shape("qwen3", 151_936, 2560, 9728, 36, 32, 8, True, head_dim=128),
    "Qwen/Qwen3-8B": _shape("qwen3", 151_936, 4096, 12_288, 36, 32, 8, False, head_dim=128),
    "microsoft/Phi-4-mini-instruct": _shape("phi3", 200_064, 3072, 8192, 32, 24, 8, True),
    "google/gemma-3-1b-it": _shape("gemma3_text", 262_144, 1152, 6912, 26, 4, 1, True, head_dim=256),
    # The text model, the part that recipes train
    "google/medgemma-4b-it": _shape("gemma3_text", 262_208, 2560, 10_240, 34, 8, 4, True, head_dim=256),
    "google/medgemma-27b-text-it": _shape("gemma3_text", 262_144, 5376, 21_504, 62, 32, 16, True, head_dim=128),
    "HuggingFaceTB/SmolLM3-3B": _shape("smollm3", 128_256, 2048, 11_008, 36, 16, 4, True),
    "HuggingFaceTB/SmolLM2-360M-Instruct": _shape("llama", 49_152, 960, 2560, 32, 15, 5, True),
    "answerdotai/ModernBERT-base": _shape("modernbert", 50_368, 768, 1152, 22, 12),
    "thomas-sounack/BioClinical-ModernBERT-base": _shape("modernbert", 50_368, 768, 1152, 22, 12),
    "sentence-transformers/all-MiniLM-L6-v2": _shape("bert", 30_522, 384, 1536, 6, 12),
    "microsoft/biogpt": _shape("biogpt", 42_384, 1024, 4096, 24, 16),
    "microsoft/BioGPT-Large": _shape("biogpt", 57_717, 1600, 6400, 48, 25, max_position_embeddings=2048),
}


def shape_of(model_id: str) -> PreTrainedConfig | None:
    """A configuration with the shape of that base model; `None` if it is unknown."""
    return AutoConfig.for_model(**SHAPES[model_id]) if model_id in SHAPES else None
