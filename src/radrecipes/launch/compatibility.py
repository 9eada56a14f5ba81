"""Which method runs under which launch configuration: proved by a test here, expected by a source, or refused.

One table for `scripts/sft.py`, which refuses, for `scripts/recipes.py check` and `plan`, which print, and for the README.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from radrecipes.errors import InputError
from radrecipes.launch.spec import Engine, Promise
from radrecipes.recipe import Recipe

FULL = "full training"
LORA, INT8, INT4 = "LoRA", "LoRA, 8-bit base", "QLoRA, 4-bit base"  # as `Recipe.method` names them
METHODS = (FULL, LORA, INT8, INT4)
# File under accelerate_configs/ -> engine, and whether on the CPU.
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
BEGIN, END = "<!-- compatibility: generated, do not edit -->", "<!-- end of compatibility -->"


class Verdict(enum.StrEnum):
    """What is known of a method under a configuration."""

    PROVED = "proved"
    EXPECTED = "expected"
    REFUSED = "refused"


@dataclass(frozen=True)
class Entry:
    """What is known of one method under one configuration, and from where.

    Args:
        verdict ([`Verdict`]):
            Proved by a test here, expected from a source, or refused.
        note (`str`, *optional*):
            Why it is refused and what to take instead, or what to mind; printed as it stands.
        tests (`tuple[str, ...]`, *optional*):
            `file::test` that prove it; of what is expected those of the part that can be tested without a GPU.
        sources (`tuple[str, ...]`, *optional*):
            Issues as `project#number`, and guides by name.
        needs (`Mapping[str, Any]`, *optional*):
            Fields that the recipe has to set.
        excludes (`Mapping[str, tuple]`, *optional*):
            Values that a field may not have.
    """

    verdict: Verdict
    note: str = ""
    tests: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    needs: Mapping[str, Any] = field(default_factory=dict)
    excludes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def _proved(*tests: str) -> Entry:
    return Entry(Verdict.PROVED, tests=tests)


def _expected(note: str = "", *sources: str, **fields: Any) -> Entry:
    return Entry(Verdict.EXPECTED, note, sources=sources, **fields)


def _refused(note: str, *sources: str) -> Entry:
    return Entry(Verdict.REFUSED, note, sources=sources)


_ONE_CPU = "tests/e2e/test_train_evaluate_predict.py::test_the_manifest_says_what_was_trained_on_what"
_TWO_CPU = "tests/e2e/test_train_evaluate_predict.py::test_two_processes_train_as_one_does"
_QUANTISED = "tests/e2e/test_quantised_bases.py::test_a_quantised_base_trains_saves_loads_and_writes"
_TWO_QUANTISED = "tests/e2e/test_quantised_bases.py::test_a_quantised_base_trains_on_two_processes_as_on_one"
_E2E = "tests/e2e/test_sharded_engines.py"
_FSDP2_ON_CPUS = f"{_E2E}::test_fsdp2_shards_an_unquantised_base_and_resumes"
_FSDP1_ON_CPUS = f"{_E2E}::test_fsdp1_shards_a_4_bit_base_and_resumes"
_ZERO_ON_CPUS = f"{_E2E}::test_zero_trains_and_resumes"
_PEFT_FSDP, _PEFT_DEEPSPEED = "PEFT's guide to FSDP", "PEFT's guide to DeepSpeed"

_OWN_COPY = "each process loads its own copy of the base onto its own GPU"
_ON_TWO_CPUS = "trained, killed and resumed on two CPU processes by the settings of the file; NCCL is untried"
_NO_8_BIT = "take ddp.yaml, or a 4-bit base"
_NO_FULL = "the result of a recipe is an adapter, so that it can be published without the base; set `use_peft: true`"

TABLE: dict[tuple[str, str], Entry] = {
    **{(FULL, configuration): _refused(_NO_FULL) for configuration in CONFIGURATIONS},
    # The base as it is
    (LORA, "cpu"): _proved(_ONE_CPU),
    (LORA, "cpu_2proc"): _proved(_TWO_CPU),
    (LORA, "single_gpu"): _expected("as cpu, on the one GPU that the process sees"),
    (LORA, "ddp"): _expected(f"as cpu_2proc, over NCCL; {_OWN_COPY}"),
    (LORA, "fsdp2"): _expected(_ON_TWO_CPUS, "accelerate#4206", tests=(_FSDP2_ON_CPUS,)),
    (LORA, "fsdp1_qlora"): _refused("that configuration is for 4-bit bases; take fsdp2.yaml", _PEFT_FSDP),
    (LORA, "zero2"): _expected(_ON_TWO_CPUS, _PEFT_DEEPSPEED, tests=(_ZERO_ON_CPUS,)),
    (LORA, "zero3"): _expected(
        f"{_ON_TWO_CPUS}; adapters were saved empty before Transformers 5, here only the adapter is gathered",
        _PEFT_DEEPSPEED,
        "trl#4416",
        "peft#2892",
        "transformers#41416",
        tests=(_ZERO_ON_CPUS,),
    ),
    # 8-bit
    (INT8, "cpu"): _proved(_QUANTISED),
    (INT8, "cpu_2proc"): _proved(_TWO_QUANTISED),
    (INT8, "single_gpu"): _expected("as cpu, on the one GPU that the process sees"),
    (INT8, "ddp"): _expected(_OWN_COPY, "bitsandbytes#366", "trl#921"),
    (INT8, "fsdp2"): _refused(f"8-bit weights cannot be taken apart into shards; {_NO_8_BIT}", "peft#2833"),
    (INT8, "fsdp1_qlora"): _refused(f"FSDP1 shards no integers; {_NO_8_BIT}", "peft#2833", "bitsandbytes#1709"),
    (INT8, "zero2"): _expected(
        f"{_OWN_COPY}; {_ON_TWO_CPUS}", "bitsandbytes#1451", _PEFT_DEEPSPEED, tests=(_ZERO_ON_CPUS,)
    ),
    (INT8, "zero3"): _refused(
        "the loss is wrong by an order of magnitude; take zero2.yaml or ddp.yaml", "bitsandbytes#1451", "axolotl#1852"
    ),
    # 4-bit
    (INT4, "cpu"): _proved(_QUANTISED),
    (INT4, "cpu_2proc"): _proved(_TWO_QUANTISED),
    (INT4, "single_gpu"): _expected("as cpu, on the one GPU that the process sees"),
    (INT4, "ddp"): _expected(_OWN_COPY, "trl#921"),
    (INT4, "fsdp2"): _refused(
        "a base stored in uint8 is not sharded, one stored in bfloat16 gives a wrong forward pass; take fsdp1_qlora.yaml, or "
        "ddp.yaml where the base fits one GPU",
        "accelerate#3983",
        "accelerate#3874",
        "bitsandbytes#1945",
    ),
    (INT4, "fsdp1_qlora"): _expected(
        f"each process loads the whole 4-bit base before it is sharded; {_ON_TWO_CPUS}",
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
        f"each GPU holds the whole 4-bit base before it is sharded, which has to fit; {_ON_TWO_CPUS}",
        _PEFT_DEEPSPEED,
        "bitsandbytes#1249",
        "peft#2016",
        tests=(_ZERO_ON_CPUS,),
    ),
}


def configuration_of(promise: Promise) -> str:
    """The row of the table that a launcher's promise belongs to, also where the user wrote a file of his own.

    Args:
        promise ([`Promise`]):
            From [`~launch_promise.promise_of`], its `on_cpu` known.

    Returns:
        `str`: a name of [`CONFIGURATIONS`].

    Raises:
        [`InputError`]: none of them keeps such a promise.
    """
    # DDP of one process is one process.
    alone = promise.processes == 1 and promise.engine == Engine.DDP
    engine = Engine.ONE_PROCESS if alone else promise.engine
    wanted = (engine, bool(promise.on_cpu))
    names = [name for name, found in CONFIGURATIONS.items() if found == wanted]
    if not names:
        raise InputError(f"nothing under accelerate_configs/ trains on {promise}; its README lists what there is")
    return names[0]


def check(recipe: Recipe, configuration: str) -> None:
    """Refuse a recipe under a configuration where its method is known to fail, or lacks a field that it needs there.

    Args:
        recipe ([`Recipe`]):
            The recipe.
        configuration (`str`):
            A name of [`CONFIGURATIONS`].

    Raises:
        [`InputError`]: with the reason, where it was reported, and the mend.
    """
    entry = TABLE[recipe.method, configuration]
    where = f"{recipe.path} with {configuration}.yaml"
    if entry.verdict == Verdict.REFUSED:
        raise InputError(f"{entry.note}{_reported(entry)}", where)
    for key, value in entry.needs.items():
        if recipe.resolved.get(key) != value:
            raise InputError(f"{recipe.method} needs `{key}: {value}` there{_reported(entry)}", where)
    for key, values in entry.excludes.items():
        if recipe.resolved.get(key) in values:
            raise InputError(f"`{key}: {recipe.resolved[key]}` fails there; take another{_reported(entry)}", where)


def describe(method: str) -> list[str]:
    """One line a configuration for a terminal: `fsdp2        refused   why (project#number)`."""
    lines = []
    for name in CONFIGURATIONS:
        entry = TABLE[method, name]
        said = ", ".join(entry.tests) if entry.verdict == Verdict.PROVED else f"{entry.note}{_reported(entry)}"
        lines.append(f"{name:<13}{entry.verdict:<10}{said}")
    return lines


def markdown() -> str:
    """The table for the README: a row a method, a column a configuration, the reasons below it by number."""
    notes: dict[str, int] = {}
    rows = [f"| | {' | '.join(CONFIGURATIONS)} |", "|---" * (len(CONFIGURATIONS) + 1) + "|"]
    for method in METHODS:
        cells = []
        for name in CONFIGURATIONS:
            entry = TABLE[method, name]
            tests = ", ".join(f"`{test}`" for test in entry.tests)
            said = "; ".join(text for text in (_note(entry), tests) if text)
            number = notes.setdefault(said, len(notes) + 1)
            cells.append(f"{entry.verdict} {number}")
        rows.append(f"| {method} | {' | '.join(cells)} |")
    reasons = (f"{number}. {said}" for said, number in notes.items())
    return "\n".join(
        [
            *rows,
            "",
            "<details><summary>By which test, from which source, why not</summary>",
            "",
            *reasons,
            "",
            "</details>",
        ]
    )


def with_table(document: str) -> str:
    """A Markdown document with the table between its two marks.

    Raises:
        [`InputError`]: a mark is missing.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the lines `{BEGIN}` and `{END}` are missing; add them where the table belongs")
    return f"{head}{BEGIN}\n{markdown()}\n{END}{tail}"


def _note(entry: Entry) -> str:
    fields = ", ".join(f"`{key}: {value}`" for key, value in entry.needs.items())
    needs = f"; the recipe needs {fields}" if fields else ""
    return f"{entry.note}{needs}{_reported(entry)}"


def _reported(entry: Entry) -> str:
    return f" ({', '.join(entry.sources)})" if entry.sources else ""
