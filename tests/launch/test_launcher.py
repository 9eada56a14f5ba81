import inspect
import os
import re
import signal
import sys
import time

import pytest
import torch
from accelerate.commands import launch as accelerate_launch
from accelerate.commands.launch import launch_command_parser
from conftest import REPOSITORY
from sft_faults import Script, free_port
from torch.distributed.run import get_args_parser

from radrecipes import errors
from radrecipes.errors import InputError, RadrecipesError
from radrecipes.launch.launcher import EXPLAINED, INTERRUPTED, exit_code_after_signal, exit_code_of_failures, launch

CPU_2PROC = REPOSITORY / "accelerate_configs" / "cpu_2proc.yaml"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([2], 2),
        ([1, -signal.SIGTERM], 1),
        ([-signal.SIGKILL, -signal.SIGTERM], 137),
        ([-signal.SIGKILL, INTERRUPTED], 137),  # it saved because torch told it to, but the job lost a worker
        ([1, INTERRUPTED], 1),  # a crash would be queued again for ever
        ([1, 4], 4),  # the peer of a worker that diverged loses its connection
        ([INTERRUPTED, -signal.SIGTERM], INTERRUPTED),
        ([-signal.SIGTERM, INTERRUPTED], INTERRUPTED),
        ([INTERRUPTED, -signal.SIGKILL], INTERRUPTED),
        ([-signal.SIGTERM, -signal.SIGTERM], 143),
    ],
)
def test_the_first_failure_decides_unless_a_worker_said_why(codes, expected):
    assert exit_code_of_failures(codes) == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([75, 75], 75),
        ([0, 75], 75),
        ([0, 0], 0),
        ([75, 3], 3),
        ([75, -signal.SIGKILL], 143),
        ([75, 1], 143),
        ([], 143),
    ],
)
def test_after_a_signal_only_a_job_that_saved_everywhere_may_be_requeued(codes, expected):
    assert exit_code_after_signal(codes, signal.SIGTERM) == expected


def test_every_exit_code_of_the_project_is_known():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RadrecipesError)]
    assert {kind.exit_code for kind in kinds} <= {1, *EXPLAINED, INTERRUPTED}


def test_private_parts_of_accelerate_behave_as_used(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\nnum_processes: 3\nmixed_precision: 'no'\n"
        "deepspeed_config:\n  zero_stage: 3\n"
    )
    words = ["--config_file", str(tmp_path / "own.yaml"), "--num_cpu_threads_per_process", "1", "script.py"]
    args, defaults, precision_from_file = accelerate_launch._validate_launch_command(
        launch_command_parser().parse_args(words)
    )
    assert (args.num_processes, args.use_deepspeed, args.zero_stage, args.debug) == (3, True, 3, False)
    assert (list(defaults.deepspeed_config), precision_from_file) == (["zero_stage"], True)
    # `_start` does what this one does, apart from a single process.
    source = inspect.getsource(accelerate_launch.launch_command)
    assert "args, defaults, mp_from_config_flag = _validate_launch_command(args)" in source
    assert re.findall(r"^ +(\w+_launcher)\(", source, re.MULTILINE) == [
        "deepspeed_launcher", "multi_gpu_launcher", "multi_gpu_launcher", "multi_gpu_launcher", "tpu_pod_launcher", "tpu_launcher",
        "sagemaker_launcher", "simple_launcher",
    ]  # fmt: skip
    # torch's option that accelerate passes on.
    assert get_args_parser().parse_args(["script.py"]).signals_to_handle == "SIGTERM,SIGINT,SIGHUP,SIGQUIT"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start(file, *words)` calls the launcher in this process, with the environment put back afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    (tmp_path / "multi_cpu.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nuse_cpu: true\nnum_processes: 2\n"
    )
    monkeypatch.chdir(tmp_path)

    def start_launcher(file, *words):
        return launch(launch_command_parser().parse_args(["--config_file", str(file), *words, "none.py"]))

    return start_launcher


@pytest.mark.parametrize("name", ["single_gpu", "ddp", "fsdp1_qlora", "fsdp2", "zero2", "zero3"])
def test_what_is_for_gpus_does_not_start_without_one(name, start, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(InputError, match="PyTorch finds no GPU here"):
        start(REPOSITORY / "accelerate_configs" / f"{name}.yaml")


def test_one_process_does_not_start_if_several_were_requested(start):
    with pytest.raises(InputError, match=r"multi_cpu\.yaml: accelerate would start one process"):
        start("multi_cpu.yaml")


def test_a_package_that_is_missing_is_named(start, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(accelerate_launch, "is_deepspeed_available", lambda: False)
    with pytest.raises(InputError, match="DeepSpeed is not installed"):
        start(REPOSITORY / "accelerate_configs" / "zero2.yaml")


@pytest.mark.parametrize("backend", ["static", "c10d"])
def test_machines_that_do_not_meet_are_one_line(backend, start):
    place = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port()))
    words = ("--num_machines", "2", "--machine_rank", "1", *place, "--rdzv_backend", backend)
    with pytest.raises(RadrecipesError, match="the machines could not connect") as failed:
        start(CPU_2PROC, *words, "--rdzv_conf", "timeout=1,join_timeout=1")
    assert failed.value.exit_code == 1 and "\n" not in str(failed.value)


def test_a_configuration_that_is_missing_is_named(tmp_path):
    args = launch_command_parser().parse_args(["--config_file", str(tmp_path / "none.yaml"), "script.py"])
    with pytest.raises(InputError, match=r"none\.yaml: no such accelerate configuration"):
        launch(args)
    assert "RADRECIPES_LAUNCHER" not in os.environ


# The agent hangs for half a minute; its workers end before that as they are told. The second starts two seconds after the
# first, so that whoever looks for them in between sees one of several.
HANGS = """\
import pathlib, subprocess, sys, time
from radrecipes.launch import launcher
pathlib.Path(__file__).with_name("began").write_text(str(time.monotonic()))
launcher._AGENT_SECONDS = 1
subprocess.Popen(["false"])
with launcher._exit_after_failed_workers():
    for number, end in enumerate(sys.argv[1:], 1):
        subprocess.Popen(["sh", "-c", f"sleep {3 + number}; {end}"], env={"TORCHELASTIC_RUN_ID": "none"})
        time.sleep(2 if number == 1 else 0)
    time.sleep(7 if "exit 1" not in sys.argv else 30)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there the launcher ends itself")
@pytest.mark.parametrize(
    ("ends", "expected", "after"),
    [(["exit 0", "exit 1"], 1, 7), (["exit 1", "kill -9 $$", "exit 0"], 1, 8), (["exit 0", "exit 0"], 0, 9)],
    ids=["one failed", "the first failed", "none failed"],
)
def test_an_agent_that_hangs_ends_after_failed_workers(ends, expected, after, tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS, encoding="utf-8")
    script = Script(tmp_path, "hangs.py", *ends)
    assert script.end().code == expected, script.stderr
    assert after < time.monotonic() - float((tmp_path / "began").read_text()) < after + 15
