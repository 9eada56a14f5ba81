"""Additional evaluation of chest X-ray reports: metrics of observations, and baselines on labels and findings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import cohen_kappa_score

from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.linear_labeller import LinearLabeller
from radrecipes.evaluation.radeval_metrics import RadEvalMetrics
from radrecipes.evaluation.report_baselines import (
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    LeadSentences,
    NearestEmbedding,
    NearestLabels,
    label_states,
)
from radrecipes.evaluation.text_evaluation import (
    MOST_FREQUENT,
    NEAREST,
    REFERENCE,
    Baselines,
    Interval,
    TextEvaluation,
    writer_of,
)
from radrecipes.inference.answers import TEMPLATE, WrittenText
from radrecipes.radiology.consistency import FINDINGS, ReportCheck
from radrecipes.radiology.observations import (
    FIVE_OBSERVATIONS,
    NO_FINDING,
    OBSERVATIONS,
    findings_present,
    format_observations,
)
from radrecipes.radiology.sentences import split_sentences
from radrecipes.radiology.template_writer import write_report
from radrecipes.statistics import Statistic, mean_statistic, precision_recall_f1
from radrecipes.tasks.report_writing import ReportWritingTask

NEAREST_LABELS = "nearest_labels"
TEMPLATE_WRITER = "template_writer"
NEAREST_EMBEDDING = "nearest_embedding"
LEAD_SENTENCES = "lead_sentences"


class ReportEvaluation(TextEvaluation):
    """Evaluates systems on rows of a report writing task; everything is compared with the task's request for a row."""

    figures = (
        "passed_rate",
        "rouge_l",
        "bleu",
        "label_recall",
        "label_precision",
        "label_f1",
        "finding_recall",
        "finding_precision",
        "contradiction_rate",
        "invented_positive_rate",
        "earlier_study_rate",
        "invented_detail_rate",
        "repetition_rate",
        "missing_section_rate",
        "never_stopped_rate",
    )
    task: ReportWritingTask
    # What judges the texts in addition to the check
    labeller: LinearLabeller | None = None
    radeval: RadEvalMetrics | None = None

    def __init__(self, task: ReportWritingTask, rows: Sequence[Mapping[str, Any]]):
        super().__init__(task, rows)
        self.requests = [task.request(inputs) for inputs in self.inputs]
        self.keys = [format_observations(request) for request in self.requests]

    def baselines(self, validation: TextEvaluation, embedder: TextEmbedder | None = None) -> Baselines:
        """The most frequent report, that of the study with the nearest labels, and the template writer.

        All see what the model sees.
        """
        # A task without findings chooses among studies with the same labels by the impression alone.
        findings = [row["findings"] if FINDINGS in self.task.sections else "" for row in self.rows]
        nearest = NearestLabels(self.requests, findings, [row["impression"] for row in self.rows])

        def nearest_labels(rows: "ReportEvaluation") -> list[WrittenText]:
            return [WrittenText(self.task.compose(*report)) for report in nearest.reports(rows.requests)]

        def template_writer(rows: "ReportEvaluation") -> list[WrittenText]:
            return [WrittenText(self.task.fallback(inputs), source=TEMPLATE) for inputs in rows.inputs]

        # The nearest request is that with the nearest labels.
        writers = {NEAREST_LABELS: nearest_labels, TEMPLATE_WRITER: template_writer}
        return Baselines({MOST_FREQUENT: self._most_frequent(), **writers})

    def _check(self, place: int, text: str) -> ReportCheck:
        return self.task.check_against(self.requests[place], text)

    def _style(
        self,
        texts: Sequence[WrittenText],
        checks: Sequence[ReportCheck],
        places: Sequence[int],
        draws: Mapping[str, int],
    ) -> dict[str, Any]:
        interval = self._interval(places, draws)
        written = [self.task.comparable(texts[place].text) for place in places]
        sentences = [split_sentences(text) for text in written]
        templates = [
            set(split_sentences(self.task.comparable(self.task.compose(*write_report(self.requests[place])))))
            for place in places
        ]
        of_template = [
            sum(sentence in of_row for sentence in of_text)
            for of_text, of_row in zip(sentences, templates, strict=True)
        ]
        found = super()._style(texts, checks, places, draws)
        rate = interval(ratio_statistic(of_template, list(map(len, sentences)))) if any(sentences) else None
        found["template_sentence_rate"] = rate
        if self.labeller:
            found |= self._judged(places, written, [checks[place] for place in places], interval)
        if self.radeval:
            found["radeval"] = self.radeval([self.references[place] for place in places], written)
        return found

    def _judged(
        self, places: Sequence[int], written: Sequence[str], checks: Sequence[ReportCheck], interval: Interval
    ) -> dict[str, Any]:
        """What the second labeller, which does not read No Finding, says of texts, and how far it agrees with the first."""
        findings = [place for place, name in enumerate(OBSERVATIONS) if name != NO_FINDING]
        judged, requested, first = (
            label_states(labels)[:, findings]
            for labels in (
                self.labeller.label(written),
                [self.requests[place] for place in places],
                [check.written for check in checks],
            )
        )
        wanted, said = requested == POSITIVE, judged == POSITIVE
        flipped = (wanted & (judged == NEGATIVE)) | ((requested == NEGATIVE) & said)
        recall = interval(ratio_statistic((wanted & said).sum(axis=1), wanted.sum(axis=1))) if wanted.any() else None
        one_status = len({*first.ravel(), *judged.ravel()}) == 1  # leaves nothing to agree on beyond chance
        return {
            "judge_finding_recall": recall,
            "judge_contradiction_rate": interval(mean_statistic(flipped.any(axis=1))),
            "judge_kappa": None if one_status else float(cohen_kappa_score(first.ravel(), judged.ravel())),
        }

    def _row_columns(self, showable: bool) -> dict[str, list[str]]:
        columns = {"observations": self.keys}
        if showable:
            columns |= {f"reference_{name}": [row[name] for row in self.rows] for name in ("findings", "impression")}
        return columns

    def _specific(self, places: Sequence[int], checks: Sequence[ReportCheck], interval: Interval) -> dict[str, Any]:
        written = label_states([check.written for check in checks])
        requested = label_states([self.requests[place] for place in places])
        requested_positive, written_positive = requested == POSITIVE, written == POSITIVE
        normal = OBSERVATIONS.index(NO_FINDING)
        # Nothing on the list is present, yet No Finding is blank (emphysema): whether the text may say it is not known.
        asks_nothing = [NO_FINDING not in self.requests[p] and not findings_present(self.requests[p]) for p in places]
        written_positive[asks_nothing, normal] = False
        both = (requested_positive & written_positive).sum(axis=1)
        wanted, said = requested_positive.sum(axis=1), written_positive.sum(axis=1)
        both_normal = (requested_positive & written_positive)[:, normal]
        flipped = (requested_positive & (written == NEGATIVE)) | ((requested == NEGATIVE) & written_positive)
        # An invented No Finding is a missing observation, and counts as one.
        may_be_positive = requested_positive | (requested == UNCERTAIN)
        may_be_positive[:, normal] = True
        invented = (written_positive & ~may_be_positive).any(axis=1)

        def ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float] | None:
            return interval(ratio_statistic(above, below)) if below.sum() else None

        def rate(happened: Sequence[bool] | np.ndarray) -> dict[str, float]:
            return interval(mean_statistic(happened))

        return {
            "label_recall": ratio(both, wanted),
            "label_precision": ratio(both, said),
            "label_f1": ratio(2 * both, wanted + said),
            # Without No Finding: a text that calls a chest normal states no finding.
            "finding_recall": ratio(both - both_normal, wanted - requested_positive[:, normal]),
            "finding_precision": ratio(both - both_normal, said - written_positive[:, normal]),
            "consistency": {
                "uncertain_as_positive": _consistency(
                    requested_positive | (requested == UNCERTAIN), written_positive | (written == UNCERTAIN)
                ),
                "uncertain_as_negative": _consistency(requested_positive, written_positive),
            },
            "contradiction_rate": rate(flipped.any(axis=1)),
            "contradictions": int(flipped.sum()),
            "invented_positive_rate": rate(invented),
            "earlier_study_rate": rate([check.earlier_study for check in checks]),
            "invented_detail_rate": rate([bool(check.details) for check in checks]),
            "repetition_rate": rate([check.repeated for check in checks]),
            "missing_section_rate": rate([bool(check.missing_sections) for check in checks]),
            "per_observation": _per_observation(requested_positive, written_positive, flipped),
        }


class ImpressionEvaluation(ReportEvaluation):
    """Evaluates impressions; their input is a text, so baselines can compare and shorten it."""

    needs_embedder = True

    def baselines(self, validation: TextEvaluation, embedder: TextEmbedder | None = None) -> Baselines:
        """Those of reports, the impressions of the nearest findings, the first sentences of the findings, and the reference."""
        writers = {**super().baselines(validation, embedder).writers, NEAREST: self._nearest_neighbour()}
        lead = LeadSentences(validation.texts, validation.references)
        if embedder:
            writers[NEAREST_EMBEDDING] = writer_of(NearestEmbedding(self.texts, self.targets, embedder).predict)
        writers[LEAD_SENTENCES] = writer_of(lead.predict)
        writers[REFERENCE] = lambda rows: [WrittenText(text) for text in rows.targets]
        return Baselines(writers, {LEAD_SENTENCES: lead.sentences})


def ratio_statistic(numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray) -> Statistic:
    """A ratio of two sums over rows, for example micro recall from the counts of each row.

    A resample whose denominator is zero gets the ratio of all rows; raises a `ValueError` if all rows together have zero.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not below.sum():
        raise ValueError("the denominators add up to zero")
    overall = above.sum() / below.sum()

    def statistic(counts: np.ndarray) -> np.ndarray:
        totals = counts @ below
        return np.divide(counts @ above, totals, out=np.full(len(counts), overall), where=totals > 0)

    return statistic


def _consistency(requested: np.ndarray, written: np.ndarray) -> dict[str, Any]:
    """Precision, recall and F1 over all observations, without No Finding and over the usual five, micro- and macro-averaged."""
    five = [OBSERVATIONS.index(name) for name in FIVE_OBSERVATIONS]
    findings = [place for place, name in enumerate(OBSERVATIONS) if name != NO_FINDING]
    figures = {}
    for name, columns in (("14", slice(None)), ("13", findings), ("5", five)):
        both = (requested & written)[:, columns].sum(axis=0)
        wanted, said = requested[:, columns].sum(axis=0), written[:, columns].sum(axis=0)
        # An observation in no request and no text says nothing about the system.
        occurs = wanted + said > 0
        each = [
            precision_recall_f1(*counts) for counts in zip(both[occurs], said[occurs], wanted[occurs], strict=True)
        ]
        figures[name] = {
            "micro": precision_recall_f1(both.sum(), said.sum(), wanted.sum()),
            "macro": {
                figure: float(np.mean([scores[figure] or 0.0 for scores in each])) if each else None
                for figure in ("precision", "recall", "f1")
            },
        }
    return figures


def _per_observation(requested: np.ndarray, written: np.ndarray, flipped: np.ndarray) -> list[dict[str, Any]]:
    wanted, said, contradicted = (mask.sum(axis=0).tolist() for mask in (requested, written, flipped))
    both = (requested & written).sum(axis=0).tolist()
    table = []
    for column, name in enumerate(OBSERVATIONS):
        scores = precision_recall_f1(both[column], said[column], wanted[column])
        table.append(
            {
                "observation": name,
                "requested_positive": wanted[column],
                "written_positive": said[column],
                "recall": scores["recall"],
                "precision": scores["precision"],
                "contradicted": contradicted[column],
            }
        )
    return table
