"""Preparing reports against MIMIC-CXR's own code (https://github.com/MIT-LCP/mimic-cxr) and a join with pandas."""

import os
import re
import tempfile
import time
from pathlib import Path
from unittest import mock

import pandas as pd
import pyarrow.parquet as pq
from measuring import BIN, LeftOutError, run_with_peak_memory

from radrecipes.data.synthetic_reports import generator, layout

REPORTS, PATIENTS = 20_000, 7_500
CHECKOUT = "MIMIC_CXR_CODE"
# With these options ours does the same work as the alternative: sections, labels as stated, the official split.
AS_THE_REFERENCE = (
    "--label-source", "csv", "--split", "official", "--sections", "any", "--earlier-studies", "keep", "--details", "keep",
    "--deidentified", "normalise",
)  # fmt: skip
_HEADERS = (*layout.FINDINGS_HEADERS, *layout.VIEW_HEADERS)
_FINDINGS_HEADER = re.compile(rf"^ ?(?:{'|'.join(set(_HEADERS))}):", re.IGNORECASE | re.MULTILINE)


class PrepareVsReference:
    """Reports per second on one synthetic tree, start of Python included, one process each; `what` describes the options."""

    def __init__(self, options: tuple[str, ...] = AS_THE_REFERENCE, what: str = "the same work"):
        checkout = os.environ.get(CHECKOUT)
        if not checkout:
            raise LeftOutError(f"set {CHECKOUT} to a checkout of https://github.com/MIT-LCP/mimic-cxr")
        if not (Path(checkout) / "txt" / "create_section_files.py").is_file():
            raise LeftOutError(f"there is no txt/create_section_files.py in the folder of {CHECKOUT}")
        self.checkout, self.options = Path(checkout), options
        self.description = (
            f"reports per second of preparing a synthetic tree of {REPORTS} reports, {what}, against create_section_files.py and "
            "a join with pandas; from the command to the files, one process each"
        )
        self.folder = Path(tempfile.mkdtemp(prefix="radrecipes-bench-"))
        self.tree = self.folder / "tree"
        self.written: list[layout.Report] = []

        def remember(*arguments) -> layout.Report:
            self.written.append(layout.write_report(*arguments))
            return self.written[-1]

        with mock.patch.object(generator, "write_report", remember):
            generator.write_synthetic_tree(self.tree, seed=0, patients=PATIENTS, studies=REPORTS)

    def ours(self) -> dict[str, float]:
        """Our side: sections, labels, splits, hashes, Parquet, card and manifest."""
        command = [
            BIN / "python", "scripts/prepare_data.py", "report", "--source", "mimic-cxr", "--root", self.tree,
            "--output", self.folder / "ours", "--overwrite", "--processes", 1, *self.options,
        ]  # fmt: skip
        return self._timed(command)

    def theirs(self) -> dict[str, float]:
        """The alternative."""
        script = Path(__file__).with_name("prepare_side.py")
        return self._timed([BIN / "python", script, self.checkout, self.tree, self.folder / "theirs"])

    def checks(self) -> dict:
        """Recall of the written sections with all their sentences, on each side; not if options remove sentences."""
        if self.options != AS_THE_REFERENCE:
            return {}
        truth = {_one_line(report.text): report for report in self.written}
        written = {}
        for path in self.tree.glob("files/*/*/s*.txt"):
            written[int(path.stem[1:])] = truth[_one_line(path.read_text("utf-8"))]
        ours = pd.concat(
            pq.read_table(self.folder / "ours" / f"{split}.parquet").to_pandas()
            for split in ("train", "validation", "test")
        )
        theirs = pd.read_csv(self.folder / "theirs" / "joined.csv", keep_default_na=False)
        found = {
            "ours": {int(row.id): (row.findings, row.impression) for row in ours.itertuples()},
            "theirs": {row.study_id: (row.findings, row.impression) for row in theirs.itertuples()},
        }
        return {"section_recall": {side: _recall(written, sections) for side, sections in found.items()}}

    def _timed(self, command: list) -> dict[str, float]:
        start = time.perf_counter()
        peak, _ = run_with_peak_memory(command)
        return {"samples_per_second": REPORTS / (time.perf_counter() - start), "peak_memory_gib": peak}


def _recall(written: dict[int, layout.Report], found: dict[int, tuple[str, str]]) -> dict[str, float]:
    recall = {}
    for position, name in enumerate(("findings", "impression")):
        wanted = whole = 0
        for study, report in written.items():
            statements = getattr(report, name)
            # A report without headers has statements but no sections.
            if not statements or (name == "findings" and not _FINDINGS_HEADER.search(report.text)):
                continue
            wanted += 1
            text = _one_line(found.get(study, ("", ""))[position])
            whole += all(_one_line(statement.text) in text for statement in statements)
        recall[name] = round(whole / wanted, 4)
        recall[f"{name}_written"] = wanted
    return recall


def _one_line(text: str) -> str:
    return " ".join(text.split())
