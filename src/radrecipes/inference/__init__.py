"""Predicting with finished runs; `abstention` chooses a threshold and decides, `selective` measures what thresholds achieve."""

# Engines that generate text.
ENGINES = ("transformers", "vllm")
