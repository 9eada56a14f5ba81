"""Messages for what RadEval cannot compute."""

import sys

import pytest

from radrecipes.errors import InputError
from radrecipes.evaluation.radeval_metrics import RadEvalMetrics


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval", None)
    with pytest.raises(InputError, match=r"pip install 'radrecipes\[radeval\]'") as error:
        RadEvalMetrics(["radgraph"])
    assert "\n" not in str(error.value)
