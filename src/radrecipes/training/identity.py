"""What makes two runs the same: for resuming a run, averaging over seeds, and reproducing a recorded result."""

from collections.abc import Collection, Mapping
from typing import Any

from radrecipes.launch.spec import Engine, LaunchSpec
from radrecipes.recipe import NOT_DECISIVE
from radrecipes.training import PARTS

# Fields of a recipe that depend on the machine.
_OF_THE_MACHINE = ("bf16", "use_cpu")
# Fields that do not count ... between attempts of one run; data and weights are compared by digest, not by their place.
NOT_OF_RUN = (*NOT_DECISIVE, *_OF_THE_MACHINE, "dataset", "start_from")
# ... between the seeds of one result.
NOT_OF_RESULT = (*NOT_DECISIVE, "seed")
# ... between a recorded result and a run that reproduces it; the chat template, too, is compared by digest, and the dtype may be
# another machine's faster one: the manifest says which it was.
NOT_OF_REPRODUCTION = (*NOT_OF_RESULT, *_OF_THE_MACHINE, "dataset", "dtype", "chat_template_path", "start_from")
# Checkpoints of these engines can be read only by the same number of processes.
_FIXED_PROCESSES = (Engine.FSDP1, Engine.ZERO2, Engine.ZERO3)


def identity_of(
    facts: Mapping[str, Any], launch: LaunchSpec, drafts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What must stay the same when a run is resumed: plain JSON values; names begin with one of [`PARTS`], or are `engine`.

    `facts` are from [`~training.manifest.made_of`], `drafts` are those among the rows. DDP and one process
    are the same, as their checkpoints are.
    """
    return {
        **recipe_fields(facts["recipe"]["resolved"]),
        "data.digest": facts["data"]["digest"],
        **({"data.drafts_sha256": drafts["sha256"]} if drafts else {}),
        "base.weights_sha256": facts["base"]["weights_sha256"],
        "base.dtype": facts["base"]["dtype"],
        "prompt.sha256": facts["prompt"]["sha256"],
        **({"start.weights_sha256": facts["start"]["weights_sha256"]} if "start" in facts else {}),
        "processes": launch.processes,
        "engine": Engine.DDP if launch.engine == Engine.ONE_PROCESS else launch.engine,
    }


def changeable_parts(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """The [`PARTS`] in which a resumed run may differ, if the user allows it."""
    return tuple(part for part in PARTS if part != "processes" or identity["engine"] not in _FIXED_PROCESSES)


def recipe_fields(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a resolved recipe that count when a run is resumed; includes defaults, so that overriding one shows."""
    return {f"recipe.{key}": value for key, value in without(resolved, NOT_OF_RUN).items()}


def without(fields: Mapping[str, Any], uncounted: Collection[str]) -> dict[str, Any]:
    """The fields of a recipe that count; `uncounted` is one of the sets of this module."""
    return {key: value for key, value in fields.items() if key not in uncounted}
