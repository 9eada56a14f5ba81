"""The environment of a run, as facts that its manifest can contain."""

import configparser
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import REPOSITORY

from radrecipes import __version__, environment
from radrecipes.publishing.gates import ReleaseFacts, check_release
from radrecipes.tasks import TASKS


def test_packages_are_the_installed_versions():
    found = environment.packages()
    assert found["python"] == platform.python_version()
    assert found["transformers"] == transformers.__version__
    assert {"torch", "trl", "peft", "datasets", "tokenizers"} <= found.keys()


def test_packages_cover_what_the_code_imports_to_get_a_result():
    # In addition: those that only draw, show, check files or reach the Hub.
    decides_nothing = {"filelock", "httpx2", "markupsafe", "matplotlib", "psutil", "pyyaml", "shtab", "tqdm"}
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    installed = set(setup["options"]["install_requires"].split())
    assert installed - decides_nothing <= environment.packages().keys()


def test_optional_packages_are_listed_only_if_they_are_installed(monkeypatch):
    def version(name):
        if name == "vllm":
            return "9.9"
        if name in ("deepspeed", "flash-attn", "kernels", "radeval", "triton"):
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(environment, "version", version)
    found = environment.packages()
    assert found["vllm"] == "9.9" and "deepspeed" not in found


def test_constraints_are_those_of_the_checkout_and_unknown_outside(tmp_path, monkeypatch):
    found = environment.constraints_sha256()
    assert found == hashlib.sha256((REPOSITORY / "constraints.txt").read_bytes()).hexdigest()
    installed = tmp_path / "lib" / "site-packages" / "radrecipes"
    monkeypatch.setattr(environment, "__file__", str(installed / "environment.py"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "constraints.txt").write_text("another project's\n", encoding="utf-8")
    assert environment.constraints_sha256() is None
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "src" / "radrecipes" / "environment.py"))
    assert environment.constraints_sha256() is None


def test_hardware_is_stated_in_full_and_fits_json():
    found = environment.hardware()
    assert found["threads"] == torch.get_num_threads() and found["cores"] >= 1 and found["memory_gib"] > 0.5
    assert found["processor"]
    assert found["instruction_set"] == torch.backends.cpu.get_cpu_capability()
    assert ("gpus" in found) == torch.cuda.is_available()
    assert json.loads(json.dumps(found)) == found


def test_determinism_on_a_processor_names_what_changes_the_bits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = environment.determinism()
    assert found["threads"] == torch.get_num_threads() and found["deterministic_algorithms"] is False
    assert found["repeats"].startswith("to the bit on the same machine")
    (sentence,) = found["not_deterministic"]
    assert {"processors", "versions", "threads", "processes"} <= set(re.findall(r"\w+", sentence))
    assert "cublas_workspace" not in found
    assert json.loads(json.dumps(found)) == found


@pytest.fixture
def gpu(monkeypatch):
    """A GPU, as far as PyTorch's own words about it go."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Some GPU {index}")
    properties = SimpleNamespace(total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


def test_determinism_on_a_gpu_says_what_was_not_set_against_it(gpu, monkeypatch):
    found = environment.determinism()
    words = " ".join(found["not_deterministic"])
    for word in ("atomics", "CUBLAS_WORKSPACE_CONFIG was not set", "cudnn.deterministic was off"):
        assert word in words, word
    assert "not guaranteed" in found["repeats"] and found["cublas_workspace"] is None

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    found = environment.determinism()
    assert len(found["not_deterministic"]) == 1 and found["deterministic_algorithms"] is True
    assert found["cublas_workspace"] == ":4096:8"


def test_hardware_names_gpu_cuda_and_driver(gpu, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment.hardware()
    assert found["gpus"] == ["Some GPU 0", "Some GPU 1"] and found["gpu_memory_gib"] == 80.0
    assert (found["cuda"], found["driver"]) == ("13.0", "580.65.06")
    program.unlink()
    assert environment.hardware()["driver"] is None


@pytest.mark.parametrize("written", ["true", "True"])  # the second by accelerate
def test_a_gpu_that_the_launcher_left_alone_is_not_stated(written, gpu, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", written)
    assert "gpus" not in environment.hardware()
    assert environment.determinism()["repeats"].startswith("to the bit")
    assert environment.peak_memory_gib() > 0.05


@pytest.mark.parametrize("driver", ["580.65.06", "550.127.05"])
def test_nothing_in_it_stops_a_publication(driver, tmp_path):
    facts = {
        "packages": environment.packages(),
        "constraints_sha256": environment.constraints_sha256(),
        "hardware": {**environment.hardware(), "gpus": ["NVIDIA H100 80GB HBM3"], "driver": driver},
        "determinism": {**environment.determinism(), "cublas_workspace": ":4096:8"},
        "code": environment.code_version(),
    }
    (tmp_path / "manifest.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
    release = ReleaseFacts(
        kind="adapter", access="synthetic", visibility="private", licence="apache-2.0", source_licences={}, rows=[],
        base="tiny/llama", task=TASKS["protocol"],
    )  # fmt: skip
    found = {result.gate: result.findings for result in check_release(tmp_path, release)}
    assert [found[gate] for gate in ("identifiers", "secrets", "paths")] == [(), (), ()]


def test_code_version_is_that_of_this_checkout_whatever_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = environment.code_version()
    if found["commit"] is None:
        assert found == {"commit": None, "changed": None, "version": __version__}
    assert found["commit"] is None or (len(found["commit"]) == 40 and isinstance(found["changed"], bool))


def test_code_version_outside_a_checkout_is_unknown(tmp_path, monkeypatch):
    unknown = {"commit": None, "changed": None, "version": __version__}
    installed = tmp_path / ".venv/lib/python3.12/site-packages/radrecipes/environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.code_version() == unknown
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "another project"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert environment.code_version() == unknown


def test_code_version_tells_a_changed_checkout_from_a_clean_one(tmp_path, monkeypatch):
    (tmp_path / "src/radrecipes").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    file = tmp_path / "src/radrecipes/environment.py"
    written_by_recording = [tmp_path / "README.md", tmp_path / "recipes/lora.results.json"]
    for path in (file, *written_by_recording):
        path.write_text("1\n", encoding="utf-8")
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(environment, "__file__", str(file))
    clean = environment.code_version()
    assert clean["changed"] is False
    for path in written_by_recording:
        path.write_text("2\n", encoding="utf-8")
    assert environment.code_version() == clean
    file.write_text("2\n", encoding="utf-8")
    assert environment.code_version() == {"commit": clean["commit"], "changed": True}


def test_peak_memory_never_falls_and_sees_what_is_used():
    before = environment.peak_memory_gib()
    block = torch.ones(64, 2**20)  # 256 MiB
    assert environment.peak_memory_gib() >= before > 0.05
    assert float(block[0, 0]) == 1.0


def test_waiting_threads_spin_briefly_unless_the_user_chose():
    unset = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}

    def run(code, **settings):
        command = [sys.executable, "-c", f"import os, radrecipes; {code}"]
        return subprocess.run(command, env=unset | settings, capture_output=True, text=True, check=True)

    assert "GOMP_SPINCOUNT = '1000'" in run("import torch", OMP_DISPLAY_ENV="verbose").stderr  # libgomp's own words
    shown = "print(os.environ.get('GOMP_SPINCOUNT'))"
    assert run(shown, GOMP_SPINCOUNT="77").stdout == "77\n"
    assert run(shown, OMP_WAIT_POLICY="ACTIVE").stdout == "None\n"
