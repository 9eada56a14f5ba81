"""Runs scripts/recipes.py as a user does."""

import re

from conftest import TINY_RECIPE, run_script

RECIPE = "recipes/tiny/protocol_lora.yaml"
SHARED_RECIPES = ("protocol_lora.yaml", "report_lora.yaml")


def test_list_and_check_see_every_recipe_and_name_the_broken_ones(workspace):
    folder = workspace / "recipes" / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text(TINY_RECIPE.replace("seed:", "sed:"), encoding="utf-8")
    (folder / "short.yaml").write_text(TINY_RECIPE.replace("max_length: 160", "max_length: 30"), encoding="utf-8")

    listed = run_script(workspace, "scripts/recipes.py", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = listed.stdout.splitlines()
    assert lines[0].split() == ["recipe", "task", "method", "base", "model", "batch", "what", "it", "is"]
    assert len(lines) == 5
    found = next(line for line in lines if line.startswith("tiny/protocol_lora "))
    assert found.split(maxsplit=5)[1:] == ["protocol", "LoRA", "tiny/llama", "8", TINY_RECIPE.splitlines()[0][2:]]
    assert any("cannot be read" in line and "broken.yaml" in line for line in lines)

    checked = run_script(workspace, "scripts/recipes.py", "check")
    assert checked.returncode == 2
    fine = [rf"ok +recipes/tiny/{name}: 48 rows, longest \d+ of 160 tokens.*\n" for name in SHARED_RECIPES]
    assert re.fullmatch("".join(fine), checked.stdout)
    line = TINY_RECIPE.splitlines().index("seed: 42") + 1
    assert checked.stderr.splitlines() == [
        f"error: recipes/deep/er/broken.yaml:{line}: unknown key `sed`; did you mean `seed`?",
        "error: recipes/deep/er/short.yaml: 48 of 48 rows are longer than max_length 30 tokens (first: row order-0); "
        "raise max_length, or allow it with max_dropped_fraction",
    ]


def test_check_takes_overrides(workspace):
    checked = run_script(workspace, "scripts/recipes.py", "check", "--max_length", "20", "--seed=1")
    assert checked.returncode == 2
    for name, said in zip(SHARED_RECIPES, checked.stderr.splitlines(), strict=True):
        assert said.startswith(f"error: recipes/tiny/{name}: 48 of 48 rows are longer than max_length 20")


def test_inspect_shows_what_is_trained(workspace):
    shown = run_script(workspace, "scripts/recipes.py", "inspect", RECIPE, "--rows", "2", "--max_length", "62")
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout
    assert "\x1b[" not in text  # plain when piped
    assert len(re.findall(r"^example \d; only ⟦…⟧ carries loss$", text, re.MULTILINE)) == 2
    assert len(re.findall(r"^⟦(CT|MR) [A-Za-z ]+<\|im_end\|>⟧$", text, re.MULTILINE)) == 2
    assert re.search(r"^stop tokens +<\|im_end\|> \(2\)$", text, re.MULTILINE)
    assert re.search(r"^padding token +<\|endoftext\|> \(0\)$", text, re.MULTILINE)
    assert re.search(r"^tokens a row +min \d+, median [\d.]+, 95 % \d+, max (\d+)$", text, re.MULTILINE)
    assert re.search(r"^carry loss +\d+ of [\d,]+ tokens \(\d+\.\d%\)$", text, re.MULTILINE)
    assert re.search(r"^left out +[1-9]\d* of 48 rows, longer than 62, first: row order-\d+$", text, re.MULTILINE)
    assert re.search(r"^labels +4\nmost rows +CT .*\(12\).*\nleast rows +.*MR Knee \(12\)$", text, re.MULTILINE)


def test_inspect_counts_observations_where_reports_are_written(workspace):
    shown = run_script(workspace, "scripts/recipes.py", "inspect", "recipes/tiny/report_lora.yaml", "--rows", "1")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^⟦FINDINGS: There is edema\.\nIMPRESSION: Edema\.<\|im_end\|>⟧$", shown.stdout, re.MULTILINE)
    assert re.search(
        r"^observations +6\nmost rows +Edema: negative \(12\), Edema: positive", shown.stdout, re.MULTILINE
    )


def test_plan_estimates_without_weights(workspace):
    (workspace / "models" / "tiny" / "llama" / "model.safetensors").unlink()
    planned = run_script(workspace, "scripts/recipes.py", "plan", RECIPE, "--num_train_epochs", "2", "--lora_r=8")
    assert planned.returncode == 0, planned.stderr
    text = planned.stdout
    assert text.startswith("steps        12 of 8 rows, 2 epochs\n")
    assert re.search(r"^parameters +8,192 of 39,584 trained \(20\.70%\)$", text, re.MULTILINE)
    assert re.search(r"^memory +\d+\.\d GiB: weights 0\.00, adapter .* framework 0\.\d\d$", text, re.MULTILINE)
    assert re.search(r"^time +\d+\.\d minutes, \d+\.\d\d s a step$", text, re.MULTILINE)
    assert re.search(r"^assumed +products at [\d,]+ GFLOP/s in float32", text, re.MULTILINE)


def test_fault_gets_one_line(workspace):
    ended = run_script(workspace, "scripts/recipes.py", "plan", RECIPE, "--lora_rr", "3")
    message = "error: --lora_rr: unknown key `lora_rr`; did you mean `lora_r`?\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)
