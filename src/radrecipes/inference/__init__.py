"""Predicting with finished runs."""

# What generates.
ENGINES = ("transformers", "vllm")
