"""The metric `out_of_vocabulary_rate`."""
