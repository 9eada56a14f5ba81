"""Synthetic imaging orders whose protocol depends on kidneys, contrast reactions, implants, pregnancy, age and earlier findings."""
