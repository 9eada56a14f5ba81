"""Which method runs under which launch configuration: proved by a test here, expected from a source, or refused."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from radrecipes.errors import InputError
from radrecipes.launch.spec import Engine, LaunchSpec
from radrecipes.recipe import Recipe

# As `Recipe.method` names them.
FULL, LORA, INT8, INT4 = "full fine-tuning", "LoRA", "LoRA, 8-bit base", "QLoRA, 4-bit base"
FULL_HEAD, LORA_HEAD, INT8_HEAD, INT4_HEAD = (f"{method}, head" for method in (FULL, LORA, INT8, INT4))
# File under accelerate_configs/ -> engine, and whether it runs on the CPU.
CONFIGURATIONS = {
    "cpu": (Engine.ONE_PROCESS, True),
    "cpu_2proc": (Engine.DDP, True),
    "single_gpu": (Engine.ONE_PROCESS, False),
    "ddp": (Engine.DDP, False),
    "fsdp2": (Engine.FSDP2, False),
    "fsdp1_qlora": (Engine.FSDP1, False),
    "zero2": (Engine.ZERO2, False),
    "zero3": (Engine.ZERO3, False),
}
# PyTorch's names of devices that nothing here was measured on; accelerate chooses them for single_gpu.yaml.
OTHER_DEVICES = {"mps": "Apple", "xpu": "Intel"}
_DIVIDES_MODEL = (Engine.FSDP1, Engine.FSDP2, Engine.ZERO2, Engine.ZERO3)
GPU_CONFIGURATIONS = tuple(name for name, (_, on_cpu) in CONFIGURATIONS.items() if not on_cpu)


class Verdict(enum.StrEnum):
    """What is known about a method under a configuration."""

    PROVED = "proved"
    EXPECTED = "expected"
    REFUSED = "refused"


@dataclass(frozen=True)
class Entry:
    """What is known about one method under one configuration, and from where.

    Args:
        note: Why it is refused and what to use instead, or what to consider; printed unchanged.
        tests: `file::test` that prove it; for expected ones, tests of the part that needs no GPU.
        sources: Issues as `project#number`, and guides by name.
        needs, excludes: Fields that the recipe must set, and values that a field must not have.
    """

    verdict: Verdict
    note: str = ""
    tests: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    needs: Mapping[str, Any] = field(default_factory=dict)
    excludes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def reported(self) -> str:
        """The sources in parentheses; empty if there are none."""
        return f" ({', '.join(self.sources)})" if self.sources else ""


def _proved(*tests: str) -> Entry:
    return Entry(Verdict.PROVED, tests=tests)


def _expected(note: str = "", *sources: str, **fields: Any) -> Entry:
    return Entry(Verdict.EXPECTED, note, sources=sources, **fields)


def _refused(note: str, *sources: str) -> Entry:
    return Entry(Verdict.REFUSED, note, sources=sources)


_ONE_CPU = "tests/e2e/test_train_evaluate_predict.py::test_the_manifest_says_what_was_trained_on_what"
_TWO_CPU = "tests/e2e/test_train_evaluate_predict.py::test_two_processes_train_as_one_does"
_FULL_ON_CPU = "tests/e2e/test_full_model.py::test_all_weights_are_trained_evaluated_and_loaded_without_the_base_model"
_FULL_ON_TWO_CPUS = "tests/e2e/test_full_model.py::test_two_processes_train_all_weights_as_one_does"
_QUANTISED = "tests/e2e/test_quantised_bases.py::test_a_quantised_base_trains_saves_loads_and_writes"
_TWO_QUANTISED = "tests/e2e/test_quantised_bases.py::test_a_quantised_base_trains_on_two_processes_as_on_one"
_E2E = "tests/e2e/test_sharded_engines.py"
_FSDP2_ON_CPUS = f"{_E2E}::test_fsdp2_shards_an_unquantised_base_and_resumes"
_FSDP1_ON_CPUS = f"{_E2E}::test_fsdp1_shards_a_4_bit_base_and_resumes"
_ZERO_ON_CPUS = f"{_E2E}::test_zero_trains_and_resumes"
_PEFT_FSDP, _PEFT_DEEPSPEED = "PEFT's guide to FSDP", "PEFT's guide to DeepSpeed"

_OWN_COPY = "each process loads its own copy of the base model onto its own GPU"
_ON_TWO_CPUS = "trained, killed and resumed on two CPU processes with the settings of the file; not tested with NCCL"
_NO_8_BIT = "use ddp.yaml, or a 4-bit base model"
_ONE_HEAD = "tests/e2e/test_heads.py::test_a_head_is_trained_evaluated_and_predicts"
_TWO_HEAD = "tests/e2e/test_heads.py::test_two_processes_train_a_head_as_one_does"
_FULL_HEAD = "tests/e2e/test_full_model.py::test_a_head_is_trained_with_all_weights"
_QUANTISED_HEAD = "tests/e2e/test_heads.py::test_a_head_on_a_quantised_base"
_NO_SHARDED_HEAD = "a classification head on a sharded base model was not tried; use ddp.yaml"
_FULL_COPY = "each process holds all weights, gradients and moments in float32"

TABLE: dict[tuple[str, str], Entry] = {
    # All weights
    (FULL, "cpu"): _proved(_FULL_ON_CPU),
    (FULL, "cpu_2proc"): _proved(_FULL_ON_TWO_CPUS),
    (FULL, "single_gpu"): _expected("as cpu, on the one visible GPU"),
    (FULL, "ddp"): _expected(f"as cpu_2proc, over NCCL; {_FULL_COPY}"),
    (FULL, "fsdp2"): _expected(_ON_TWO_CPUS, "accelerate's guide to FSDP2", tests=(_FSDP2_ON_CPUS,)),
    (FULL, "fsdp1_qlora"): _refused("that configuration is for 4-bit base models; use fsdp2.yaml", _PEFT_FSDP),
    (FULL, "zero2"): _expected(_ON_TWO_CPUS, "Transformers' guide to DeepSpeed", tests=(_ZERO_ON_CPUS,)),
    (FULL, "zero3"): _expected(_ON_TWO_CPUS, "Transformers' guide to DeepSpeed", tests=(_ZERO_ON_CPUS,)),
    # Unquantised
    (LORA, "cpu"): _proved(_ONE_CPU),
    (LORA, "cpu_2proc"): _proved(_TWO_CPU),
    (LORA, "single_gpu"): _expected("as cpu, on the one visible GPU"),
    (LORA, "ddp"): _expected(f"as cpu_2proc, over NCCL; {_OWN_COPY}"),
    (LORA, "fsdp2"): _expected(_ON_TWO_CPUS, "accelerate#4206", tests=(_FSDP2_ON_CPUS,)),
    (LORA, "fsdp1_qlora"): _refused("that configuration is for 4-bit base models; use fsdp2.yaml", _PEFT_FSDP),
    (LORA, "zero2"): _expected(_ON_TWO_CPUS, _PEFT_DEEPSPEED, tests=(_ZERO_ON_CPUS,)),
    (LORA, "zero3"): _expected(
        f"{_ON_TWO_CPUS}; before Transformers 5 adapters were saved empty; here only the adapter is gathered",
        _PEFT_DEEPSPEED,
        "trl#4416",
        "peft#2892",
        "transformers#41416",
        tests=(_ZERO_ON_CPUS,),
    ),
    # 8-bit
    (INT8, "cpu"): _proved(_QUANTISED),
    (INT8, "cpu_2proc"): _proved(_TWO_QUANTISED),
    (INT8, "single_gpu"): _expected("as cpu, on the one visible GPU"),
    (INT8, "ddp"): _expected(_OWN_COPY, "bitsandbytes#366", "trl#921"),
    (INT8, "fsdp2"): _refused(f"8-bit weights cannot be sharded; {_NO_8_BIT}", "peft#2833"),
    (INT8, "fsdp1_qlora"): _refused(f"FSDP1 does not shard integers; {_NO_8_BIT}", "peft#2833", "bitsandbytes#1709"),
    (INT8, "zero2"): _expected(
        f"{_OWN_COPY}; {_ON_TWO_CPUS}", "bitsandbytes#1451", _PEFT_DEEPSPEED, tests=(_ZERO_ON_CPUS,)
    ),
    (INT8, "zero3"): _refused(
        "the loss is wrong by an order of magnitude; use zero2.yaml or ddp.yaml", "bitsandbytes#1451", "axolotl#1852"
    ),
    # 4-bit
    (INT4, "cpu"): _proved(_QUANTISED),
    (INT4, "cpu_2proc"): _proved(_TWO_QUANTISED),
    (INT4, "single_gpu"): _expected("as cpu, on the one visible GPU"),
    (INT4, "ddp"): _expected(_OWN_COPY, "trl#921"),
    (INT4, "fsdp2"): _refused(
        "with uint8 storage the base model is not sharded, with bfloat16 storage the forward pass is wrong; use "
        "fsdp1_qlora.yaml, or ddp.yaml if the base model fits one GPU",
        "accelerate#3983",
        "accelerate#3874",
        "bitsandbytes#1945",
    ),
    (INT4, "fsdp1_qlora"): _expected(
        f"each process loads the complete 4-bit base model before it is sharded; {_ON_TWO_CPUS}",
        _PEFT_FSDP,
        "bitsandbytes#970",
        "transformers#29587",
        "peft#3490",
        tests=(_FSDP1_ON_CPUS,),
        needs={"bnb_4bit_quant_storage": "bfloat16"},
        excludes={"optim": ("paged_adamw_8bit",)},
    ),
    (INT4, "zero2"): _expected(
        f"{_OWN_COPY}; {_ON_TWO_CPUS}", _PEFT_DEEPSPEED, "DeepSpeed#3620", tests=(_ZERO_ON_CPUS,)
    ),
    (INT4, "zero3"): _expected(
        f"each GPU must hold the complete 4-bit base model before it is sharded; {_ON_TWO_CPUS}",
        _PEFT_DEEPSPEED,
        "bitsandbytes#1249",
        "peft#2016",
        tests=(_ZERO_ON_CPUS,),
    ),
    # With a classification head
    **{
        (method, configuration): _refused(_NO_SHARDED_HEAD)
        for method in (FULL_HEAD, LORA_HEAD, INT8_HEAD, INT4_HEAD)
        for configuration in ("fsdp2", "fsdp1_qlora", "zero2", "zero3")
    },
    **{
        (method, "single_gpu"): _expected("as cpu, on the one visible GPU")
        for method in (FULL_HEAD, LORA_HEAD, INT8_HEAD, INT4_HEAD)
    },
    (FULL_HEAD, "cpu"): _proved(_FULL_HEAD),
    (FULL_HEAD, "cpu_2proc"): _expected("as without a head"),
    (FULL_HEAD, "ddp"): _expected(f"as without a head; {_FULL_COPY}"),
    (LORA_HEAD, "cpu"): _proved(_ONE_HEAD),
    (LORA_HEAD, "cpu_2proc"): _proved(_TWO_HEAD),
    (LORA_HEAD, "ddp"): _expected(f"as cpu_2proc, over NCCL; {_OWN_COPY}"),
    **{(method, "cpu"): _proved(_QUANTISED_HEAD) for method in (INT8_HEAD, INT4_HEAD)},
    **{(method, "cpu_2proc"): _expected("as without a head") for method in (INT8_HEAD, INT4_HEAD)},
    **{(method, "ddp"): _expected(f"as without a head; {_OWN_COPY}") for method in (INT8_HEAD, INT4_HEAD)},
}


def configuration_of(spec: LaunchSpec) -> str:
    """The name in [`CONFIGURATIONS`] that matches a launch spec, also for a user's own file."""
    # DDP with one process is one process.
    alone = spec.processes == 1 and spec.engine == Engine.DDP
    wanted = (Engine.ONE_PROCESS if alone else spec.engine, bool(spec.on_cpu))
    names = [name for name, found in CONFIGURATIONS.items() if found == wanted]
    if not names:
        raise InputError(f"no configuration in accelerate_configs/ is for {spec}; its README lists them")
    return names[0]


def check(recipe: Recipe, configuration: str) -> None:
    """Reject a recipe if its method is known to fail under a configuration, or if it lacks a required field."""
    entry = TABLE[recipe.method, configuration]
    where = f"{recipe.path} with {configuration}.yaml"
    if entry.verdict == Verdict.REFUSED:
        raise InputError(f"{entry.note}{entry.reported}", where)
    for key, value in entry.needs.items():
        if recipe.resolved.get(key) != value:
            raise InputError(f"{recipe.method} needs `{key}: {value}` there{entry.reported}", where)
    for key, values in entry.excludes.items():
        if recipe.resolved.get(key) in values:
            raise InputError(f"`{key}: {recipe.resolved[key]}` fails there; use another{entry.reported}", where)
    if recipe.arguments.loraplus_lr_ratio and CONFIGURATIONS[configuration][0] in _DIVIDES_MODEL:
        raise InputError("`loraplus_lr_ratio` was not tried under FSDP and ZeRO; remove it, or use ddp.yaml", where)
    if recipe.arguments.start_from and CONFIGURATIONS[configuration][0] in _DIVIDES_MODEL:
        raise InputError("`start_from` was not tried under FSDP and ZeRO; use ddp.yaml", where)
    metric, (engine, _) = recipe.training.metric_for_best_model, CONFIGURATIONS[configuration]
    if engine in _DIVIDES_MODEL and metric and metric.removeprefix("eval_") != "loss":
        raise InputError(
            f"`metric_for_best_model: {metric}` needs answers, and under FSDP and ZeRO only the loss is measured during training; "
            "set `metric_for_best_model: loss`",
            where,
        )


def describe(method: str) -> list[str]:
    """One line per configuration for a terminal: `fsdp2        refused   why (project#number)`."""
    lines = []
    for name in CONFIGURATIONS:
        entry = TABLE[method, name]
        reason = ", ".join(entry.tests) if entry.verdict == Verdict.PROVED else f"{entry.note}{entry.reported}"
        lines.append(f"{name:<13}{entry.verdict:<10}{reason}")
    quantised = "; whether bitsandbytes computes there depends on its version" if "-bit" in method else ""
    for device, maker in OTHER_DEVICES.items():
        lines.append(f"{device:<13}{Verdict.EXPECTED:<10}as single_gpu, on a GPU of {maker}; not measured{quantised}")
    return lines
