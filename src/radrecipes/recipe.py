"""A recipe: one flat YAML file for one model and one task, parsed strictly on top of [`~trl.TrlParser`].

TRL's own parser lets a misspelt key, a wrong type and a value outside its choices pass (YAML values become argparse
defaults, which argparse does not check) and lets an `env:` block set any environment variable. Here every key and value is
checked, with its line, before any model is loaded.
"""

import enum
import hashlib
import json
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import parse_flag_from_env
from rapidfuzz import process
from transformers.integrations import INTEGRATION_TO_CALLBACK
from trl import ModelConfig, SFTConfig, TrlParser

from radrecipes.errors import InputError
from radrecipes.models.base import compute_dtype
from radrecipes.tasks import TASKS


@dataclass
class RecipeArguments:
    """The fields that a recipe has beside those of [`~trl.SFTConfig`] and [`~trl.ModelConfig`].

    Args:
        task (`str`):
            What the model learns to write.
        dataset (`str`):
            Folder of a prepared dataset, relative to the working directory.
        prompt_style (`str`, *optional*, defaults to `"chat"`):
            `"chat"` renders through the tokenizer's chat template, `"plain"` is for base models without one.
        global_batch_size (`int`, *optional*, defaults to `16`):
            Examples per optimizer step over all processes; gradient accumulation follows from the number of processes.
        batch_layout (`str`, *optional*, defaults to `"shared_prefix"`):
            `"shared_prefix"` lays several examples in one row behind the prompt beginning that they share, so that neither
            padding nor the repeated beginning is computed; `"padded"` is one example a row, for models whose attention
            cannot take a mask of its own.
        decode (`str`, *optional*):
            `"score"` gives every label of the label set a probability, `"generate"` writes one answer freely. Left out, labels
            are scored and reports generated.
        max_new_tokens (`int`, *optional*, defaults to `32`):
            Longest answer, in tokens, where it is generated.
        max_dropped_fraction (`float`, *optional*, defaults to `0.005`):
            Share of training rows, 0 to 1, that may be too long for `max_length` and be left out.
    """

    task: str = field(metadata={"help": "What the model learns to write.", "choices": sorted(TASKS)})
    dataset: str = field(metadata={"help": "Folder of a prepared dataset."})
    prompt_style: str = field(
        default="chat",
        metadata={"help": "`chat` uses the tokenizer's template, `plain` none.", "choices": ["chat", "plain"]},
    )
    global_batch_size: int = field(default=16, metadata={"help": "Examples per optimizer step over all processes."})
    batch_layout: str = field(
        default="shared_prefix",
        metadata={
            "help": "`shared_prefix` computes the beginning that prompts share once a row; `padded` is one example a row.",
            "choices": ["shared_prefix", "padded"],
        },
    )
    decode: str | None = field(
        default=None,
        metadata={
            "help": "`score` gives every label of the label set a probability, `generate` writes one answer freely.",
            "choices": ["score", "generate"],
        },
    )
    max_new_tokens: int = field(default=32, metadata={"help": "Longest answer in tokens, where it is generated."})
    max_dropped_fraction: float = field(
        default=0.005, metadata={"help": "Share of training rows that may be too long and be left out."}
    )

    def __post_init__(self) -> None:
        """Fill in what follows from the task."""
        if self.decode is None:
            self.decode = "score" if TASKS[self.task].writes == "label" else "generate"


# Fields of TRL that a recipe may not set, each with the mend.
_REFUSED = {
    "env": "a recipe must not set environment variables (it could redirect HF_ENDPOINT); set them in your shell",
    "trust_remote_code": "recipes never run code from a model repository; use a model that Transformers implements",
    "hub_token": "never write a token into a recipe; run `hf auth login`",
    "push_to_hub": "publishing is a step of its own, behind gates; remove the key",
    "hub_model_id": "publishing is a step of its own, behind gates; remove the key",
    "hub_strategy": "publishing is a step of its own, behind gates; remove the key",
    "hub_always_push": "publishing is a step of its own, behind gates; remove the key",
    "hub_revision": "publishing is a step of its own, behind gates; remove the key",
    "hub_private_repo": "publishing is a step of its own, behind gates; remove the key",
    "gradient_accumulation_steps": "it follows from global_batch_size and the number of processes; remove the key",
    "gradient_checkpointing": "Transformers 5 renamed it; use activation_checkpointing",
    "gradient_checkpointing_kwargs": "Transformers 5 renamed it; use activation_checkpointing_kwargs",
    "use_cpu": "the launch configuration decides: accelerate_configs/cpu.yaml",
    "auto_find_batch_size": "it would change the batch that the results depend on; set per_device_train_batch_size",
    "bf16": "it follows from dtype; set dtype: bfloat16",
    "fp16": "it follows from dtype; set dtype: bfloat16",
    "packing": "it would mix examples; batch_layout: shared_prefix already computes no padding",
    "packing_strategy": "it would mix examples; batch_layout: shared_prefix already computes no padding",
    "eval_packing": "it would mix examples; batch_layout: shared_prefix already computes no padding",
    "padding_free": "batch_layout: shared_prefix already computes no padding",
    "assistant_only_loss": "the loss is always on the completion only; remove the key",
    "dataset_text_field": "a task names its columns itself; remove the key",
    "dataset_kwargs": "the prepared dataset needs none; remove the key",
    "formatting_func": "a task renders its prompt itself; remove the key",
    "model_init_kwargs": "set model_revision, dtype or attn_implementation instead",
    "label_names": "the labels are the completion tokens; remove the key",
    "remove_unused_columns": "the columns are the task's; remove the key",
    "use_liger_kernel": "deprecated in TRL 1.16; remove the key",
    "pad_token": "deprecated in TRL 1.16; a padding token that is no stop token is chosen by itself",
    "label_smoothing_factor": "deprecated in TRL 1.16 and not part of the recorded loss; remove the key",
    "resume_from_checkpoint": "run the same command again instead; remove the key",
    "ignore_data_skip": "a resumed run continues with the row that came next; remove the key",
    "restore_callback_states_from_checkpoint": "a resumed run restores what it needs; remove the key",
    "enable_jit_checkpoint": "SIGTERM saves a checkpoint by itself; remove the key",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed; remove the key",
    "save_on_each_node": "the folder of a run is one for all machines; remove the key",
    "save_total_limit": "the two newest valid checkpoints are kept; remove the key",
    "load_best_model_at_end": "evaluation is a step of its own: scripts/evaluate_model.py",
    "metric_for_best_model": "evaluation is a step of its own: scripts/evaluate_model.py",
    "greater_is_better": "evaluation is a step of its own: scripts/evaluate_model.py",
    "logging_steps": "every step is logged, because a loss that is no number must end the run at once; remove the key",
    "logging_strategy": "every step is logged, because a loss that is no number must end the run at once; remove the key",
    "logging_first_step": "every step is logged; remove the key",
    "logging_nan_inf_filter": "a loss that is no number ends the run instead; remove the key",
    "do_train": "scripts/sft.py always trains; remove the key",
    "do_eval": "scripts/evaluate_model.py evaluates; remove the key",
    "do_predict": "scripts/predict.py predicts; remove the key",
    "deepspeed": "choose it with accelerate launch --config_file accelerate_configs/zero3.yaml",
    "fsdp": "choose it with accelerate launch --config_file accelerate_configs/fsdp2.yaml",
    "fsdp_config": "choose it with accelerate launch --config_file accelerate_configs/fsdp2.yaml",
    "accelerator_config": "choose it with a file under accelerate_configs/",
    "debug": "a tool of Transformers' developers; remove the key",
    "include_num_input_tokens_seen": "the manifest counts the tokens; remove the key",
    "local_rank": "the launcher sets it; remove the key",
    "per_device_eval_batch_size": "evaluation is a step of its own: scripts/evaluate_model.py --batch-size",
    "eval_strategy": "evaluation is a step of its own: scripts/evaluate_model.py",
    "eval_on_start": "evaluation is a step of its own: scripts/evaluate_model.py",
    "loss_type": "the loss is always the cross-entropy of the completion; remove the key",
    "eos_token": "rows end with the tokenizer's own stop token; set chat_template_path to change the template",
    "lora_task_type": "it is always CAUSAL_LM; remove the key",
}
# Fields whose default here differs from TRL's, each for a measured or stated reason.
_OUR_DEFAULTS = {
    "activation_checkpointing": False,  # costs a forward pass; these models and notes fit without it
    "per_device_train_batch_size": 16,
    "completion_only_loss": True,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,  # else a loss that is no number is logged as 0
    "save_strategy": "steps",
    "save_steps": 0.1,  # a share of all steps
    "remove_unused_columns": False,  # the number of each row travels with its batch
    "report_to": "none",  # no data leaves the machine unasked
    "dataloader_pin_memory": False,
    "ddp_find_unused_parameters": False,  # every adapter takes part in every step; the search costs a pass over the graph
    "output_dir": "",
    "max_length": 256,
}
# Fields that say where a run lies, and those that decide nothing of its result.
_PLACES = ("output_dir", "run_name", "logging_dir")
NOT_DECISIVE = ("output_dir", "run_name", "save_strategy", "save_steps")
_DATACLASSES = (RecipeArguments, SFTConfig, ModelConfig)
_POSITIVE = (
    "global_batch_size",
    "per_device_train_batch_size",
    "max_new_tokens",
    "lora_r",
    "lora_alpha",
    "learning_rate",
    "max_length",
    "num_train_epochs",
)
_NOT_NEGATIVE = ("seed", "weight_decay", "warmup_steps", "max_grad_norm")
_SHARES = ("max_dropped_fraction", "lora_dropout")
# Booleans to YAML 1.1, which PyYAML reads, and words to YAML 1.2, in any case; `true` and `false` are booleans to both.
_WORDS_OF_YAML_1_2 = ("yes", "no", "on", "off")


_PLAIN_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "dict": "a mapping",
    "list[str]": "a list of names",
}


@dataclass(frozen=True)
class Recipe:
    """A parsed and checked recipe.

    Args:
        path (`Path`):
            The YAML file.
        fields (`dict[str, Any]`):
            What the file and the command line set, file order first.
        arguments ([`RecipeArguments`]):
            Our fields.
        training ([`~trl.SFTConfig`]):
            TRL's training fields.
        model ([`~trl.ModelConfig`]):
            TRL's model and LoRA fields.
    """

    path: Path
    fields: dict[str, Any]
    arguments: RecipeArguments
    training: SFTConfig
    model: ModelConfig

    @property
    def name(self) -> str:
        """`<model>/<recipe>`, from the place of the file: `recipes/smollm2-135m/protocol_lora.yaml`."""
        return f"{self.path.resolve().parent.name}/{self.path.stem}"

    @property
    def method(self) -> str:
        """How the base is adapted: `LoRA`, `LoRA, 8-bit base` or `QLoRA, 4-bit base`."""
        if self.model.load_in_4bit:
            return "QLoRA, 4-bit base"
        return "LoRA, 8-bit base" if self.model.load_in_8bit else "LoRA"

    @property
    def digest(self) -> str:
        """sha256 of the fields that the recipe sets and that decide the result (not where it is written).

        The order of keys and the spelling of numbers (`1e-3`, `0.001`) do not count. A default that is written out does:
        defaults can change with the pinned libraries, what a recipe says cannot.
        """
        return hashlib.sha256(json.dumps(self.decisive_fields, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def decisive_fields(self) -> dict[str, Any]:
        """The fields that decide the result: not where it is written, and not when checkpoints are."""
        return {key: value for key, value in self.fields.items() if key not in NOT_DECISIVE}

    @property
    def resolved(self) -> dict[str, Any]:
        """The fields with this project's defaults and what follows from them; of the rest TRL's defaults hold."""
        with_defaults = {**_OUR_DEFAULTS, **vars(self.arguments), **self.fields, **_derived(self.fields)}
        return {key: value for key, value in sorted(with_defaults.items()) if key not in _PLACES}

    @property
    def output_dir(self) -> Path:
        """Run folder: `output_dir` where set, else `runs/<model>/<recipe>/seed-<seed>`."""
        return Path(self.training.output_dir or f"runs/{self.name}/seed-{self.training.seed}")

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, overrides included, that `parse_recipe` reads back to the same digest."""
        return f"# {header(self.path)}\n" + yaml.safe_dump(self.fields, sort_keys=False, allow_unicode=True)


def parse_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply command-line overrides, and check every key and value.

    Args:
        path (`str` or `Path`):
            The YAML file.
        overrides (`Sequence[str]`, *optional*):
            Command-line words such as `["--learning_rate", "2e-4", "--seed=1"]`.

    Returns:
        [`Recipe`]

    Raises:
        [`InputError`]: a file that is missing or no flat YAML mapping; a duplicate, unknown or refused key; a value of the wrong
            type or outside its choices; fields that contradict each other.
    """
    path = Path(path)
    values, places = _read_yaml(path)
    for key, value in _read_overrides(overrides).items():
        values[key] = value
        places[key] = f"--{key}"
    checked = {key: _check_field(key, value, places[key]) for key, value in values.items()}
    for key in ("task", "dataset", "model_name_or_path"):
        if not checked.get(key):
            raise InputError(f"the required key `{key}` is missing", str(path))
    _check_together(checked, places, path)

    parser = TrlParser(_DATACLASSES, allow_abbrev=False)
    left_over = parser.set_defaults_with_config(**{**_OUR_DEFAULTS, **checked, **_derived(checked)})
    if left_over:
        raise InputError(f"TRL does not know {left_over}", str(path))
    try:
        arguments, training, model = parser.parse_args_into_dataclasses(args=[])
    except (ValueError, TypeError, OSError) as error:  # TRL's and Transformers' own checks across fields
        raise InputError(" ".join(str(error).split()), str(path)) from error
    return Recipe(path, checked, arguments, training, model)


def find_recipes(root: str | Path = "recipes") -> list[Path]:
    """All recipe files under `root`, sorted, however deep."""
    return sorted(path for path in Path(root).rglob("*.yaml"))


def header(path: str | Path) -> str:
    """The recipe's first comment line: what it is, where it runs, how long it takes; empty where it has none."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return lines[0].lstrip("#").strip() if lines and lines[0].startswith("#") else ""


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and `file:line` of a flat YAML mapping; duplicate keys are an error (YAML itself keeps the last)."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError("no such recipe; see `python scripts/recipes.py list`", str(path)) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); check its permissions", str(path)) from error
    except UnicodeDecodeError as error:
        raise InputError("not a UTF-8 text file", str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(f"not valid YAML: {getattr(error, 'problem', None) or 'see the file'}", where) from error
    if not isinstance(node, yaml.MappingNode):
        raise InputError("a recipe is a flat mapping of `key: value` lines", str(path))
    values, places = {}, {}
    for key_node, value_node in node.value:
        where = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise InputError(f"`{getattr(key_node, 'value', '')}` is no field name", where)
        key = key_node.value
        if key in values:
            raise InputError(f"`{key}` stands twice, first at line {places[key].rsplit(':', 1)[1]}; keep one", where)
        try:
            values[key] = _value_of(key, value_node)
        except (yaml.YAMLError, ValueError) as error:  # the second for a day such as 2024-02-30
            raise InputError(f"`{key}` has a value that YAML cannot read", where) from error
        places[key] = where
    return values, places


def _read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`--key value` and `--key=value` pairs; each value is read as YAML, so that types match the file's."""
    values: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--"):
            raise InputError(f"expected `--key value`, found `{word}`", "command line")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not remaining:
                raise InputError(f"`--{key}` needs a value", "command line")
            text = remaining.pop(0)
        if key in values:
            raise InputError(f"`--{key}` is given twice; keep one", "command line")
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            values[key] = _value_of(key, node) if node else None
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(f"`--{key} {text}` is not readable as a value", "command line") from error
    return values


def _value_of(key: str, node: yaml.Node) -> Any:
    """A YAML node as the value of a field: `no` stays the word where the field takes words and no boolean."""
    if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() in _WORDS_OF_YAML_1_2:
        hint, _ = _known_fields().get(key, (None, None))
        kinds = _members(hint)
        if bool not in kinds and any(kind is str or _is_enum(kind) for kind in kinds):
            return node.value
    return yaml.SafeLoader("").construct_object(node, deep=True)


def _known_fields() -> dict[str, tuple[Any, Any]]:
    """Name -> (type hint, choices or `None`) of every field that a recipe may set."""
    known = {}
    for dataclass_type in _DATACLASSES:
        hints = typing.get_type_hints(dataclass_type)
        for entry in fields(dataclass_type):
            choices = entry.metadata.get("choices")
            known[entry.name] = (hints[entry.name], list(choices) if choices else None)
    known["report_to"] = (known["report_to"][0], ["none", "all", *INTEGRATION_TO_CALLBACK])
    return {name: entry for name, entry in known.items() if name not in _REFUSED}


def _check_field(key: str, value: Any, where: str) -> Any:
    """The value, numbers converted, if the key exists and the value fits its type and choices."""
    if key in _REFUSED:
        raise InputError(f"`{key}` may not stand in a recipe: {_REFUSED[key]}", where)
    known = _known_fields()
    if key not in known:
        match = process.extractOne(key, list(known), score_cutoff=60)
        hint = f"; did you mean `{match[0]}`?" if match else "; see README.md, section Recipes"
        raise InputError(f"unknown key `{key}`{hint}", where)
    hint, choices = known[key]
    fits, value = _fit(hint, value)
    if not fits:
        raise InputError(f"`{key}` must be {_describe(hint)}, not {value!r} ({type(value).__name__})", where)
    if choices is None:
        choices = [member.value for kind in _members(hint) if _is_enum(kind) for member in kind] or None
    for item in value if isinstance(value, list) else [value]:
        if choices and item is not None and item not in choices:
            match = process.extractOne(str(item), [str(choice) for choice in choices], score_cutoff=50)
            hint = f"did you mean `{match[0]}`? " if match else ""
            shown = ", ".join(map(str, choices)) if len(choices) <= 12 else f"{len(choices)} choices"
            raise InputError(f"`{key}: {item}` is not one of its choices; {hint}({shown})", where)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"`{key}` must be a finite number, not {value}", where)
    if key in _POSITIVE and not (value is not None and value > 0):
        raise InputError(f"`{key}` must be greater than 0, not {value}", where)
    if key in _NOT_NEGATIVE and not value >= 0:
        raise InputError(f"`{key}` must be 0 or greater, not {value}", where)
    if key in _SHARES and not 0 <= value <= 1:
        raise InputError(f"`{key}` is a share and must lie between 0 and 1, not {value}", where)
    return value


def _members(hint: Any) -> tuple:
    """The alternatives of a union type, or the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _fit(hint: Any, value: Any) -> tuple[bool, Any]:
    """Whether a YAML value fits a type hint, and the value with numbers converted (YAML 1.1 reads `1e-3` as text)."""
    kinds = _members(hint)
    if value is None:
        return type(None) in kinds, None
    if isinstance(value, bool):
        return bool in kinds, value
    if float in kinds and not isinstance(value, (list, dict)):
        try:
            return True, float(value)
        except (TypeError, ValueError, OverflowError):
            return False, value
    for kind in kinds:
        origin = typing.get_origin(kind) or kind
        if origin is list and isinstance(value, list):
            element = (typing.get_args(kind) or (Any,))[0]
            return all(element is Any or isinstance(item, element) for item in value), value
        if origin is list and isinstance(value, str) and str not in kinds:
            return True, [value]  # TRL takes one name where it lists several, for example `all-linear`
        if origin in (str, int, dict) and isinstance(value, origin):
            return True, value
        if _is_enum(kind) and isinstance(value, str):
            return True, value
    return False, value


def _describe(hint: Any) -> str:
    names = []
    for kind in _members(hint):
        if kind is type(None):
            names.append("null")
        elif _is_enum(kind):
            continue
        else:
            name = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
            names.append(_PLAIN_TYPES.get(name, name.removeprefix("typing.")))
    return " or ".join(dict.fromkeys(names))


def _check_together(checked: dict[str, Any], places: dict[str, str], path: Path) -> None:
    """What no single field shows: combinations that would train something else than the recipe says."""
    quantised = [key for key in ("load_in_4bit", "load_in_8bit") if checked.get(key)]
    if not checked.get("use_peft"):
        raise InputError(
            "the result of a recipe is an adapter; set `use_peft: true`", places.get("use_peft", str(path))
        )
    if len(quantised) == 2:
        raise InputError("choose one of load_in_4bit and load_in_8bit", places["load_in_8bit"])
    if quantised and checked.get("dtype") not in ("bfloat16", "float16"):
        raise InputError(
            "without `dtype: bfloat16` the quantised layers compute in float32; add it", places[quantised[0]]
        )
    if checked.get("completion_only_loss") is False:
        raise InputError("recipes train on the completion only; remove the key", places["completion_only_loss"])
    if checked.get("decode") == "score" and TASKS[checked["task"]].writes != "label":
        raise InputError(
            f"task {checked['task']} writes a text, and only labels can be scored; remove the key", places["decode"]
        )
    targets = checked.get("lora_target_modules") or []
    if "lm_head" in targets:
        raise InputError(
            "TRL scores from lm_head.weight, so an adapter there is refused", places["lora_target_modules"]
        )
    if checked.get("dtype") == "float16":
        raise InputError("float16 needs loss scaling and overflows; use bfloat16 or float32", places["dtype"])
    batch = checked.get("global_batch_size", _default("global_batch_size"))
    micro = checked.get("per_device_train_batch_size", min(batch, _OUR_DEFAULTS["per_device_train_batch_size"]))
    if batch % micro:
        key = "per_device_train_batch_size" if "per_device_train_batch_size" in places else "global_batch_size"
        raise InputError(
            f"global_batch_size {batch} is no multiple of per_device_train_batch_size {micro}",
            places.get(key, str(path)),
        )


def _default(name: str) -> Any:
    entry = next(entry for entry in fields(RecipeArguments) if entry.name == name)
    return None if entry.default is MISSING else entry.default


def _derived(checked: dict[str, Any]) -> dict[str, Any]:
    """TRL fields that follow from others: autocast from `dtype`, the device from the launcher, the micro batch from the batch."""
    batch = checked.get("global_batch_size", _default("global_batch_size"))
    micro = checked.get("per_device_train_batch_size", min(batch, _OUR_DEFAULTS["per_device_train_batch_size"]))
    return {
        # A bfloat16 base under autocast keeps its adapter in float32, whose small updates bfloat16 would lose.
        "bf16": compute_dtype(checked.get("dtype")) == torch.bfloat16,
        "use_cpu": parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available(),
        "per_device_train_batch_size": micro,
    }
