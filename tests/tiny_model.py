"""A random model of a few thousand parameters with its own tokenizer, so that tests need no weights."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SENTENCES = [
    "Choose the imaging protocol for this order.",
    "r/o renal recurrence, s/p partial nephrectomy",
    "c/f stroke, sudden onset weakness, 71 yo M",
    "chronic knee pain, r/o meniscal tear, 34 yo F",
    "worst headache of life, r/o bleed, no contrast",
    "CT Dedicated Kidney",
    "CT Head",
    "MR Brain",
    "MR Knee",
    "system user assistant",
]


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 400 tokens in ChatML, its padding token apart from its stop token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )


def build_tiny_model(
    root: Path, model_id: str, architecture: str = "llama", grouped_query: bool = True, hidden_size: int = 32
) -> Path:
    """Save a random causal model with its tokenizer as a Hub clone would lie: `<root>/<org>/<name>/`.

    Args:
        root (`Path`):
            The folder of base models, for example `tmp_path / "models"`.
        model_id (`str`):
            Hub id of the new model: `"org/name"`.
        architecture (`str`, *optional*, defaults to `"llama"`):
            A `model_type` of Transformers: `"llama"`, `"qwen2"`, `"mistral"`, `"gpt2"`, …
        grouped_query (`bool`, *optional*, defaults to `True`):
            Whether two query heads share a key and value head, as in most current models.
        hidden_size (`int`, *optional*, defaults to `32`):
            Width; 4-bit quantisation needs a multiple of 64.

    Returns:
        `Path`: the model's folder.
    """
    tokenizer = build_tiny_tokenizer()
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2 if grouped_query else 4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = root / model_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
