"""The sentence on the system to use."""

from radrecipes.reporting.recommended_system import recommended_system


def test_the_most_accurate_system_with_figures_and_costs(make_metrics):
    assert recommended_system(make_metrics()) == (
        "Use adapter for these orders: it is the most accurate one on validation (+0.400 (+0.350 to +0.450) against "
        "words_characters_svm); exact accuracy on test is 0.900 (0.870–0.930) against 0.500 (0.470–0.530); it was trained in "
        "8.0 min and answers 12.3 orders per second, the other 4.2 s and 3,210 (AMD EPYC 9V74, 2 threads)."
    )


def test_a_faster_system_that_validation_cannot_tell_from_the_best(make_metrics):
    metrics = make_metrics()
    metrics["recommendation"] |= {"system": "words_characters_svm", "other": "adapter", "most_accurate": "adapter"}
    metrics["systems"]["adapter"]["cost"]["trained_on"] = "NVIDIA H100"
    titles = {"adapter": "the model", "words_characters_svm": "the SVM"}
    said = recommended_system(metrics, titles)
    assert said.startswith(
        "Use the SVM for these orders: validation cannot tell it from the model, the most accurate one"
    )
    assert "exact accuracy on test is 0.500 (0.470–0.530) against 0.900 (0.870–0.930)" in said
    assert said.endswith(
        "it was trained in 4.2 s (AMD EPYC 9V74, 2 threads) and answers 3,210 (AMD EPYC 9V74, 2 threads) orders per second, "
        "the other 8.0 min (NVIDIA H100) and 12.3 (AMD EPYC 9V74, 2 threads)."
    )


def test_without_answers_to_validation_nothing_is_recommended(make_metrics):
    assert recommended_system(make_metrics(generated=True)).startswith("No system is recommended, because")
    older = make_metrics()
    del older["recommendation"]
    assert recommended_system(older) is None
