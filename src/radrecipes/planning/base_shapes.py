"""Shapes of the recipes' base models, so that a plan needs neither their files nor access to them.

Only what determines the shape of a tensor, from each model's `config.json` as public code repeats it (litgpt's `config.py`,
defaults of Transformers' configuration classes). A configuration on this machine takes precedence.
"""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

_LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
_QWEN3 = {"model_type": "qwen3", "vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8}
_GEMMA3 = {"model_type": "gemma3_text", "head_dim": 256, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "epfl-llm/meditron-7b": {
        "model_type": "llama",
        "vocab_size": 32_017,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
    },
    "EPFLiGHT/Meditron3-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "meta-llama/Llama-3.2-3B-Instruct": {
        **_LLAMA_8B,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "tie_word_embeddings": True,
    },
    "BioMistral/BioMistral-7B": {**_LLAMA_8B, "model_type": "mistral", "vocab_size": 32_000},
    "Qwen/Qwen3-0.6B": {
        **_QWEN3,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-4B": {
        **_QWEN3,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B": {
        **_QWEN3,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "microsoft/Phi-4-mini-instruct": {
        "model_type": "phi3",
        "vocab_size": 200_064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "google/gemma-3-1b-it": {
        **_GEMMA3,
        "vocab_size": 262_144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
    },
    # The text model, the part that recipes train
    "google/medgemma-4b-it": {
        **_GEMMA3,
        "vocab_size": 262_208,
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "google/medgemma-27b-text-it": {
        **_GEMMA3,
        "vocab_size": 262_144,
        "hidden_size": 5376,
        "intermediate_size": 21_504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
    },
    "HuggingFaceTB/SmolLM3-3B": {
        "model_type": "smollm3",
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolLM2-360M-Instruct": {
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
        "tie_word_embeddings": True,
    },
    "microsoft/biogpt": {
        "model_type": "biogpt",
        "vocab_size": 42_384,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "microsoft/BioGPT-Large": {
        "model_type": "biogpt",
        "vocab_size": 57_717,
        "hidden_size": 1600,
        "intermediate_size": 6400,
        "num_hidden_layers": 48,
        "num_attention_heads": 25,
        "max_position_embeddings": 2048,
    },
}


def shape_of(model_id: str) -> PreTrainedConfig | None:
    """A configuration with the shape of that base model; `None` if it is unknown."""
    return AutoConfig.for_model(**SHAPES[model_id]) if model_id in SHAPES else None
