"""Synthetic imaging orders for the protocol task. No patient text: the scenario bank is written by hand."""
