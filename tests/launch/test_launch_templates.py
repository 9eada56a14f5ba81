"""The templates under launch/: what they start is what the real parsers take, and they do with exit codes what they say."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import kubernetes_validate
import pytest
import yaml
from accelerate.commands import launch as accelerate_launch
from conftest import REPOSITORY

from radrecipes import errors
from radrecipes.launch import launcher
from radrecipes.launch.spec import Engine, spec_from_arguments
from radrecipes.recipe import parse_recipe

LAUNCH = REPOSITORY / "launch"
RECIPE = "recipes/smollm2-135m/protocol_lora.yaml"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
# Programs of Slurm: they note their words as JSON, and answer as the test says.
STAND_IN = f"""#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
with open(os.environ["NOTES"], "a") as stream:
    stream.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if name == "srun":
    sys.exit(int(os.environ["CODE"]))
if sys.argv[1:3] == ["show", "hostnames"]:
    print("node-1\\nnode-2")
"""


# A training in miniature: a step a line, a checkpoint every second one, 75 on SIGTERM, from where an earlier run got to.
TRAINS = """\
import signal, sys, time
from pathlib import Path
run, steps, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
told = []
signal.signal(signal.SIGTERM, lambda *ignored: told.append(1))
(run / "checkpoints" / "unfinished").mkdir(parents=True, exist_ok=True)
log = run / "train_log.jsonl"
done = len(log.read_text().splitlines()) if log.exists() else 0
print("begins after", done, flush=True)
for step in range(done + 1, steps + 1):
    with log.open("a") as stream:
        print(step, file=stream)
    if step % 2 == 0:
        (run / "checkpoints" / f"checkpoint-{step}").touch()
    if told:
        time.sleep(0.5)
        sys.exit(75)
    time.sleep(pause)
(run / "COMPLETE").touch()
"""


def read(words):
    """What `scripts/launch.py …` would start, by the real parsers: spec, recipe, and accelerate's arguments."""
    assert words[0] == "scripts/launch.py", words
    args = accelerate_launch.launch_command_parser().parse_args(words[1:])
    args, *_ = accelerate_launch._validate_launch_command(args)
    assert args.training_script == "scripts/sft.py"
    make_parser = runpy.run_path(str(REPOSITORY / "scripts" / "sft.py"), run_name="sft")["make_parser"]
    own, overrides = make_parser().parse_known_args(args.training_script_args)
    return spec_from_arguments(args), parse_recipe(own.config, overrides), args


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def slurm(tmp_path):
    """`slurm(nodes, *words, code=0)` runs the batch script: its exit code, and the words of each program that it called."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def run(nodes, *words, code=0, **environment):
        notes = tmp_path / "notes"
        notes.unlink(missing_ok=True)
        allocation = {
            "SLURM_JOB_ID": "64711",
            "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_NNODES": str(nodes),
            "SLURM_GPUS_ON_NODE": "8",
            "SLURM_CPUS_PER_TASK": "16",
        }
        programs = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(notes), "CODE": str(code)}
        ended = subprocess.run(
            ["bash", LAUNCH / "slurm" / "train.sbatch", *words],
            cwd=REPOSITORY,
            env={**os.environ, **allocation, **programs, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        called = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        return ended.returncode, called

    return run


@pytest.mark.parametrize("nodes", [1, 2])
def test_what_slurm_starts_is_what_our_parsers_take(nodes, slurm):
    code, called = slurm(nodes, RECIPE, "--output_dir", "runs/a b")
    assert code == 0
    (words,) = [words for words in called if words[0] == "srun"]
    spec, recipe, args = read(words[words.index("scripts/launch.py") :])
    assert (spec.processes, spec.engine, spec.on_cpu) == (8 * nodes, Engine.DDP, False)
    assert str(recipe.output_dir) == "runs/a b", "words stay whole"
    if nodes == 1:
        assert args.main_process_port == 0, "two jobs on one node do not meet"
    else:
        assert (args.num_machines, args.rdzv_backend, args.main_process_ip) == (2, "c10d", "node-1")
        assert args.main_process_port == 24711


@pytest.mark.parametrize(
    "code,restarts,queued",
    [
        (75, None, True),
        (75, "19", True),
        (75, "20", False),
        (0, None, False),
        (1, None, False),
        (2, None, False),
        (143, None, False),
    ],
)
def test_slurm_queues_again_what_saved_and_nothing_else(code, restarts, queued, slurm):
    ended, called = slurm(1, RECIPE, code=code, **({"SLURM_RESTART_COUNT": restarts} if restarts else {}))
    assert ended == code
    assert (["scontrol", "requeue", "64711"] in called) == queued


def test_slurm_without_a_recipe_starts_nothing(slurm):
    code, called = slurm(1)
    assert code != 0 and not called


def test_the_shell_scripts_pass_shellcheck():
    scripts = [path for path in LAUNCH.rglob("*") if path.suffix in (".sbatch", ".sh")]
    assert scripts
    checked = subprocess.run([SHELLCHECK, "--shell=bash", *scripts], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_schedulers_wait_longer_than_the_launcher_does():
    script = (LAUNCH / "slurm" / "train.sbatch").read_text("utf-8")
    assert "#SBATCH --signal=TERM@300" in script and "#SBATCH --requeue" in script
    assert int(launcher._SHUTDOWN_SECONDS) < 300


@pytest.mark.parametrize("name,machines", [("job.yaml", 1), ("job_multi_node.yaml", 2)])
def test_what_kubernetes_starts_is_what_our_parsers_take(name, machines):
    documents = {
        document["kind"]: document
        for document in yaml.safe_load_all((LAUNCH / "kubernetes" / name).read_text("utf-8"))
    }
    for document in documents.values():
        kubernetes_validate.validate(document, "1.31", strict=True)
    job = documents["Job"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    spec, _, args = read([word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["command"][1:]])
    gpus = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert spec.processes == gpus * machines == gpus * job.get("completions", 1)
    assert args.num_machines == machines == job.get("parallelism", 1)
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] > int(launcher._SHUTDOWN_SECONDS)
    if machines == 2:
        names = [documents[kind]["metadata"]["name"] for kind in ("Job", "Service")]
        assert args.main_process_ip == f"{names[0]}-0.{names[1]}" and pod["subdomain"] == names[1]
        assert int(args.machine_rank) == 1 and job["completionMode"] == "Indexed"


@pytest.mark.parametrize("name", ["job.yaml", "job_multi_node.yaml"])
def test_kubernetes_starts_again_what_saved_and_ends_what_is_wrong_for_good(name):
    documents = yaml.safe_load_all((LAUNCH / "kubernetes" / name).read_text("utf-8"))
    job = next(document["spec"] for document in documents if document["kind"] == "Job")
    rules = [rule for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    (container,) = job["template"]["spec"]["containers"]
    assert {(rule["onExitCodes"]["containerName"], rule["onExitCodes"]["operator"]) for rule in rules} == {
        (container["name"], "In")
    }
    actions = {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}
    # A folder that another run has locked may be free once its pod is gone.
    for_good = set(launcher.EXPLAINED) - {errors.OutputInUseError.exit_code}
    assert actions == {launcher.INTERRUPTED: "Ignore"} | dict.fromkeys(for_good, "FailJob")


def test_what_skypilot_starts_is_what_our_parsers_take():
    # Fields and their places: skypilot's docs, reference/yaml-spec. SkyPilot itself is too heavy for a test.
    job = yaml.safe_load((LAUNCH / "skypilot" / "train.yaml").read_text("utf-8"))
    assert set(job) == {"name", "workdir", "resources", "envs", "file_mounts", "setup", "run"}
    assert job["resources"]["job_recovery"] == {
        "max_restarts_on_errors": 0,
        "recover_on_exit_codes": [launcher.INTERRUPTED],
    }
    assert job["file_mounts"]["/bucket"] == {"name": "${BUCKET}", "mode": "MOUNT"}
    assert {name for name, value in job["envs"].items() if value is None} == {"RECIPE", "BUCKET"}
    for part in ("setup", "run"):
        checked = subprocess.run([SHELLCHECK, "--shell=bash", "-"], input=job[part], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
    # SkyPilot sets the number of GPUs of the machine.
    environment = {**job["envs"], "RECIPE": RECIPE, "BUCKET": "mine", "SKYPILOT_NUM_GPUS_PER_NODE": "1"}
    told = subprocess.run(
        ["bash", "-c", job["run"].replace("launch/skypilot/with_bucket.sh", "printf '%s\\n'")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    run, bucket, _, *words = told.stdout.splitlines()
    spec, recipe, _ = read(words)
    assert (spec.processes, spec.engine, spec.on_cpu) == (1, Engine.ONE_PROCESS, False)
    assert str(recipe.output_dir) == run and bucket == f"/bucket/{run}"


@pytest.fixture
def machine(tmp_path):
    """`machine(name, steps, pause)` starts the miniature on a machine with an empty disk and the common bucket."""
    (tmp_path / "trains.py").write_text(TRAINS)
    started = []

    def start(name, steps, pause):
        (tmp_path / name).mkdir()
        words = [LAUNCH / "skypilot" / "with_bucket.sh", "runs/mine", tmp_path / "bucket"]
        process = subprocess.Popen(
            [*words, sys.executable, tmp_path / "trains.py", "runs/mine", str(steps), str(pause)],
            cwd=tmp_path / name,
            env={**os.environ, "EVERY": "0.2"},
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_a_machine_that_is_taken_away_is_replaced_by_one_that_resumes(machine, tmp_path):
    lost = machine("first", 1000, 0.05)
    until = time.monotonic() + 60
    while len(list((tmp_path / "bucket").glob("*.tar"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(lost.pid, signal.SIGKILL)
    lost.communicate()

    told = machine("second", 1000, 0.05)
    assert told.stdout.readline().startswith("restored")
    assert int(told.stdout.readline().split()[-1]) > 0
    told.terminate()
    told.communicate(timeout=60)
    assert told.returncode == 75
    steps = len((tmp_path / "second" / "runs" / "mine" / "train_log.jsonl").read_text().splitlines())

    last = machine("third", steps + 1, 0)
    said, _ = last.communicate(timeout=60)
    assert last.returncode == 0 and f"begins after {steps}" in said, "nothing of a run that saved is lost"
    assert len(list((tmp_path / "bucket").glob("*.tar"))) == 2
    machine("fourth", steps + 1, 0).communicate(timeout=60)
    assert (tmp_path / "fourth" / "runs" / "mine" / "COMPLETE").exists()


def test_copies_that_were_cut_give_way_to_the_one_before(machine, tmp_path):
    machine("first", 6, 0).communicate(timeout=60)
    good = max((tmp_path / "bucket").glob("*.tar"))
    size = good.stat().st_size
    for number, cut in enumerate((1024, 700)):
        good.with_name(f"run-999999999999999999{number}-{size}.tar").write_bytes(good.read_bytes()[:cut])
    second = machine("second", 6, 0)
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and "begins after 6" in said


@pytest.mark.parametrize("machines", [1, 2])
def test_what_ray_starts_is_what_our_parsers_take(machines, monkeypatch):
    # Ray is not a dependency, and the arguments do not need it.
    for name in ("ray", "ray.train", "ray.util", "ray.train.collective", "ray.train.torch"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    launch_words = runpy.run_path(str(LAUNCH / "ray" / "train.py"), run_name="ray_train")["launch_words"]
    settings = {
        "launch_config": "accelerate_configs/fsdp2.yaml",
        "processes": 8,
        "config": RECIPE,
        "overrides": ["--seed", "1"],
    }
    spec, recipe, args = read(launch_words(settings, machines - 1, machines, "10.0.0.1", 29501))
    assert (spec.processes, spec.engine) == (8 * machines, Engine.FSDP2)
    assert (int(args.machine_rank), args.main_process_port, recipe.training.seed) == (machines - 1, 29501, 1)
    assert machines == 1 or args.main_process_ip == "10.0.0.1"


def test_without_ray_one_line_says_so():
    command = [sys.executable, str(LAUNCH / "ray" / "train.py"), "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr.count("\n")) == (2, 1) and "Ray is not installed" in process.stderr
