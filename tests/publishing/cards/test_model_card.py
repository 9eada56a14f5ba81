import json
import re
import shlex

import pytest
import torch
from conftest import REPOSITORY, TINY_MODEL
from hub_server import card_rules
from hub_validation import validate_datasets, validate_models
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from tiny_model import build_tiny_gemma_with_images, build_tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig
from written_reports import evaluated

from radrecipes.environment import determinism
from radrecipes.errors import InputError
from radrecipes.evaluation.results import results_fit, summarise
from radrecipes.models import base as models
from radrecipes.publishing.cards.card_checks import check_card
from radrecipes.publishing.cards.model_card import energy_estimate, render_model_card
from radrecipes.tasks import TASKS
from radrecipes.tasks.rendering import render_prompts

RESULTS = json.loads((REPOSITORY / "recipes/smollm2-135m/protocol_lora.results.json").read_text("utf-8"))
RELEASE = {"repo_id": "some-org/some-adapter", "tag": "v1.0", "license": "apache-2.0"}


def manifest_of(task="protocol", seed=42, access="synthetic", digest="d" * 64, **fields):
    """A run's manifest as scripts/sft.py writes it, of the recorded recipe's fields."""
    return {
        "recipe": {
            "name": "smollm2-135m/protocol_lora",
            "digest": "a" * 64,
            "fields": {**RESULTS["fields"], "task": task, "seed": seed, **fields},
            "resolved": {},
        },
        "base": dict(RESULTS["base"]),
        "data": {**RESULTS["data"], "access": access, "digest": digest},
        "prompt": dict(RESULTS["prompt"]),
        "training": {
            "rows": 4958, "left_out_as_too_long": 3, "truncated": 0, "tokens": 445068, "scored_tokens": 26296,
            "steps": 310, "mean_loss": 0.380905, "global_batch_size": 16, "processes": 1, "seed": seed,
            "trainable_parameters": 4884480, "seconds": 488.6, "samples_per_second": 10.155, "peak_memory_gib": 2.595,
        },
        "adapter": {"tensors": 420, "largest_b": 0.067, "output_change": 8.15},
        "packages": dict(RESULTS["packages"]),
        "hardware": dict(RESULTS["hardware"]),
        "code": {"commit": "7" * 40, "changed": False},
    }  # fmt: skip


def metrics_of(task, make_metrics, **options):
    """An evaluation of a seed 42 run of this task."""
    metrics = make_metrics(**options) if task == "protocol" else evaluated(task, **options)[0]
    metrics["seeds"]["training"] = 42
    return metrics


def card_of(task, make_metrics, **options):
    manifest = manifest_of(task)
    return render_model_card(manifest, metrics_of(task, make_metrics), **{**RELEASE, **options})


def snippet_of(card):
    return re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("task", list(TASKS))
def test_the_front_matter_is_what_the_hub_reads(task, merged, make_metrics):
    data = ModelCard(card_of(task, make_metrics, merged=merged, dataset_id="some-org/some-data")).data.to_dict()
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data["base_model_relation"], data["library_name"]) == (
        ("finetune", "transformers") if merged else ("adapter", "peft")
    )
    assert (data["pipeline_tag"], data["license"], data["language"]) == ("text-generation", "apache-2.0", ["en"])
    assert data["datasets"] == ["some-org/some-data"] and "lora" in data["tags"]
    assert ("base_model:adapter:HuggingFaceTB/SmolLM2-135M-Instruct" in data["tags"]) is not merged
    assert data["metrics"] == (["accuracy", "f1"] if task == "protocol" else ["rouge", "bleu", "recall", "precision"])
    assert not any(key.startswith("extra_gated") for key in data)
    (index,) = data["model-index"]
    assert index["name"] == "some-adapter" and index["results"][0]["dataset"]["type"] == "some-org/some-data"


def test_the_model_index_contains_the_figures_of_this_very_model(make_metrics):
    metrics = metrics_of("protocol", make_metrics, adapter=0.87654321)
    card = ModelCard(render_model_card(manifest_of(), metrics, **RELEASE))
    found = {result.metric_name: result for result in card.data.eval_results}
    assert found["exact accuracy"].metric_type == "accuracy" and found["exact accuracy"].metric_value == 0.8765
    assert found["macro-F1"].metric_type == "f1"
    assert {result.dataset_type for result in found.values()} == {"made_up"}
    assert {result.dataset_split for result in found.values()} == {"test"}
    assert "similarity" not in found


@pytest.mark.parametrize("task", ["report", "impression"])
def test_reports_are_indexed_after_the_guard_and_alone(task, make_metrics):
    metrics = metrics_of(task, make_metrics)
    card = ModelCard(render_model_card(manifest_of(task), metrics, **RELEASE))
    passed = {result.metric_name: result.metric_value for result in card.data.eval_results}
    guarded = passed["passes all checks (fine-tuned model with guard)"]
    alone = passed["passes all checks (fine-tuned model without guard)"]
    assert guarded == round(metrics["systems"]["adapter_guarded"]["passed_rate"]["value"], 4)
    assert alone == round(metrics["systems"]["adapter"]["passed_rate"]["value"], 4) < guarded
    guard = metrics["systems"]["adapter_guarded"]["guard"]
    assert (
        f"{guard['first_try']} texts passed at the first attempt and {guard['later_try']} at a later one" in card.text
    )


def test_the_folder_of_the_data_is_one_word_of_each_command(make_metrics):
    manifest = manifest_of()
    manifest["data"]["folder"] = "/x/our `data`; rm -r *"
    text = render_model_card(manifest, metrics_of("protocol", make_metrics), **RELEASE)
    commands = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    named = [word for command in commands for word in shlex.split(command) if "our" in word]
    assert named and set(named) == {"data/our `data`; rm -r *"}
    assert "`` our `data`; rm -r * ``" in text


@pytest.mark.parametrize("access", ["synthetic", "open", "registered", "credentialed"])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("task", list(TASKS))
def test_no_card_has_gaps(task, merged, access, make_metrics):
    manifest = manifest_of(task, access=access, dataset="/data/our orders", output_dir="/homes/runs/x")
    manifest["data"]["folder"] = "/data/our_orders"
    metrics = metrics_of(task, make_metrics, access=access)
    text = render_model_card(manifest, metrics, **RELEASE, merged=merged)
    assert check_card(text)["license"] == "apache-2.0"
    assert card_rules.check_card(text, "model") == ([], [])
    assert not re.search(r"\b(nan|None|undefined)\b", text)
    for gap in ("{{", "/data/", "/home", "linux", "numpy"):
        assert gap not in text, gap
    for words in (
        "Not a medical device",
        "a draft for review by a person",
        "## Intended use and limits",
        "`our_orders`",
        f"Access class: **{access}**",
        "95 % intervals",
        "an estimate, not a measurement",
        "8.1 minutes",
        "2.6 GiB",
        "hf download some-org/some-adapter recipe.yaml --revision v1.0",
    ):
        assert words in text, words
    assert ("python scripts/predict.py --adapter some-org/some-adapter@v1.0" in text) is not merged
    assert ("no real patient text" in text) is (access == "synthetic")
    # Tables are complete and paragraphs apart: a heading is between blank lines, a row has its head's columns.
    lines = text.split("---\n", 2)[2].splitlines()
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("## "):
            assert (before, after) == ("", "")
        if line.startswith("|") and after.startswith("|"):
            assert line.count("|") == after.count("|"), after
        if line.startswith("|") and not after.startswith("|"):
            assert after == "", line


def test_what_may_not_be_open_asks_before_it_is_given_out(make_metrics):
    metrics = metrics_of("report", make_metrics)
    for access in ("registered", "credentialed"):
        card = ModelCard(render_model_card(manifest_of("report", access=access), metrics, **RELEASE))
        assert "terms of the source" in card.data.extra_gated_heading
        assert "checkbox" in card.data.extra_gated_fields.values()
    assert "A fine-tuned model can repeat what it read" in card.text


def test_every_figure_has_its_interval_and_its_baselines(make_metrics):
    text = card_of("protocol", make_metrics)
    assert "| Fine-tuned model | 0.900 (0.870–0.930) | 0.900 (0.870–0.930) | 0.000 (0.000–0.030) |" in text
    assert "| Support vector machine on words and characters | 0.500 (0.470–0.530) |" in text
    assert "fine-tuned model against support vector machine on words and characters: +0.400 (+0.350 to +0.450)" in text
    assert "exact McNemar test p = 1e-06" in text
    assert "best on validation is support vector machine on words and characters" in text


def test_thresholds_and_calibration_are_on_the_card_if_labels_were_scored(make_metrics):
    metrics = metrics_of("protocol", make_metrics)
    metrics["systems"]["adapter"]["selective"]["thresholds"][2]["threshold"] = None
    text = render_model_card(manifest_of(), metrics, **RELEASE)
    assert "temperature of 1.437" in text and "0.081 before, 0.021 after" in text
    assert "| 95 % | 0.8167 | 0.600 | 0.960 (0.930–0.990) |" in text
    assert "| 98 % | not supported by validation | – | – |" in text
    generated = render_model_card(manifest_of(), metrics_of("protocol", make_metrics, generated=True), **RELEASE)
    assert "no probability and no threshold" in generated and "decision_policy" not in generated


def test_an_evaluation_without_baselines_base_or_older_keys_still_makes_a_card(make_metrics):
    metrics = metrics_of("protocol", make_metrics, generated=True)
    for key in ("best_baseline", "recommendation", "slices"):
        del metrics[key]
    for system in metrics["systems"].values():
        system.pop("selective", None)
    metrics["decoding"] = {"method": "greedy", "max_new_tokens": 16}
    metrics["systems"] = {"adapter": metrics["systems"]["adapter"]}
    metrics["comparisons"] = []
    assert "16 tokens at most" in render_model_card(manifest_of(), metrics, **RELEASE)


def test_the_result_over_seeds_is_next_to_that_of_this_model(make_metrics):
    manifest = manifest_of(digest=RESULTS["data"]["digest"])
    assert results_fit(manifest, RESULTS)
    text = render_model_card(manifest, metrics_of("protocol", make_metrics), **RELEASE, results=RESULTS)
    accuracy = RESULTS["systems"]["adapter"]["exact_accuracy"]
    assert "of which this model is seed 42" in text and f"{accuracy['mean']:.3f} ± {accuracy['sd']:.3f}" in text
    assert f"{RESULTS['command']}\n```" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["recipe"]["fields"].update(lora_r=4),
        lambda manifest: manifest["data"].update(digest="e" * 64),
        lambda manifest: manifest["base"].update(weights_sha256="e" * 64),
        lambda manifest: manifest["training"].update(seed=7),
    ],
)
def test_a_result_or_an_evaluation_of_another_run_is_refused(change, make_metrics):
    manifest = manifest_of(digest=RESULTS["data"]["digest"])
    change(manifest)
    metrics = metrics_of("protocol", make_metrics)
    metrics["seeds"]["training"] = manifest["training"]["seed"]
    with pytest.raises(InputError, match=r"^smollm2-135m/protocol_lora\.results\.json: .*leave it out"):
        render_model_card(manifest, metrics, **RELEASE, results=RESULTS)


def test_an_evaluation_of_another_seed_or_task_is_refused(make_metrics):
    for task, seed in (("protocol", 7), ("report", 42)):
        with pytest.raises(InputError, match=r"^metrics\.json: is the evaluation of task protocol, seed 42"):
            render_model_card(manifest_of(task, seed), metrics_of("protocol", make_metrics), **RELEASE)


def test_result_of_written_reports(make_metrics):
    metrics = metrics_of("report", make_metrics) | {"code": {}}
    manifest = manifest_of("report") | {"constraints_sha256": "c", "determinism": {}}
    manifest["training"]["first_losses"] = [2.0]
    text = render_model_card(manifest, metrics, **RELEASE, results=summarise([(manifest, metrics)], "command"))
    assert "of which this model is seed 42" in text


def test_energy_is_time_times_assumed_watts():
    manifest = manifest_of()
    manifest["training"]["seconds"] = 3600.0
    assert energy_estimate(manifest) == (pytest.approx(0.02), "10 W for each of 2 processor threads")
    manifest["hardware"] |= {"gpus": ["NVIDIA H100 80GB HBM3"] * 4, "threads": 8}
    manifest["training"]["processes"] = 4
    kilowatt_hours, assumption = energy_estimate(manifest)
    assert kilowatt_hours == pytest.approx(4 * 0.7 + 32 * 0.01)
    assert "700 W for each of 4 GPUs" in assumption


def test_interruptions_and_reproducibility_are_on_the_card(make_metrics):
    metrics = metrics_of("protocol", make_metrics)
    older = render_model_card(manifest_of(), metrics, **RELEASE)
    assert "interrupted" not in older and "What to expect" not in older and "constraints.txt" not in older

    manifest = manifest_of()
    manifest["training"]["resumes"] = [
        {"step": 1200, "changed": {}},
        {"step": 1500, "changed": {"processes": [2, 1], "recipe": ["a" * 64, "b" * 64]}},
    ]
    manifest |= {"determinism": determinism(), "constraints_sha256": "c" * 64}
    manifest["determinism"]["threads"] = 1
    text = render_model_card(manifest, metrics, **RELEASE)
    assert "resumed from a checkpoint 2 times:" in text
    assert "\n- after step 1,200: nothing had changed\n" in text
    changed = f"- after step 1,500: processes `2` became `1`; recipe `{'a' * 64}` became `{'b' * 64}`\n\n"
    assert changed in text
    assert f"\n| sha256 of constraints.txt, all versions | `{'c' * 64}` |\n\n" in text
    assert (
        "repeats to the bit on the same machine" in text and "(1 processor thread per process). The last bits" in text
    )

    manifest["training"]["resumes"] = manifest["training"]["resumes"][:1]
    assert "from a checkpoint once:" in render_model_card(manifest, metrics, **RELEASE)
    manifest["training"]["resumes"] = []
    assert "interrupted" not in render_model_card(manifest, metrics, **RELEASE)


@pytest.mark.parametrize(
    ("gpus", "processes", "words"),
    [
        (None, 1, "--config_file accelerate_configs/cpu.yaml"),
        (["NVIDIA L4"], 1, "--config_file accelerate_configs/single_gpu.yaml"),
        (["NVIDIA L4"] * 8, 4, "--config_file accelerate_configs/ddp.yaml --num_processes 4"),
    ],
)
def test_the_command_to_reproduce_starts_what_was_started(gpus, processes, words, make_metrics):
    manifest = manifest_of()
    manifest["training"]["processes"] = processes
    if gpus:
        manifest["hardware"] |= {"gpus": gpus, "cuda": "13.0", "driver": "580.65.06"}
    text = render_model_card(manifest, metrics_of("protocol", make_metrics), **RELEASE)
    assert f"accelerate launch {words} scripts/sft.py" in text
    assert (REPOSITORY / words.split()[1]).is_file()
    assert (f"{processes} × NVIDIA L4" in text) is bool(gpus)
    assert ("CUDA 13.0, driver 580.65.06 |" in text) is bool(gpus)


def test_the_licences_of_base_and_data_are_next_to_that_of_the_repository(make_metrics):
    dataset = {"license": "cc-by-4.0", "language": "de", "generator": None}
    text = card_of("protocol", make_metrics, dataset=dataset, license="mit")
    assert ModelCard(text).data.language == ["de"]
    assert "This repository: `mit`. The base model: `apache-2.0`. The training data: `cc-by-4.0`." in text
    own = {"license": "other", "license_name": "our-terms", "license_link": "https://example.org/terms"}
    data = ModelCard(card_of("protocol", make_metrics, **own)).data
    assert (data.license, data.license_name, data.license_link) == tuple(own.values())
    with pytest.raises(InputError, match="needs `license_name`"):
        card_of("protocol", make_metrics, license="other")
    with pytest.raises(InputError, match=r"did you mean `apache-2\.0`"):
        card_of("protocol", make_metrics, license="Apache-2.0")


def test_the_card_says_how_many_groups_the_audit_found_in_two_splits(make_metrics):
    audit = {"validation": {"shared_groups": 0}, "test": {"shared_groups": 1203}}
    text = card_of("report", make_metrics, dataset={"leakage_audit": audit})
    assert "test rows; 0 groups of validation and 1,203 of test are also in training. " in text
    assert "also in training" not in card_of("report", make_metrics)


def test_the_data_of_the_run_that_it_continues_are_named_with_their_licence(make_metrics):
    earlier = {"name": "old_orders", "digest": "e" * 64, "license": "cc-by-nc-4.0", "access": "open"}
    manifest = manifest_of() | {"start": {"weights_sha256": "a" * 64, "data": [earlier]}}
    text = render_model_card(manifest, metrics_of("protocol", make_metrics), **RELEASE)
    assert f"trained on `old_orders`: digest `{'e' * 64}`, access class **open**, licence `cc-by-nc-4.0`." in text
    assert "The data `old_orders` of the run that it continues: `cc-by-nc-4.0`." in text


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("style", ["chat", "plain"])
@pytest.mark.parametrize("merged", [False, True])
def test_the_snippet_runs_and_asks_as_training_did(
    task, style, merged, shared_workspace, tmp_path, monkeypatch, make_metrics
):
    # Folders take the place of the repositories: their paths here are their names on the Hub.
    base = AutoModelForCausalLM.from_pretrained(shared_workspace / "models" / TINY_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(shared_workspace / "models" / TINY_MODEL)
    published = tmp_path / RELEASE["repo_id"]
    torch.manual_seed(0)
    model = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    )
    model.peft_config["default"].base_model_name_or_path = TINY_MODEL
    if merged:
        model = model.merge_and_unload()
    model.save_pretrained(published, **({} if merged else {"save_embedding_layers": False}))
    model.generation_config.save_pretrained(published)
    tokenizer.save_pretrained(published)
    (tmp_path / "tiny").symlink_to(shared_workspace / "models" / "tiny")
    manifest = manifest_of(task)
    manifest["prompt"]["style"], manifest["base"]["dtype"] = style, "float32"
    card = render_model_card(manifest, metrics_of(task, make_metrics), **RELEASE, merged=merged)

    monkeypatch.chdir(tmp_path)
    found = {}
    exec(snippet_of(card), found)
    prompt, answer = found["prompt"][0].tolist(), found["answer"][0].tolist()
    inputs = TASKS[task].read_input(TASKS[task].words.example)
    assert prompt == render_prompts(TASKS[task], [inputs], tokenizer, style)[0]
    expected = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
    assert answer == expected[0].tolist() != prompt


def test_the_snippet_of_an_adapter_for_a_text_part_loads_that_part(tmp_path, monkeypatch, make_metrics):
    """PEFT by itself would load the whole model, put random adapters on its vision tower, and none of the text part's."""
    build_tiny_gemma_with_images(tmp_path, "tiny/sees", initializer_range=0.3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "MODELS_FOLDER", tmp_path)
    base = models.load_base(ModelConfig(model_name_or_path="tiny/sees", dtype="float32"))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(RELEASE["repo_id"], save_embedding_layers=False)
    model.generation_config.save_pretrained(RELEASE["repo_id"])
    build_tiny_tokenizer().save_pretrained(RELEASE["repo_id"])
    manifest = manifest_of("protocol")
    manifest["base"] |= {"model_id": "tiny/sees", "dtype": "float32", "text_part": True}

    found = {}
    exec(snippet_of(render_model_card(manifest, metrics_of("protocol", make_metrics), **RELEASE)), found)
    prompt = found["prompt"]
    with torch.no_grad():
        expected = model.eval()(prompt).logits
        assert torch.equal(found["model"](prompt).logits, expected)
        with model.disable_adapter():
            assert not torch.allclose(model(prompt).logits, expected)


def broken(card, old, new):
    assert old in card
    return card.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("---\n", "", "has no front matter"),
        ("license: apache-2.0", "license: [", r"README\.md:\d+: the front matter is not valid YAML"),
        ("license: apache-2.0\n", "", "lacks `license`"),
        ("pipeline_tag: text-generation\n", "", "lacks `pipeline_tag`"),
        ("license: apache-2.0", "license: Apache 2.0", "did you mean `apache-2.0`"),
        ("base_model: HuggingFaceTB/Smol", "base_model: /models/Smol", "`base_model` is '/models/Smol"),
        ("base_model: HuggingFaceTB/Smol", "base_model: ./models/Smol", "`base_model` is './models/Smol"),
        ("base_model: HuggingFaceTB/SmolLM2-135M-Instruct", "base_model: None", "is not a Hub id"),
        ("base_model_relation: adapter", "base_model_relation: lora", "must be one of adapter"),
        ("- en\n", "- english\n", "not a language code"),
        ("    metrics:\n", "    measures:\n", "the Hub cannot read `model-index`"),
        (
            "## Training data\n",
            "## Empty\n\n## Training data\n",
            r"README\.md:\d+: the section under this heading is empty",
        ),
        ("## Licence\n", "## Licence\n\n### Base\n\n## Licence\n", "the section under this heading is empty"),
        ("Not a medical device", "[More Information Needed]", "the placeholder `More Information Needed`"),
        ("Not a medical device", "{{ warning }}", "the placeholder `{{`"),
    ],
)
def test_a_card_that_the_hub_or_a_reader_could_not_use_is_refused(old, new, message, make_metrics):
    card = card_of("protocol", make_metrics)
    check_card(card)
    with pytest.raises(InputError, match=message):
        check_card(broken(card, old, new))


def test_headings_in_code_are_not_headings_and_sections_of_sections_are_full(make_metrics):
    card = card_of("protocol", make_metrics)
    check_card(card + "\n## Parts\n\n### First\n\n```bash\n# a comment\n# another\n```\n")
    with pytest.raises(InputError, match="empty"):
        check_card(card + "\n## Parts\n\n### First\n")


def test_dataset_cards_are_checked_as_such(make_metrics):
    for name in ("protocol_synthetic", "report_synthetic"):
        card = (REPOSITORY / "data" / name / "README.md").read_text("utf-8")
        assert check_card(card, "dataset")["license"] == "apache-2.0"
        with pytest.raises(InputError, match="lacks `base_model`"):
            check_card(card)
        with pytest.raises(InputError, match="lacks `configs`"):
            check_card(card.replace("configs:", "config:"), "dataset")


def test_the_client_validates_every_kind_of_card(hub_client, make_metrics):
    credentialed = manifest_of("report", access="credentialed")
    own = {"license": "other", "license_name": "our-terms", "license_link": "https://example.org/terms"}
    cards = [card_of(task, make_metrics, merged=merged) for task in TASKS for merged in (False, True)]
    cards.append(render_model_card(credentialed, metrics_of("report", make_metrics), **{**RELEASE, **own}))
    hub_client(validate_models, cards)
    hub_client(validate_datasets, [path.read_text("utf-8") for path in REPOSITORY.glob("data/*_synthetic/README.md")])
    with pytest.raises(ValueError, match="base_model"):
        hub_client(validate_models, [broken(cards[0], "base_model: HuggingFaceTB/", "base_model: /models/")])


def test_what_a_release_measured_in_addition_is_in_the_card(make_metrics):
    memory = {"rows": 200, "longest_run": 23, "rows_with_a_run": 4, "repeated_share": 0.01, "shortest_run": 9}
    merged_as = {"dtype": "bfloat16", "answers": 476, "same_answers": 470, "logits": {}}
    manifest = manifest_of("report") | {"memory": memory | {"common_from_groups": 3}, "merged": merged_as}
    text = render_model_card(manifest, metrics_of("report", make_metrics), **RELEASE, merged=True)
    assert "of 200 texts that it wrote to training prompts, 4 contain a sequence of 9 tokens or more" in text
    assert "470 of 476 answers to test rows are those of base model and adapter" in text
