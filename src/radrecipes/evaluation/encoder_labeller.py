"""A second labeller of reports that shares no rule with the first, so that what was trained on the rules is not judged by them.

It is an encoder that learns sentences labelled by construction, those of the synthetic reports and of the template writer, and
invented sentences in the phrasing of real reports, labelled by hand.
"""

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from radrecipes.data.synthetic_reports.patients import follow_patient
from radrecipes.data.synthetic_reports.writing import Writer
from radrecipes.errors import InputError
from radrecipes.evaluation import Progress
from radrecipes.evaluation.embeddings import DEFAULT_MODEL
from radrecipes.evaluation.fine_tuned_encoder import FineTunedEncoder
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
_VALIDATION = 10  # every tenth text


class EncoderLabeller:
    """Labels reports as [`~radiology.labeller.label_report`] does, sentence by sentence, with a head for each observation.

    Raises an [`InputError`] if the encoder cannot be loaded or trained.
    """

    def __init__(self, encoder: str = DEFAULT_MODEL):
        classes = [f"{name}: {status or 'not mentioned'}" for name in _ASKED for status in _STATUSES]
        with _advised():
            self._encoder = FineTunedEncoder(encoder, classes, questions=len(_ASKED))
        self._labels: dict[str, Labels] = {}

    @property
    def facts(self) -> dict[str, object]:
        """Name and hyperparameters of the encoder."""
        return {"encoder": self._encoder.name, **self._encoder.settings}

    def fit(self, progress: Progress) -> None:
        """Learn the labelled texts but every tenth, on which it is chosen when to stop."""
        texts = list(labelled_texts().items())
        random.Random(_SEED).shuffle(texts)
        held, learned = texts[::_VALIDATION], [text for place, text in enumerate(texts) if place % _VALIDATION]
        arguments = [part for rows in (learned, held) for part in ([text for text, _ in rows], _answers(rows))]
        with _advised():
            self._encoder.fit(*arguments, progress)

    def label(self, texts: Sequence[str]) -> list[Labels]:
        """What each text states, without No Finding, which is no statement of a sentence; each distinct sentence is read once."""
        of_texts = [split_sentences(text) for text in texts]
        new = sorted({sentence for sentences in of_texts for sentence in sentences} - self._labels.keys())
        if new:
            found = self._encoder.score(new).argmax(axis=2)
            self._labels |= {
                sentence: {name: _STATUSES[place] for name, place in zip(_ASKED, places, strict=True) if place}
                for sentence, places in zip(new, found.tolist(), strict=True)
            }
        return [
            strongest(label for sentence in sentences for label in self._labels[sentence].items())
            for sentences in of_texts
        ]


@contextlib.contextmanager
def _advised() -> Iterator[None]:
    """Say how to evaluate without this labeller."""
    try:
        yield
    except InputError as error:
        raise InputError(f"the second labeller failed ({error}); leave it out with --judges none") from error


def _answers(rows: Sequence[tuple[str, Mapping[str, Status]]]) -> np.ndarray:
    return np.array([[_STATUSES.index(labels.get(name)) for name in _ASKED] for _, labels in rows])


def labelled_texts() -> dict[str, Labels]:
    """Each text of training with what it states: of the generator, of the template writer, and those labelled by hand."""
    texts: dict[str, Labels] = {}
    rng, studies = random.Random(_SEED), 0
    while studies < _STUDIES:
        for study in follow_patient(4, rng):
            studies += 1
            for statement in (part for section in Writer(study, rng).write_both() for part in section):
                # As it stands, and as it stands in a prepared dataset
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
