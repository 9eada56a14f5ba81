"""A recipe: one flat YAML file for one model and one task, checked strictly before [`~trl.TrlParser`] sees it.

TRL's own parser accepts a misspelt key, a wrong type and a value outside its choices, and lets an `env:` block set any
environment variable. Torch, Transformers and TRL are imported only where needed, so that listing recipes is fast.
"""

import enum
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from radrecipes.errors import InputError, nearest, quoted, shown
from radrecipes.files import BoundedLoader, compose_yaml, read_text
from radrecipes.hub.reference import is_local_path
from radrecipes.secrets import refuse_secrets
from radrecipes.shipped import find_shipped

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

_STAGE = "sft"


@dataclass
class RecipeArguments:
    """The fields of a recipe that are not TRL's.

    Args:
        prompt_style: `"chat"` uses the tokenizer's chat template, `"plain"` is for base models without one, `"input"` is the
            input alone, for heads.
        global_batch_size: Examples per optimizer step over all processes; gradient accumulation follows from it.
        batch_layout: `"shared_prefix"` puts several examples in one row after their shared prefix, so that neither
            padding nor the repeated prefix is computed; `"padded"` is one example per row, for models whose attention
            accepts no custom mask.
        decode: `"score"` (default for labels) gives every label a probability, `"generate"` generates an answer, `"head"` trains
            a classification head on the label set, which gives every label a probability.
        max_dropped_fraction: Largest fraction of training rows that may be dropped because they exceed `max_length`.
        eval_rows: Rows of the validation split that each evaluation during training reads, spread evenly; by default
            [`LABEL_ROWS`] or [`TEXT_ROWS`].
        start_from: Weights to continue from: a recipe, whose run with the same seed is meant, a run folder, or a release on the
            Hub, `org/name@v1.0`.
        loraplus_lr_ratio: LoRA+ (Hayou et al. 2024): the B matrices learn this many times as fast as the A matrices.
        early_stopping_patience: End training after this many evaluations in a row without a better one.
    """

    task: str
    dataset: str
    stage: str = _STAGE
    prompt_style: str = "chat"
    global_batch_size: int = 16
    batch_layout: str = "shared_prefix"
    decode: str | None = None
    max_new_tokens: int = 32
    max_dropped_fraction: float = 0.005
    eval_rows: int | None = None
    early_stopping_patience: int | None = None
    start_from: str | None = None
    loraplus_lr_ratio: float | None = None

    def __post_init__(self) -> None:
        """Set the defaults that depend on the task."""
        if self.decode is None:
            self.decode = "score" if _predicts_label(self.task) else "generate"


# Fields of TRL's ModelConfig and of its stages' configurations that a recipe may set.
_TRL_FIELDS = """
    model_name_or_path model_revision dtype attn_implementation
    use_peft lora_r lora_alpha lora_dropout lora_target_modules use_rslora use_dora
    load_in_4bit load_in_8bit bnb_4bit_quant_type bnb_4bit_quant_storage use_bnb_nested_quant
    seed data_seed full_determinism tf32 torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    num_train_epochs max_steps max_length per_device_train_batch_size completion_only_loss chat_template_path
    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay max_grad_norm neftune_noise_alpha
    optim optim_args adam_beta1 adam_beta2 adam_epsilon average_tokens_across_devices
    activation_checkpointing activation_checkpointing_kwargs activation_offloading
    dataloader_num_workers dataloader_prefetch_factor dataloader_persistent_workers dataloader_pin_memory
    ddp_backend ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters ddp_static_graph ddp_timeout
    eval_strategy eval_steps per_device_eval_batch_size load_best_model_at_end metric_for_best_model label_smoothing_factor
    output_dir run_name save_strategy save_steps
    report_to project disable_tqdm log_level log_level_replica log_on_each_node
    num_generations temperature reward_weights
""".split()  # noqa: SIM905  (one field per line would be long)
RECIPE_FIELDS = frozenset([*_TRL_FIELDS, *(entry.name for entry in fields(RecipeArguments))])
# Why a recipe must not set a field that users might expect, and what to do instead.
_REFUSED = {
    "env": "a recipe must not set environment variables (it could redirect HF_ENDPOINT); set them in your shell",
    "trust_remote_code": "recipes never run code from a model repository; use a model that Transformers implements",
    "hub_token": "never write a token into a recipe; run `hf auth login`",
    "push_to_hub": "publishing is a separate step with its own checks: scripts/publish.py; remove the key",
    "gradient_accumulation_steps": "it follows from global_batch_size and the number of processes; remove the key",
    "gradient_checkpointing": "Transformers 5 renamed it; use activation_checkpointing",
    "use_cpu": "the launch configuration decides: accelerate_configs/cpu.yaml",
    "bf16": "it follows from dtype; set dtype: bfloat16",
    "fp16": "it follows from dtype; set dtype: bfloat16",
    "packing": "it would mix examples, and batch_layout: shared_prefix already computes no padding; remove the key",
    "model_init_kwargs": "set model_revision, dtype or attn_implementation instead",
    "eos_token": "rows end with the tokenizer's own stop token; set chat_template_path to change the template",
    "resume_from_checkpoint": "run the same command again instead; remove the key",
    "save_total_limit": "the two newest valid checkpoints and the best one are kept; remove the key",
    "greater_is_better": "it follows from metric_for_best_model; remove the key",
    "logging_steps": "every step is logged, because a NaN or infinite loss must end the run at once; remove the key",
    "deepspeed": "choose it with accelerate launch --config_file accelerate_configs/zero3.yaml",
    "fsdp": "choose it with accelerate launch --config_file accelerate_configs/fsdp2.yaml",
}
# Defaults that differ from TRL's, each for a measured or stated reason.
_OUR_DEFAULTS = {
    "activation_checkpointing": False,  # costs a forward pass; these models and texts fit without it
    "per_device_train_batch_size": 16,
    "completion_only_loss": True,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,  # otherwise a NaN loss is logged as 0
    "save_strategy": "steps",
    "save_steps": 0.1,  # a fraction of all steps
    "remove_unused_columns": False,  # the number of each row travels with its batch
    "report_to": "none",  # no data leaves the machine unless requested
    "dataloader_pin_memory": False,
    "ddp_find_unused_parameters": False,  # every trained weight gets a gradient; the search costs a pass over the graph
    "output_dir": "",
    "max_length": 256,
}
# Fields that say where a run is written, and fields that do not affect its result.
PLACES = ("output_dir", "run_name")
NOT_DECISIVE = ("output_dir", "run_name", "save_strategy", "save_steps")
_REQUIRED = ("task", "dataset", "model_name_or_path")
_POSITIVE = (
    *("global_batch_size", "per_device_train_batch_size", "max_new_tokens", "max_length"),
    *("lora_r", "lora_alpha", "loraplus_lr_ratio", "learning_rate", "num_train_epochs"),
    *("eval_steps", "per_device_eval_batch_size", "eval_rows", "early_stopping_patience"),
    *("num_generations", "temperature", "save_steps"),
)
_NOT_NEGATIVE = ("seed", "weight_decay", "warmup_steps", "max_grad_norm", "neftune_noise_alpha")
_FRACTIONS = ("max_dropped_fraction", "lora_dropout", "label_smoothing_factor")
# Fields without effect unless the recipe validates during training.
_OF_VALIDATION = (
    *("eval_steps", "per_device_eval_batch_size", "eval_rows"),
    *("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience"),
)
# Default rows of an evaluation during training, for tasks that choose a label and for those that write text.
LABEL_ROWS, TEXT_ROWS = 256, 32
# Fields of ours that are newer than some records, which must compare equal: absent at their default.
_NEWER = {
    "stage": _STAGE,
    **dict.fromkeys(("eval_rows", "early_stopping_patience", "start_from", "loraplus_lr_ratio")),
}
# The stages in which the model writes texts that are judged, and the fields that only these, or only some of them, have.
_WRITING_STAGES = ("rejection", "grpo")
_OF_STAGES = {
    **dict.fromkeys(("num_generations", "temperature"), _WRITING_STAGES),
    "reward_weights": ("grpo",),
    **dict.fromkeys(("label_smoothing_factor", "neftune_noise_alpha", "activation_offloading"), ("sft", "rejection")),
}
# Ends the name of a method that trains a classification head.
HEAD = ", head"
# Lists of numbers; others are lists of names.
_NUMBERS = ("reward_weights",)
# What a head has no use for.
_NOT_OF_A_HEAD = ("max_new_tokens", "activation_offloading", "completion_only_loss")
# Fields without effect unless another is true.
_OF_OTHERS = {
    **dict.fromkeys(("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"), "load_in_4bit"),
    "activation_checkpointing_kwargs": "activation_checkpointing",
}
# What only an adapter has.
_OF_ADAPTERS = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "use_dora"),
    "loraplus_lr_ratio",
)
# Bytes of a recipe; those of this project have less than 2,000.
_LONGEST = 64 * 1024
# The largest integer of a field, where 2**32 - 1, the largest seed, is too much.
_LARGEST = {"lora_r": 4096, "dataloader_num_workers": 1024}
# PEFT would take other characters as a regular expression, which can take hours for one name.
_LAYER_NAME = re.compile(r"\w+(\.\w+)*|all-linear")
# PyYAML reads YAML 1.1, where these are booleans; in YAML 1.2 only `true` and `false` are.
_WORDS_OF_YAML_1_2 = ("yes", "no", "on", "off")
# Octal numbers and numbers of base 60.
_OF_YAML_1_1 = re.compile(r"[-+]?0[\d_]+$|[^:]*:")
# For messages, by the type that YAML gives.
_TYPE_NAMES = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a mapping",
    list: "a list of names",
    types.NoneType: "null",
}


@dataclass(frozen=True)
class Recipe:
    """A parsed and checked recipe; `fields` is what the file and the command line set, in the order of the file."""

    path: Path
    fields: dict[str, Any]
    arguments: RecipeArguments
    training: "SFTConfig"
    model: "ModelConfig"

    @property
    def name(self) -> str:
        """As [`name_of`] its file."""
        return name_of(self.path)

    @property
    def method(self) -> str:
        """`full fine-tuning`, `LoRA`, `LoRA, 8-bit base` or `QLoRA, 4-bit base`, each also with `, head`."""
        model = self.model
        return _method(model.use_peft, model.load_in_4bit, model.load_in_8bit, self.has_head)

    @property
    def has_head(self) -> bool:
        """Whether a classification head chooses the label, instead of a language model that writes it."""
        return self.arguments.decode == "head"

    @property
    def learns_from_own_texts(self) -> bool:
        """Whether its stage is one in which the model writes texts that are judged."""
        return self.arguments.stage in _WRITING_STAGES

    @property
    def digest(self) -> str:
        """sha256 of the fields that affect the result; key order and the notation of numbers (`1e-3`, `0.001`) do not matter.

        An explicit default does: defaults can change with the pinned libraries, the text of a recipe cannot.
        """
        decisive = {key: value for key, value in self.fields.items() if key not in NOT_DECISIVE}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def resolved(self) -> dict[str, Any]:
        """The fields with this project's defaults and what follows from them; TRL's defaults apply to the rest.

        Defaults of newer fields are left out, so that records from before those fields existed compare equal.
        """
        with_defaults = {**_OUR_DEFAULTS, **vars(self.arguments), **self.fields}
        with_defaults |= _derived(self.fields, self.model.dtype)
        absent = {key for key, default in _NEWER.items() if with_defaults[key] == default}
        return {key: value for key, value in sorted(with_defaults.items()) if key not in {*PLACES, *absent}}

    @property
    def validates(self) -> bool:
        """Whether the model is evaluated on the validation split during training."""
        return self.training.eval_strategy != "no"

    @property
    def output_dir(self) -> Path:
        """Run folder: `output_dir` if set, otherwise `runs/<model>/<recipe>/seed-<seed>`, see [`name_of`]."""
        return Path(self.training.output_dir or f"runs/{self.name}/seed-{self.training.seed}")

    def to_yaml(self) -> str:
        """The recipe as YAML, overrides included; `parse_recipe` reads it back to the same digest."""
        return f"# {header(self.path)}\n" + yaml.safe_dump(self.fields, sort_keys=False, allow_unicode=True)


def parse_recipe(path: str | Path, overrides: Sequence[str] = (), auto_dtype: str | None = None) -> Recipe:
    """Read a recipe, apply overrides (`["--learning_rate", "2e-4", "--seed=1"]`), and check every key and value.

    Duplicate, unknown and refused keys, wrong types, values outside the choices, and fields that contradict each other
    are errors. `model.dtype` of `dtype: auto` is `auto_dtype`, by default the faster one of this machine.
    """
    path = find_shipped(path)
    values, places = _read_yaml(path)
    from trl import ModelConfig, TrlParser

    from radrecipes.stage_configs import CONFIGS

    overriding = _read_overrides(overrides)
    values.update(overriding)
    places.update({key: f"--{key}" for key in overriding})
    checked = {key: _check_field(key, value, places[key]) for key, value in values.items()}
    # `--load_in_4bit false` alone turns off what the file says of 4-bit weights.
    for key, needed in _OF_OTHERS.items():
        if needed in overriding and not checked[needed] and key not in overriding:
            checked.pop(key, None)
    _check_required(checked, path)
    _check_together(checked, places, path)

    configuration = CONFIGS[checked.get("stage", _STAGE)]
    parser = TrlParser((RecipeArguments, configuration, ModelConfig), allow_abbrev=False)
    dtype = _dtype(checked, auto_dtype)
    left_over = parser.set_defaults_with_config(**{**_OUR_DEFAULTS, **checked, **dtype, **_derived(checked, **dtype)})
    if left_over:
        raise InputError(f"TRL does not know {left_over}", str(path))
    try:
        arguments, training, model = parser.parse_args_into_dataclasses(args=[])
    except (ValueError, TypeError, OSError) as error:  # TRL's and Transformers' own checks across fields
        raise InputError(" ".join(str(error).split()), str(path)) from error
    return Recipe(path, checked, arguments, training, model)


def summarise_recipe(path: str | Path) -> tuple[str, ...]:
    """What a list of recipes shows: name, task, method, base model, global batch size, header.

    TRL is not imported: the names of the keys are checked, their values are not.
    """
    path = find_shipped(path)
    values, places = _read_yaml(path)
    for key in values:
        if key not in RECIPE_FIELDS:
            raise _unknown_key(key, places[key])
    _check_required(values, path)
    batch = values.get("global_batch_size", RecipeArguments.global_batch_size)
    method = _method(
        *(values.get(key) for key in ("use_peft", "load_in_4bit", "load_in_8bit")), values.get("decode") == "head"
    )
    return (name_of(path), str(values["task"]), method, str(values["model_name_or_path"]), str(batch), header(path))


def find_recipes(root: str | Path = "recipes") -> list[Path]:
    """All recipe files under `root`, at any depth, sorted."""
    return sorted(find_shipped(root).rglob("*.yaml"))


def header(path: str | Path) -> str:
    """The first comment line of a recipe: what it is, where it runs, how long it takes; empty if none."""
    lines = read_text(find_shipped(path), _LONGEST).splitlines()
    return lines[0].lstrip("#").strip() if lines and lines[0].startswith("#") else ""


def name_of(path: Path) -> str:
    """`<model>/<recipe>` of a file under `recipes/`: `smollm2-135m/protocol_lora`; of another file its own name.

    The name is published, so it has no other folder of the user in it.
    """
    folder = path.resolve().parent
    return f"{folder.name}/{path.stem}" if "recipes" in folder.parts else path.stem


def _method(use_peft: bool | None, in_4bit: bool | None, in_8bit: bool | None, has_head: bool) -> str:
    adapter = "QLoRA, 4-bit base" if in_4bit else "LoRA, 8-bit base" if in_8bit else "LoRA"
    method = adapter if use_peft else "full fine-tuning"
    return method + HEAD if has_head else method


def _predicts_label(task: str) -> bool:
    from radrecipes.tasks import TASKS, LabelTask

    return isinstance(TASKS[task], LabelTask)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and `file:line` of a flat YAML mapping; duplicate keys are an error (PyYAML keeps the last)."""
    try:
        text = read_text(path, _LONGEST)
        refuse_secrets(text, str(path))
        node = compose_yaml(text, str(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError("no such recipe; see `python scripts/recipes.py list`", str(path)) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); check its permissions", str(path)) from error
    if not isinstance(node, yaml.MappingNode):
        raise InputError("a recipe is a flat mapping of `key: value` lines", str(path))
    values, places = {}, {}
    for key_node, value_node in node.value:
        where = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            named = shown(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            raise InputError(f"`{named}` is not a field name", where)
        key = key_node.value
        if key in values:
            raise InputError(
                f"`{shown(key)}` appears twice, first in line {places[key].rsplit(':', 1)[1]}; keep one", where
            )
        try:
            values[key] = _value_of(key, value_node)
            # Also as YAML decodes it: `"\x68f_…"`.
            if isinstance(values[key], str):
                refuse_secrets(f"{key}: {values[key]}", where)
        except _UNREADABLE as error:
            raise InputError(f"`{shown(key)}` has a value that YAML cannot read", where) from error
        places[key] = where
    return values, places


def _read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`--key value` and `--key=value` pairs; values are read as YAML, so their types match the file's."""
    values: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--"):
            raise InputError(f"expected `--key value`, found `{shown(word)}`", "command line")
        refuse_secrets(" ".join([word[2:], *remaining[:1]]), "command line")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not remaining:
                raise InputError(f"`--{shown(key)}` needs a value", "command line")
            text = remaining.pop(0)
        if key in values:
            raise InputError(f"`--{shown(key)}` is given twice; keep one", "command line")
        try:
            node = compose_yaml(text, "command line")
            values[key] = _value_of(key, node) if node else None
        except (InputError, *_UNREADABLE) as error:
            raise InputError(f"`--{shown(key)} {shown(text)}` is not readable as a value", "command line") from error
    return values


# PyYAML's constructors raise more than its own errors: `!!int ""`, `!!bool maybe`, `2024-02-30`, `!!timestamp no`.
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def _value_of(key: str, node: yaml.Node) -> Any:
    """The value of a YAML node; `no` stays a word if the field takes words and no boolean."""
    if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() in _WORDS_OF_YAML_1_2:
        kinds, _ = _known_fields().get(key, ((), None))
        if str in kinds and bool not in kinds:
            return node.value
    _refuse_yaml_1_1_numbers(key, node)
    return BoundedLoader("").construct_object(node, deep=True)


def _refuse_yaml_1_1_numbers(key: str, node: yaml.Node) -> None:
    """Refuse numbers that YAML 1.1 reads as others: `010` is 8, `1:30` is 90."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_yaml_1_1_numbers(key, item)
    if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and _OF_YAML_1_1.match(node.value):
        raise InputError(
            f"`{shown(key)}: {shown(node.value)}` is not a decimal number; write it without leading zeros and colons",
            f"{node.start_mark.name}:{node.start_mark.line + 1}",
        )


def _trl_fields() -> set[str]:
    from trl import ModelConfig

    from radrecipes.stage_configs import CONFIGS

    return {entry.name for kind in (*CONFIGS.values(), ModelConfig) for entry in fields(kind)}


@functools.cache
def _known_fields() -> dict[str, tuple[tuple[type, ...], Sequence[str] | None]]:
    """Name -> (types of its value in YAML, choices or `None`) of every field that a recipe may set."""
    from transformers.integrations import INTEGRATION_TO_CALLBACK
    from trl import ModelConfig

    from radrecipes.stage_configs import CONFIGS
    from radrecipes.tasks import TASKS

    ours = {
        "prompt_style": ["chat", "plain", "input"],
        "batch_layout": ["shared_prefix", "padded"],
        "decode": ["score", "generate", "head"],
        "stage": list(CONFIGS),
        "save_strategy": ["no", "steps", "epoch"],  # the best one needs an evaluation during training
        "task": sorted(TASKS),
        "report_to": ["none", "all", *INTEGRATION_TO_CALLBACK],
        # Transformers also takes a repository of kernels, whose code it would download and run.
        "attn_implementation": [
            "eager",
            "sdpa",
            "flex_attention",
            *(f"flash_attention_{number}" for number in (2, 3, 4)),
        ],
    }
    known = {}
    for dataclass_type in (RecipeArguments, *CONFIGS.values(), ModelConfig):
        hints = typing.get_type_hints(dataclass_type)
        for entry in fields(dataclass_type):
            if entry.name in RECIPE_FIELDS:
                hint = hints[entry.name]
                # The alternatives of a union; an enum is written as one of its values.
                is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
                members = typing.get_args(hint) if is_union else (hint,)
                kinds = [typing.get_origin(member) or member for member in members]
                enums = [kind for kind in kinds if issubclass(kind, enum.Enum)]
                values = [member.value for kind in enums for member in kind]
                choices = ours.get(entry.name) or entry.metadata.get("choices") or values or None
                known[entry.name] = tuple(str if kind in enums else kind for kind in kinds), choices
    return known


def _unknown_key(key: str, where: str) -> InputError:
    if key in _REFUSED:
        return InputError(f"`{key}` is not allowed in a recipe: {_REFUSED[key]}", where)
    near = nearest(key, sorted(RECIPE_FIELDS), 60, of_parts=True)
    hint = f"; did you mean `{near}`?" if near else "; see docs/recipes.md"
    return InputError(f"unknown key `{shown(key)}`{hint}", where)


def _check_required(values: dict[str, Any], path: Path) -> None:
    for key in _REQUIRED:
        if not values.get(key):
            raise InputError(f"the required key `{key}` is missing", str(path))


def _check_field(key: str, value: Any, where: str) -> Any:
    """The value, numbers converted, if the key exists and the value fits its type and choices."""
    if key not in RECIPE_FIELDS:
        if key in _trl_fields() and key not in _REFUSED:
            raise InputError(f"`{key}` is a field of TRL that recipes do not support; remove the key", where)
        raise _unknown_key(key, where)
    kinds, choices = _known_fields()[key]
    fits, value = _fit(kinds, value, (int, float) if key in _NUMBERS else (str,))
    if not fits:
        names = {**_TYPE_NAMES, list: "a list of numbers"} if key in _NUMBERS else _TYPE_NAMES
        wanted = " or ".join(dict.fromkeys(names[kind] for kind in kinds))
        raise InputError(f"`{key}` must be {wanted}, not {quoted(value)} ({type(value).__name__})", where)
    for item in value if isinstance(value, list) else [value]:
        if choices and item is not None and item not in choices:
            near = nearest(str(item), map(str, choices), 50, of_parts=True)
            hint = f"did you mean `{near}`? " if near else ""
            listed = ", ".join(map(str, choices)) if len(choices) <= 12 else f"{len(choices)} choices"
            raise InputError(f"`{key}: {shown(item)}` is not one of its choices; {hint}({listed})", where)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"`{key}` must be a finite number, not {value}", where)
    if isinstance(value, int) and abs(value) > (largest := _LARGEST.get(key, 2**32 - 1)):
        raise InputError(f"`{key}` must be at most {largest}, not {quoted(value)}", where)
    if key in _POSITIVE and not (value is not None and value > 0):
        raise InputError(f"`{key}` must be greater than 0, not {value}", where)
    if key in _NOT_NEGATIVE and value is not None and not value >= 0:
        raise InputError(f"`{key}` must be 0 or greater, not {value}", where)
    if key == "model_name_or_path" and value and is_local_path(value):
        raise InputError(
            f"`{key}: {shown(value)}` is a path; name the Hub id and copy the weights to models/<org>/<name>/", where
        )
    if key == "start_from" and not (value or "").strip():
        raise InputError("`start_from` is empty; name a recipe, a run or a release, or remove the key", where)
    if key == "lora_dropout" and value == 1:
        raise InputError(
            "`lora_dropout` must be less than 1: with all of its input dropped, an adapter learns nothing", where
        )
    if key == "label_smoothing_factor" and value == 1:
        raise InputError("`label_smoothing_factor` must be less than 1: a uniform target teaches nothing", where)
    if key in _FRACTIONS and not 0 <= value <= 1:
        raise InputError(f"`{key}` is a fraction and must be between 0 and 1, not {value}", where)
    if key == "dataloader_prefetch_factor" and value is not None and value < 1:
        raise InputError(f"`{key}` must be greater than 0, not {value}", where)
    if key == "max_steps" and not (value > 0 or value == -1):
        raise InputError(
            f"`max_steps` must be greater than 0, not {value}; without it, num_train_epochs counts", where
        )
    return value


def _fit(kinds: Sequence[type], value: Any, items_are: tuple[type, ...]) -> tuple[bool, Any]:
    """Whether a YAML value is of one of these types, and the value with numbers converted (YAML 1.1 reads `1e-3` as text)."""
    if float in kinds and not isinstance(value, bool | list | dict | None):
        try:
            return True, float(value)
        except (TypeError, ValueError, OverflowError):
            return False, value
    if list in kinds and str in items_are and str not in kinds and isinstance(value, str):
        return True, [value]  # TRL accepts one name for a list, for example `all-linear`
    items = value if isinstance(value, list) else ()
    return type(value) in kinds and all(type(item) in items_are for item in items), value


def _check_together(checked: dict[str, Any], places: dict[str, str], path: Path) -> None:
    """Reject combinations that would train something other than what the recipe says."""

    def wrong(key: str, message: str) -> InputError:
        return InputError(message, places.get(key, str(path)))

    quantised = [key for key in ("load_in_4bit", "load_in_8bit") if checked.get(key)]
    if checked.get("use_peft") is None:
        raise wrong("use_peft", "set `use_peft: true` to train an adapter, or `use_peft: false` to train all weights")
    if not checked["use_peft"]:
        if quantised:
            raise wrong(quantised[0], "quantised weights cannot be trained; remove the key, or set `use_peft: true`")
        for key in checked:
            if key in _OF_ADAPTERS:
                message = f"`{key}` is for adapters, and `use_peft: false` trains all weights; remove the key"
                raise wrong(key, message)
    if len(quantised) == 2:
        raise wrong("load_in_8bit", "choose one of load_in_4bit and load_in_8bit")
    if quantised and checked.get("dtype") != "bfloat16":
        raise wrong(quantised[0], "without `dtype: bfloat16` the quantised layers compute in float32; add it")
    if checked.get("completion_only_loss") is False:
        raise wrong("completion_only_loss", "recipes train on the completion only; remove the key")
    if checked.get("decode") in ("score", "head") and not _predicts_label(checked["task"]):
        raise wrong("decode", f"task {checked['task']} writes text, and only labels can be scored; remove the key")
    has_head = checked.get("decode") == "head"
    if checked.get("prompt_style") == "input" and not has_head:
        raise wrong("prompt_style", "only a head reads the input alone; set `decode: head`, or `prompt_style: plain`")
    for key in _NOT_OF_A_HEAD if has_head else ():
        if checked.get(key):
            raise wrong(key, "a head writes no answer, and this has no effect on it; remove the key")
    for name in checked.get("lora_target_modules") or []:
        if not _LAYER_NAME.fullmatch(name):
            message = f"{quoted(name)} is not the name of a layer; write names such as q_proj, or all-linear"
            raise wrong("lora_target_modules", message)
    if "lm_head" in (checked.get("lora_target_modules") or []):
        message = "TRL computes the loss from lm_head.weight, so an adapter there is refused; remove it"
        raise wrong("lora_target_modules", message)
    if checked.get("dtype") == "float16":
        raise wrong("dtype", "float16 needs loss scaling and overflows; use bfloat16 or float32")
    if checked.get("loraplus_lr_ratio") and "adamw" not in checked.get("optim", "adamw"):
        raise wrong("optim", "LoRA+ was only tried with AdamW; remove the key, or `loraplus_lr_ratio`")
    _check_effect(checked, wrong)
    _check_validation(checked, wrong)
    _check_stage(checked, wrong)
    batch, micro = _batch_sizes(checked)
    if batch % micro:
        key = "per_device_train_batch_size"
        raise wrong(key, f"global_batch_size {batch} is not a multiple of per_device_train_batch_size {micro}")


def _check_effect(checked: dict[str, Any], wrong: Callable[[str, str], InputError]) -> None:
    """Reject fields that would do nothing, because another one is not set."""
    for key, needed in _OF_OTHERS.items():
        if checked.get(key) and not checked.get(needed):
            raise wrong(key, f"`{key}` has no effect without `{needed}: true`; add it, or remove the key")
    style = checked.get("prompt_style", "chat")
    if checked.get("chat_template_path") and style != "chat":
        raise wrong("chat_template_path", f"`prompt_style: {style}` uses no chat template; remove the key")


def _check_stage(checked: dict[str, Any], wrong: Callable[[str, str], InputError]) -> None:
    """Reject fields that the stage does not use, and what a stage in which the model writes cannot do without."""
    stage = checked.get("stage", _STAGE)
    for key in checked:
        if stage not in (stages := _OF_STAGES.get(key, (stage,))):
            raise wrong(
                key, f"`{key}` is for `stage: {' and '.join(stages)}`, and this recipe's is {stage}; remove the key"
            )
    if stage not in _WRITING_STAGES:
        return
    if _predicts_label(checked["task"]):
        raise wrong(
            "stage", f"`stage: {stage}` learns from texts, and task {checked['task']} chooses a label; remove the key"
        )
    if not checked.get("start_from"):
        raise wrong(
            "stage",
            f"`stage: {stage}` continues from a model that writes already; name its recipe or run in `start_from`",
        )
    from radrecipes.tasks import TASKS

    weights, names = checked.get("reward_weights"), TASKS[checked["task"]].reward_names
    if weights is not None and (len(weights) != len(names) or not all(map(math.isfinite, weights))):
        raise wrong("reward_weights", f"`reward_weights` must be {len(names)} finite numbers, for {', '.join(names)}")
    if weights is not None and not any(weights):
        raise wrong(
            "reward_weights", "`reward_weights` are all 0, so no text is better than another; raise one of them"
        )
    batch, generations = _batch_sizes(checked)[0], checked.get("num_generations", 8)
    if generations < 2:
        raise wrong(
            "num_generations",
            "`num_generations` must be 2 or more: the texts of a prompt are compared with each other",
        )
    if stage == "grpo" and batch % generations:
        raise wrong(
            "global_batch_size",
            f"global_batch_size {batch} must be a multiple of num_generations {generations}, a group of texts",
        )


def _check_validation(checked: dict[str, Any], wrong: Callable[[str, str], InputError]) -> None:
    """Reject fields of validation that would do nothing, or keep another step than the best."""
    from radrecipes.tasks import TASKS

    strategy, best = checked.get("eval_strategy", "no"), checked.get("load_best_model_at_end")
    for key in _OF_VALIDATION:
        if strategy == "no" and checked.get(key):
            raise wrong(key, f"`{key}` needs validation during training; add `eval_strategy: epoch`")
    if "eval_steps" in checked and strategy != "steps":
        raise wrong(
            "eval_steps", f"`eval_strategy: {strategy}` has no steps; remove the key, or set `eval_strategy: steps`"
        )
    metric, names = checked.get("metric_for_best_model"), ("loss", *TASKS[checked["task"]].validation_metrics)
    if metric is not None and metric.removeprefix("eval_") not in names:
        message = f"`metric_for_best_model: {shown(metric)}` is not measured for task {checked['task']}; choose one of"
        raise wrong("metric_for_best_model", f"{message} {', '.join(names)}")
    if checked.get("early_stopping_patience") and not best:
        message = (
            "stopping early without `load_best_model_at_end: true` would keep the last weights, not the best; add it"
        )
        raise wrong("early_stopping_patience", message)
    for key, wanted in _saving_with_validation(checked).items():
        if checked.get(key, wanted) != wanted:
            message = "load_best_model_at_end saves each step that is evaluated, or the best could not be kept"
            raise wrong(key, f"{message}: `{key}` follows from eval_strategy and eval_steps; remove it")


def _validation_defaults(checked: dict[str, Any]) -> dict[str, Any]:
    """Fields of a recipe that validates which follow from others; empty if it does not."""
    if checked.get("eval_strategy", "no") == "no":
        return {}
    defaults = {
        "eval_rows": LABEL_ROWS if _predicts_label(checked["task"]) else TEXT_ROWS,
        "per_device_eval_batch_size": _batch_sizes(checked)[1],  # fits into memory, because training does
        **({"eval_steps": _OUR_DEFAULTS["save_steps"]} if checked["eval_strategy"] == "steps" else {}),
        **_saving_with_validation(checked),
    }
    return {key: checked.get(key, value) for key, value in defaults.items()}


def _saving_with_validation(checked: dict[str, Any]) -> dict[str, Any]:
    """When a recipe that keeps its best step must save: whenever it evaluates."""
    if not checked.get("load_best_model_at_end"):
        return {}
    if checked["eval_strategy"] == "epoch":
        return {"save_strategy": "epoch"}
    return {"save_strategy": "steps", "save_steps": checked.get("eval_steps", _OUR_DEFAULTS["save_steps"])}


def _batch_sizes(checked: dict[str, Any]) -> tuple[int, int]:
    """The global batch, and the micro batch of each process: by default the largest part of it that is not above ours."""
    batch = checked.get("global_batch_size", RecipeArguments.global_batch_size)
    largest = _OUR_DEFAULTS["per_device_train_batch_size"]
    default = max(size for size in range(1, largest + 1) if batch % size == 0)
    return batch, checked.get("per_device_train_batch_size", default)


def _dtype(checked: dict[str, Any], auto_dtype: str | None) -> dict[str, str]:
    """The dtype that a recipe sets, if it sets one; for `auto` the given or the faster one."""
    from radrecipes.models.compute_dtype import AUTO, faster_dtype

    if not checked.get("dtype"):
        return {}
    return {"dtype": auto_dtype or faster_dtype() if checked["dtype"] == AUTO else checked["dtype"]}


def _derived(checked: dict[str, Any], dtype: str | None = None) -> dict[str, Any]:
    """TRL fields that follow from others, from the launcher and from the hardware."""
    import torch
    from accelerate.utils import parse_flag_from_env

    from radrecipes.models.compute_dtype import compute_dtype

    return {
        **({"lora_task_type": "SEQ_CLS"} if checked.get("decode") == "head" else {}),
        # Under autocast what is trained stays in float32; bfloat16 would lose its small updates.
        "bf16": compute_dtype(dtype) == torch.bfloat16,
        "use_cpu": parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available(),
        "per_device_train_batch_size": _batch_sizes(checked)[1],
        **_validation_defaults(checked),
        **(_grpo_fields(checked) if checked.get("stage") == "grpo" else {}),
    }


def _grpo_fields(checked: dict[str, Any]) -> dict[str, Any]:
    """The length of a text, and all texts of a step written at once, before it."""
    batch, micro = _batch_sizes(checked)
    longest = checked.get("max_new_tokens", RecipeArguments.max_new_tokens)
    return {"max_completion_length": longest, "gradient_accumulation_steps": batch // micro}


def diff_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What differs between two mappings: name to `[before, now]`, with `None` for a missing value."""
    names = dict.fromkeys([*before, *now])
    return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}
