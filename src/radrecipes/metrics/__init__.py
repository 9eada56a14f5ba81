"""`evaluate.Metric` modules, one folder each, loadable offline with `evaluate.load(metric_path(name))`."""

from pathlib import Path

NAMES = ("exact_accuracy", "macro_f1", "out_of_vocabulary_rate", "semantic_similarity")


def metric_path(name: str) -> str:
    """The folder of a metric, for `evaluate.load`.

    Args:
        name (`str`):
            One of `NAMES`.

    Returns:
        `str`: absolute path of the folder.

    Raises:
        ValueError: There is no such metric.
    """
    if name not in NAMES:
        raise ValueError(f"no metric {name!r}; there are {', '.join(NAMES)}")
    return str(Path(__file__).parent / name)
