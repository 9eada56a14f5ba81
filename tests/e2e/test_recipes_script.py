"""Runs scripts/recipes.py as a user does."""

import re
from dataclasses import replace

import pytest
from conftest import TINY_RECIPE, TINY_REPORT_RECIPE, run_script

from radrecipes.planning import basis
from radrecipes.recipe import parse_recipe
from radrecipes.training.data import load_training_data

RECIPE = "recipes/tiny/protocol_lora.yaml"
SHARED_RECIPES = (
    *("protocol_full.yaml", "protocol_full_head.yaml", "protocol_head.yaml", "protocol_lora.yaml"),
    "report_lora.yaml",
)


def test_list_and_check_see_every_recipe_and_name_the_broken_ones(workspace):
    folder = workspace / "recipes" / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text(TINY_RECIPE.replace("seed:", "sed:"), encoding="utf-8")
    (folder / "short.yaml").write_text(TINY_RECIPE.replace("max_length: 160", "max_length: 30"), encoding="utf-8")

    listed = run_script(workspace, "scripts/recipes.py", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = listed.stdout.splitlines()
    assert lines[0].split() == ["recipe", "task", "method", "base", "model", "batch", "hardware", "and", "time"]
    assert len(lines) == 1 + len(SHARED_RECIPES) + 2
    found = next(line for line in lines if line.startswith("tiny/protocol_lora "))
    assert found.split(maxsplit=5)[1:] == ["protocol", "LoRA", "tiny/llama", "8", "Tests only, seconds"]
    assert any("cannot be read" in line and "broken.yaml" in line for line in lines)

    checked = run_script(workspace, "scripts/recipes.py", "check")
    assert checked.returncode == 2
    fine = [rf"ok +recipes/tiny/{name}: 48 rows, longest \d+ of 160 tokens.*\n" for name in SHARED_RECIPES]
    assert re.fullmatch("".join(fine), checked.stdout)
    line = TINY_RECIPE.splitlines().index("seed: 42") + 1
    assert checked.stderr.splitlines() == [
        f"error: recipes/deep/er/broken.yaml:{line}: unknown key `sed`; did you mean `seed`?",
        "error: recipes/deep/er/short.yaml: 48 of 48 rows are longer than max_length 30 tokens (first: row 1 of train.parquet); "
        "raise max_length, or allow it with max_dropped_fraction",
    ]


def test_check_takes_overrides(workspace, call):
    checked = call("recipes", "check", "--max_length", "20", "--seed=1")
    assert checked.code == 2
    for name, said in zip(SHARED_RECIPES, checked.stderr.splitlines(), strict=True):
        assert said.startswith(f"error: recipes/tiny/{name}: 48 of 48 rows are longer than max_length 20")


def test_inspect_shows_what_is_trained(workspace, call):
    shown = call("recipes", "inspect", RECIPE, "--rows", "2", "--max_length", "62")
    assert shown.code == 0, shown.stderr
    text = shown.stdout
    assert "\x1b[" not in text  # plain when piped
    assert len(re.findall(r"^example \d; only ⟦…⟧ contributes to the loss, and", text, re.MULTILINE)) == 2
    assert len(re.findall(r"^⟦(CT|MR) [A-Za-z ]+<\|im_end\|>⟧$", text, re.MULTILINE)) == 2
    assert re.search(r"^stop tokens +<\|im_end\|> \(2\)$", text, re.MULTILINE)
    assert re.search(r"^padding token +<\|endoftext\|> \(0\)$", text, re.MULTILINE)
    assert re.search(r"^tokens per row +min \d+, median [\d.]+, 95 % \d+, max (\d+)$", text, re.MULTILINE)
    assert re.search(r"^in the loss +\d+ of [\d,]+ tokens \(\d+\.\d%\)$", text, re.MULTILINE)
    assert re.search(
        r"^left out +[1-9]\d* of 48 rows, longer than 62, first: row \d+ of train.parquet$", text, re.MULTILINE
    )
    assert re.search(r"^labels +4\nmost frequent +CT .*\(12\).*\nrarest +MR Knee \(12\)$", text, re.MULTILINE)


def test_inspect_counts_observations_if_reports_are_written(workspace, call):
    shown = call("recipes", "inspect", "recipes/tiny/report_lora.yaml", "--rows", "1")
    assert shown.code == 0, shown.stderr
    assert re.search(r"^⟦FINDINGS: There is edema\.\nIMPRESSION: Edema\.<\|im_end\|>⟧$", shown.stdout, re.MULTILINE)
    assert re.search(
        r"^observations +6\nmost frequent +Edema: negative \(12\), Edema: positive", shown.stdout, re.MULTILINE
    )


@pytest.mark.slow
def test_plan_estimates_without_weights(workspace):
    (workspace / "models" / "tiny" / "llama" / "model.safetensors").unlink()
    planned = run_script(workspace, "scripts/recipes.py", "plan", RECIPE, "--num_train_epochs", "2", "--lora_r=8")
    assert planned.returncode == 0, planned.stderr
    text = planned.stdout
    assert text.startswith("steps        12 of 8 rows, 2 epochs\n")
    assert re.search(r"^parameters +8,192 of 39,584 trained \(20\.70%\)$", text, re.MULTILINE)
    assert re.search(r"^memory +\d+\.\d GiB: weights 0\.00, .*, framework [01]\.\d\d$", text, re.MULTILINE)
    assert re.search(r"^time +\d+\.\d minutes, \d+\.\d\d s per step$", text, re.MULTILINE)
    assert re.search(r"^assumed +products at [\d,]+ GFLOP/s in float32", text, re.MULTILINE)


def test_plan_counts_drafts_if_there_are_any(workspace, call, monkeypatch):
    path = workspace / "recipes/tiny/report_rejection.yaml"
    fields = "stage: rejection\nstart_from: recipes/tiny/report_lora.yaml\n"
    path.write_text(TINY_REPORT_RECIPE.replace("report_lora", "report_rejection") + fields, encoding="utf-8")
    line = "not counted  the texts that pass, at most one to each prompt: up to 2 × as many steps"
    words = ("recipes", "plan", path, "--gpu", "h100", "--config", "single_gpu")
    planned = call(*words)
    assert planned.code == 0 and line in planned.stdout, planned.stderr
    assert line not in call(*words, "--max_steps", "3").stdout
    written = replace(load_training_data(parse_recipe(path)), drafts={"kept": 0})
    monkeypatch.setattr(basis, "load_with_drafts", lambda recipe: written)
    planned = call(*words)
    assert planned.code == 0 and line not in planned.stdout, planned.stderr


def test_plan_for_a_gpu_shows_every_configuration(workspace, call):
    (workspace / "models" / "tiny" / "llama" / "model.safetensors").unlink()
    planned = call("recipes", "plan", RECIPE, "--gpu", "h100", "--dtype=bfloat16")
    assert (planned.code, planned.stderr) == (0, "")
    lines = planned.stdout.splitlines()
    assert lines[0] == (
        "gpu          h100: 74.5 GiB, 989 TFLOP/s dense bfloat16, 3.35 TB/s (NVIDIA's data sheet, H100 SXM)"
    )
    table = lines[lines.index("") + 1 :]
    assert table[0].split()[:5] == ["GiB", "per", "GPU", "GPUs", "batch"]
    rows = {line.split()[0]: line for line in table[1 : table.index("")]}
    assert list(rows) == ["single_gpu", "ddp", "fsdp2", "fsdp1_qlora", "zero2", "zero3"]
    assert re.search(r"8 refused: that configuration is for 4-bit base models; use fsdp2.yaml", rows["fsdp1_qlora"])
    for name, count, batch in (("single_gpu", 1, 8), ("fsdp2", 8, 1)):
        assert re.match(rf"{name} +{count} +{batch}( +\d+\.\d\d){{5}}   \d+\.\d minutes, \d.*; fits$", rows[name])
    assert "assumed      products reach 30% of the peak (assumed, not measured on a GPU" in planned.stdout
    assert "methods      cpu          proved    tests/" in planned.stdout

    chosen = call(
        *("recipes", "plan", RECIPE, "--gpu=l4", "--config", "ddp", "--processes", "2", "--utilisation", "0.4"),
        *("--num_train_epochs", "2", "--dtype=bfloat16"),
    )
    assert (chosen.code, chosen.stderr) == (0, "")
    assert re.findall(r"^(\w+) +2 +4 .*fits$", chosen.stdout, re.MULTILINE) == ["ddp"]
    assert "steps        12 of 8 rows, 2 epochs\n" in chosen.stdout
    assert "products reach 40% of the peak (from --utilisation)\n" in chosen.stdout


def test_errors_of_a_plan_are_one_line(workspace, call):
    flags = "--config, --processes and --utilisation need --gpu; without it the plan is for this machine"
    for words, message in (
        (["--gpu", "h10"], "--gpu: unknown GPU `h10`; did you mean `h100`? (h100, h100-pcie, h200, "),
        (["--gpu", "h100", "--config", "fsdp"], "--config: no configuration `fsdp` for GPUs; did you mean `fsdp2`? ("),
        (["--config", "fsdp2"], flags),
        (["--processes", "2"], flags),
    ):
        ended = call("recipes", "plan", RECIPE, *words)
        assert (ended.code, ended.stdout) == (2, "")
        assert ended.stderr.startswith(f"error: {message}") and ended.stderr.count("\n") == 1


def test_check_refuses_a_method_where_it_does_not_run(workspace, call):
    (workspace / "recipes" / "tiny" / "protocol_8bit.yaml").write_text(
        TINY_RECIPE.replace("dtype: float32", "dtype: bfloat16\nload_in_8bit: true"), encoding="utf-8"
    )
    checked = call("recipes", "check", "--launch", "accelerate_configs/fsdp2.yaml", "--seed", "3")
    assert checked.code == 2
    assert re.fullmatch(r"(ok +recipes/tiny/(protocol_full|protocol_lora|report_lora).yaml: .*\n){3}", checked.stdout)
    refused = [
        rf"error: recipes/tiny/{name}.yaml with fsdp2.yaml: .*use ddp.yaml.*\n"
        for name in ("protocol_8bit", "protocol_full_head", "protocol_head")
    ]
    assert re.fullmatch("".join(refused), checked.stderr)
    for words in ([RECIPE, "--launch=accelerate_configs/fsdp2.yaml"], ["--launch", "accelerate_configs/ddp.yaml"]):
        assert call("recipes", "check", *words).code == 0
    missing = call("recipes", "check", RECIPE, "--launch", "none.yaml")
    message = "error: none.yaml: no such accelerate configuration; accelerate_configs/ contains the available ones\n"
    assert (missing.code, missing.stdout, missing.stderr) == (2, "", message)
    (workspace / "wrong.yaml").write_text("distributed_type: [", encoding="utf-8")
    wrong = call("recipes", "check", RECIPE, "--launch", "wrong.yaml")
    assert wrong.code == 2 and wrong.stderr.startswith("error: wrong.yaml:1: not valid YAML: ")


def test_an_error_is_one_line(workspace, call):
    ended = call("recipes", "plan", RECIPE, "--lora_rr", "3")
    message = "error: --lora_rr: unknown key `lora_rr`; did you mean `lora_r`?\n"
    assert (ended.code, ended.stdout, ended.stderr) == (2, "", message)
