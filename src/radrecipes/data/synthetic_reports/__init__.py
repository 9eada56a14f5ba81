"""Synthetic chest X-ray reports laid out as MIMIC-CXR. No patient's text: the phrase bank is written by hand."""

from radrecipes.data.synthetic_reports.generator import write_synthetic_tree

__all__ = ["write_synthetic_tree"]
