"""The protocol task: its prompt, its answer, and reading an output back."""

from types import SimpleNamespace

import pytest

from radrecipes.data.label_sets import LabelSet
from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.tasks import TASKS
from radrecipes.tasks.protocol import ProtocolTask


@pytest.fixture
def label_set(shared_workspace):
    return LabelSet.load(shared_workspace / "data" / "tiny" / "label_set.yaml")


def test_the_recipe_name_leads_to_the_task():
    assert TASKS["protocol"].name == "protocol"


def test_instruction_comes_before_the_note_so_that_prompts_share_their_beginning():
    task = ProtocolTask()
    assert task.question({"note": "r/o bleed"}) == f"{task.instruction}\nr/o bleed"


def test_answer_is_the_label_as_it_is():
    assert ProtocolTask().target({"label": "CT Head"}) == "CT Head"


def test_output_is_read_as_a_label_of_the_set(label_set):
    task = ProtocolTask()
    for name in label_set.names:
        assert task.read_output(name, label_set) == name
    assert task.read_output("  ct   HEAD ", label_set) == "CT Head"


@pytest.mark.parametrize("text", ["", "CT", "CT Head MR Brain", "The protocol is CT Head", "CT Hesd"])
def test_output_outside_the_set_is_not_a_label(text, label_set):
    assert ProtocolTask().read_output(text, label_set) is None


def test_dataset_of_another_task_is_refused():
    with pytest.raises(InputError, match="data/reports: prepared for the task summarise"):
        ProtocolTask().check_dataset(SimpleNamespace(task="summarise", folder="data/reports"))
    with pytest.raises(InputError, match="data/orders"):
        ProtocolTask().check_dataset(SimpleNamespace(task="protocol", folder="data/orders", label_set=None))


def test_dataset_of_this_task_is_taken(shared_workspace):
    ProtocolTask().check_dataset(load_prepared_dataset(shared_workspace / "data" / "tiny"))
