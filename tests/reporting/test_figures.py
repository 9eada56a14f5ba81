"""What the drawings of the report page show."""

import math
import xml.etree.ElementTree as ElementTree

from radrecipes.reporting.figures import loss_curve_svg


def test_loss_curve_is_xml_and_deterministic():
    log = [{"step": step, "loss": 3 / step, "eval_loss": 1.0} for step in range(1, 50)]
    svg = loss_curve_svg(log)
    assert svg == loss_curve_svg(log)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "validation" in svg


def test_entries_without_a_finite_loss_are_passed_over():
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"loss": 3.0}, {"step": 3, "loss": None}]
    assert loss_curve_svg(log) is None
    assert loss_curve_svg([*log, {"step": 4, "loss": 0.0}]) is not None
    assert loss_curve_svg([]) is None
