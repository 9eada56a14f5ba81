"""FHIR ServiceRequest resources as the rows of a table, whose columns are paths in a resource."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from radrecipes.data.sources.fhir import parsed, text_at
from radrecipes.data.sources.table_form import TableForm
from radrecipes.data.sources.table_rows import Row, Table
from radrecipes.data.sources.text_tables import SURROGATE, text_lines
from radrecipes.errors import InputError

SUFFIXES = (".ndjson", ".ndjson.gz")
# Resources in which a column must have a text at least once.
_FIRST = 1000


class ServiceRequestTable(Table):
    """The ServiceRequest resources of an ndjson file; columns are paths for [`text_at`], such as `reasonCode` or `subject`."""

    def __init__(self, path: Path, columns: Sequence[str], form: TableForm | None = None):
        """Check that each column occurs in the first resources."""
        super().__init__(path)
        self.header = list(columns)
        if form:
            form.refuse(("delimiter", "encoding", "skip_rows", "skip_footer", "sheet"), "FHIR", path)
        first = [resource for _, resource in islice(self._resources(), _FIRST) if isinstance(resource, dict)]
        if not first:
            raise InputError("no ServiceRequest resource here; give one resource per line", str(path))
        for column in columns:
            if not any(text_at(resource, column) for resource in first):
                raise InputError(
                    f"no text at {column!r} in the first resources; a column is a path such as code, reasonCode, note or"
                    " orderDetail",
                    str(path),
                )

    def _resources(self) -> Iterator[tuple[str, dict[str, Any] | str]]:
        try:
            for number, line in enumerate(text_lines(self.path), start=1):
                resource = parsed(line) if line.strip() else {}
                if isinstance(resource, str) or resource.get("resourceType") == "ServiceRequest":
                    yield f"{self.path}:{number}", resource
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror}); check the path", str(self.path)) from None

    def rows(self, columns: Sequence[str], values: Collection[str] = ()) -> Iterator[Row]:
        """The rows, as in [`Table`]."""
        for where, resource in self._resources():
            if isinstance(resource, str):
                yield where, resource
                continue
            cells = {column: text_at(resource, column) for column in columns}
            broken = any(SURROGATE.search(cell) for cell in cells.values())
            yield where, "contains a broken character; save the file as UTF-8" if broken else cells
