"""A second labeller of reports that shares no rule with the first, so that texts which please the rules are judged by others too.

It learns sentences labelled by construction, those of the synthetic reports and of the template writer, and invented sentences in
the phrasing of real reports, labelled by hand.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from sklearn.svm import LinearSVC

from radrecipes.data.synthetic_reports.patients import follow_patient
from radrecipes.data.synthetic_reports.writing import Writer
from radrecipes.evaluation.tfidf import words_and_characters
from radrecipes.radiology.details import without_details
from radrecipes.radiology.observations import (
    NO_FINDING,
    OBSERVATIONS,
    Labels,
    Status,
    findings_present,
    parse_observations,
    strongest,
)
from radrecipes.radiology.sentences import split_sentences
from radrecipes.radiology.template_writer import write_report

LABELLED_TEXTS = Path(__file__).with_name("labelled_texts")
_ASKED = tuple(name for name in OBSERVATIONS if name != NO_FINDING)
_STATUSES = (None, *Status)  # not mentioned, or one of them
_STUDIES, _SEED = 2000, 0
# Chosen on a tenth of the texts: F1 0.938, with C = 1 0.929
_C = 10.0


class LinearLabeller:
    """A support vector machine for each observation, on words and characters of a sentence; made in seconds."""

    def __init__(self):
        self._features = words_and_characters(most_words=4)
        texts = labelled_texts()
        vectors = self._features.fit_transform(texts)
        self._classifiers = {
            name: LinearSVC(C=_C, random_state=_SEED, max_iter=10_000).fit(
                vectors, [_STATUSES.index(labels.get(name)) for labels in texts.values()]
            )
            for name in _ASKED
        }
        self._labels: dict[str, Labels] = {}

    def label(self, texts: Sequence[str]) -> list[Labels]:
        """What each text states, without No Finding, which is no statement of a sentence; each distinct sentence is read once."""
        of_texts = [split_sentences(text) for text in texts]
        new = sorted({sentence for sentences in of_texts for sentence in sentences} - self._labels.keys())
        if new:
            vectors = self._features.transform(new)
            found = np.column_stack([classifier.predict(vectors) for classifier in self._classifiers.values()])
            self._labels |= {
                sentence: {name: _STATUSES[place] for name, place in zip(_ASKED, places, strict=True) if place}
                for sentence, places in zip(new, found.tolist(), strict=True)
            }
        return [
            strongest(label for sentence in sentences for label in self._labels[sentence].items())
            for sentences in of_texts
        ]


def labelled_texts() -> dict[str, Labels]:
    """Each text of training with what it states: of the generator, of the template writer, and those labelled by hand."""
    texts: dict[str, Labels] = {}
    rng, studies = random.Random(_SEED), 0
    while studies < _STUDIES:
        for study in follow_patient(4, rng):
            studies += 1
            for statement in (part for section in Writer(study, rng).write_both() for part in section):
                # As written, and as cleaned for a prepared dataset
                for text in (statement.text, without_details(statement.text)):
                    texts[text] = statement.stated
    for name in _ASKED:
        for status in Status:
            findings, impression = write_report({name: status})
            # An impression names what is present or possible, except devices.
            texts |= {findings: {name: status}, impression: {name: status} if findings_present({name: status}) else {}}
    for path in sorted(LABELLED_TEXTS.glob("*.yaml")):
        texts |= {text: labels for rows in read_labelled(path).values() for text, labels in rows}
    texts.pop("", None)
    return texts


def read_labelled(path: Path) -> dict[str, list[tuple[str, Labels]]]:
    """For each kind of text in a file its texts, each with its labels."""
    kinds = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {kind: [(text, parse_observations(labels)) for text, labels in rows] for kind, rows in kinds.items()}
