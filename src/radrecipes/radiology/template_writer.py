"""A report in fixed sentences from requested observations: a baseline, and what the guard falls back to."""

from collections.abc import Mapping

from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, SUPPORT_DEVICES, Status

# Per observation: sentences for present, denied and hedged, and the noun of the impression.
_SENTENCES = {
    "Enlarged Cardiomediastinum": (
        "The mediastinum is widened.",
        "The mediastinal contours are normal.",
        "The mediastinum may be widened.",
        "widened mediastinum",
    ),
    "Cardiomegaly": (
        "The heart is enlarged.",
        "The heart size is normal.",
        "The heart may be enlarged.",
        "cardiomegaly",
    ),
    "Lung Opacity": (
        "There is a pulmonary opacity.",
        "There is no pulmonary opacity.",
        "There may be a pulmonary opacity.",
        "pulmonary opacity",
    ),
    "Lung Lesion": (
        "There is a pulmonary nodule.",
        "There is no pulmonary nodule or mass.",
        "There may be a pulmonary nodule.",
        "pulmonary nodule",
    ),
    "Edema": (
        "There is pulmonary edema.",
        "There is no pulmonary edema.",
        "There may be pulmonary edema.",
        "pulmonary edema",
    ),
    "Consolidation": (
        "There is consolidation.",
        "There is no focal consolidation.",
        "There may be consolidation.",
        "consolidation",
    ),
    "Pneumonia": (
        "There is pneumonia.",
        "There is no evidence of pneumonia.",
        "There may be pneumonia.",
        "pneumonia",
    ),
    "Atelectasis": (
        "There is atelectasis.",
        "There is no atelectasis.",
        "There may be atelectasis.",
        "atelectasis",
    ),
    "Pneumothorax": (
        "There is a pneumothorax.",
        "There is no pneumothorax.",
        "There may be a pneumothorax.",
        "pneumothorax",
    ),
    "Pleural Effusion": (
        "There is a pleural effusion.",
        "There is no pleural effusion.",
        "There may be a pleural effusion.",
        "pleural effusion",
    ),
    "Pleural Other": (
        "There is pleural thickening.",
        "There is no pleural thickening.",
        "There may be pleural thickening.",
        "pleural thickening",
    ),
    "Fracture": (
        "There is a rib fracture.",
        "There is no rib fracture.",
        "There may be a rib fracture.",
        "rib fracture",
    ),
    SUPPORT_DEVICES: (
        "Support lines and tubes are in place.",
        "There are no support lines or tubes.",
        "There may be support lines or tubes.",
        "support lines and tubes in place",
    ),
}
_PLACES = {Status.POSITIVE: 0, Status.NEGATIVE: 1, Status.UNCERTAIN: 2}
_NOUN = 3
# Customary in one sentence where both are denied, and as close to the usual wording as fixed sentences come.
_DENIED_TOGETHER = {
    ("Lung Opacity", "Consolidation"): "The lungs are clear.",
    ("Pneumothorax", "Pleural Effusion"): "There is no pleural effusion or pneumothorax.",
}
# With one of these present, "the lungs are clear" would be wrong although it denies neither.
_NOT_CLEAR = ("Lung Lesion", "Edema", "Pneumonia", "Atelectasis")
_NOTHING_STATED = "No acute cardiopulmonary abnormality is seen."
_NORMAL_IMPRESSION = "No acute cardiopulmonary process."


def write_report(labels: Mapping[str, Status]) -> tuple[str, str]:
    """Write a report in fixed sentences, without sides, sizes and earlier studies.

    The labeller reads from it exactly what was requested, `No Finding` as it derives it.

    Args:
        labels (`Mapping[str, Status]`):
            Requested observations. Every status of every observation can be written.

    Returns:
        `tuple[str, str]`: findings and impression. The impression names what is present or possible, support devices
        aside, and calls the study normal where there is nothing of the kind.
    """
    return _write_findings(labels), _write_impression(labels)


def _write_findings(labels: Mapping[str, Status]) -> str:
    stated = {name: labels[name] for name in OBSERVATIONS if name in labels and name != NO_FINDING}
    together: dict[str, str] = {}
    for names, sentence in _DENIED_TOGETHER.items():
        if all(stated.get(name) == Status.NEGATIVE for name in names) and not (
            "Consolidation" in names
            and any(stated.get(name, Status.NEGATIVE) != Status.NEGATIVE for name in _NOT_CLEAR)
        ):
            together |= {names[0]: sentence, names[1]: ""}
    sentences = [together.get(name, _SENTENCES[name][_PLACES[status]]) for name, status in stated.items()]
    return " ".join(filter(None, sentences)) or _NOTHING_STATED


def _write_impression(labels: Mapping[str, Status]) -> str:
    named = [
        f"{'possible ' if labels[name] == Status.UNCERTAIN else ''}{_SENTENCES[name][_NOUN]}.".capitalize()
        for name in OBSERVATIONS
        if labels.get(name) in (Status.POSITIVE, Status.UNCERTAIN) and name not in (NO_FINDING, SUPPORT_DEVICES)
    ]
    return " ".join(named) or _NORMAL_IMPRESSION
