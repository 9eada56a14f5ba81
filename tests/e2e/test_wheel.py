"""The wheel, the container file and the bundle contain all that the command needs outside a checkout."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import REPOSITORY, TINY_MODEL
from tiny_model import build_tiny_model

RECIPE = "recipes/smollm2-135m/protocol_lora.yaml"
RUN = "runs/smollm2-135m/protocol_lora/seed-42"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
TEN_STEPS = ("--max_steps", "10", "--save_strategy", "no", "--max_dropped_fraction", "1", "--dtype", "float32")
# Asks a server in a namespace whose only interface, the loopback, is still down.
SERVE_AND_ASK = """
import fcntl, re, socket, struct, subprocess, sys, urllib.request
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    is_up = struct.pack("16sh", b"lo", 1)
    fcntl.ioctl(any_socket, 0x8914, is_up)  # SIOCSIFFLAGS
command = [sys.argv[1], "serve", "--adapter", sys.argv[2], "--port", "0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    address = re.search(r"http://\\S+", server.stdout.readline())[0]
    order, kind = b'{"text": "chronic knee pain"}', {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/predict", order, kind)
    print(urllib.request.urlopen(request, timeout=60).read().decode())
    server.terminate()
"""
pytestmark = pytest.mark.slow


def build_wheel(source, folder):
    """Build the wheel of a source tree without an index."""
    words = ("wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), ".")
    done = subprocess.run([sys.executable, "-m", "pip", *words], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("radrecipes-*.whl"))


def copy_source(folder):
    """What the container file copies, so that a build leaves nothing in this checkout."""
    lines = re.findall(r"^COPY (.+)$", (REPOSITORY / "Containerfile").read_text("utf-8"), re.MULTILINE)
    for *sources, target in map(str.split, lines):
        for name in sources:
            there = folder / (name if target == "./" else target)
            there.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if Path(REPOSITORY, name).is_dir() else shutil.copy
            copy(REPOSITORY / name, there)
    return folder


def make_environment(folder, packages):
    """An environment that sees the packages of this one, but no installed radrecipes."""
    packages /= "site-packages"  # dill treats modules elsewhere as a user's own code
    packages.mkdir(parents=True)
    for entry in Path(pytest.__file__).parents[1].iterdir():
        if "radrecipes" not in entry.name.lower() and not entry.name.endswith(".pth"):
            (packages / entry.name).symlink_to(entry)
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tests.pth").write_text(f"{packages}\n")
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from what the container file copies."""
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_source(folder / "source"), folder)


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder outside the checkout, which is the working directory, with tiny weights under the default model's name."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    build_tiny_model(tmp_path / "built", TINY_MODEL)
    shutil.copytree(tmp_path / "built" / TINY_MODEL, folder / "models" / BASE)
    return folder


def run(*words, code=0):
    """Run a command as a user does, and return what it printed on both streams."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_the_wheel_carries_every_shipped_file_and_nothing_else(wheel):
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = r"(accelerate_configs|data|recipes|scripts)/.+|constraints\.txt"
    expected = {name for name in tracked if re.fullmatch(folders, name) and not Path(name).name.startswith(".")}
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = {name.removeprefix("radrecipes/_shipped/") for name in names if name.startswith("radrecipes/_shipped/")}
    assert shipped - {"setup.py"} == expected
    assert names - {f"radrecipes/_shipped/{name}" for name in shipped} == package


def test_the_steps_of_the_container_file_install_a_command_that_needs_no_rights(empty, tmp_path):
    """Every step, one by one, without an engine: /opt is a folder here, and packages are those of this environment."""
    opt, variables, user = tmp_path / "opt", {}, None
    source = copy_source(opt / "source")
    text = (REPOSITORY / "Containerfile").read_text("utf-8").replace("/opt/", f"{opt}/")
    for step in [line for line in text.splitlines() if line and line[0] != "#"]:
        kind, rest = step.split(maxsplit=1)
        match kind:
            case "ARG" | "ENV":
                name, value = rest.split("=", 1)
                variables[name] = value.strip('"')
            case "RUN" if rest.startswith("useradd "):
                user = rest.split()[-1]  # adding it would change this machine
            case "RUN":
                install = rest
                if "-m venv " in rest:
                    make_environment(opt / "venv", tmp_path / "packages")
                    run(
                        opt / "venv" / "bin" / "pip", "uninstall", "--quiet", "--yes", "setuptools"
                    )  # Python's own, older
                    create, install = rest.split(" && ", 1)
                    assert create == f"python -m venv {opt}/venv"
                environment = {**os.environ, **variables, "PIP_NO_INDEX": "1"}
                done = subprocess.run(install, shell=True, cwd=source, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
            case "USER":
                assert rest == user == "radrecipes"
            case "ENTRYPOINT":
                assert user, "the command must not run as root"
                environment = {**os.environ, "PATH": variables["PATH"].replace("$PATH", os.environ["PATH"])}
                command = [*json.loads(rest), "recipes", "list"]
                # Found in the image's own environment, and run where nothing but the working folder is its own
                assert shutil.which(command[0], path=environment["PATH"]) == f"{opt}/venv/bin/radrecipes"
                shown = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
                assert "smollm2-135m/protocol_lora" in shown.stdout, shown.stderr
            case _:
                assert kind in ("FROM", "WORKDIR", "COPY", "CMD"), step


def test_an_installed_wheel_lists_copies_prepares_trains_and_predicts_from_an_empty_folder(wheel, empty, tmp_path):
    installed = make_environment(tmp_path / "venv", tmp_path / "packages") / "bin"
    run(installed / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
    command = installed / "radrecipes"
    assert "smollm2-135m/protocol_lora" in run(command, "recipes", "list")[0]
    run(command, "recipes", "cp", "smollm2-135m/protocol_lora", "my.yaml")
    synthetic = ("protocol", "--synthetic", "--rows", "2000", "--output", "data/mine")
    assert "data/mine" in run(command, "prepare", *synthetic)[0]

    said, shown = run(command, "train", "--config", RECIPE, *TEN_STEPS)
    assert "adapter checked and saved" in said
    for name in (RECIPE, "data/protocol_synthetic"):
        assert f"{name} is not in this folder; taking the one that comes with radrecipes" in shown
    assert json.loads(Path(RUN, "manifest.json").read_text("utf-8"))["data"]["folder"] == "data/protocol_synthetic"
    assert "probability" in run(command, "predict", "--adapter", RUN, "--text", "chronic knee pain")[0]

    assert "copy it first" in run(command, "reproduce", "record", RECIPE, code=2)[1]


def test_a_bundle_installs_trains_predicts_and_serves_without_a_network(wheel, empty, tmp_path, call):
    (empty / "scripts").symlink_to(REPOSITORY / "scripts")
    bundle = tmp_path / "bundle"
    done = call("bundle", "--recipe", RECIPE, "--wheel", wheel, "--no-dependencies", "--output", bundle)
    assert done.code == 0, done.stderr
    sums = (bundle / "SHA256SUMS").read_bytes()
    assert hashlib.sha256(sums).hexdigest() in done.stdout
    components = {it["name"]: it for it in json.loads((bundle / "sbom.cdx.json").read_text("utf-8"))["components"]}
    assert components["radrecipes"]["hashes"][0]["content"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert f"models/{BASE}/model.safetensors" in components and "protocol_synthetic" in components
    assert "-m venv --system-site-packages .venv" in (bundle / "install.sh").read_text("utf-8")

    make_environment(bundle / ".venv", tmp_path / "packages")
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = []  # user namespaces are not allowed here: the libraries are offline in any case
    os.chdir(bundle)
    assert "installed" in run(*alone, "sh", "install.sh")[0]
    command = Path(".venv/bin/radrecipes").absolute()
    launch = ("launch", "--config_file", "accelerate_configs/cpu.yaml", "scripts/sft.py", "--config", RECIPE)
    said, shown = run(*alone, command, *launch, *TEN_STEPS)
    assert "adapter checked and saved" in said
    for name in ("accelerate_configs/cpu.yaml", "scripts/sft.py"):
        assert f"{name} is not in this folder; taking the one that comes with radrecipes" in shown
    assert f"{RECIPE} is not" not in shown and "data/protocol_synthetic is not" not in shown
    assert "probability" in run(*alone, command, "predict", "--adapter", RUN, "--text", "chronic knee pain")[0]
    if alone:
        assert "probability" in run(*alone, ".venv/bin/python", "-c", SERVE_AND_ASK, command, RUN)[0]

    (bundle / RECIPE).write_text("changed")
    run("sh", "install.sh", code=1)


def test_a_bundle_that_cannot_be_made_leaves_nothing(empty, tmp_path, call):
    shutil.rmtree(empty / "models")
    (empty / "scripts").symlink_to(REPOSITORY / "scripts")
    refused = call("bundle", "--recipe", RECIPE, "--output", tmp_path / "bundle")
    assert refused.code == 2 and f"download it to models/{BASE}/" in refused.stderr
    assert not (tmp_path / "bundle").exists()
    (tmp_path / "bundle").mkdir()
    assert "exists already" in call("bundle", "--recipe", RECIPE, "--output", tmp_path / "bundle").stderr


def test_parts_that_do_not_belong_together_are_refused(finished_copy, call, tmp_path):
    def refusal(*words):
        refused = call("bundle", *words, "--output", tmp_path / "bundle")
        assert refused.code == 2 and not (tmp_path / "bundle").exists()
        return refused.stderr

    recipe = Path("recipes/tiny/protocol_lora.yaml")
    assert "--wheel none.whl: no such file" in refusal("--recipe", recipe, "--wheel", "none.whl")
    assert "continues from another run" in refusal("--recipe", write_like(recipe, "start_from: runs/x\n"))
    other = write_like(recipe, "", TINY_MODEL, "tiny/writer")
    said = refusal("--recipe", other, "--run", "runs/tiny/protocol_lora/seed-42")
    assert f"was trained from {TINY_MODEL}, the recipe from tiny/writer" in said
    Path("models", TINY_MODEL, "model.safetensors").unlink()  # config and tokenizer are still there
    assert f"{TINY_MODEL} is not on this machine" in refusal("--recipe", recipe)


def write_like(recipe, more, old="", new=""):
    """A recipe next to another one, with a change."""
    path = recipe.with_name("changed.yaml")
    path.write_text(recipe.read_text("utf-8").replace(old or more, new or more) + more, encoding="utf-8")
    return path


def test_every_module_can_be_imported_without_what_only_linux_has():
    """Libraries first, as they are; then this package on a system without these signals, flags and modules."""
    code = """
import importlib, os, pkgutil, signal, sys
import accelerate.commands.launch, datasets, evaluate, filelock, matplotlib.figure, peft, sacrebleu, sentence_transformers
import torch.distributed.run, transformers, trl
for name in ("SIGHUP", "SIGQUIT", "SIGPIPE", "SIGKILL", "SIGALRM", "pthread_sigmask"):
    delattr(signal, name)
for name in ("getuid", "fork", "pathconf", "pidfd_open", "P_PIDFD", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "waitid"):
    delattr(os, name)
for name in ("bitsandbytes", "fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import radrecipes
for found in pkgutil.walk_packages(radrecipes.__path__, "radrecipes."):
    if not found.name.startswith("radrecipes.publishing."):  # takes spaCy with it
        importlib.import_module(found.name)
from radrecipes.files import read_text
print(len(read_text(radrecipes.__file__)), "characters")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.endswith(" characters\n"), done.stderr
