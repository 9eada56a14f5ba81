"""The metric `macro_f1`."""
