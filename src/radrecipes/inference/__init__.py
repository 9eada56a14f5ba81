"""Predicting with finished runs."""

# Engines that generate text.
ENGINES = ("transformers", "vllm")
