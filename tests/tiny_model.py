"""A random model of a few thousand parameters with its own tokenizer, so that tests need no weights."""

import json
import re
import string
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from sacremoses import MosesTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertTokenizer,
    BioGptTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

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
REPORT_SENTENCES = [
    "Write the findings and impression of this chest X-ray.",
    "FINDINGS: The heart is mildly enlarged. There is a small pleural effusion.",
    "IMPRESSION: Mild cardiomegaly; no pneumothorax or focal consolidation.",
    "Cardiomegaly: positive; Pleural Effusion: uncertain; Pneumothorax: negative. Answer:",
    'Possible follow-up of the right-sided catheter, 1.5 cm (tip) above the carina. <3 & >2 [x] "y" don\'t',
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


def build_markup_tokenizer(
    special: Sequence[str],
    *,
    begin: str | None = None,
    end: str,
    padding: str | None = None,
    unknown: str | None = None,
    words: Sequence[str] = (),
    begins_texts: bool = False,
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of few hundred tokens that has the special tokens of a real model.

    Args:
        special (`Sequence[str]`):
            All of them, in the order of their ids.
        begin, end, padding, unknown (`str`, *optional*):
            Those that the tokenizer names as such.
        words (`Sequence[str]`, *optional*):
            Tokens of their own that are ordinary text, as `<think>` is in some vocabularies.
        begins_texts (`bool`, *optional*, defaults to `False`):
            Whether the tokenizer itself writes `begin` in front of every text.
        chat_template (`str`, *optional*):
            The tokenizer's own.

    Returns:
        [`~transformers.PreTrainedTokenizerFast`]
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_tokens(list(words))
    if begins_texts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    named = {"bos_token": begin, "eos_token": end, "pad_token": padding, "unk_token": unknown}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=chat_template,
        **{name: token for name, token in named.items() if token},
    )


def build_tiny_biogpt_tokenizer() -> BioGptTokenizer:
    """BioGPT's own tokenizer class (Moses, then BPE) on a vocabulary of about 500 tokens: `<s>`, `<pad>`, `</s>`, `<unk>` first."""
    moses = MosesTokenizer(lang="en")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        end_of_word_suffix="</w>",
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation),
        show_progress=False,
    )
    sentences = SENTENCES + REPORT_SENTENCES
    tokenizer.train_from_iterator(
        [moses.tokenize(s, aggressive_dash_splits=True, return_str=True) for s in sentences], trainer
    )
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_file, merges_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        tokenizer.model.save(folder)
        vocabulary = json.loads(vocabulary_file.read_text(encoding="utf-8"))
        for character in string.ascii_letters + string.digits + string.punctuation:
            vocabulary.setdefault(
                character + "</w>", len(vocabulary)
            )  # training adds only those that it saw end a word
        vocabulary_file.write_text(json.dumps(vocabulary), encoding="utf-8")
        merges = merges_file.read_text(encoding="utf-8").splitlines()[1:]  # without its version line, as BioGPT's is
        merges_file.write_text("".join(f"{merge}\n" for merge in merges), encoding="utf-8")
        return BioGptTokenizer(str(vocabulary_file), str(merges_file), model_max_length=1024)


def build_tiny_biogpt(root: Path, model_id: str, hidden_size: int = 32, initializer_range: float = 0.02) -> Path:
    """Save a random BioGPT: learned positions, no chat template, `</s>` before every text and as its end."""
    return build_tiny_model(
        root,
        model_id,
        "biogpt",
        hidden_size=hidden_size,
        tokenizer=build_tiny_biogpt_tokenizer(),
        initializer_range=initializer_range,
    )


def build_tiny_model(
    root: Path,
    model_id: str,
    architecture: str = "llama",
    grouped_query: bool = True,
    hidden_size: int = 32,
    tokenizer: PreTrainedTokenizerBase | None = None,
    initializer_range: float = 0.02,
    **changes,
) -> Path:
    """Save a random causal model with its tokenizer in the folders of a Hub clone: `<root>/<org>/<name>/`.

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
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer; [`build_tiny_tokenizer`] where left out.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Deviation of the weights. The embeddings stay frozen under LoRA: with small ones no text can be learned by heart.
        changes (`Any`):
            Further fields of the configuration, or other values of those set here.

    Returns:
        `Path`: the model's folder.
    """
    tokenizer = tokenizer or build_tiny_tokenizer()
    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if grouped_query else 4,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
        "initializer_range": initializer_range,
    }
    return _save_random(root / model_id, AutoConfig.for_model(architecture, **(fields | changes)), tokenizer)


def build_tiny_encoder(root: Path, model_id: str, architecture: str = "bert", **changes) -> Path:
    """Save a random BERT, or other encoder, of words and single letters, without a head; sentence-transformers loads it too.

    Args:
        root (`Path`):
            The folder of base models.
        model_id (`str`):
            Hub id of the new model: `"org/name"`.
        architecture (`str`, *optional*, defaults to `"bert"`):
            A `model_type` of Transformers.
        changes (`Any`):
            Fields of its configuration, or other values of those set here.

    Returns:
        `Path`: the model's folder.
    """
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = sorted(set(re.findall(r"\w+", " ".join(SENTENCES + REPORT_SENTENCES).lower())) - set(letters))
    pieces = [
        *["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        *letters,
        *(f"##{letter}" for letter in letters),
        *words,
    ]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=64)
    fields = {
        "vocab_size": len(pieces),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(architecture, **(fields | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(config, dtype=torch.float32).save_pretrained(root / model_id)
    tokenizer.save_pretrained(root / model_id)
    names = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{name}"}
        for place, (path, name) in enumerate(names.items())
    ]
    (root / model_id / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    pooling = {"word_embedding_dimension": config.hidden_size, "pooling_mode_mean_tokens": True}
    (root / model_id / "1_Pooling").mkdir(exist_ok=True)
    (root / model_id / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return root / model_id


def build_tiny_gemma_with_images(
    root: Path, model_id: str, tokenizer: PreTrainedTokenizerBase | None = None, **changes
) -> Path:
    """Save a random Gemma 3 with a vision tower, its weights named as in the repositories of the Hub.

    Args:
        root (`Path`):
            The folder of base models.
        model_id (`str`):
            Hub id of the new model: `"org/name"`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Its tokenizer; [`build_tiny_tokenizer`] where left out.
        changes (`Any`):
            Fields of the text part's configuration, or other values of those set here.

    Returns:
        `Path`: the model's folder.
    """
    tokenizer = tokenizer or build_tiny_tokenizer()
    text = {
        "model_type": "gemma3_text",
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    # A picture is two by two patches, each one token.
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text | changes,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=5,
        boi_token_index=6,
        eoi_token_index=7,
    )
    return _save_random(root / model_id, config, tokenizer)


def _save_random(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
