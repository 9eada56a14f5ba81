import gzip
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.data.sources.report_pairs import ReportPairs
from radrecipes.errors import InputError
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Status, format_observations

GOOD = {"prompt": "Edema: 1", "completion": "Edema."}


def write(folder, *rows, name="pairs.jsonl"):
    path = folder / name
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def read_all(path, **columns):
    source = ReportPairs(path, **columns)
    other_process = pickle.loads(pickle.dumps(source))
    return [other_process.read(item) for item in source.items()]


def test_prompts_become_observations_and_completions_sections(tmp_path):
    path = write(
        tmp_path,
        {
            "prompt": "Atelectasis: 1; Lung Opacity: 1; Pneumonia: uncertain. \nFindings:",
            "completion": " The lungs \n collapse. ",
        },
        "",
        {"prompt": "No Finding: positive", "completion": "FINDINGS: The lungs are clear.\nIMPRESSION: Normal."},
    )
    first, second = read_all(path)
    assert first.observations == "Lung Opacity: positive; Pneumonia: uncertain; Atelectasis: positive"
    assert (first.findings, first.impression) == ("The lungs collapse.", "")
    assert (first.id, first.group, first.path) == ("1", "1", "pairs.jsonl:1")
    assert (second.findings, second.impression) == ("The lungs are clear.", "Normal.")
    assert (second.id, second.path) == ("3", "pairs.jsonl:3")


def test_columns_have_the_names_that_the_user_gives(tmp_path):
    row = {"labels": "Edema: -1", "report": "Perhaps edema.", "accession": 17, "mrn": " p3 ", "other": None}
    path = write(tmp_path, row, name="pairs.jsonl.gz")
    columns = {"completion_column": "report", "id_column": "accession", "group_column": "mrn"}
    [report] = read_all(path, prompt_column="labels", **columns)
    assert (report.id, report.group, report.observations) == ("17", "p3", "Edema: uncertain")
    [unlabelled] = read_all(path, prompt_column=None, **columns)
    assert unlabelled.observations is None and unlabelled.findings == "Perhaps edema."


labels = st.dictionaries(st.sampled_from(OBSERVATIONS[:-1]), st.sampled_from(list(Status)), min_size=1).map(
    lambda found: {name: found[name] for name in OBSERVATIONS if name in found}
)


@given(
    labels | st.just({NO_FINDING: Status.POSITIVE}),
    st.sampled_from(["", ".", ". \nFindings:", "\nFindings: ", " FINDINGS:"]),
)
def test_any_labels_come_back(tmp_path_factory, labels, ending):
    path = write(tmp_path_factory.mktemp("pairs"), {**GOOD, "prompt": format_observations(labels) + ending})
    [report] = read_all(path)
    assert report.observations == format_observations(labels)


@pytest.mark.parametrize(
    ("row", "reason", "hint"),
    [
        ('{"prompt": ', "unreadable_row", "not valid JSON (Expecting value); write one object per line"),
        ("[1]", "unreadable_row", "must be a JSON object with the columns as keys"),
        (
            {"prompt": "Edema: 1"},
            "unreadable_row",
            "no column 'completion' among the 1 of this object; it has 'prompt'",
        ),
        (
            {**GOOD, "completion": {}},
            "unreadable_row",
            "column 'completion' contains dict, not text; name another column",
        ),
        (
            {**GOOD, "completion": "\ud800"},
            "unreadable_row",
            "column 'completion' contains a broken Unicode character; remove it",
        ),
        ({**GOOD, "completion": 7}, "empty_report", ""),
        ({**GOOD, "completion": " \n"}, "empty_report", ""),
        ({**GOOD, "completion": "..."}, "empty_report", ""),
        (
            {**GOOD, "prompt": "Oedema: 1"},
            "unreadable_prompt",
            "pair 1: no observation has this name; did you mean 'Edema'?",
        ),
        (
            {**GOOD, "prompt": "the secret words"},
            "unreadable_prompt",
            "pair 1 has no status; write for example `Edema: positive`",
        ),
        (
            {**GOOD, "prompt": "Edema: secret"},
            "unreadable_prompt",
            "pair 1: the status of Edema is unknown; write positive, negative or uncertain",
        ),
        (
            {**GOOD, "prompt": ""},
            "unreadable_prompt",
            "no observations; write for example `Edema: positive; Pneumothorax: negative`",
        ),
        (
            {**GOOD, "prompt": "Edema: 1; No Finding: 1"},
            "unreadable_prompt",
            "No Finding contradicts Edema: positive; remove one",
        ),
    ],
)
def test_a_bad_line_is_rejected_with_a_hint_that_quotes_nothing(tmp_path, row, reason, hint):
    rejected, good = read_all(write(tmp_path, row, GOOD))
    assert (rejected.path, rejected.reason, rejected.hint) == ("pairs.jsonl:1", reason, hint)
    assert good.observations == "Edema: positive"


def test_a_line_in_another_encoding_and_an_empty_group_are_rejected(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "Edema: 1", "completion": "\xe9"}\n' + json.dumps({**GOOD, "mrn": " "}).encode())
    assert [report.reason for report in read_all(path, group_column="mrn")] == ["unreadable_row", "empty_group"]


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.jsonl: no such file; check the path"):
        ReportPairs(tmp_path / "none.jsonl")
    (tmp_path / "pairs.csv").write_text("prompt,completion\n")
    with pytest.raises(InputError, match=r"pairs.csv: must be a .jsonl or .jsonl.gz file"):
        ReportPairs(tmp_path / "pairs.csv")
    with pytest.raises(InputError, match=r"pairs.jsonl: contains no JSON object"):
        ReportPairs(write(tmp_path, ""))
    packed = write(tmp_path, *[{**GOOD, "id": number} for number in range(999)], name="pairs.jsonl.gz")
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"pairs.jsonl.gz:\d+: is not a complete gzip file; copy it again"):
        ReportPairs(packed)


def test_a_file_without_the_columns_is_refused_with_the_ways_to_read_it(tmp_path):
    path = write(tmp_path, {"findings": "Edema.", "completion": "Edema."})
    message = (
        r"no object has the column 'prompt'; name it with --prompt-column, or label the reports by their text with"
    )
    with pytest.raises(
        InputError, match=message + " --label-source relabel; columns of findings and impression are read with"
    ):
        ReportPairs(path)
    assert read_all(path, prompt_column=None)[0].findings == "Edema."
    with pytest.raises(
        InputError, match="no object has the column 'text'; name it with --completion-column; columns of"
    ):
        ReportPairs(path, prompt_column=None, completion_column="text")
