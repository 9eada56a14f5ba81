"""Settings of a launcher or of the shell that would change the numbers of a recipe: refused, because no manifest records them.

accelerate passes every setting of a configuration file on as an environment variable, and reads the same variables from the shell.
"""

import argparse
from collections.abc import Mapping

from radrecipes.errors import InputError

# Values with which a setting changes nothing.
_OFF = ("", "no", "none", "auto", "false", "0", "default", "strict")
_BATCH = "it follows from the recipe's global_batch_size; remove it"
_COMPILE = "set `torch_compile` in the recipe; remove it here"
_EIGHT_BIT = "8-bit floats are not supported; remove it"
_ENGINE = "only what accelerate_configs/README.md lists is supported; remove it"
_PRECISION = "the recipe's `dtype` decides the precision; "
# Environment variable -> key of accelerate's configuration file or option, empty if there is none; and what to do.
_SETTINGS = {
    "ACCELERATE_MIXED_PRECISION": ("mixed_precision", f"{_PRECISION}remove it, or write `no`"),
    "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", _COMPILE),
    "ACCELERATE_DYNAMO_MODE": ("dynamo_mode", _COMPILE),
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": ("dynamo_use_fullgraph", _COMPILE),
    "ACCELERATE_DYNAMO_USE_DYNAMIC": ("dynamo_use_dynamic", _COMPILE),
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": ("dynamo_use_regional_compilation", _COMPILE),
    "ACCELERATE_FP8_BACKEND": ("fp8_backend", _EIGHT_BIT),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps", _BATCH),
    "ACCELERATE_GRADIENT_CLIPPING": ("gradient_clipping", "set `max_grad_norm` in the recipe; remove it here"),
    # DeepSpeed would replace the recipe's optimizer by its own for the CPU.
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("offload_optimizer_device", _ENGINE),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("use_parallelism_config", _ENGINE),
    "ACCELERATE_USE_MEGATRON_LM": ("use_megatron_lm", _ENGINE),
    # torch, cuBLAS and oneDNN compute float32 in a lower precision with these.
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ("", "set `tf32` in the recipe; unset it"),
    "ONEDNN_DEFAULT_FPMATH_MODE": ("", f"{_PRECISION}unset it"),
    "DNNL_DEFAULT_FPMATH_MODE": ("", f"{_PRECISION}unset it"),
}


def check_settings(settings: Mapping[str, str], bf16: bool, tf32: bool | None, where: str | None = None) -> None:
    """Refuse settings (the environment, or [`settings_from_arguments`]) that contradict a recipe's bfloat16 and `tf32`."""
    # What the recipe itself requests may be requested twice.
    same = {
        "ACCELERATE_MIXED_PRECISION": "bf16" if bf16 else "no",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1" if tf32 else "0",
    }
    for variable, (key, fix) in _SETTINGS.items():
        value = settings.get(variable, "")
        if value.lower() not in (*_OFF, same.get(variable)):
            named = f"{key} ({variable})" if key else variable
            raise InputError(f"{named} is {value[:40]!r}, which would change what the recipe trains; {fix}", where)
    if tf32 and settings.get("NVIDIA_TF32_OVERRIDE") == "0":
        raise InputError(
            "NVIDIA_TF32_OVERRIDE is '0', but the recipe sets `tf32: true`; unset it, or change the recipe"
        )


def settings_from_arguments(args: argparse.Namespace) -> dict[str, str]:
    """The settings in `accelerate launch` arguments that are completed from a configuration file, by environment variable."""
    found = {variable: getattr(args, key, None) for variable, (key, _) in _SETTINGS.items() if key}
    return {variable: str(value) for variable, value in found.items() if value is not None}
