"""What a run was made of, as facts that a manifest can hold."""

import json
import platform
import subprocess

import torch
import transformers

from radrecipes import manifest


def test_packages_are_the_installed_versions():
    found = manifest.packages()
    assert found["python"] == platform.python_version()
    assert found["transformers"] == transformers.__version__
    assert {"torch", "trl", "peft", "datasets", "tokenizers"} <= found.keys()


def test_hardware_is_stated_in_full_and_fits_json():
    found = manifest.hardware()
    assert found["threads"] == torch.get_num_threads() and found["cores"] >= 1 and found["memory_gib"] > 0.5
    assert found["processor"]
    assert ("gpus" in found) == torch.cuda.is_available()
    assert json.loads(json.dumps(found)) == found


def test_code_version_is_that_of_this_checkout_whatever_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = manifest.code_version()
    assert found.keys() == {"commit", "changed"}
    assert found["commit"] is None or (len(found["commit"]) == 40 and isinstance(found["changed"], bool))


def test_code_version_outside_a_checkout_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "manifest.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert manifest.code_version() == {"commit": None, "changed": None}


def test_code_version_tells_a_changed_checkout_from_a_clean_one(tmp_path, monkeypatch):
    file = tmp_path / "manifest.py"
    file.write_text("1\n", encoding="utf-8")
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(manifest, "__file__", str(file))
    clean = manifest.code_version()
    file.write_text("2\n", encoding="utf-8")
    assert clean["changed"] is False and manifest.code_version() == {"commit": clean["commit"], "changed": True}


def test_peak_memory_never_falls_and_sees_what_is_used():
    before = manifest.peak_memory_gib()
    block = torch.ones(64, 2**20)  # 256 MiB
    assert manifest.peak_memory_gib() >= before > 0.05
    assert float(block[0, 0]) == 1.0
