"""Baselines of label tasks: fitted on the training split, chosen on validation, each with a score of every label for a text.

Fitting takes minutes, so the scores of the validation and the test split are cached in the dataset's folder, where evaluations
of other seeds and models find them.
"""

import json
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from trl import ModelConfig

from radrecipes.data.prepared import PreparedDataset
from radrecipes.data.table_cache import SCORES, cached_table
from radrecipes.environment import describe_processor, hardware
from radrecipes.errors import InputError
from radrecipes.evaluation import Progress, embeddings, fine_tuned_encoder, tfidf
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.fine_tuned_encoder import FineTunedEncoder
from radrecipes.files import file_sha256, text_sha256
from radrecipes.inference import head_scoring, prompt_scorer
from radrecipes.tasks import LabelTask

MAJORITY = "majority"
SVM = "words_characters_svm"
EMBEDDING = "embedding_logistic_regression"
ENCODER = "fine_tuned_encoder"
BASELINES = (MAJORITY, SVM, EMBEDDING, ENCODER)

DEFAULT_ENCODER = embeddings.DEFAULT_MODEL
NO_ENCODER = "none"

# Values of C to choose from. A logistic regression needs larger ones than a support vector machine for the same fit.
_SVM_CS, _REGRESSION_CS = (0.1, 1.0, 10.0), (1.0, 10.0, 100.0)
_SCORED = ("validation", "test")
_PACKAGES = ("numpy", "scikit-learn", "scipy", "sentence-transformers", "tokenizers", "torch", "transformers")
_CODE = [
    Path(__file__),
    *(Path(module.__file__) for module in (embeddings, fine_tuned_encoder, head_scoring, prompt_scorer, tfidf)),
]


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with their labels."""

    texts: Sequence[str]
    labels: Sequence[str]


@dataclass(frozen=True)
class BaselineScores:
    """What a fitted baseline says of texts.

    Args:
        scores: For each text a score of every class, a log-probability up to a constant and a temperature.
        settings: Hyperparameters, with those that validation chose.
        cost: `training_seconds`, `rows_per_second` and the processor of each, `trained_on` and `answered_on`.
    """

    classes: list[str]
    scores: dict[str, np.ndarray]
    settings: dict[str, Any]
    cost: dict[str, Any]

    def of_labels(self, texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
        """Scores of shape `(texts, labels)`; minus infinity for a label without a training row."""
        found = np.full((len(texts), len(names)), -np.inf)
        columns = {name: place for place, name in enumerate(names)}
        found[:, [columns[name] for name in self.classes]] = [self.scores[text] for text in texts]
        return found


class Baseline(ABC):
    """A baseline before it is fitted.

    Attributes:
        facts: What decides its scores besides the data, the code and the versions.
        settings: Its hyperparameters, once it is fitted.
        on_cpu: Whether it uses no GPU.
    """

    name: str
    facts: dict[str, Any]
    settings: dict[str, Any]
    on_cpu = True

    @abstractmethod
    def fit(self, train: LabelledTexts, validation: LabelledTexts, progress: Progress) -> None:
        """Learn the training rows; what is chosen is chosen on validation."""

    @abstractmethod
    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Scores of shape `(texts, classes)`, the classes sorted."""


class MajorityClass(Baseline):
    """Answers every text with the most frequent label; scores are the logarithms of the labels' frequencies."""

    name = MAJORITY

    def __init__(self):
        self.facts, self.settings = {}, {}

    def fit(self, train: LabelledTexts, validation: LabelledTexts, progress: Progress) -> None:
        """See [`Baseline`]."""
        counts = np.unique(list(train.labels), return_counts=True)[1]
        self._scores = np.log(counts / counts.sum())

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """See [`Baseline`]."""
        return np.tile(self._scores, (len(texts), 1))


class LinearClassifier(Baseline):
    """A linear classifier on vectors of the texts, with the C that is most accurate on validation, ties to the smallest."""

    def __init__(self, classifier: Callable[..., ClassifierMixin], values_of_c: Sequence[float]):
        self._new, self._values = classifier, values_of_c
        self.facts, self.settings = {}, {}

    @abstractmethod
    def fit_vectors(self, texts: Sequence[str]) -> Any:
        """Vectors of the training texts, shape `(texts, features)`, dense or sparse."""

    @abstractmethod
    def vectors(self, texts: Sequence[str]) -> Any:
        """Vectors of other texts."""

    def fit(self, train: LabelledTexts, validation: LabelledTexts, progress: Progress) -> None:
        """See [`Baseline`]."""
        rows, best = len(train.texts), -1.0
        with progress(self.name, rows * (1 + len(self._values))) as advance:
            matrix, validation_matrix = self.fit_vectors(train.texts), self.vectors(validation.texts)
            advance(rows)
            for value in sorted(self._values):
                with warnings.catch_warnings():  # where it does not converge, validation judges it all the same
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    classifier = self._new(C=value).fit(matrix, list(train.labels))
                accuracy = float(np.mean(classifier.predict(validation_matrix) == np.array(validation.labels)))
                if accuracy > best:
                    best, self._classifier, self.settings["C"] = accuracy, classifier, value
                advance(rows)

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """See [`Baseline`]."""
        decisions = self._classifier.decision_function(self.vectors(texts))
        # Of two classes only the second one's value, the negative of the first's
        return np.column_stack([-decisions, decisions]) if decisions.ndim == 1 else decisions


class WordsCharactersSvm(LinearClassifier):
    """A linear support vector machine on TF-IDF of words and word pairs and of 2 to 5 characters within words."""

    name = SVM

    def __init__(self):
        super().__init__(partial(LinearSVC, random_state=0), _SVM_CS)
        self._features = tfidf.words_and_characters()

    def fit_vectors(self, texts: Sequence[str]) -> Any:
        """See [`LinearClassifier`]."""
        try:
            return self._features.fit_transform(texts)
        except ValueError as error:
            raise InputError(f"no text of the train split contains a word ({error})") from error

    def vectors(self, texts: Sequence[str]) -> Any:
        """See [`LinearClassifier`]."""
        return self._features.transform(texts)


class EmbeddingRegression(LinearClassifier):
    """A logistic regression on sentence embeddings that were not fine-tuned."""

    name = EMBEDDING
    on_cpu = False

    def __init__(self, embedder: TextEmbedder):
        super().__init__(partial(LogisticRegression, max_iter=1000), _REGRESSION_CS)
        self._embedder = embedder
        self.facts, self.settings = {"model": embedder.digest}, {"model": embedder.name}

    def fit_vectors(self, texts: Sequence[str]) -> Any:
        """See [`LinearClassifier`]."""
        return self.vectors(texts)

    def vectors(self, texts: Sequence[str]) -> Any:
        """See [`LinearClassifier`]."""
        return self._embedder.encode(texts)


class EncoderBaseline(Baseline):
    """[`FineTunedEncoder`] as a baseline."""

    name = ENCODER
    on_cpu = False

    def __init__(self, name: str, classes: Sequence[str]):
        folder = Path(name).expanduser()
        # A folder must never be looked up on the Hub; its name, never its path, identifies it in a result.
        source, shown = (str(folder.absolute()), folder.name) if folder.is_dir() else (name, name)
        self._encoder = FineTunedEncoder(ModelConfig(model_name_or_path=source, dtype="float32"), classes)
        self.facts, self.settings = {"model": self._encoder.digest}, {"model": shown}

    def fit(self, train: LabelledTexts, validation: LabelledTexts, progress: Progress) -> None:
        """See [`Baseline`]."""
        self._encoder.fit(train.texts, train.labels, validation.texts, validation.labels, progress)
        self.settings |= self._encoder.settings

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """See [`Baseline`]."""
        return self._encoder.score(texts)


class LabelBaselines:
    """The baselines of a dataset.

    Raises an [`InputError`] if the encoder cannot be loaded, or the dataset has too few labels or no validation rows.
    """

    def __init__(self, task: LabelTask, dataset: PreparedDataset, embedder: TextEmbedder, encoder: str | None = None):
        self._dataset = dataset
        self._splits = {
            name: LabelledTexts(split[task.input_column][:], split[task.target_column][:])
            for name, split in dataset.splits.items()
        }
        self._classes = sorted(set(self._splits["train"].labels))
        where = str(dataset.folder)
        if len(self._classes) < 2:
            raise InputError("the train split contains fewer than two labels; a classifier needs at least two", where)
        if not len(self._splits["validation"].labels):
            raise InputError("the validation split is empty; the baselines are chosen on it", where)
        self._baselines = [MajorityClass(), WordsCharactersSvm(), EmbeddingRegression(embedder)]
        if encoder != NO_ENCODER:
            self._baselines.append(EncoderBaseline(encoder or DEFAULT_ENCODER, self._classes))

    def scores(self, progress: Progress) -> Iterator[tuple[str, BaselineScores]]:
        """The name of each baseline with its scores of the texts of the validation and the test split."""
        for baseline in self._baselines:
            make = partial(self._fit, baseline, progress)
            table = cached_table(self._dataset.folder / SCORES, self._key(baseline), make)
            yield baseline.name, self._read(table)

    def _key(self, baseline: Baseline) -> str:
        """sha256 of everything that decides the scores of a baseline."""
        facts = {
            "baseline": baseline.name,
            "facts": baseline.facts,
            "data": self._dataset.digest,
            "code": [file_sha256(path) for path in _CODE],
            "packages": {package: version(package) for package in _PACKAGES},
        }
        return text_sha256(json.dumps(facts, sort_keys=True))

    def _fit(self, baseline: Baseline, progress: Progress) -> pa.Table:
        start = time.perf_counter()
        baseline.fit(self._splits["train"], self._splits["validation"], progress)
        training_seconds = time.perf_counter() - start
        found = []
        for texts in (self._splits[name].texts for name in _SCORED if self._splits[name].texts):
            start = time.perf_counter()
            found.append(baseline.score(texts))
            rows_per_second = len(texts) / (time.perf_counter() - start)
        processor = describe_processor(hardware(), on_cpu=baseline.on_cpu)
        facts = {
            "settings": baseline.settings,
            "cost": {
                "training_seconds": round(training_seconds, 2),
                "trained_on": processor,
                "rows_per_second": round(rows_per_second, 2),
                "answered_on": processor,
            },
        }
        scores = pa.array(np.concatenate(found).ravel(), pa.float64())
        table = pa.table({"scores": pa.FixedSizeListArray.from_arrays(scores, len(self._classes))})
        return table.replace_schema_metadata({"facts": json.dumps(facts)})

    def _read(self, table: pa.Table) -> BaselineScores:
        facts = json.loads(table.schema.metadata[b"facts"])
        scores = table["scores"].combine_chunks().flatten().to_numpy().reshape(-1, len(self._classes))
        texts = [text for name in _SCORED for text in self._splits[name].texts]
        return BaselineScores(self._classes, dict(zip(texts, scores, strict=True)), facts["settings"], facts["cost"])
