"""The report sources by name. A new source is a file in this folder and a line below."""

from radrecipes.data.sources.fhir_reports import FhirReports
from radrecipes.data.sources.hl7_reports import Hl7Reports
from radrecipes.data.sources.mimic_cxr import MimicCxr
from radrecipes.data.sources.openi import OpenI
from radrecipes.data.sources.report_pairs import ReportPairs
from radrecipes.data.sources.report_source import ReportSource
from radrecipes.data.sources.report_table import ReportTable
from radrecipes.data.sources.text_folder import TextFolder

_SOURCES = (MimicCxr, OpenI, ReportTable, TextFolder, Hl7Reports, FhirReports, ReportPairs)
REPORT_SOURCES: dict[str, type[ReportSource]] = {source.name: source for source in _SOURCES}
