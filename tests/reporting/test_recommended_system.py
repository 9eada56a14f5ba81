"""The sentence on the system to use."""

from radrecipes.reporting.label_tables import speed
from radrecipes.reporting.recommended_system import recommended_system


def test_the_most_accurate_system_with_figures_and_costs(make_metrics):
    assert recommended_system(make_metrics()) == (
        "Use adapter for these orders: it is the most accurate one on validation (+0.400 (+0.350 to +0.450) against "
        "words_characters_svm); exact accuracy on test is 0.900 (0.870–0.930) against 0.500 (0.470–0.530); it was trained in "
        "8.0 min and answers 12.3 orders per second, the other 4.2 s and 3,210 (AMD EPYC 9V74, 2 threads)."
    )


def test_a_faster_system_that_validation_cannot_tell_from_it_is_named(make_metrics):
    metrics = make_metrics()
    metrics["recommendation"]["as_accurate"] = "words_characters_svm"
    metrics["systems"]["adapter"]["cost"]["trained_on"] = "NVIDIA H100"
    said = recommended_system(metrics, {"adapter": "the model", "words_characters_svm": "the SVM"})
    assert said.startswith("Use the model for these orders: it is the most accurate one on validation")
    assert said.endswith(
        "it was trained in 8.0 min (NVIDIA H100) and answers 12.3 (AMD EPYC 9V74, 2 threads) orders per second, the other "
        "4.2 s (AMD EPYC 9V74, 2 threads) and 3,210 (AMD EPYC 9V74, 2 threads); the SVM is faster, and validation cannot tell "
        "it from the first."
    )


def test_without_answers_to_validation_nothing_is_recommended(make_metrics):
    assert recommended_system(make_metrics(generated=True)).startswith("No system is recommended, because")
    of_texts = make_metrics()
    del of_texts["recommendation"]
    assert recommended_system(of_texts) is None


def test_a_speed_has_no_more_digits_than_it_means():
    assert [speed(rate) for rate in (None, 1.234, 12.34, 99.96, 113.4, 41_105_011.0)] == [
        *("–", "1.2", "12.3", "100", "113", "41,100,000")
    ]
