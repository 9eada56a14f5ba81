"""Synthetic chest X-ray reports in the layout of MIMIC-CXR. No patient text: the phrase bank is written by hand."""

from radrecipes.data.synthetic_reports.generator import write_synthetic_tree

__all__ = ["write_synthetic_tree"]
