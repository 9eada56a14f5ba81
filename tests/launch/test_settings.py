"""What a launcher or the shell sets must not change what a recipe trains."""

import re
from pathlib import Path

import accelerate
import pytest
from conftest import REPOSITORY

from radrecipes.errors import InputError
from radrecipes.launch.compatibility import CONFIGURATIONS
from radrecipes.launch.settings import _SETTINGS, check_settings, settings_from_arguments
from radrecipes.launch.spec import arguments_from_file

# Variables that accelerate reads and that do not change results of a supported engine: processes, devices, memory, logs. Those of
# sharding are in `spec.py`.
HARMLESS = """
    USE_CPU USE_DEEPSPEED USE_FSDP DEEPSPEED_ZERO_STAGE DEEPSPEED_CONFIG_FILE DEEPSPEED_ZERO3_INIT DEEPSPEED_ZERO3_SAVE_16BIT_MODEL
    DEEPSPEED_OFFLOAD_PARAM_DEVICE DEEPSPEED_OFFLOAD_PARAM_NVME_PATH DEEPSPEED_OFFLOAD_OPTIMIZER_NVME_PATH
    DEEPSPEED_MOE_LAYER_CLS_NAMES CONFIG_DS_FIELDS TORCH_DEVICE CPU_AFFINITY BYPASS_DEVICE_MAP INIT_INCLUDE_BUFFERS
    ENABLE_RICH IN_TPU_POD DEBUG_MODE DEBUG_RDV_FILE LOG_LEVEL
    USE_SAGEMAKER SAGEMAKER_DISTRIBUTED_TYPE DOWNCAST_BF16 ALLOW_CP_STANDALONE
""".split()  # noqa: SIM905
# Settings of 8-bit floats, which need ACCELERATE_FP8_BACKEND or `mixed_precision: fp8`, and prefixes of variables in `_SETTINGS`.
PREFIXES = ("FP8_", "DYNAMO_")


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("bf16", [False, True])
def test_the_shipped_files_change_no_recipe(name, bf16):
    args = arguments_from_file(REPOSITORY / "accelerate_configs" / f"{name}.yaml")
    check_settings(settings_from_arguments(args), bf16, None)


@pytest.mark.parametrize(
    ("shipped", "added", "said"),
    [
        ("cpu", "mixed_precision: bf16", r"mixed_precision \(ACCELERATE_MIXED_PRECISION\) is 'bf16', .* `dtype` decides"),
        ("fsdp2", "mixed_precision: fp16", "is 'fp16'"),
        ("ddp", "mixed_precision: fp8", "is 'fp8'"),
        ("cpu", "dynamo_config: {dynamo_backend: INDUCTOR}", "dynamo_backend .* set `torch_compile` in the recipe"),
        ("zero2", "deepspeed_config: {gradient_accumulation_steps: 4}", "follows from the recipe's global_batch_size"),
        ("zero3", "deepspeed_config: {gradient_clipping: 0.3}", "set `max_grad_norm` in the recipe"),
        ("zero2", "deepspeed_config: {offload_optimizer_device: cpu}", "offload_optimizer_device"),
        ("fsdp2", "parallelism_config: {parallelism_config_tp_size: 2}", "use_parallelism_config"),
    ],
)  # fmt: skip
def test_a_file_that_would_change_a_recipe_is_refused(shipped, added, said, tmp_path):
    key = added.partition(":")[0]
    text = (REPOSITORY / "accelerate_configs" / f"{shipped}.yaml").read_text("utf-8")
    # The key of the shipped file, and what is indented below it, is replaced.
    text = re.sub(rf"^{key}:.*\n(?:[ ]+.*\n)*", "", text, flags=re.MULTILINE) + added + "\n"
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    found = settings_from_arguments(arguments_from_file(tmp_path / "own.yaml"))
    with pytest.raises(InputError, match=f"own.yaml: .*{said}"):
        check_settings(found, False, None, str(tmp_path / "own.yaml"))


def test_a_setting_that_the_recipe_requests_itself_is_allowed():
    for value in ("bf16", "no", ""):
        check_settings({"ACCELERATE_MIXED_PRECISION": value}, True, None)
    check_settings({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, False, True)
    for name, value in (
        ("ACCELERATE_MIXED_PRECISION", "BF16"),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"),
        ("ACCELERATE_DYNAMO_BACKEND", "x" * 4000),
    ):
        with pytest.raises(InputError, match=f"{name}.* is '.{{1,40}}', which would change"):
            check_settings({name: value}, False, None)
    with pytest.raises(InputError, match="NVIDIA_TF32_OVERRIDE"):
        check_settings({"NVIDIA_TF32_OVERRIDE": "0"}, False, True)


def test_every_variable_that_accelerate_reads_is_known():
    sources = [path for path in Path(accelerate.__file__).parent.rglob("*.py") if "test_utils" not in path.parts]
    read = set().union(*(re.findall(r"ACCELERATE_([A-Z0-9_]*[A-Z0-9])", path.read_text("utf-8")) for path in sources))
    known = {name.removeprefix("ACCELERATE_") for name in _SETTINGS} | set(HARMLESS)
    assert {name for name in read - known if not name.startswith(PREFIXES) and f"{name}_" not in PREFIXES} == set()
