"""The simulation counts thresholds that promise too much."""

import sys

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import threshold_simulation
from threshold_simulation import simulate


def test_a_threshold_rarely_promises_too_much_and_one_without_a_bound_does(monkeypatch):
    informative = simulate(True, 0.95, 0.1, groups=36, rows=18, draws=30)
    assert informative["failed"] < 0.3 and 0.3 < informative["coverage"] < 1.0
    too_late = simulate(False, 0.95, 0.1, groups=36, rows=18, draws=30)
    assert too_late["failed"] < 0.3 and too_late["coverage"] < 0.3

    class Everything:
        threshold, automatic_rows = 0.0, 36 * 18

    monkeypatch.setattr(threshold_simulation, "choose_threshold", lambda *arguments: Everything)
    assert simulate(True, 0.95, 0.1, groups=36, rows=18, draws=3) == {"failed": 1.0, "coverage": 1.0}
