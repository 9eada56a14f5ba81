"""The simulation of the monitor: a change alarms, none does not, and the recorded rates are within the stated one."""

import json
import sys

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import monitor_simulation
from monitor_simulation import CHANGES, as_markdown, read_orders, simulate


def test_a_changed_form_alarms_and_no_change_does_not_but_at_any_level_it_would(monkeypatch):
    orders = read_orders(REPOSITORY / "data" / "protocol_synthetic")
    monkeypatch.setattr(monitor_simulation, "REFERENCE", 300)
    assert simulate(orders, CHANGES["another order form"], 200, 3, 0.01)["alarms"] == 3
    assert simulate(orders, CHANGES["none"], 200, 10, 0.01)["alarms"] == 0
    assert simulate(orders, CHANGES["none"], 200, 10, 8.1)["alarms"] > 5, "only the sizes of the changes are left"


def test_the_recorded_rates_are_within_the_stated_one():
    recorded = json.loads((REPOSITORY / "docs" / "monitoring.json").read_text("utf-8"))
    assert as_markdown(recorded) in (REPOSITORY / "docs" / "monitoring.md").read_text("utf-8")
    unchanged = [row for row in recorded["found"] if row["change"] == "none"]
    assert [row["size"] for row in unchanged] == [200, 500, 2000] and all(row["windows"] >= 2000 for row in unchanged)
    assert all(row["high"] <= recorded["false_alarms"] for row in unchanged)
