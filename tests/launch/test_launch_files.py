"""Configuration files are read as accelerate reads them."""

from pathlib import Path

import pytest

from radrecipes.errors import InputError
from radrecipes.launch.compatibility import CONFIGURATIONS, configuration_of
from radrecipes.launch.files import promise_in

FOLDER = Path(__file__).resolve().parents[2] / "accelerate_configs"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_each_shipped_file_is_the_configuration_of_its_name(name):
    assert configuration_of(promise_in(FOLDER / f"{name}.yaml")) == name


def test_a_file_of_ones_own_is_known_by_what_it_does(tmp_path):
    text = (FOLDER / "fsdp2.yaml").read_text("utf-8").replace("num_processes: 8", "num_processes: 3")
    (tmp_path / "ours.yaml").write_text(text, "utf-8")
    promise = promise_in(tmp_path / "ours.yaml")
    assert (configuration_of(promise), promise.processes) == ("fsdp2", 3)


@pytest.mark.parametrize("text", ["- a\n- list\n", "distributed_type: NOBODY\n", "unknown_key: 1\n", "a: ["])
def test_what_accelerate_cannot_read_is_one_line(text, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"wrong.yaml: accelerate cannot read it: ") as raised:
        promise_in(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"none.yaml: no such configuration"):
        promise_in(tmp_path / "none.yaml")
