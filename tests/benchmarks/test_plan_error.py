"""The table of how far plans are from real runs is made from the results."""

import json
import sys

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import plan_error


def test_the_table_is_that_of_the_results():
    document = plan_error.DOCUMENT.read_text("utf-8")
    found = json.loads(plan_error.RESULTS.read_text("utf-8"))
    names = ("plan error", "plan_error.py")
    assert plan_error.with_table(document, *names, plan_error.table(found)) == document
    assert plan_error.with_table(document, *names, plan_error.table({"short_runs": {}})) != document
