"""The template writer says exactly what was requested, for every status of every observation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.radiology.consistency import IMPRESSION_SECTIONS, check_report, format_report
from radrecipes.radiology.labeller import label_report
from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, Status, derive_no_finding
from radrecipes.radiology.template_writer import write_report

FINDINGS_ONLY = [name for name in OBSERVATIONS if name != NO_FINDING]
REQUESTS = st.dictionaries(st.sampled_from(FINDINGS_ONLY), st.sampled_from(Status)).map(derive_no_finding)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("name", FINDINGS_ONLY)
def test_every_status_of_every_observation_is_read_back(name, status):
    request = derive_no_finding({name: status})
    assert label_report(*write_report(request)) == request


@settings(max_examples=400, deadline=None)
@given(request=REQUESTS)
def test_any_consistent_request_is_read_back_and_passes_its_check(request):
    findings, impression = write_report(request)
    assert label_report(findings, impression) == request
    assert check_report(format_report(findings, impression), request).reasons == []
    assert check_report(impression, request, IMPRESSION_SECTIONS, require_all=False).reasons == []
    assert "  " not in findings + impression


def test_the_wording_is_that_of_a_report():
    assert write_report({NO_FINDING: Status.POSITIVE})[1] == "No acute cardiopulmonary process."
    request = {
        "Pneumothorax": Status.NEGATIVE,
        "Edema": Status.POSITIVE,
        "Support Devices": Status.POSITIVE,
        "Pleural Effusion": Status.NEGATIVE,
        "Pneumonia": Status.UNCERTAIN,
    }
    assert write_report(request) == (
        "There is pulmonary edema. There may be pneumonia. There is no pleural effusion or pneumothorax. "
        "Support lines and tubes are in place.",
        "Pulmonary edema. Possible pneumonia.",
    )


def test_what_is_denied_together_is_one_sentence():
    denied = {"Lung Opacity": Status.NEGATIVE, "Consolidation": Status.NEGATIVE}
    assert write_report(denied)[0] == "There is no focal consolidation or pulmonary opacity."
