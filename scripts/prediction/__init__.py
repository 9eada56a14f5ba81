"""Parts of scripts/predict.py."""
