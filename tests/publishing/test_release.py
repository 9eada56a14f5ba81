"""The folder of a release: what is in it, that nothing else is, and that it is the same every time."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from conftest import TINY_RECIPE, write_tiny_dataset
from e2e.conftest import edit_json
from safetensors.torch import save_file
from tiny_model import build_tiny_tokenizer

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.inference.abstention import DecisionPolicy
from radrecipes.models.weights import lora_config, weights_in
from radrecipes.publishing.release import (
    assemble_dataset,
    assemble_model,
    is_allowed,
    read_finished_run,
    texts_of_rows,
)
from radrecipes.recipe import parse_recipe
from radrecipes.training.run_folder import run_of

DIGEST = "d" * 64
# What training and evaluation write and a reader does not need.
LEFT_BEHIND = ("adapter/training_args.bin", "adapter/README.md", "checkpoints/x.pt", "evaluation/predictions.parquet")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run as its files are, of a recipe with paths of this machine; there is no model."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    for name in ("adapter", "evaluation", "checkpoints"):
        (folder / name).mkdir(parents=True)
    dataset = tmp_path / "elsewhere" / "orders"
    recipe = TINY_RECIPE.replace("data/tiny", str(dataset)) + f"output_dir: {folder}\n"
    recipe += f"chat_template_path: {tmp_path / 'elsewhere' / 'own.jinja'}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    parsed = parse_recipe(folder / "recipe.yaml")
    manifest = {
        "recipe": {
            **{"name": "tiny/protocol_lora", "digest": parsed.digest, "fields": parsed.fields},
            "resolved": parsed.resolved,
        },
        "data": {
            "folder": str(dataset),
            "digest": DIGEST,
            "access": "synthetic",
            "rows": {"test": 8},
            "label_set_sha256": hashlib.sha256(b"label_set.yaml").hexdigest(),
        },
        "base": {"weights_sha256": "b"},
        "prompt": {"sha256": DIGEST},
    }
    config = lora_config(parsed.model)
    config.base_model_name_or_path, config.revision = "tiny/llama", "0" * 40
    config.save_pretrained(folder / "adapter")
    save_file({"x": torch.zeros(1)}, folder / "adapter" / "adapter_model.safetensors")
    weights = weights_in(folder / "adapter").sha256
    manifest["adapter"] = {"sha256": weights}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    metrics = {
        "task": "protocol",
        "split": "test",
        "rows": 8,
        "dataset": {"name": "tiny", "digest": DIGEST},
        "seeds": {"training": 42},
        "systems": {},
        "comparisons": [],
        "decoding": {},
        "adapter_sha256": weights,
    }
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "adapter" / "label_set.yaml").write_text("label_set.yaml", encoding="utf-8")
    build_tiny_tokenizer().save_pretrained(folder / "adapter")
    DecisionPolicy(
        temperature=1.0,
        thresholds=(),
        target_accuracy=0.95,
        adapter_sha256=weights,
        label_set_sha256=manifest["data"]["label_set_sha256"],
        prompt_sha256=DIGEST,
        dataset_digest=DIGEST,
        rows=8,
        groups=8,
    ).save(folder / "adapter")
    for name in LEFT_BEHIND:
        (folder / name).write_bytes(b"private")
    (folder / "COMPLETE").touch()
    return folder


def bytes_of(folder):
    """Every file's content by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_release_contains_the_listed_files_each_with_its_hash_and_nothing_else(run, tmp_path):
    release = assemble_model(read_finished_run(run), tmp_path / "out", repo="org/name", tag="v1.0", card="card")
    files = bytes_of(release.folder)
    assert sorted(files) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "decision_policy.json",
        "generation_config.json", "label_set.yaml", "manifest.json", "metrics.json", "recipe.yaml", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert release.files == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    published = json.loads(files["manifest.json"])["published"]
    assert published["files"].keys() == files.keys() - {"manifest.json"}
    assert (published["format"], published["repo"], published["tag"]) == (1, "org/name", "v1.0")
    assert release.repo_type == "model" and all(is_allowed("adapter", name) for name in files)


@pytest.mark.parametrize("where", [".", "shipped"])
def test_results_over_seeds_are_released_if_the_run_is_one_of_them(where, run, tmp_path, monkeypatch):
    monkeypatch.setattr("radrecipes.shipped.ROOT", tmp_path / "shipped")
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    base = manifest["base"]
    edit_json(run / "manifest.json", training={"seed": 42})
    fields = read_finished_run(run).manifest["recipe"]["fields"]
    results = {
        "fields": {key: value for key, value in fields.items() if key != "seed"},
        "seeds": [{"seed": 42}, {"seed": 1}],
        **{key: manifest[key] for key in ("data", "prompt")},
        "base": base,
    }
    path = tmp_path / where / "recipes" / "tiny" / "protocol_lora.results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results), encoding="utf-8")
    release = assemble_model(read_finished_run(run), tmp_path / "out", repo="org/name", tag="v1.0", card="card")
    assert json.loads((release.folder / "results.json").read_text("utf-8")) == results
    assert "results.json" in release.files and is_allowed("adapter", "results.json")
    edit_json(run / "manifest.json", training={"seed": 7})
    other = assemble_model(read_finished_run(run), tmp_path / "other", repo="org/name", tag="v1.0", card="card")
    assert "results.json" not in other.files


def test_a_run_that_continues_another_is_released_only_if_that_one_s_data_are_known(run):
    edit_json(run / "manifest.json", start={"weights_sha256": "a" * 64})
    with pytest.raises(InputError, match="does not record the licence of that run's data; train both again"):
        read_finished_run(run)
    data = [{"name": "orders", "digest": DIGEST, "license": "mit", "access": "open"}]
    edit_json(run / "manifest.json", start={"weights_sha256": "a" * 64, "data": data})
    assert read_finished_run(run).earlier_data == data
    licences = read_finished_run(run).earlier_licences
    assert licences == {f"the data orders ({DIGEST[:8]}) of the run that it continues": "mit"}


def test_the_defaults_in_a_manifest_name_no_path_either(run):
    recipe = read_finished_run(run).manifest["recipe"]
    assert recipe["resolved"]["dataset"] == recipe["fields"]["dataset"] == "data/orders"
    assert recipe["resolved"]["chat_template_path"] == recipe["fields"]["chat_template_path"] == "own.jinja"


def test_the_chat_template_is_read_from_where_the_run_or_the_release_keeps_it(run, tmp_path):
    assert run_of(run)[1].training.chat_template_path == str(run / "adapter" / "chat_template.jinja")
    release = assemble_model(read_finished_run(run), tmp_path / "out", repo="org/name", tag="v1.0", card="card")
    assert run_of(release.folder)[1].training.chat_template_path == str(release.folder / "chat_template.jinja")


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    made = [
        assemble_model(read_finished_run(run), tmp_path / name, repo="org/name", tag="v1.0", card="card")
        for name in ("first", "second")
    ]
    assert bytes_of(made[0].folder) == bytes_of(made[1].folder)


def test_no_path_of_this_machine_is_published_and_the_recipe_still_says_what_was_trained(run, tmp_path):
    finished = read_finished_run(run)
    release = assemble_model(finished, tmp_path / "out", repo="org/name", tag="v1.0", card="card")
    assert not any(str(tmp_path).encode() in data for data in bytes_of(release.folder).values())
    published, trained = parse_recipe(release.folder / "recipe.yaml"), parse_recipe(run / "recipe.yaml")
    assert published.arguments.dataset == "data/orders" and "output_dir" not in published.fields
    assert published.fields["chat_template_path"] == "own.jinja"
    manifest = json.loads((release.folder / "manifest.json").read_text("utf-8"))
    assert published.digest == manifest["recipe"]["digest"]
    same = trained.fields.keys() - {"dataset", "output_dir", "chat_template_path"}
    assert all(published.fields[name] == trained.fields[name] for name in same)
    assert finished.dataset_folder == tmp_path / "elsewhere" / "orders"


def change_json(path, key, **changes):
    """Change the value under a key of a JSON file."""
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, key: {**content[key], **changes}}), encoding="utf-8")


def append(path, content):
    """Append bytes to a file."""
    path.write_bytes(path.read_bytes() + content)


CHANGED = {
    "recipe": (lambda run: append(run / "recipe.yaml", b"weight_decay: 0.5\n"), "not the recipe that was trained"),
    "weights": (
        lambda run: save_file({"x": torch.ones(1)}, run / "adapter" / "adapter_model.safetensors"),
        "changed since training",
    ),
    "evaluation of other weights": (
        lambda run: edit_json(run / "evaluation" / "metrics.json", adapter_sha256="0" * 64),
        "measures other weights",
    ),
    "evaluation without the long rows": (
        lambda run: edit_json(run / "evaluation" / "metrics.json", rows=1, left_out={"test": 7}),
        "not all 8 of test; prepare the data without those that the model cannot read",
    ),
    "thresholds": (
        lambda run: edit_json(run / "adapter" / "decision_policy.json", adapter_sha256="0" * 64),
        "thresholds of another model",
    ),
    "no tokenizer but a SentencePiece model": (
        lambda run: (run / "adapter" / "tokenizer.json").rename(run / "adapter" / "tokenizer.model"),
        "no tokenizer whose vocabulary is text",
    ),
    "label set": (lambda run: append(run / "adapter" / "label_set.yaml", b"#"), "not the label set"),
    "no label set": (lambda run: (run / "adapter" / "label_set.yaml").unlink(), "is missing"),
    "data": (
        lambda run: change_json(run / "evaluation" / "metrics.json", "dataset", digest="0" * 64),
        "a dataset that is not",
    ),
    "metrics in UTF-16": (
        lambda run: (run / "evaluation" / "metrics.json").write_bytes("{}".encode("utf-16")),
        "not an evaluation in JSON",
    ),
    "metrics of nothing": (
        lambda run: (run / "evaluation" / "metrics.json").write_text("[]"),
        "not an evaluation in JSON",
    ),
    "metrics without a split": (
        lambda run: edit_json(run / "evaluation" / "metrics.json", split=None),
        "not an evaluation in JSON .rule properties/split",
    ),
    "adapter's configuration": (
        lambda run: (run / "adapter" / "adapter_config.json").write_bytes(b"\xff"),
        "adapter_config.json: not a UTF-8 text file",
    ),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_run_that_was_changed_since_it_was_trained_is_refused(run, change):
    read_finished_run(run)
    plant, message = CHANGED[change]
    plant(run)
    with pytest.raises(InputError, match=message):
        read_finished_run(run)


@pytest.mark.parametrize("name", ["adapter/adapter_config.json", "adapter/tokenizer.json", "evaluation/metrics.json"])
def test_what_a_link_points_to_is_not_published(run, tmp_path, name):
    (run / name).rename(tmp_path / "elsewhere.json")
    (run / name).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputError, match=rf"{name}: is a link or a folder"):
        assemble_model(read_finished_run(run), tmp_path / "out", repo="org/name", tag="v1.0", card="card")


def test_a_folder_in_the_place_of_a_file_is_refused(run, tmp_path):
    (run / "adapter" / "vocab.txt").mkdir()
    with pytest.raises(InputError, match="a link or a folder"):
        assemble_model(read_finished_run(run), tmp_path / "out", repo="org/name", tag="v1.0", card="card")


def test_a_merged_model_may_contain_weights_in_parts_and_no_adapter():
    allowed = ("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json")
    assert all(is_allowed("merged", name) for name in allowed)
    refused = ("adapter_model.safetensors", "pytorch_model.bin", "sub/model.safetensors", "train.parquet")
    assert not any(is_allowed("merged", name) for name in refused)


@pytest.mark.parametrize("name", [*LEFT_BEHIND, "train_log.jsonl", "report.html", ".env", "sub/README.md"])
def test_what_is_not_listed_is_not_allowed_for_any_kind(name):
    assert not any(is_allowed(kind, name) for kind in ("adapter", "merged", "dataset"))


def test_a_dataset_is_released_with_its_card_and_reads_back(tmp_path):
    write_tiny_dataset(tmp_path / "tiny")
    dataset = load_prepared_dataset(tmp_path / "tiny")
    release = assemble_dataset(dataset, tmp_path / "out", repo="org/orders", tag="v1.0")
    names = ["README.md", "label_set.yaml", "manifest.json", "test.parquet", "train.parquet", "validation.parquet"]
    assert sorted(bytes_of(release.folder)) == names and release.repo_type == "dataset"
    again = load_prepared_dataset(release.folder)
    assert again.digest == dataset.digest and again.manifest["published"]["repo"] == "org/orders"
    assert len(texts_of_rows(dataset)) == 64 and not set(texts_of_rows(dataset)) & {"CT Head", "order-1"}

    (dataset.folder / "README.md").unlink()
    with pytest.raises(InputError, match=r"has no README\.md"):
        assemble_dataset(dataset, tmp_path / "none", repo="org/orders", tag="v1.0")
    assert not Path(tmp_path / "none").exists()
