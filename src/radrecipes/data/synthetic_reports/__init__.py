"""Synthetic chest X-ray reports in the layout of MIMIC-CXR. No patient text: the phrase bank is written by hand."""
