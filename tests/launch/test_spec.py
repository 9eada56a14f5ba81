"""Every shipped configuration requests what its header says, and what accelerate would degrade is refused."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from conftest import REPOSITORY

from radrecipes.errors import InputError
from radrecipes.launch.compatibility import CONFIGURATIONS, configuration_of
from radrecipes.launch.spec import (
    Engine,
    LaunchSpec,
    arguments_from_file,
    check_engine,
    check_gpus,
    check_processes,
    check_unsharded,
    spec_from_arguments,
    spec_from_environment,
)

FOLDER = REPOSITORY / "accelerate_configs"
MACHINES = (
    "--num_machines",
    "2",
    "--machine_rank",
    "1",
    "--main_process_ip",
    "node-1",
    "--main_process_port",
    "29500",
)


def requested(file, *words):
    parsed = launch_command_parser().parse_args(["--config_file", str(file), *words, "script.py"])
    return spec_from_arguments(accelerate_launch._validate_launch_command(parsed)[0])


def written(tmp_path, **fields):
    file = tmp_path / "own.yaml"
    fields = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_machines": 1} | fields
    file.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_shipped_file_requests_what_the_table_and_its_header_say(name):
    file = FOLDER / f"{name}.yaml"
    spec = requested(file)
    assert (spec.engine, spec.on_cpu) == CONFIGURATIONS[name]
    header = " ".join(line.lstrip("# ") for line in file.read_text("utf-8").splitlines() if line.startswith("#"))
    assert f"Requests {spec}" in header and f"accelerate_configs/{name}.yaml" in header and "Needs " in header
    assert f"`{name}.yaml`" in (FOLDER / "README.md").read_text("utf-8")
    assert LaunchSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_shipped_file_contains_nothing_that_accelerate_would_not_read(name):
    parsed = launch_command_parser().parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), "script.py"])
    taken = vars(accelerate_launch._validate_launch_command(parsed)[0])
    content = accelerate_launch.load_config_from_file(parsed.config_file)
    written_in_file = [line.partition(":")[0] for line in (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()]
    apart = ("compute_environment", "distributed_type", "fsdp_config", "deepspeed_config")
    for key in [key for key in written_in_file if key and key[0] not in " #" and key not in apart]:
        assert taken[key] == getattr(content, key), key
    for key, value in {**content.fsdp_config, **content.deepspeed_config}.items():
        assert taken[key] == value, key


@pytest.mark.parametrize("name", ["cpu_2proc", "ddp", "fsdp2", "fsdp1_qlora", "zero2", "zero3"])
def test_options_make_several_machines_of_a_shipped_file(name):
    spec = requested(FOLDER / f"{name}.yaml", "--num_processes", "16", *MACHINES)
    assert (spec.processes, spec.engine) == (16, CONFIGURATIONS[name][0])


@pytest.mark.parametrize(
    ("fields", "words", "said"),
    [
        ({"distributed_type": "MULTI_CPU", "use_cpu": "true", "num_processes": 2}, (), "one process per machine instead of 2"),
        ({"distributed_type": '"NO"', "use_cpu": "true", "num_processes": 3}, (), "instead of 3 in total; write `distributed"),
        ({"use_cpu": "true", "num_processes": 2}, ("--cpu",), "remove --cpu"),
        ({"distributed_type": "FSDP", "use_cpu": "true", "num_processes": 2}, (), "FSDP1 needs GPUs; on a CPU .* DDP instead"),
        ({"distributed_type": "DEEPSPEED", "use_cpu": "true", "num_processes": 2}, (), "ZeRO-2 needs GPUs"),
        ({"num_processes": 3}, MACHINES, "--num_processes 3 .* is not divisible by --num_machines 2"),
        ({"num_processes": 4}, ("--num_machines", "2"), "need --main_process_ip"),
        ({"num_processes": 4, "main_process_port": 0}, (*MACHINES[:-2],), "a fixed port"),
        ({"num_processes": 2}, ("--use_deepspeed", "--zero_stage", "1"), "ZeRO stage 1 is not supported"),
        ({"num_processes": 2}, ("--use_deepspeed", "--deepspeed_config_file", "ds.json"), "ds.json.* are not supported"),
    ],
)  # fmt: skip
def test_what_accelerate_would_degrade_is_refused_before_anything_starts(fields, words, said, tmp_path):
    with pytest.raises(InputError, match=f"own.yaml: .*{said}"):
        requested(written(tmp_path, **fields), *words)


def test_the_spec_is_the_launcher_s_own_otherwise_what_the_variables_say():
    fsdp2 = LaunchSpec(8, Engine.FSDP2, False)
    workers = {"WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"}
    assert spec_from_environment({}) is None
    assert spec_from_environment({"RADRECIPES_LAUNCH_SPEC": fsdp2.to_json(), **workers}) == fsdp2
    assert spec_from_environment(workers) == LaunchSpec(2, Engine.DDP, None)
    assert spec_from_environment({**workers, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}) == LaunchSpec(
        2, Engine.FSDP2, False
    )
    zero3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    assert spec_from_environment({**workers, **zero3}) == LaunchSpec(2, Engine.ZERO3, False)
    assert spec_from_environment({"ACCELERATE_USE_CPU": "True"}) == LaunchSpec(1, Engine.ONE_PROCESS, True)
    assert spec_from_environment({"ACCELERATE_USE_CPU": "False"}) == LaunchSpec(1, Engine.ONE_PROCESS, False)
    with pytest.raises(InputError, match=r"one process although several were requested.*cpu_2proc"):
        spec_from_environment({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"})


def test_a_spec_for_gpus_needs_them(monkeypatch):
    for available in (True, False):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda available=available: available)
        for harmless in (None, LaunchSpec(2, Engine.DDP, True), LaunchSpec(2, Engine.DDP, None)):
            check_gpus(harmless)
        if available:
            check_gpus(LaunchSpec(8, Engine.FSDP2, False))
    with pytest.raises(InputError, match=r"requests 8 processes \(FSDP2\) on GPUs, but PyTorch finds no GPU here"):
        check_gpus(LaunchSpec(8, Engine.FSDP2, False))


def there(processes, device, gpus=1):
    return SimpleNamespace(
        distributed_state=SimpleNamespace(num_processes=processes), device=torch.device(device), n_gpu=gpus
    )


def test_another_world_size_or_device_than_requested_is_refused():
    two = LaunchSpec(2, Engine.DDP, True)
    assert check_processes(two, there(2, "cpu")) == two
    assert check_processes(LaunchSpec(2, Engine.DDP, None), there(2, "cuda")) == LaunchSpec(2, Engine.DDP, False)
    assert check_processes(None, there(1, "cpu")) == LaunchSpec(1, Engine.ONE_PROCESS, True)
    assert check_processes(None, there(2, "cpu")) == two  # under mpirun, for one
    with pytest.raises(InputError, match=r"requested 2 processes \(DDP\) on the CPU, but the world size is 1"):
        check_processes(two, there(1, "cpu"))
    with pytest.raises(InputError, match="this process is on a GPU; set ACCELERATE_USE_CPU=true"):
        check_processes(two, there(2, "cuda"))
    with pytest.raises(InputError, match="requested 1 process on a GPU, but this process is on the CPU"):
        check_processes(LaunchSpec(1, Engine.ONE_PROCESS, False), there(1, "cpu"))
    with pytest.raises(InputError, match="one process sees 4 GPUs"):
        check_processes(None, there(1, "cuda", gpus=4))


@pytest.mark.parametrize("engine", Engine)
def test_unsharded_models_only_for_inference(engine):
    spec = LaunchSpec(2, engine, False)
    if engine in (Engine.ONE_PROCESS, Engine.DDP):
        check_unsharded(spec)
    else:
        with pytest.raises(InputError, match=rf"requests 2 processes \({engine}\) on GPUs, .* use ddp\.yaml$"):
            check_unsharded(spec)


def test_another_engine_than_requested_is_refused():
    def made(kind, processes=2, **state):
        return SimpleNamespace(distributed_type=kind, num_processes=processes, state=SimpleNamespace(**state))

    fsdp2 = made(DistributedType.FSDP, fsdp_plugin=SimpleNamespace(fsdp_version=2))
    zero3 = made(DistributedType.DEEPSPEED, deepspeed_plugin=SimpleNamespace(zero_stage=3))
    check_engine(None, fsdp2)
    check_engine(LaunchSpec(2, Engine.FSDP2, False), fsdp2)
    check_engine(LaunchSpec(2, Engine.ZERO3, False), zero3)
    check_engine(LaunchSpec(2, Engine.DDP, True), made(DistributedType.MULTI_CPU))
    check_engine(LaunchSpec(1, Engine.DDP, False), made(DistributedType.NO, processes=1))
    with pytest.raises(InputError, match=r"requested 2 processes \(FSDP2\) on GPUs, but accelerate runs DDP"):
        check_engine(LaunchSpec(2, Engine.FSDP2, False), made(DistributedType.MULTI_CPU))
    with pytest.raises(InputError, match="accelerate runs FSDP2"):
        check_engine(LaunchSpec(2, Engine.FSDP1, False), fsdp2)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_each_shipped_file_is_the_configuration_of_its_name(name):
    assert configuration_of(spec_from_arguments(arguments_from_file(FOLDER / f"{name}.yaml"))) == name


def test_a_file_of_ones_own_is_known_by_what_it_does(tmp_path):
    text = (FOLDER / "fsdp2.yaml").read_text("utf-8").replace("num_processes: 8", "num_processes: 3")
    (tmp_path / "ours.yaml").write_text(text, "utf-8")
    spec = requested(tmp_path / "ours.yaml")
    assert (configuration_of(spec), spec.processes) == ("fsdp2", 3)


@pytest.mark.parametrize(
    "content",
    [
        b"- a\n- list\n",
        b"distributed_type: NOBODY\n",
        b"unknown_key: 1\n",
        b"a: [",
        b"a: " + b"[" * 5000,
        b"a: \xff",
        b"a" * 2**21,
    ],
)
def test_what_accelerate_cannot_read_is_one_line(content, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"wrong.yaml(:1)?: (accelerate cannot read it|not |is larger than)"
    ) as raised:
        arguments_from_file(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    with pytest.raises(InputError, match=r"none.yaml: no such accelerate configuration"):
        arguments_from_file(tmp_path / "none.yaml")
