"""Synthetic imaging orders for the protocol task. No patient text: the scenario bank is written by hand."""

from radrecipes.data.synthetic_protocol.generator import generate_orders

__all__ = ["generate_orders"]
