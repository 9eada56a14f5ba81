"""The alternative to `prepare_data.py report`: sections by MIMIC-CXR's own code, joined with the CSV files.

python benchmarks/prepare_side.py CHECKOUT TREE OUTPUT
"""

import sys
from pathlib import Path

import pandas as pd

import radrecipes  # noqa: F401  (before any library: turns telemetry off)


def main() -> None:
    """Extract the sections, join labels and split, write one CSV file."""
    checkout, tree, output = map(Path, sys.argv[1:])
    sys.path.insert(0, str(checkout / "txt"))
    import create_section_files

    create_section_files.main(["--reports_path", str(tree / "files"), "--output_path", str(output), "--no_split"])
    sections = pd.read_csv(output / "mimic_cxr_sectioned.csv")
    sections["study_id"] = sections["study"].str[1:].astype(int)
    labels = pd.read_csv(tree / "mimic-cxr-2.0.0-chexpert.csv.gz")
    splits = pd.read_csv(tree / "mimic-cxr-2.0.0-split.csv.gz").drop_duplicates("study_id")[["study_id", "split"]]
    sections.merge(labels, on="study_id").merge(splits, on="study_id").to_csv(output / "joined.csv", index=False)


if __name__ == "__main__":
    main()
