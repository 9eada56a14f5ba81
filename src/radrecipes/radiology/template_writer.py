"""Writes a report in fixed sentences from requested observations: a baseline, and the fallback of the guard."""

from collections.abc import Mapping

from radrecipes.radiology.observations import NO_FINDING, OBSERVATIONS, SUPPORT_DEVICES, Status, findings_present


def _there_is(thing: str, article: str = "a ", denied: str = "") -> tuple[str, str, str, str]:
    some = f"{article}{thing}"
    return f"There is {some}.", f"There is no {denied or thing}.", f"There may be {some}.", thing


# Per observation: sentences for each status in the order of `Status`, and the noun for the impression.
_SENTENCES = {
    "Enlarged Cardiomediastinum": (
        "The mediastinum is widened.", "The mediastinal contours are normal.", "The mediastinum may be widened.",
        "widened mediastinum",
    ),
    "Cardiomegaly": (
        "The heart is enlarged.", "The heart size is normal.", "The heart may be enlarged.", "cardiomegaly",
    ),
    "Lung Opacity": _there_is("pulmonary opacity"),
    "Lung Lesion": _there_is("pulmonary nodule", denied="pulmonary nodule or mass"),
    "Edema": _there_is("pulmonary edema", article=""),
    "Consolidation": _there_is("consolidation", article="", denied="focal consolidation"),
    "Pneumonia": _there_is("pneumonia", article="", denied="evidence of pneumonia"),
    "Atelectasis": _there_is("atelectasis", article=""),
    "Pneumothorax": _there_is("pneumothorax"),
    "Pleural Effusion": _there_is("pleural effusion"),
    "Pleural Other": _there_is("pleural thickening", article=""),
    "Fracture": _there_is("rib fracture"),
    SUPPORT_DEVICES: (
        "Support lines and tubes are in place.", "There are no support lines or tubes.",
        "There may be support lines or tubes.", "support lines and tubes in place",
    ),
}  # fmt: skip
# Reports usually deny both in one sentence; the wording is as common as fixed sentences can be.
_DENIED_TOGETHER = {
    ("Lung Opacity", "Consolidation"): "There is no focal consolidation or pulmonary opacity.",
    ("Pneumothorax", "Pleural Effusion"): "There is no pleural effusion or pneumothorax.",
}
_NOTHING_STATED = "No acute cardiopulmonary abnormality is seen."
_NORMAL_IMPRESSION = "No acute cardiopulmonary process."


def write_report(labels: Mapping[str, Status]) -> tuple[str, str]:
    """Findings and impression in fixed sentences, without sides, sizes and earlier studies.

    The labeller reads back exactly what was requested, in every status, with `No Finding` derived. The impression
    names what is present or possible, except support devices; if there is nothing, it is normal.
    """
    stated = {name: labels[name] for name in OBSERVATIONS if name in labels and name != NO_FINDING}
    together: dict[str, str] = {}
    for names, sentence in _DENIED_TOGETHER.items():
        if all(stated.get(name) == Status.NEGATIVE for name in names):
            together |= {names[0]: sentence, names[1]: ""}
    place = tuple(Status).index
    sentences = [together.get(name, _SENTENCES[name][place(status)]) for name, status in stated.items()]
    named = [
        f"{'possible ' if stated[name] == Status.UNCERTAIN else ''}{_SENTENCES[name][-1]}.".capitalize()
        for name in findings_present(stated)
    ]
    return " ".join(filter(None, sentences)) or _NOTHING_STATED, " ".join(named) or _NORMAL_IMPRESSION
