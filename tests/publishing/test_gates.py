"""Each gate with a fault planted and without: what it says, where it points, and that it never says what it found."""

import base64
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import save_file

from radrecipes.planning.base_shapes import SHAPES, shape_of
from radrecipes.publishing import gates
from radrecipes.publishing.gates import ReleaseFacts, check_release
from radrecipes.publishing.identifiers import find_identifiers
from radrecipes.publishing.project_json import free_text, schema_errors, schema_of
from radrecipes.publishing.release_texts import vocabulary
from radrecipes.tasks import TASKS

CARD = """\
---
base_model: tiny/llama
base_model_relation: adapter
library_name: peft
pipeline_tag: text-generation
license: apache-2.0
language: [en]
metrics: [accuracy]
tags: [radiology]
model-index:
- name: x
  results:
  - task: {type: text-classification}
    dataset: {type: tiny, name: tiny}
    metrics: [{type: accuracy, value: 0.5}]
---
# Tiny

Chooses the imaging protocol.
"""
DATASET_CARD = """\
---
license: apache-2.0
language: [en]
pretty_name: Tiny
size_categories: [n<1K]
task_categories: [text-classification]
annotations_creators: [machine-generated]
source_datasets: [original]
tags: [radiology, synthetic]
configs:
- config_name: default
  data_files: [{split: train, path: train.parquet}]
---
# Tiny

Orders that a program wrote.
"""
COMMIT = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"
TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345678"
ROW = "worst headache of life while gardening behind the old brick chapel at dusk"
ADAPTER = {
    "adapter_config.json": json.dumps({"base_model_name_or_path": "tiny/llama", "revision": COMMIT}, indent=2),
    "README.md": CARD,
    "recipe.yaml": "task: protocol\ndataset: data/tiny\n",
    "metrics.json": json.dumps(
        {
            "task": "protocol",
            "split": "test",
            "rows": 8,
            "dataset": {"name": "tiny", "access": "synthetic", "digest": "0" * 64},
            "seeds": {"training": 42},
            "systems": {},
            "comparisons": [],
            "decoding": {},
        },
        indent=2,
    ),
    "manifest.json": json.dumps({"data": {"access": "synthetic"}}, indent=2),
}


def facts(**changes):
    """Facts of a harmless adapter."""
    harmless = {
        "kind": "adapter",
        "access": "synthetic",
        "visibility": "private",
        "licence": "apache-2.0",
        "source_licences": {"the base tiny/llama": "apache-2.0", "the data tiny": "apache-2.0"},
        "rows": [ROW],
        "base": "tiny/llama",
        "task": TASKS["protocol"],
    }
    return ReleaseFacts(**harmless | changes)


@pytest.fixture
def adapter(tmp_path):
    """A release of an adapter with nothing against it."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name, text in ADAPTER.items():
        (folder / name).write_text(text, encoding="utf-8")
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def dataset(tmp_path):
    """A release of a dataset with nothing against it."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "README.md").write_text(DATASET_CARD, encoding="utf-8")
    (folder / "manifest.json").write_text("{}\n", encoding="utf-8")
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.parquet", ["chronic knee pain", "acute flank pain"])
    return folder


def trained_on(folder, access):
    """Make the release of an adapter one of data of this access class."""
    for name in ("metrics.json", "manifest.json"):
        (folder / name).write_text(ADAPTER[name].replace("synthetic", access), encoding="utf-8")


def add_field(path, **fields):
    """Add to a JSON file of a release."""
    content = {**json.loads(path.read_text("utf-8")), **fields}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def write_rows(path, notes):
    """A split of these notes."""
    pq.write_table(pa.table({"id": [f"order {n}" for n in range(len(notes))], "note": notes}), path)


def closed(folder, given, acknowledgements=()):
    """The findings of the gates that stop a release, by gate."""
    return {
        result.gate: result.findings for result in check_release(folder, given, acknowledgements) if not result.passed
    }


def test_a_harmless_release_passes_every_gate_and_each_says_what_it_looked_at(adapter, dataset):
    for folder, given in ((adapter, facts()), (dataset, facts(kind="dataset", base=None, task=None))):
        results = check_release(folder, given)
        assert [result.gate for result in results] == [
            "files", "access", "card", "quotes", "identifiers", "secrets", "paths", "base", "licence", "memory",
        ]  # fmt: skip
        assert all(result.passed and result.looked_at for result in results), [str(r.findings) for r in results]


@pytest.mark.parametrize(
    "name", ["training_args.bin", "predictions.parquet", "checkpoints/optimizer.pt", "train_log.jsonl", "report.html"]
)
def test_a_file_outside_the_list_stops(adapter, name):
    (adapter / name).parent.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        write_rows(adapter / name, ["a"])
    else:
        (adapter / name).write_bytes(b"x")
    (finding,) = closed(adapter, facts())["files"]
    assert finding.file == name and "nothing else leaves the folder" in finding.what


def test_a_link_stops(adapter, tmp_path):
    (tmp_path / "elsewhere").write_text(ADAPTER["metrics.json"], encoding="utf-8")
    (adapter / "metrics.json").unlink()
    (adapter / "metrics.json").symlink_to(tmp_path / "elsewhere")
    assert [finding.file for finding in closed(adapter, facts())["files"]] == ["metrics.json"]


@pytest.mark.parametrize("access", ["credentialed", "registered"])
def test_closed_data_are_never_published_even_if_acknowledged(dataset, access):
    given = facts(kind="dataset", access=access, base=None, task=None)
    found = closed(dataset, given, ["credentialed", "identifiers", "memory"])["access"]
    assert [finding.file for finding in found] == ["test.parquet", "train.parquet", "validation.parquet"]


@pytest.mark.parametrize("access", ["credentialed", "registered"])
def test_what_closed_data_trained_is_never_public_and_needs_an_acknowledgement(adapter, access):
    trained_on(adapter, access)
    for visibility in ("private", "gated"):
        given = facts(access=access, visibility=visibility)
        assert "access" in closed(adapter, given)
        assert "access" not in closed(adapter, given, ["credentialed"])
    assert "access" in closed(adapter, facts(access=access, visibility="public"), ["credentialed"])


def test_an_unknown_access_class_stops_even_if_acknowledged(adapter):
    trained_on(adapter, "internal")
    assert "access" in closed(adapter, facts(access="internal"), ["credentialed"])


@pytest.mark.parametrize("model_id", SHAPES)
def test_the_configuration_of_a_merged_model_names_no_person(model_id):
    """Large numbers and names of classes are those of the model; a name or a record number in it is still found."""
    config = shape_of(model_id)
    config.architectures, config.bos_token_id, config.eos_token_id = ["LlamaForCausalLM"], 128000, [128001, 128009]
    text = config.to_json_string(use_diff=False)
    schema = schema_of("config.json", "merged")
    assert not schema_errors(text, schema)
    assert [found for _, line in free_text(text, schema) for found in find_identifiers(line)] == []
    for name in (
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.q_proj",
        "self_attn.k_norm",
        "mlp.gate_proj",
    ):
        assert find_identifiers(f"model.layers.0.{name}.weight") == []
    planted = json.dumps(json.loads(text) | {"architectures": [NAME], "mrn": 4471902})
    assert len([line for _, line in free_text(planted, schema) if find_identifiers(line)]) == 2


@pytest.mark.parametrize("name", ["metrics.json", "manifest.json"])
@pytest.mark.parametrize("visibility", ["private", "public"])
def test_an_access_class_that_was_changed_after_training_stops_even_if_acknowledged(adapter, name, visibility):
    add_field(adapter / name, **json.loads(ADAPTER[name].replace("synthetic", "credentialed")))
    (finding,) = closed(adapter, facts(visibility=visibility), ["credentialed"])["access"]
    assert finding.file == name and "the dataset does now (synthetic)" in finding.what
    (adapter / name).write_text("[]", encoding="utf-8")
    assert "access" in closed(adapter, facts(visibility=visibility))


@pytest.mark.parametrize(
    ("access", "tags", "form"),
    [
        ("synthetic", "radiology", ""),  # made as open
        ("open", "radiology", "extra_gated_prompt: ask\n"),  # made as credentialed
        ("synthetic", "radiology, synthetic", "extra_gated_prompt: ask\n"),
        ("open", "radiology, synthetic", ""),
    ],
)
def test_a_dataset_whose_access_class_was_changed_after_its_card_was_made_stops(dataset, access, tags, form):
    card = DATASET_CARD.replace("radiology, synthetic", tags).replace("pretty_name", form + "pretty_name")
    (dataset / "README.md").write_text(card, encoding="utf-8")
    (finding,) = closed(dataset, facts(kind="dataset", access=access, base=None, task=None))["card"]
    assert finding.file == "README.md" and "another access class" in finding.what


def test_a_card_of_another_licence_or_no_text_stops(dataset):
    given = facts(kind="dataset", licence="cc-by-nc-4.0", source_licences={}, base=None, task=None)
    assert "`license` is not cc-by-nc-4.0" in closed(dataset, given)["card"][0].what
    (dataset / "README.md").write_bytes(DATASET_CARD.encode("utf-16"))
    assert closed(dataset, given).keys() == {"card", "files"}


@pytest.mark.parametrize("name", ["README.md", "metrics.json", "recipe.yaml", "adapter_config.json"])
def test_a_row_of_closed_data_in_any_text_is_found_at_its_line_and_not_repeated(adapter, name):
    given = facts(access="credentialed")
    assert "quotes" not in closed(adapter, given)
    lines = (adapter / name).read_text("utf-8").splitlines()
    if name == "README.md":
        lines.append(f"For example: {ROW.title()}.")
    else:
        lines.insert(1, f'"example": "{ROW}",' if name.endswith("json") else f"# {ROW}")
    (adapter / name).write_text("\n".join(lines), encoding="utf-8")
    if name == "adapter_config.json":
        (adapter / name).write_text(json.dumps({**json.loads(ADAPTER[name]), "note": ROW}, indent=2))
    (finding,) = closed(adapter, given, ["credentialed"])["quotes"]
    assert finding.file == name and finding.line and "headache" not in str(finding).lower()
    assert "quotes" not in closed(adapter, facts(access="open"))


HIDDEN = {
    "escaped line breaks": lambda folder: add_field(folder / "metrics.json", x="\n".join(ROW.split())),
    "escaped letters": lambda folder: (folder / "metrics.json").write_text(
        ADAPTER["metrics.json"].replace("{", '{"x": "' + "".join(f"\\u{ord(c):04x}" for c in ROW) + '",', 1)
    ),
    "a list, a word an item": lambda folder: add_field(folder / "metrics.json", x=ROW.split()),
    "comments, a word a line": lambda folder: (folder / "label_set.yaml").write_text(
        "name: x\n" + "".join(f"# {word}\n" for word in ROW.split())
    ),
    "a broken line": lambda folder: (folder / "chat_template.jinja").write_text(
        "{# " + ROW.replace("gardening", "gardening\n") + " #}"
    ),
    "an added token": lambda folder: (folder / "tokenizer.json").write_text(
        json.dumps({"added_tokens": [{"content": ROW}], "model": {"vocab": {"a": 1, "chronic": 2}}}, indent=2)
    ),
    "a vocabulary": lambda folder: (folder / "vocab.txt").write_text(f"[PAD]\n{ROW}\n"),
    "notes of the weights": lambda folder: save_file(
        {"x": torch.zeros(1)},
        folder / "adapter_model.safetensors",
        {"format": "pt", "x": json.dumps({"example": ROW})},
    ),
    "the name of a tensor": lambda folder: save_file({ROW: torch.zeros(1)}, folder / "adapter_model.safetensors"),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_a_row_of_closed_data_is_found_wherever_it_hides(adapter, place):
    HIDDEN[place](adapter)
    (finding,) = closed(adapter, facts(access="credentialed"), ["credentialed"])["quotes"]
    assert "words in a row of the data" in finding.what and "headache" not in str(finding)


UNREADABLE = {
    "UTF-16": ("metrics.json", '{"x": "y"}'.encode("utf-16")),
    "UTF-16 without a mark": ("recipe.yaml", "task: protocol".encode("utf-16-le")),
    "invalid UTF-8": ("generation_config.json", b'{"x": "\xff"}'),
    "no JSON": ("generation_config.json", b"knee pain"),
    "no weights": ("adapter_model.safetensors", b"knee pain"),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_what_no_gate_can_look_into_stops(adapter, fault):
    name, content = UNREADABLE[fault]
    (adapter / name).write_bytes(content)
    (finding,) = closed(adapter, facts(), ["identifiers", "memory", "credentialed"])["files"]
    assert finding.file == name and "it cannot be inspected" in finding.what


@pytest.mark.parametrize("wrap", [base64.b64encode, base64.encodebytes])
def test_encoded_bytes_stop_and_digests_do_not(adapter, wrap):
    add_field(adapter / "metrics.json", sha256="0a" * 32)
    assert not closed(adapter, facts())
    add_field(adapter / "metrics.json", x=wrap(ROW.encode() * 4).decode())
    (finding,) = closed(adapter, facts())["files"]
    assert finding.file == "metrics.json" and finding.line and "encoded bytes" in finding.what


def test_a_line_too_long_to_look_into_stops(adapter, dataset):
    add_field(adapter / "metrics.json", x="knee pain " * 200_000)
    assert [finding.file for finding in closed(adapter, facts(), ["identifiers"])["files"]] == ["metrics.json"]
    write_rows(dataset / "test.parquet", ["knee pain", "knee pain " * 200_000])
    (finding,) = closed(dataset, facts(kind="dataset", base=None, task=None), ["identifiers"])["files"]
    assert (finding.file, finding.line) == ("test.parquet", 2)


@pytest.mark.parametrize("part", ["schema", "field", "name"])
def test_the_head_of_a_table_is_looked_into(dataset, part):
    given, note = facts(kind="dataset", base=None, task=None), "MRN 4471902 of C:\\Users\\someone"
    schema = pa.schema([pa.field("id", pa.string(), metadata={"x": json.dumps(note)} if part == "field" else None)])
    table = pa.table({"id": ["a"]}).cast(schema)
    table = table.rename_columns([note if part == "name" else "id"])
    table = table.replace_schema_metadata({"pandas": json.dumps({"from": note})} if part == "schema" else None)
    pq.write_table(table, dataset / "train.parquet")
    found = closed(dataset, given)
    assert found.keys() == {"identifiers", "paths"}
    assert {finding.file for findings in found.values() for finding in findings} == {"train.parquet"}
    assert not any("4471902" in str(finding) or "someone" in str(finding) for finding in found["identifiers"])


def test_a_record_number_that_a_table_made_a_decimal_is_found_and_a_measured_time_is_not(adapter):
    add_field(adapter / "metrics.json", seconds=86400.0, share=0.4471902)
    (adapter / "tokenizer_config.json").write_text(json.dumps({"model_max_length": int(1e30)}), encoding="utf-8")
    assert not closed(adapter, facts())
    add_field(adapter / "metrics.json", mrn=4471902.0)
    assert {finding.file for finding in closed(adapter, facts())["identifiers"]} == {"metrics.json"}


def test_large_counts_are_not_record_numbers(adapter):
    add_field(
        adapter / "manifest.json", training={"trainable_parameters": 4884480, "tokens": 12345678, "seed": 4471902}
    )
    assert not closed(adapter, facts())
    add_field(adapter / "manifest.json", training={"record": 4471902})
    assert {finding.file for finding in closed(adapter, facts())["identifiers"]} == {"manifest.json"}


@pytest.mark.parametrize("field", ['"mrn": 4471902', '"patient_name": "Margaret Thornbury \\ud83d\\ude00 \\ud83d"'])
def test_identifiers_are_found_under_the_keys_of_json(adapter, field):
    (adapter / "metrics.json").write_text(ADAPTER["metrics.json"].replace("{", f"{{\n{field},", 1), encoding="utf-8")
    (finding,) = closed(adapter, facts())["identifiers"]
    assert (finding.file, finding.line) == ("metrics.json", 2)


def test_identifiers_are_named_by_kind_and_place_but_not_repeated(adapter, dataset):
    with (adapter / "README.md").open("a", encoding="utf-8") as stream:
        stream.write("\nThe patient Margaret Thornbury, MRN 4471902, was seen on 03/14/2021.\n")
    found = closed(adapter, facts())["identifiers"]
    assert {finding.file for finding in found} == {"README.md"}
    assert {finding.line for finding in found} == {CARD.count("\n") + 2}
    assert not any(word in str(finding) for finding in found for word in ("Margaret", "4471902", "03/14"))
    assert "identifiers" not in closed(adapter, facts(), ["identifiers"])

    write_rows(dataset / "test.parquet", ["knee pain", "seen on 03/14/2021, MRN 4471902"])
    found = closed(dataset, facts(kind="dataset", base=None, task=None))["identifiers"]
    assert {(finding.file, finding.line) for finding in found} == {("test.parquet", 2)}
    assert all("in column note" in finding.what for finding in found)


DATED = "{# Alibaba Cloud #}\n{{ 'Today Date: 26 Jul 2024' }}\n"
SHIPPED = sorted((REPOSITORY / "recipes" / "chat_templates").iterdir())


def test_the_chat_template_of_the_base_is_not_searched_for_identifiers_and_the_gate_says_so(adapter):
    (adapter / "chat_template.jinja").write_text(DATED, encoding="utf-8")
    found = closed(adapter, facts())["identifiers"]
    assert {(finding.file, finding.line) for finding in found} == {
        ("chat_template.jinja", 1),
        ("chat_template.jinja", 2),
    }
    results = check_release(adapter, facts(base_template=DATED))
    assert all(result.passed for result in results)
    (said,) = [result.looked_at for result in results if result.gate == "identifiers"]
    assert said == "6 texts; not chat_template.jinja, byte for byte the one of tiny/llama"


@pytest.mark.parametrize(
    "changed",
    [
        DATED + "{# seen 03/14/2021 #}",
        DATED.replace("2024", "2025"),
        DATED + " ",
        DATED.replace("\n", "\r\n"),
        DATED[:-1],
    ],
)
def test_a_chat_template_that_differs_from_the_base_models_is_searched_completely(adapter, changed):
    (adapter / "chat_template.jinja").write_bytes(changed.encode())
    found = closed(adapter, facts(base_template=DATED))["identifiers"]
    assert {finding.file for finding in found} == {"chat_template.jinja"} and {finding.line for finding in found} >= {
        1,
        2,
    }


@pytest.mark.parametrize("name", ["recipe.yaml", "README.md", "metrics.json", "tokenizer_config.json"])
def test_the_text_of_the_base_s_chat_template_is_searched_in_any_other_file(adapter, name):
    (adapter / "chat_template.jinja").write_text(DATED, encoding="utf-8")
    if name.endswith(".json"):
        (adapter / name).write_text(json.dumps({"chat_template": DATED}, indent=2), encoding="utf-8")
    else:
        with (adapter / name).open("a", encoding="utf-8") as stream:
            stream.write("\n" + DATED)
    assert {finding.file for finding in closed(adapter, facts(base_template=DATED))["identifiers"]} == {name}


def test_every_other_gate_looks_at_the_base_models_chat_template(adapter):
    template = f"{DATED}{{# {ROW} #}}\n{{# {TOKEN} #}}\n{{# /mnt/disk/data #}}\n"
    (adapter / "chat_template.jinja").write_text(template, encoding="utf-8")
    found = closed(adapter, facts(access="credentialed", base_template=template), ["credentialed"])
    places = {
        gate: {(finding.file, finding.line) for finding in found[gate]} for gate in ("quotes", "secrets", "paths")
    }
    assert places == {
        gate: {("chat_template.jinja", line)} for gate, line in (("quotes", 3), ("secrets", 4), ("paths", 5))
    }
    assert "identifiers" not in found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_chat_template_that_is_shipped_passes_until_a_date_is_added(adapter, path):
    shipped = path.read_text("utf-8")
    (adapter / "chat_template.jinja").write_text(shipped, encoding="utf-8")
    assert not closed(adapter, facts())
    (adapter / "chat_template.jinja").write_text(shipped + "{# seen 03/14/2021 #}", encoding="utf-8")
    lines = {finding.line for finding in closed(adapter, facts())["identifiers"]}
    assert lines >= {shipped.count("\n") + 1} and (len(lines) > 1) == ("Date: " in shipped)


def test_a_template_counts_as_shipped_only_if_the_shipped_ones_can_be_read(adapter, monkeypatch, tmp_path):
    monkeypatch.setattr(gates, "_CHAT_TEMPLATES", tmp_path / "none")
    dated = next(text for path in SHIPPED if "Date: " in (text := path.read_text("utf-8")))
    (adapter / "chat_template.jinja").write_text(dated, encoding="utf-8")
    assert {finding.file for finding in closed(adapter, facts())["identifiers"]} == {"chat_template.jinja"}


NAME = "Margaret Thornbury"
IN_JSON = {
    "a string that the schema knows": (
        "metrics.json",
        {"dataset": {"access": "synthetic", "name": NAME, "digest": "0" * 64}},
    ),
    "a string in the place of a hash": ("manifest.json", {"data": {"access": "synthetic", "digest": NAME}}),
    "a string in the place of a number": ("metrics.json", {"rows": NAME}),
    "a version": ("manifest.json", {"packages": {"torch": NAME}}),
    "the key of a package": ("manifest.json", {"packages": {NAME: "2.13.0"}}),
    "a count of an unknown key": ("manifest.json", {"data": {"access": "synthetic", "rows": {"mrn": 4471902}}}),
    "an item of a list": ("metrics.json", {"figures": ["rouge_l", NAME]}),
    "an unknown object": ("decision_policy.json", {"author": {"of": {"this": NAME}}}),
    "another program's file": ("generation_config.json", {"_from": [[NAME]]}),
}


@pytest.mark.parametrize("place", IN_JSON)
def test_identifiers_are_found_in_every_place_of_json_that_may_contain_text(adapter, place):
    name, fields = IN_JSON[place]
    content = json.loads(ADAPTER.get(name, "{}")) | fields
    (adapter / name).write_text(json.dumps(content), encoding="utf-8")
    found = closed(adapter, facts())
    assert {finding.file for finding in found["identifiers"]} == {name}
    assert not any("Thornbury" in str(finding) for findings in found.values() for finding in findings)
    # What is not of the type that the schema gives stops as well, and cannot be acknowledged.
    assert ("files" in found) == ("in the place of" in place)


def test_hashes_are_not_identifiers_in_json_nor_where_card_and_recipe_repeat_them(adapter):
    digest = "ec4c2d49cffdfcdb865a2871830a760fb8228a6acc8b65dbf09f4ca1065d1e9e"  # contains `acc 8`, a label of numbers
    with (adapter / "README.md").open("a", encoding="utf-8") as stream:
        stream.write(f"\nDigest of the prompt: `{digest}`.\n")
    assert "identifiers" in closed(adapter, facts())
    add_field(adapter / "manifest.json", prompt={"sha256": digest})
    assert not closed(adapter, facts())


def test_secrets_are_found_in_texts_tables_and_heads_of_weights_and_cannot_be_acknowledged(adapter, dataset):
    (adapter / "recipe.yaml").write_text(f"task: protocol\nhub_token: {TOKEN}\n", encoding="utf-8")
    (adapter / "tokenizer.json").write_text(json.dumps({"x": TOKEN}), encoding="utf-8")
    save_file({"x": torch.zeros(1)}, adapter / "adapter_model.safetensors", {"trained_with": TOKEN})
    found = closed(adapter, facts(), ["identifiers", "memory", "credentialed"])["secrets"]
    places = {(finding.file, finding.line) for finding in found}
    assert places == {("recipe.yaml", 2), ("tokenizer.json", 1), ("adapter_model.safetensors", None)}
    assert not any(TOKEN[5:12] in str(finding) for finding in found)

    write_rows(dataset / "train.parquet", ["knee pain", "flank pain", f"call with {TOKEN}"])
    (finding,) = closed(dataset, facts(kind="dataset", base=None, task=None))["secrets"]
    assert (finding.file, finding.line) == ("train.parquet", 3)


@pytest.mark.parametrize(
    "path",
    [
        "/mnt/disk/data", "/data/hospital/reports", "C:\\Users\\someone", "~/private", "/gpfs/projects/someone",
        "someone@node1:/scratch/someone", "file:///scratch/someone", "\\\\fileserver\\radiology",
    ],
)  # fmt: skip
def test_paths_of_a_machine_stop_in_yaml_json_and_notes_of_weights(adapter, path):
    (adapter / "recipe.yaml").write_text(f"task: protocol\ndataset: {path}\n", encoding="utf-8")
    add_field(adapter / "adapter_config.json", x=path)
    weights = {"format": "pt", "config": json.dumps({"from": path})}
    save_file({"x": torch.zeros(1)}, adapter / "adapter_model.safetensors", weights)
    found = closed(adapter, facts())["paths"]
    assert {(finding.file, finding.line) for finding in found} == {
        ("adapter_config.json", 4), ("adapter_model.safetensors", None), ("recipe.yaml", 2),
    }  # fmt: skip
    assert not any(path in str(finding) for finding in found)


@pytest.mark.parametrize("path", ["`/lustre/data/orders`", "C:\\Users\\someone", "~/data", "file:///data"])
def test_a_card_names_no_absolute_path_at_all(adapter, path):
    with (adapter / "README.md").open("a", encoding="utf-8") as card:
        card.write(f"\nTrained on {path}.\n")
    assert {finding.file for finding in closed(adapter, facts())["paths"]} == {"README.md"}


@pytest.mark.parametrize(
    "text",
    ["https://huggingface.co/org/name/tree/main", "positive/negative/uncertain", "1/2/2026", "w/o contrast", "</b>"],
)
def test_what_only_resembles_a_path_passes_in_a_card(adapter, text):
    with (adapter / "README.md").open("a", encoding="utf-8") as card:
        card.write(f"\nTrained on ({text}).\n")
    assert "paths" not in closed(adapter, facts())


@pytest.mark.parametrize(
    "text", ["data/tiny", "https://huggingface.co/data/x", "models/org/name", "r/o", "a </data/> b"]
)
def test_relative_paths_links_and_shorthand_pass(adapter, text):
    (adapter / "recipe.yaml").write_text(f"task: protocol\ndataset: {text}\n", encoding="utf-8")
    assert "paths" not in closed(adapter, facts())


@pytest.mark.parametrize(
    "config",
    [
        {"base_model_name_or_path": "models/tiny/llama", "revision": COMMIT},
        {"base_model_name_or_path": "tiny/llama", "revision": None},
        {"base_model_name_or_path": "tiny/llama", "revision": "main"},
    ],
)
def test_a_base_without_hub_id_and_commit_stops(adapter, config):
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (finding,) = closed(adapter, facts())["base"]
    assert finding.file == "adapter_config.json"


@pytest.mark.parametrize(
    "changes",
    [
        {"source_licences": {"the base tiny/llama": "llama3.2"}},
        {"source_licences": {"the base tiny/llama": None}},
        {"licence": "apache-2", "source_licences": {}},
        {"licence": "unknown"},
    ],
)
def test_a_licence_that_cannot_be_right_stops(adapter, changes):
    assert closed(adapter, facts(**changes), ["identifiers", "memory"])["licence"]


def test_a_card_that_the_hub_refuses_stops(adapter):
    (adapter / "README.md").write_text("# no front matter\n", encoding="utf-8")
    assert "front matter" in closed(adapter, facts())["card"][0].what


def test_a_model_that_writes_text_needs_its_memory_measured(adapter):
    figures = {"rows": 64, "longest_run": 23, "repeated_share": 0.1, "common_from_groups": 5}
    assert closed(adapter, facts(task=TASKS["report"]), ["memory"])["memory"][0].what.endswith("was not measured")
    assert not closed(adapter, facts(task=TASKS["report"], memory=figures))
    recites = facts(task=TASKS["report"], memory=figures | {"longest_run": 24})
    assert "24 consecutive training tokens" in closed(adapter, recites)["memory"][0].what
    assert not closed(adapter, recites, ["memory"])
    closed_data = facts(
        task=TASKS["report"], memory=figures | {"longest_run": 24}, access="credentialed", visibility="public"
    )
    assert "memory" in closed(adapter, closed_data, ["memory", "credentialed"])


def test_progress_is_shown(adapter):
    shown = []
    check_release(adapter, facts(), progress=lambda texts: shown.extend(texts) or texts)
    assert len(shown) == 6


VOCABULARY = {
    "tokenizer.json": '{{"model": {{"vocab": {{"\u0120knee": 0, "{}": 1}}}}}}',
    "vocab.txt": "[UNK]\nknee\n{}\n",
    "merges.txt": "#version: 0.2\nk nee\n{}\n",
}


@pytest.mark.parametrize("entry", ["\u0120Thornburywick", "4471902", "Margaret Thornbury, MRN 4471902"])
@pytest.mark.parametrize("name", VOCABULARY)
def test_entries_of_a_vocabulary_that_the_base_lacks_are_searched(adapter, name, entry):
    (adapter / name).write_text(VOCABULARY[name].format(entry), encoding="utf-8")
    base = frozenset(vocabulary(name, VOCABULARY[name].format("pain")))
    found = closed(adapter, facts(base_vocabulary=base))["identifiers"]
    assert {finding.file for finding in found} == {name}
    assert not any(word in str(finding) for finding in found for word in ("Thornbury", "4471902"))
    assert not closed(adapter, facts(base_vocabulary=frozenset(vocabulary(name, VOCABULARY[name].format(entry)))))


def test_a_vocabulary_that_is_not_the_base_s_at_all_is_refused(adapter):
    (adapter / "vocab.txt").write_text("\n".join(f"[unused{index}]" for index in range(2000)), encoding="utf-8")
    (finding,) = closed(adapter, facts(base_vocabulary=frozenset(["knee"])))["identifiers"]
    assert "the base model's vocabulary lacks" in finding.what


@pytest.mark.parametrize("tensor", ["margaret_thornbury.weight", "lora_4471902", "MRN 4471902"])
def test_names_of_tensors_are_searched(adapter, tensor):
    save_file({tensor: torch.zeros(1)}, adapter / "adapter_model.safetensors", {"format": "pt"})
    (finding,) = closed(adapter, facts())["identifiers"]
    assert finding.file == "adapter_model.safetensors"
