"""Every shipped configuration promises what its header says, and what breaks a promise is refused; by accelerate's own parser."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from conftest import REPOSITORY

from radrecipes.errors import InputError
from radrecipes.launch import spec as launch_promise
from radrecipes.launch.compatibility import CONFIGURATIONS
from radrecipes.launch.spec import Engine, Promise, check_engine, check_gpus, check_processes, promise_of

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


def promised(file, *words):
    parsed = launch_command_parser().parse_args(["--config_file", str(file), *words, "script.py"])
    return launch_promise.promised_by(accelerate_launch._validate_launch_command(parsed)[0])


def written(tmp_path, **fields):
    file = tmp_path / "own.yaml"
    fields = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_machines": 1} | fields
    file.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_shipped_file_promises_what_the_table_and_its_header_say(name):
    file = FOLDER / f"{name}.yaml"
    promise = promised(file)
    assert (promise.engine, promise.on_cpu) == CONFIGURATIONS[name]
    header = " ".join(line.lstrip("# ") for line in file.read_text("utf-8").splitlines() if line.startswith("#"))
    assert f"Promises {promise}" in header and f"accelerate_configs/{name}.yaml" in header and "Needs " in header
    assert f"`{name}.yaml`" in (FOLDER / "README.md").read_text("utf-8")
    assert Promise.from_json(promise.to_json()) == promise


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_shipped_file_holds_nothing_that_accelerate_would_not_read(name):
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
    promise = promised(FOLDER / f"{name}.yaml", "--num_processes", "16", *MACHINES)
    assert (promise.processes, promise.engine) == (16, CONFIGURATIONS[name][0])


@pytest.mark.parametrize(
    ("fields", "words", "said"),
    [
        ({"distributed_type": "MULTI_CPU", "use_cpu": "true", "num_processes": 2}, (), "one process a machine and not 2"),
        ({"distributed_type": '"NO"', "use_cpu": "true", "num_processes": 3}, (), "not 3 in all; write `distributed_type: M"),
        ({"use_cpu": "true", "num_processes": 2}, ("--cpu",), "leave --cpu out"),
        ({"distributed_type": "FSDP", "use_cpu": "true", "num_processes": 2}, (), "FSDP1 needs GPUs; on a CPU .* DDP of it"),
        ({"distributed_type": "DEEPSPEED", "use_cpu": "true", "num_processes": 2}, (), "ZeRO-2 needs GPUs"),
        ({"num_processes": 3}, MACHINES, "--num_processes 3 .* cannot be divided by --num_machines 2"),
        ({"num_processes": 4}, ("--num_machines", "2"), "meet at --main_process_ip"),
        ({"num_processes": 4, "main_process_port": 0}, (*MACHINES[:-2],), "a port that all know"),
        ({"num_processes": 2}, ("--use_deepspeed", "--zero_stage", "1"), "ZeRO stage 1 is not known"),
        ({"num_processes": 2}, ("--use_deepspeed", "--deepspeed_config_file", "ds.json"), "ds.json is not read here"),
    ],
)  # fmt: skip
def test_what_accelerate_would_degrade_is_refused_before_anything_starts(fields, words, said, tmp_path):
    with pytest.raises(InputError, match=f"own.yaml: .*{said}"):
        promised(written(tmp_path, **fields), *words)


def test_the_promise_is_the_launcher_s_own_else_what_the_variables_say():
    fsdp2 = Promise(8, Engine.FSDP2, False)
    workers = {"WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"}
    assert promise_of({}) is None
    assert promise_of({"RADRECIPES_PROMISE": fsdp2.to_json(), **workers}) == fsdp2
    assert promise_of(workers) == Promise(2, Engine.DDP, None)
    assert promise_of({**workers, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}) == Promise(
        2, Engine.FSDP2, False
    )
    zero3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    assert promise_of({**workers, **zero3}) == Promise(2, Engine.ZERO3, False)
    assert promise_of({"ACCELERATE_USE_CPU": "True"}) == Promise(1, Engine.ONE_PROCESS, True)
    assert promise_of({"ACCELERATE_USE_CPU": "False"}) == Promise(1, Engine.ONE_PROCESS, False)
    with pytest.raises(InputError, match=r"one process where several were asked for.*cpu_2proc"):
        promise_of({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"})


def test_a_promise_of_gpus_needs_them(monkeypatch):
    for available in (True, False):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda available=available: available)
        for harmless in (None, Promise(2, Engine.DDP, True), Promise(2, Engine.DDP, None)):
            check_gpus(harmless)
        if available:
            check_gpus(Promise(8, Engine.FSDP2, False))
    with pytest.raises(InputError, match=r"for 8 processes \(FSDP2\) on GPUs, and PyTorch finds no GPU here"):
        check_gpus(Promise(8, Engine.FSDP2, False))


def there(processes, device, gpus=1):
    return SimpleNamespace(
        distributed_state=SimpleNamespace(num_processes=processes), device=torch.device(device), n_gpu=gpus
    )


def test_another_world_size_or_device_than_promised_is_refused():
    two = Promise(2, Engine.DDP, True)
    assert check_processes(two, there(2, "cpu")) == two
    assert check_processes(Promise(2, Engine.DDP, None), there(2, "cuda")) == Promise(2, Engine.DDP, False)
    assert check_processes(None, there(1, "cpu")) == Promise(1, Engine.ONE_PROCESS, True)
    assert check_processes(None, there(2, "cpu")) == two  # under mpirun, for one
    with pytest.raises(InputError, match=r"promised 2 processes \(DDP\) on the CPU, and the world size is 1"):
        check_processes(two, there(1, "cpu"))
    with pytest.raises(InputError, match="this process is on a GPU; set ACCELERATE_USE_CPU=true"):
        check_processes(two, there(2, "cuda"))
    with pytest.raises(InputError, match="promised 1 process on a GPU, and this process is on the CPU"):
        check_processes(Promise(1, Engine.ONE_PROCESS, False), there(1, "cpu"))
    with pytest.raises(InputError, match="one process sees 4 GPUs"):
        check_processes(None, there(1, "cuda", gpus=4))


@pytest.mark.parametrize("engine", Engine)
def test_whole_models_answer_where_none_is_shared_out(engine):
    promise = Promise(2, engine, False)
    if engine in (Engine.ONE_PROCESS, Engine.DDP):
        launch_promise.check_whole_model(promise)
    else:
        with pytest.raises(InputError, match=rf"for 2 processes \({engine}\) on GPUs, .* take ddp\.yaml$"):
            launch_promise.check_whole_model(promise)


def test_another_engine_than_promised_is_refused():
    def made(kind, processes=2, **state):
        return SimpleNamespace(distributed_type=kind, num_processes=processes, state=SimpleNamespace(**state))

    fsdp2 = made(DistributedType.FSDP, fsdp_plugin=SimpleNamespace(fsdp_version=2))
    zero3 = made(DistributedType.DEEPSPEED, deepspeed_plugin=SimpleNamespace(zero_stage=3))
    check_engine(None, fsdp2)
    check_engine(Promise(2, Engine.FSDP2, False), fsdp2)
    check_engine(Promise(2, Engine.ZERO3, False), zero3)
    check_engine(Promise(2, Engine.DDP, True), made(DistributedType.MULTI_CPU))
    check_engine(Promise(1, Engine.DDP, False), made(DistributedType.NO, processes=1))
    with pytest.raises(InputError, match=r"promised 2 processes \(FSDP2\) on GPUs, and accelerate made DDP of it"):
        check_engine(Promise(2, Engine.FSDP2, False), made(DistributedType.MULTI_CPU))
    with pytest.raises(InputError, match="made FSDP2 of it"):
        check_engine(Promise(2, Engine.FSDP1, False), fsdp2)
