"""Metrics, baselines, slices and results over seeds; accuracy of labels is computed in `label_metrics`."""

from collections.abc import Callable
from contextlib import AbstractContextManager

# Opens a progress bar with a title and a number of rows; yields the function that advances it.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
