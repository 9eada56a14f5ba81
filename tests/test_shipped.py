"""Files that come with the project are found from any folder, and a file of the same name in this folder comes first."""

import pytest
from conftest import REPOSITORY, run_script

from radrecipes import shipped
from radrecipes.shipped import find_shipped

RECIPE = "recipes/smollm2-135m/protocol_lora.yaml"


def test_a_file_of_this_folder_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shipped._say.cache_clear()
    assert find_shipped(RECIPE) == find_shipped(RECIPE) == REPOSITORY / RECIPE
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{RECIPE} is not in this folder; taking the one that comes with radrecipes, in {REPOSITORY}"]

    here = tmp_path / RECIPE
    here.parent.mkdir(parents=True)
    here.write_text("task: protocol\n")
    assert str(find_shipped(RECIPE)) == RECIPE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["recipes/none.yaml", "tests/conftest.py", "data/../setup.py", "", "/recipes", "README.md"]
)
def test_nothing_else_is_taken_from_the_project(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_shipped(name) == shipped.Path(name)


def test_a_recipe_is_copied_and_not_over_a_file(tmp_path):
    words = ("scripts/recipes.py", "cp", "meditron-7b/protocol_qlora")
    script, *words = (REPOSITORY / words[0], *words[1:])
    done = run_script(tmp_path, script, *words, "mine/my.yaml")
    assert done.returncode == 0, done.stderr
    original = REPOSITORY / "recipes/meditron-7b/protocol_qlora.yaml"
    assert (tmp_path / "mine" / "my.yaml").read_bytes() == original.read_bytes()
    assert "runs/my/" in done.stdout and "radrecipes recipes check mine/my.yaml" in done.stdout
    for target, what in (("mine/my.yaml", "exists already"), ("my.txt", "ends with .yaml")):
        again = run_script(tmp_path, script, *words, target)
        assert again.returncode == 2 and again.stderr.startswith(f"error: {target}: ") and what in again.stderr
    unknown = run_script(tmp_path, script, "cp", "meditron-7b/protocol_lora", "x.yaml")
    assert unknown.returncode == 2 and "did you mean `meditron-7b/protocol_qlora`?" in unknown.stderr


COMPLETES = """
source completion.bash
compopt() { :; }
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
_shtab_radrecipes
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_the_shell_completes_verbs_options_recipes_and_files(tmp_path):
    import subprocess

    for shell in ("bash", "zsh"):
        done = run_script(tmp_path, REPOSITORY / "scripts/completion.py", shell)
        assert done.returncode == 0, done.stderr
        (tmp_path / f"completion.{shell}").write_text(done.stdout, encoding="utf-8")
    assert (tmp_path / "completion.zsh").read_text("utf-8").startswith("#compdef radrecipes")
    (tmp_path / "recipes.mine.yaml").touch()

    def completed(*words):
        command = ["bash", "-c", COMPLETES, "bash", "radrecipes", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()

    assert completed("p") == ["prepare", "prepare-model", "predict", "publish"]
    assert completed("predict", "--ad") == ["--adapter"]
    assert completed("publish", "ad") == ["adapter"]
    assert completed("train", "--config", "recipes/smollm2-360m") == ["recipes/smollm2-360m/report_lora.yaml"]
    assert completed("train", "--config", "recipes.m") == ["recipes.mine.yaml"]
    assert completed("predict", "--input", "recipes.m") == ["recipes.mine.yaml"]
