"""All text of a release, file by file, for the gates to search."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from radrecipes.errors import InputError
from radrecipes.files import parse_json, read_text
from radrecipes.hub.release_files import LARGEST_TEXT
from radrecipes.publishing.project_json import free_text, schema_errors, schema_of, unescaped

# Vocabularies contain subwords and numbers: only runs of three words in a string are searched for sentences.
VOCABULARIES = frozenset(("merges.txt", "tokenizer.json", "vocab.json", "vocab.txt"))
LONGEST_LINE = 100_000
_WORD_SEQUENCE = re.compile(r"[^\W\d_]{2,} [^\W\d_]{2,} [^\W\d_]{2,}")
_TEXT_SUFFIXES = frozenset((".md", ".json", ".yaml", ".jinja", ".txt"))
_HEAD = "(head)"
# Keys of the project's YAML whose values are not a person's name, although they follow `name: `.
_NAME_KEYS = frozenset(("name", "dataset_name"))


_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
# How byte-level and sentence-piece vocabularies write a space, and word-piece ones a continuation.
_SPACE_MARKS = str.maketrans("\u0120\u2581\u010a", "   ")


def vocabulary(file: str, text: str) -> set[str]:
    """The entries of a vocabulary, also those of merges, as words."""
    entries = _STRING.findall(text) if file.endswith(".json") else text.splitlines()
    return {part for entry in entries for part in (unescaped(entry), *unescaped(entry).split())}


def base_vocabulary(folder: Path | None) -> frozenset[str] | None:
    """The entries of all vocabularies of a base model; `None` if none of them is here."""
    files = [folder / name for name in VOCABULARIES if (folder / name).is_file()] if folder else []
    if not files:
        return None
    return frozenset().union(*(vocabulary(file.name, read_text(file, LARGEST_TEXT)) for file in files))


@dataclass(frozen=True)
class ReleaseText:
    """A text file, the metadata of a table or weights, or a cell; JSON is `raw` as written, in `text` with its escapes decoded."""

    file: str
    row: int | None
    column: str | None
    text: str
    raw: str | None = None

    @property
    def is_cell(self) -> bool:
        """Whether it is a cell of a table, which comes from a source and not from this project."""
        return self.row is not None

    def line(self, offset: int) -> int | None:
        """Line or row of an offset; `None` in metadata."""
        return self.row if self.column else self.text.count("\n", 0, offset) + 1

    def lines(self) -> Iterator[tuple[int | None, str]]:
        """Parts that may contain sentences, with their lines; a cell is one line."""
        if self.is_cell:
            yield self.row, self.text
            return
        for number, line in enumerate(self.text.splitlines(), 1):
            place = None if self.column else number
            if self.file not in VOCABULARIES:
                yield place, line
            else:
                yield from ((place, piece) for piece in line.split('"') if _WORD_SEQUENCE.search(piece))

    def new_entries(self, known: frozenset[str]) -> list[str]:
        """Entries of a vocabulary that the base model's do not contain, as words."""
        found = vocabulary(self.file, self.text if self.raw is None else self.raw) - known
        return sorted({entry.translate(_SPACE_MARKS).removeprefix("##").strip() for entry in found} - {""})

    def free_lines(self, kind: str) -> Iterator[tuple[int | None, str]]:
        """Parts that may name a person, with their lines: of JSON the values that its schema does not type, otherwise [`lines`]."""
        if self.raw is not None and self.file not in VOCABULARIES:
            yield from free_text(self.raw, schema_of(self.file, kind))
            return
        in_yaml = self.file.endswith((".yaml", ".md"))
        for number, line in self.lines():
            in_yaml = in_yaml and not (self.file.endswith(".md") and line == "---" and number != 1)
            key, colon, value = line.partition(": ")
            yield number, value if in_yaml and colon and key.strip(" -") in _NAME_KEYS else line.replace('"', "")

    def schema_errors(self, kind: str) -> list[str]:
        """Where it does not match its schema; empty if this project does not write the file."""
        schema = schema_of(self.file, kind)
        return schema_errors(self.raw, schema) if self.raw is not None and schema else []


def names_of(folder: Path) -> list[str]:
    """Paths of all files of a release."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def read_release(folder: Path) -> tuple[list[ReleaseText], list[str]]:
    """All texts of a release, and the names of files that cannot be read."""
    texts, unreadable = [], []
    for name in names_of(folder):
        try:
            texts += _texts(folder / name, name)
        except (OSError, InputError, ValueError, RecursionError, SafetensorError):
            unreadable.append(name)
    return texts, unreadable


def _texts(path: Path, name: str) -> Iterator[ReleaseText]:
    if path.suffix in _TEXT_SUFFIXES:
        text = read_text(path, LARGEST_TEXT)
        if "\0" in text:
            raise ValueError("not a text")
        if path.suffix == ".json":
            parse_json(text, name)
            yield ReleaseText(name, None, None, unescaped(text), text)
        else:
            yield ReleaseText(name, None, None, text)
    elif path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        notes = [note for part in (schema, *schema) for note in (part.metadata or {}).items()]
        head = [*schema.names, *(f"{key.decode()} {unescaped(value.decode())}" for key, value in notes)]
        yield ReleaseText(name, None, _HEAD, "\n".join(head))
        row = 0
        for batch in file.iter_batches():
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                for place, value in enumerate(values.to_pylist(), row + 1):
                    if value is not None:
                        yield ReleaseText(name, place, column, str(value))
            row += batch.num_rows
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as weights:
            notes = (f"{key} {unescaped(value)}" for key, value in (weights.metadata() or {}).items())
            yield ReleaseText(name, None, _HEAD, "\n".join([*notes, *weights.keys()]))
    else:
        raise ValueError("neither text, table nor weights")
