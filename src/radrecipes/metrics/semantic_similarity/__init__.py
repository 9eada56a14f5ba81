"""The metric `semantic_similarity`."""
