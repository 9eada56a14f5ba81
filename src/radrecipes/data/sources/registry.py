"""The report sources by name. A new source is a file in this folder and a line below."""

from radrecipes.data.sources.mimic_cxr import MimicCxr
from radrecipes.data.sources.openi import OpenI
from radrecipes.data.sources.report_pairs import ReportPairs
from radrecipes.data.sources.report_source import ReportSource

REPORT_SOURCES: dict[str, type[ReportSource]] = {source.name: source for source in (MimicCxr, OpenI, ReportPairs)}
