"""Metrics, baselines, slices and results over seeds; accuracy of labels is computed in `label_metrics`."""
