"""Base models: loading, tokenizers, trained weights, converting weights."""
