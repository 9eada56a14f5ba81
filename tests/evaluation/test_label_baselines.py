"""The baselines of label tasks: what they learn, what validation chooses, and the cache of their scores."""

import contextlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_model import build_tiny_encoder
from trl import ModelConfig

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.data.table_cache import SCORES
from radrecipes.errors import InputError
from radrecipes.evaluation import fine_tuned_encoder, label_baselines
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.fine_tuned_encoder import FineTunedEncoder, longest_input
from radrecipes.evaluation.label_baselines import (
    BASELINES,
    EMBEDDING,
    ENCODER,
    MAJORITY,
    NO_ENCODER,
    SVM,
    EmbeddingRegression,
    EncoderBaseline,
    LabelBaselines,
    LabelledTexts,
    MajorityClass,
    WordsCharactersSvm,
)
from radrecipes.inference.head_scoring import HeadScorer
from radrecipes.inference.prompt_scorer import LabelScores
from radrecipes.tasks import TASKS

NOTES = {
    "CT Chest": ["lung nodule f/u", "cough, lung mass", "chest pain r/o pe", "lung ca staging chest"],
    "CT Head": ["r/o bleed head", "head trauma, r/o sdh", "acute stroke head ct", "fall, hit head"],
    "MRI Knee": ["knee pain r/o meniscus tear", "acl tear knee", "knee locking", "medial meniscus knee injury"],
}
CLASSES = sorted(NOTES)
VALIDATION = LabelledTexts(
    ["r/o bleed, fall on head", "meniscus tear", "lung nodule", "pe chest"],
    ["CT Head", "MRI Knee", "CT Chest", "CT Chest"],
)
STEPS = 40
NEW = ["acute bleed head", "meniscus", "lung mass growing"]


def training(*labels):
    """The training rows of some labels."""
    pairs = [(note, label) for label in labels or CLASSES for note in NOTES[label]]
    return LabelledTexts(*zip(*pairs, strict=True))


@contextlib.contextmanager
def silent(title, rows):
    yield lambda done: None


def fitted(baseline, train=None, validation=VALIDATION):
    baseline.fit(train or training(), validation, silent)
    return baseline


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder()


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuned_encoder, "FEWEST_STEPS", STEPS)
    monkeypatch.setattr(fine_tuned_encoder, "LEARNING_RATE", 1e-3)
    return str(build_tiny_encoder(tmp_path / "models", "tiny/bert", hidden_size=64))


def predicted(baseline, texts):
    return [CLASSES[place] for place in baseline.score(texts).argmax(axis=1)]


def test_the_majority_class_scores_every_label_by_its_frequency():
    train = LabelledTexts(["a"] * 6, ["b", "a", "b", "c", "a", "a"])
    scores = fitted(MajorityClass(), train).score(["x", "y"])
    assert np.exp(scores) == pytest.approx(np.array([[3, 2, 1], [3, 2, 1]]) / 6)


@pytest.mark.parametrize("make", [lambda embedder: WordsCharactersSvm(), EmbeddingRegression])
def test_a_linear_classifier_learns_and_repeats(make, embedder):
    first, second = (fitted(make(embedder)) for _ in range(2))
    assert predicted(first, NEW) == ["CT Head", "MRI Knee", "CT Chest"]
    assert np.array_equal(first.score(NEW), second.score(NEW))


def test_characters_help_with_words_that_training_never_saw():
    assert predicted(fitted(WordsCharactersSvm()), ["kneeinjury", "headstrike", "lungs"]) == [
        "MRI Knee",
        "CT Head",
        "CT Chest",
    ]


def test_of_two_labels_each_has_its_score():
    train, validation = training("CT Chest", "CT Head"), LabelledTexts(["lung", "head"], ["CT Chest", "CT Head"])
    scores = fitted(WordsCharactersSvm(), train, validation).score(["lung mass", "hit head"])
    assert scores[0, 0] > 0 > scores[0, 1] == -scores[0, 0] and scores[1, 1] > 0 > scores[1, 0]


def test_c_is_chosen_on_validation_the_strongest_regularisation_among_equals(embedder, monkeypatch):
    # Under strong regularisation only the frequencies of the labels are left, so the rare label is never answered.
    monkeypatch.setattr(label_baselines, "_REGRESSION_CS", (1e-4, 100.0, 1000.0))
    train = LabelledTexts([*["bleed"] * 9, *["tumour"] * 3], [*["CT"] * 9, *["MR"] * 3])
    on_both = fitted(EmbeddingRegression(embedder), train, LabelledTexts(["bleed", "tumour"], ["CT", "MR"]))
    on_common = fitted(EmbeddingRegression(embedder), train, LabelledTexts(["bleed"], ["CT"]))
    assert (on_both.settings["C"], on_common.settings["C"]) == (100.0, 1e-4)
    assert on_common.score(["tumour"]).argmax() == 0


def test_texts_without_a_word_are_refused():
    with pytest.raises(InputError, match="contains a word"):
        fitted(WordsCharactersSvm(), LabelledTexts(["...", "!!"], ["CT", "MR"]))


def test_a_fine_tuned_encoder_learns_is_stopped_on_validation_and_repeats(encoder):
    titles = []

    @contextlib.contextmanager
    def progress(title, rows):
        done = []
        yield done.append
        titles.append((title, rows, sum(done)))

    first = EncoderBaseline(encoder, CLASSES)
    first.fit(training(), VALIDATION, progress)
    # Twelve rows are one batch, so a round has as many epochs as steps.
    assert titles[0] == (
        "encoder, round 1",
        12 * fine_tuned_encoder.FEWEST_STEPS,
        12 * fine_tuned_encoder.FEWEST_STEPS,
    )
    assert first.settings["epochs"] == fine_tuned_encoder.FEWEST_STEPS * (len(titles) - 1 or 1)
    assert first.settings["model"] == "bert" and encoder not in json.dumps(first.settings)
    assert predicted(first, training().texts) == list(training().labels)
    other = EncoderBaseline(encoder, CLASSES)
    assert other.facts == first.facts
    assert np.array_equal(fitted(other).score(NEW), first.score(NEW))


def test_the_round_with_the_best_validation_is_kept(encoder, monkeypatch):
    # The second round is worse than the first, so the third never begins.
    accuracies = iter([0.75, 0.5, 1.0])
    right = [CLASSES.index(label) for label in VALIDATION.labels]
    states = []

    class Rigged(HeadScorer):
        def score(self, prompts):
            states.append(self.model.classifier.bias.detach().clone())
            wrong = round(len(right) * (1 - next(accuracies)))
            answers = [*[(place + 1) % 3 for place in right[:wrong]], *right[wrong:]]
            return LabelScores(np.eye(3)[answers], np.zeros((len(right), 3), dtype=bool))

    monkeypatch.setattr(fine_tuned_encoder, "HeadScorer", Rigged)
    baseline = fitted(EncoderBaseline(encoder, CLASSES))
    kept = baseline._encoder._model.classifier.bias
    assert len(states) == 2 and kept.equal(states[0]) and not kept.equal(states[1])


def test_a_text_that_is_too_long_loses_its_end(encoder):
    baseline = FineTunedEncoder(ModelConfig(model_name_or_path=encoder, dtype="float32"), CLASSES)
    # 64 positions, of which two are special tokens
    long, cut, shorter = baseline.score(["knee " * 500, "knee " * 62, "knee " * 61])
    assert np.array_equal(long, cut) and not np.array_equal(cut, shorter)
    assert longest_input(SimpleNamespace(model_max_length=10**30), SimpleNamespace()) is None


def test_an_encoder_that_cannot_be_loaded_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name, message in (("none/such", "cannot load none/such"), ("empty", "is not a folder with a model")):
        with pytest.raises(InputError, match=message):
            EncoderBaseline(name, CLASSES)


def test_an_encoder_that_diverges_is_refused(encoder, monkeypatch):
    monkeypatch.setattr(fine_tuned_encoder, "LEARNING_RATE", 1e30)
    with pytest.raises(InputError, match="--encoder: training of this encoder diverged"):
        fitted(EncoderBaseline(encoder, CLASSES))


def scores_of(embedder, encoder=NO_ENCODER, progress=silent):
    dataset = load_prepared_dataset("data/tiny")
    return dict(LabelBaselines(TASKS["protocol"], dataset, embedder, encoder).scores(progress))


def files():
    return {path.name: path.stat().st_mtime_ns for path in Path("data/tiny", SCORES).glob("*.arrow")}


@contextlib.contextmanager
def never(title, rows):
    raise AssertionError(f"{title} was fitted again")
    yield


def test_scores_are_made_once_for_every_evaluation_of_the_dataset(workspace, embedder, encoder):
    first = scores_of(embedder, encoder)
    assert tuple(first) == BASELINES == (MAJORITY, SVM, EMBEDDING, ENCODER) and len(files()) == 4
    again = scores_of(embedder, encoder, never)
    test = load_prepared_dataset("data/tiny").splits["test"]
    names = ["Never Ordered", *sorted(set(test["label"]))]
    for name, found in again.items():
        scores = found.of_labels(test["note"][:], names)
        assert np.array_equal(scores, first[name].of_labels(test["note"][:], names))
        assert (scores[:, 0] == -np.inf).all() and np.isfinite(scores[:, 1:]).all()
        assert found.cost == first[name].cost and found.cost["training_seconds"] >= 0
        assert found.cost["rows_per_second"] > 0 and "thread" in found.cost["trained_on"]
    assert again[SVM].settings["C"] and again[EMBEDDING].settings["model"] and again[MAJORITY].settings == {}
    right = [names[place] for place in again[SVM].of_labels(test["note"][:], names).argmax(axis=1)]
    assert right == test["label"][:]


def test_another_encoder_embedding_model_code_or_version_has_another_key(
    workspace, embedder, encoder, tmp_path, monkeypatch
):
    def keys(encoder=encoder):
        dataset = load_prepared_dataset("data/tiny")
        baselines = LabelBaselines(TASKS["protocol"], dataset, embedder, encoder)
        return {baseline.name: baselines._key(baseline) for baseline in baselines._baselines}

    first = keys()
    assert first == keys() and len(set(first.values())) == 4
    assert keys(NO_ENCODER).items() < first.items()
    other = keys(str(build_tiny_encoder(tmp_path / "models", "tiny/other", hidden_size=64, hidden_act="relu")))
    assert {name for name in first if first[name] != other[name]} == {ENCODER}
    monkeypatch.setattr(TextEmbedder, "digest", "0")
    assert {name for name, key in keys().items() if first[name] != key} == {EMBEDDING}
    for name, changed in (("version", lambda package: "0"), ("file_sha256", lambda path: "0")):
        with monkeypatch.context() as patch:
            patch.setattr(label_baselines, name, changed)
            assert not set(keys().values()) & set(first.values())


def test_who_may_not_read_the_dataset_may_not_read_its_scores(workspace, embedder):
    os.chmod("data/tiny", 0o700)
    os.chmod("data/tiny/train.parquet", 0o600)
    scores_of(embedder)
    paths = [Path("data/tiny", SCORES), *Path("data/tiny", SCORES).iterdir()]
    assert len(paths) == 4 and not [path for path in paths if path.stat().st_mode & 0o077]
    text = load_prepared_dataset("data/tiny").splits["validation"]["note"][0]
    assert not [path for path in paths[1:] if text.encode() in path.read_bytes()]


def test_a_fit_that_is_interrupted_leaves_nothing(workspace, embedder):
    @contextlib.contextmanager
    def interrupted(title, rows):
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        scores_of(embedder, progress=interrupted)
    assert [path.suffix for path in Path("data/tiny", SCORES).iterdir()] == [".arrow"], "the majority class"
    assert set(scores_of(embedder)) == {MAJORITY, SVM, EMBEDDING}


def test_too_few_labels_and_an_empty_validation_split_are_refused(workspace, embedder):
    dataset = load_prepared_dataset("data/tiny")
    one = dataset.splits["train"].filter(lambda row: row["label"] == "CT Head")
    for changed, message in (
        ({"train": one}, "data/tiny: the train split contains fewer than two labels"),
        ({"validation": dataset.splits["validation"].select([])}, "data/tiny: the validation split is empty"),
    ):
        splits = dataset.splits | changed
        with pytest.raises(InputError, match=message):
            LabelBaselines(TASKS["protocol"], type(dataset)(dataset.folder, dataset.manifest, None, splits), embedder)
