"""The metric `exact_accuracy`."""
