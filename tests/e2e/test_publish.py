"""Publishing as a user does it: real scripts and clients, the small Hub of the tests, nothing patched."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, TINY_MODEL, TINY_REPORTS, run_script, write_tiny_reports
from datasets import load_dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from sft_faults import Script
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from e2e.conftest import RUN, edit_json, files_in
from radrecipes.data.dataset_folder import write_dataset_folder
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.inference.predictors import load_predictor
from radrecipes.publishing.cards.model_card import render_model_card
from radrecipes.publishing.merging import merge_adapter
from radrecipes.publishing.release import assemble_model, read_finished_run
from radrecipes.tasks import TASKS

PROTOCOL = TASKS["protocol"]
REPO, DATASET_REPO, TAG = "radiology/tiny-protocols", "radiology/tiny-orders", "v1.0"
ADAPTER = ("adapter", "--run", RUN, "--repo", REPO, "--tag", TAG, "--base-license", "apache-2.0")
DATASET = ("dataset", "--dataset", "data/tiny", "--repo", DATASET_REPO, "--tag", TAG)
REPORT_RUN = "runs/tiny/report_lora/seed-42"
REPORTS = ("adapter", "--run", REPORT_RUN, "--repo", REPO, "--tag", TAG, "--base-license", "apache-2.0", "--dry-run")
PUBLISHED = [
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "decision_policy.json",
    "generation_config.json", "label_set.yaml", "manifest.json", "metrics.json", "recipe.yaml", "tokenizer.json",
    "tokenizer_config.json",
]  # fmt: skip
# Twenty-five digits that no other text contains.
CANARY = "Code 7 2 9 4 1 8 3 0 5 6 2 2 7 9 1 4 8 3 6 0 5 1 9 7 3."


def publish(workspace, *words):
    """Run scripts/publish.py with the network open; the Hub that answers is the test's own."""
    return run_script(workspace, "scripts/publish.py", *words, HF_HUB_OFFLINE="0")


def sha256(data):
    """As a manifest names it."""
    return hashlib.sha256(data).hexdigest()


@pytest.mark.slow
def test_an_adapter_is_published_whole_private_tagged_and_a_second_time_changes_nothing(finished_copy, hub):
    before = files_in(finished_copy / RUN)
    done = publish(finished_copy, *ADAPTER, "--dataset-repo", DATASET_REPO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"published {REPO}@{TAG}" in done.stdout and files_in(finished_copy / RUN) == before

    # 0 bytes outside the allow-list, and every hash the manifest's
    repo = hub.repo(REPO)
    files = repo.files(TAG)
    assert sorted(files) == PUBLISHED and repo.private
    manifest = json.loads(files["manifest.json"])
    listed = manifest["published"]["files"]
    assert listed == {name: sha256(data) for name, data in files.items() if name != "manifest.json"}
    assert {key: manifest["published"][key] for key in ("repo", "tag", "kind")} == {
        "repo": REPO, "tag": TAG, "kind": "adapter",
    }  # fmt: skip
    for name in ("adapter_model.safetensors", "label_set.yaml", "decision_policy.json", "tokenizer.json"):
        assert files[name] == before[f"adapter/{name}"]
    assert files["metrics.json"] == before["evaluation/metrics.json"]
    assert b"/" + str(finished_copy).split("/")[1].encode() + b"/" not in b"".join(
        data for name, data in files.items() if name != "adapter_model.safetensors"
    )

    commits = len(repo.log())
    again = publish(finished_copy, *ADAPTER, "--dataset-repo", DATASET_REPO)
    assert again.returncode == 0 and "nothing to do" in again.stdout, again.stderr
    assert len(repo.log()) == commits and repo.files(TAG) == files

    # Another content under the same tag
    other = publish(finished_copy, *ADAPTER)
    assert other.returncode == 2 and len(repo.log()) == commits and repo.files(TAG) == files


@pytest.mark.slow
def test_a_dataset_is_published_and_loads_by_name_also_streamed_and_after_another_with_other_columns(
    finished_copy, hub, tmp_path
):
    done = publish(finished_copy, *DATASET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub.repo(DATASET_REPO, "dataset").private
    files = hub.repo(DATASET_REPO, "dataset").files(TAG)
    assert sorted(files) == [
        "README.md", "label_set.yaml", "manifest.json", "test.parquet", "train.parquet", "validation.parquet",
    ]  # fmt: skip
    # Libraries read the Hub's address once: a process of its own.
    script = (
        "import sys, datasets\n"
        "rows = datasets.load_dataset(sys.argv[1], revision=sys.argv[2])\n"
        "streamed = list(datasets.load_dataset(sys.argv[1], revision=sys.argv[2], split='test', streaming=True))\n"
        "assert streamed == list(rows['test'])\n"
        "print({name: (len(split), split.column_names) for name, split in rows.items()})\n"
    )
    (tmp_path / "load.py").write_text(script, encoding="utf-8")

    def load(tag, cache):
        loaded = run_script(
            finished_copy, tmp_path / "load.py", DATASET_REPO, tag, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / cache)
        )
        assert loaded.returncode == 0, loaded.stderr
        return loaded.stdout

    assert "'train': (48, ['id', 'group', 'note', 'label'])" in load(TAG, "first")
    rename_the_column_of_notes(finished_copy / "data/tiny")
    published = publish(finished_copy, *DATASET[:-1], "v2.0")
    assert published.returncode == 0, published.stdout + published.stderr
    assert "['id', 'group', 'order', 'label']" in load("v2.0", "second") and "'note'" in load(TAG, "third")


def rename_the_column_of_notes(folder):
    """The same dataset with a column of another name."""
    dataset = load_prepared_dataset(folder)
    write_dataset_folder(
        folder,
        splits={
            name: [dict(zip(("id", "group", "order", "label"), row.values(), strict=True)) for row in rows]
            for name, rows in dataset.splits.items()
        },
        manifest={**dataset.manifest, "columns": ["id", "group", "order", "label"]},
        card=(folder / "README.md").read_text("utf-8").replace("name: note", "name: order"),
        label_set=dataset.label_set,
        overwrite=True,
    )


def test_a_dry_run_shows_files_hashes_gates_and_card_and_sends_nothing(finished_copy, hub, call):
    before = files_in(finished_copy)
    shown = call("publish", *ADAPTER, "--dry-run")
    assert shown.code == 0, shown.stdout + shown.stderr
    for name in PUBLISHED:
        assert re.search(rf"^ *[\d,]+  [0-9a-f]{{64}}  {re.escape(name)}$", shown.stdout, re.MULTILINE), name
    adapter = (finished_copy / RUN / "adapter" / "adapter_model.safetensors").read_bytes()
    assert f"{len(adapter):,}  {sha256(adapter)}  adapter_model.safetensors" in shown.stdout
    for gate in ("files", "access", "card", "quotes", "identifiers", "secrets", "paths", "base", "licence", "memory"):
        assert re.search(rf"^{gate} +ok ", shown.stdout, re.MULTILINE), gate
    assert "base_model_relation: adapter" in shown.stdout and "Not a medical device" in shown.stdout
    assert hub.requests == [] and files_in(finished_copy) == before
    assert call("publish", *ADAPTER, "--dry-run").stdout == shown.stdout  # deterministic to the byte


def test_a_list_of_components_is_written_beside_a_release(finished_copy, call):
    manifest = json.loads((finished_copy / RUN / "manifest.json").read_text("utf-8"))
    done = call("publish", *ADAPTER, "--dry-run", "--sbom", "sbom.cdx.json")
    assert done.code == 0, done.stdout + done.stderr
    listed = json.loads(Path("sbom.cdx.json").read_text("utf-8"))
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    found = {it["name"]: it for it in listed["components"]}
    assert len(listed["components"]) == len(found)
    versions = {name: version for name, version in manifest["packages"].items() if name != "python"}
    assert {name: it["version"] for name, it in found.items() if it["type"] == "library"} == versions
    assert found["torch"]["purl"].startswith("pkg:pypi/torch@")
    assert found[TINY_MODEL]["version"] == manifest["base"]["revision"]
    assert found["tiny"] == {"name": "tiny", "type": "data", "version": manifest["data"]["digest"]} | {
        "bom-ref": found["tiny"]["bom-ref"]
    }
    weights = (finished_copy / RUN / "adapter" / "adapter_model.safetensors").read_bytes()
    assert found[f"{REPO}/adapter_model.safetensors"]["hashes"] == [{"alg": "SHA-256", "content": sha256(weights)}]
    assert call("publish", *ADAPTER, "--dry-run", "--sbom", "nowhere/such/sbom.json").code == 0  # folders are made


def test_dates_in_the_chat_template_of_the_base_pass_and_one_more_stops(finished_copy, call):
    own, released = Path("models", TINY_MODEL, "chat_template.jinja"), Path(RUN, "adapter", "chat_template.jinja")
    dated = "{{ 'Today Date: 26 Jul 2024' }}\n" + own.read_text("utf-8")
    released.write_text(dated, encoding="utf-8")
    refused = call("publish", *ADAPTER, "--dry-run")
    assert refused.code == 2 and "stopped by: identifiers;" in refused.stderr

    own.write_text(dated, encoding="utf-8")
    shown = call("publish", *ADAPTER, "--dry-run")
    assert shown.code == 0, shown.stdout + shown.stderr
    said = f"identifiers  ok            11 texts; not chat_template.jinja, byte for byte the one of {TINY_MODEL}\n"
    assert said in shown.stdout

    released.write_text(dated + "{# seen 03/14/2021 #}", encoding="utf-8")
    refused = call("publish", *ADAPTER, "--dry-run")
    assert refused.code == 2 and "stopped by: identifiers;" in refused.stderr
    lines = re.findall(r"chat_template\.jinja:(\d+): looks like date", refused.stdout)
    assert lines == ["1", str(dated.count("\n") + 1)] and "03/14" not in refused.stdout + refused.stderr


def plant_a_secret(workspace):
    """A token in a field of the figures that nothing reads."""
    edit_json(workspace / RUN / "evaluation" / "metrics.json", note="hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345678")


def make_credentialed(workspace):
    """The same run on the same rows, as if they were patients'."""
    edit_json(workspace / "data/tiny/manifest.json", access="credentialed")
    manifest = json.loads((workspace / RUN / "manifest.json").read_text("utf-8"))
    edit_json(workspace / RUN / "manifest.json", data={**manifest["data"], "access": "credentialed"})
    metrics = json.loads((workspace / RUN / "evaluation/metrics.json").read_text("utf-8"))
    edit_json(workspace / RUN / "evaluation/metrics.json", dataset={**metrics["dataset"], "access": "credentialed"})


def make_credentialed_and_call_it_synthetic_again(workspace):
    """What was trained on credentialed rows, whose dataset was edited afterwards; its digest is the same."""
    make_credentialed(workspace)
    edit_json(workspace / "data/tiny/manifest.json", access="synthetic")


def plant_a_row(workspace):
    """A row of credentialed data among the tokens of the tokenizer."""
    make_credentialed(workspace)
    path = workspace / RUN / "adapter" / "tokenizer.json"
    tokens = json.loads(path.read_text("utf-8"))["added_tokens"]
    note = load_prepared_dataset(workspace / "data/tiny").splits["test"]["note"][0]
    edit_json(path, added_tokens=[*tokens, {**tokens[0], "id": 99999, "content": note}])


def continue_other_terms(workspace):
    """The same run, as if it had continued one that was trained on data of other terms."""
    data = {"name": "old", "digest": "e" * 64, "license": "cc-by-nc-4.0", "access": "synthetic"}
    edit_json(workspace / RUN / "manifest.json", start={"weights_sha256": "a" * 64, "data": [data]})


def link(workspace):
    """A file of the adapter that is elsewhere."""
    (workspace / "private.json").write_text("{}", encoding="utf-8")
    (workspace / RUN / "adapter" / "added_tokens.json").symlink_to(workspace / "private.json")


def evaluate_negated_weights(workspace):
    """Other weights, with the evaluation and the thresholds that they would get."""
    adapter = workspace / RUN / "adapter"
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: -tensor for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
    for file in (adapter / "decision_policy.json", workspace / RUN / "evaluation" / "metrics.json"):
        edit_json(file, adapter_sha256=sha256((adapter / "adapter_model.safetensors").read_bytes()))


FAULTS = {
    "not evaluated": (lambda w: shutil.rmtree(w / RUN / "evaluation"), "was not evaluated"),
    "not finished": (lambda w: (w / RUN / "COMPLETE").unlink(), "no finished run"),
    "half evaluated": (
        lambda w: edit_json(w / RUN / "evaluation" / "metrics.json", rows=2),
        "measures 2 rows of test",
    ),
    "other dataset": (
        lambda w: edit_json(w / RUN / "evaluation" / "metrics.json", dataset={"name": "other", "digest": "0" * 64}),
        "measures a dataset that is not",
    ),
    "no thresholds": (
        lambda w: (w / RUN / "adapter" / "decision_policy.json").unlink(),
        "decision_policy.json: no such file",
    ),
    "local base": (
        lambda w: edit_json(w / RUN / "adapter" / "adapter_config.json", base_model_name_or_path="models/tiny/llama"),
        "the adapter belongs to models/tiny/llama, not to tiny/llama",
    ),
    "changed weights, evaluated": (evaluate_negated_weights, "adapter_model.safetensors: changed since training"),
    "no commit of the base": (
        lambda w: edit_json(w / RUN / "adapter" / "adapter_config.json", revision=None),
        "stopped by: base",
    ),
    "a secret": (plant_a_secret, "stopped by: secrets"),
    "another recipe": (
        lambda w: (w / RUN / "recipe.yaml").write_text(
            Path(w, RUN, "recipe.yaml").read_text() + "weight_decay: 0.5\n"
        ),
        "not the recipe that was trained",
    ),
    "other data": (make_credentialed_and_call_it_synthetic_again, "stopped by: access"),
    "data of the start": (continue_other_terms, "stopped by: licence"),
    "a row": (plant_a_row, "stopped by: access, quotes"),
    "a link": (link, "is a link or a folder"),
    "dataset changed": (lambda w: (w / "data/tiny/test.parquet").write_bytes(b""), "changed since"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_must_not_be_published_is_refused_in_one_line_before_any_request(finished_copy, hub, call, fault):
    plant, message = FAULTS[fault]
    plant(finished_copy)
    before = files_in(finished_copy)
    refused = call("publish", *ADAPTER)
    assert "Traceback" not in refused.stderr and "headache" not in refused.stdout + refused.stderr
    errors = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert refused.code == 2 and len(errors) == 1 and message in errors[0], refused.stdout + refused.stderr
    assert hub.requests == [] and files_in(finished_copy) == before


def test_an_unknown_base_licence_and_one_that_does_not_fit_are_refused(finished_copy, call):
    words = [word for word in ADAPTER if word not in ("--base-license", "apache-2.0")]
    refused = call("publish", *words, "--dry-run")
    assert refused.code == 2 and "--base-license" in refused.stderr
    refused = call("publish", *words, "--base-license", "llama3.2", "--license", "apache-2.0", "--dry-run")
    assert refused.code == 2 and "stopped by: licence" in refused.stderr


def test_a_licence_of_other_terms_is_named_on_the_card(finished_copy, call):
    other = ("publish", *ADAPTER[:-2], "--base-license", "other", "--dry-run")
    refused = call(*other)
    assert refused.code == 2 and "--license-name" in refused.stderr
    terms = ("--license-name", "our-terms-1.0", "--license-link", "https://huggingface.co/our-org/terms")
    shown = call(*other, *terms)
    assert shown.code == 0, shown.stdout + shown.stderr
    assert (
        "license: other\nlicense_name: our-terms-1.0\nlicense_link: https://huggingface.co/our-org/terms\n"
        in shown.stdout
    )
    assert call("publish", *ADAPTER, *terms, "--dry-run").code == 2


@pytest.mark.slow
def test_credentialed_data_never_leave_and_their_adapter_only_privately_and_if_acknowledged(finished_copy, hub, call):
    make_credentialed(finished_copy)
    for words in ((), ("--acknowledge", "credentialed"), ("--public", "--acknowledge", "credentialed")):
        refused = call("publish", *DATASET, *words)
        assert refused.code == 2 and "stopped by: " in refused.stderr and "access" in refused.stderr
        assert "never published, whatever is acknowledged" in refused.stdout
    for words in ((), ("--public", "--acknowledge", "credentialed")):
        refused = call("publish", *ADAPTER, *words)
        assert refused.code == 2 and "stopped by: access" in refused.stderr
    assert hub.requests == []

    done = publish(finished_copy, *ADAPTER, "--acknowledge", "credentialed")
    assert done.returncode == 0, done.stdout + done.stderr
    repo = hub.repo(REPO)
    assert repo.private
    said = done.stdout.encode() + b"".join(data for name, data in repo.files(TAG).items() if name != "tokenizer.json")
    notes = [row["note"] for row in load_dataset("parquet", data_files="data/tiny/*.parquet", split="train")]
    assert not any(note.encode() in said or b"worst headache of life" in said for note in notes)


@pytest.mark.slow
def test_gated_lets_anyone_see_and_no_one_read(finished_copy, hub):
    make_credentialed(finished_copy)
    done = publish(finished_copy, *ADAPTER, "--gated", "--acknowledge", "credentialed")
    assert done.returncode == 0, done.stdout + done.stderr
    repo = hub.repo(REPO)
    assert not repo.private and repo.gated == "manual"


@pytest.mark.slow
def test_a_read_token_publishes_nothing(finished_copy, hub):
    hub.add_user("reader", "hf_reader", role="read")
    refused = run_script(finished_copy, "scripts/publish.py", *ADAPTER, HF_HUB_OFFLINE="0", HF_TOKEN="hf_reader")
    assert refused.returncode == 2 and "error: " in refused.stderr
    assert {request.step for request in hub.requests} == {"whoami"}


@pytest.mark.slow
def test_a_merged_model_is_published_and_answers_as_base_plus_adapter(finished_copy, hub, tmp_path):
    done = publish(finished_copy, *ADAPTER, "--merge")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^merged: (\d+) of \1 answers are the adapter's$", done.stdout, re.MULTILINE)
    files = hub.repo(REPO).files(TAG)
    assert {"model.safetensors", "config.json"} < set(files) and "adapter_model.safetensors" not in files
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    base = load_file(Path("models", TINY_MODEL, "model.safetensors"))
    merged = load_file(tmp_path / "model.safetensors")
    assert merged.keys() == base.keys() and not all(torch.equal(merged[name], base[name]) for name in base)
    figures = json.loads(files["manifest.json"])["merged"]
    assert figures["logits"]["same_top"] == 1.0 and figures["logits"]["largest_difference"] < 1e-3
    messages = [{"role": "user", "content": "Choose the imaging protocol for this order.\nr/o meniscal tear"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    base = AutoModelForCausalLM.from_pretrained(Path("models", TINY_MODEL))
    untuned = base.generate(prompt, max_new_tokens=12)
    adapted = PeftModel.from_pretrained(base, Path(RUN, "adapter"))
    answer = model.generate(prompt, max_new_tokens=12)
    assert torch.equal(answer, adapted.generate(prompt, max_new_tokens=12)) and not torch.equal(answer, untuned)


@pytest.mark.parametrize("merged", [False, True])
def test_the_snippet_of_the_card_stops_where_training_taught_it_to(merged, finished_copy, call):
    """The base model's own end token is another one, as in many chat models."""
    base = Path("models", TINY_MODEL)
    padding = AutoTokenizer.from_pretrained(base).pad_token_id
    for name in ("config.json", "generation_config.json"):
        edit_json(base / name, eos_token_id=padding)
    edit_json(base / "generation_config.json", do_sample=True, temperature=9.0)
    run, folder = read_finished_run(RUN), Path(REPO)
    run.manifest["base"]["dtype"] = "float32"
    if merged:
        merge_adapter(run.recipe, Path(RUN, "adapter"), folder)
    facts = {"repo_id": REPO, "tag": TAG, "license": "apache-2.0", "base_license": "apache-2.0", "merged": merged}
    card = render_model_card(run.manifest, run.metrics, **facts)
    assemble_model(run, folder, repo=REPO, tag=TAG, card=card, merged=merged)
    Path("tiny").symlink_to("models/tiny")

    found = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], found)
    prompt, answer = found["prompt"][0].tolist(), found["answer"][0].tolist()
    tokenizer = found["tokenizer"]
    written = answer[len(prompt) :]
    assert tokenizer.decode(written[-1]) == "<|im_end|>" and written.count(written[-1]) == 1 < len(written) < 12
    # As radrecipes itself generates
    (text,) = load_predictor(RUN).generate([PROTOCOL.read_input(PROTOCOL.words.example)])
    assert text.stopped and text.text == tokenizer.decode(written, skip_special_tokens=True).strip()
    # Everything that generates by the files in the folder, such as a server
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [written[-1]]
    assert not GenerationConfig.from_pretrained(folder).do_sample


def train_reports(workspace, reports, rows, monkeypatch, epochs):
    """A finished, evaluated run on reports of these kinds."""
    monkeypatch.setattr("conftest.TINY_REPORTS", reports)
    shutil.rmtree(workspace / "data/tiny_reports")
    write_tiny_reports(workspace / "data/tiny_reports", rows)
    words = ("--config", "recipes/tiny/report_lora.yaml", "--num_train_epochs", epochs)
    for command in (
        ("scripts/sft.py", *words),
        ("scripts/evaluate_model.py", "--run", REPORT_RUN, "--skip-base"),
    ):
        done = Script(workspace, *command).end(300)
        assert done.code == 0, done.stderr


@pytest.mark.slow
def test_a_model_that_recites_a_canary_is_stopped_and_one_that_writes_common_sentences_is_not(
    workspace, monkeypatch, call
):
    canary = ("Fracture: uncertain", CANARY, "Fracture.")
    train_reports(workspace, [*TINY_REPORTS, canary], 20, monkeypatch, "60")
    recites = call("publish", *REPORTS)
    assert recites.code == 2 and "stopped by: memory" in recites.stderr, recites.stdout + recites.stderr
    length = int(re.search(r"reproduces up to (\d+) consecutive training tokens", recites.stdout)[1])
    assert length >= 25 and "7 2 9 4" not in recites.stdout + recites.stderr
    assert call("publish", *REPORTS, "--acknowledge", "memory").code == 0

    shutil.rmtree(REPORT_RUN)
    train_reports(workspace, TINY_REPORTS, 64, monkeypatch, "15")
    harmless = call("publish", *REPORTS)
    assert harmless.code == 0, harmless.stdout + harmless.stderr
    assert re.search(r"^memory +ok +48 training prompts, longest run 0 tokens", harmless.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_demo_publishes_pulls_and_compares(finished_copy):
    (finished_copy / "tests").symlink_to(REPOSITORY / "tests")
    words = ("--run", RUN, "--dataset", "data/tiny", "--base-license", "apache-2.0")
    done = run_script(finished_copy, "tests/demo_publish.py", *words, HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "the snippet of the card, without radrecipes\n" in done.stdout
        and "to the last digit: adapter True" in done.stdout
    )
    assert done.stdout.endswith("files, answer and figures are the same\n") and "DIFFERENT" not in done.stdout
    pairs = re.findall(r"^([0-9a-f]{64})  ([0-9a-f]{64})  \S+$", done.stdout, re.MULTILINE)
    assert len(pairs) == len(PUBLISHED) + 6 and all(there == here for there, here in pairs)


def test_help_teaches(call):
    shown = call("publish", "--help")
    assert shown.code == 0 and "--dry-run" in shown.stdout and "private by default" in shown.stdout
    assert "--acknowledge" in call("publish", "adapter", "--help").stdout
