"""Files that came through Xet: chunks in xorbs, and files as ranges of chunks.

Formats: https://huggingface.co/docs/xet (xorb, shard, reconstruction). A xorb is a sequence of chunks, each after a header
of 8 bytes: version, compressed length (3 bytes), scheme, uncompressed length (3 bytes), little-endian. A shard is a header
of 48 bytes and entries of 48 bytes each.
"""

import hashlib
import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

import pyarrow

_CHUNK_HEADER = 8
_SHARD_TAG = b"HFRepoMetaData\0"
_ENTRY = struct.Struct("<32s4I")
_HAS_VERIFICATION, _HAS_METADATA = 1 << 31, 1 << 30
_END_OF_FILES = b"\xff" * 32


@dataclass(frozen=True)
class Term:
    """The chunks `start` to `end` (exclusive) of one xorb."""

    xorb: str
    start: int
    end: int


@dataclass(frozen=True)
class XetFile:
    """A file as its terms, in order."""

    hash: str
    sha256: str
    size: int
    terms: tuple[Term, ...]


class XetFiles:
    """Xorbs in a folder, their chunks unpacked but still one after the other after their headers."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir()
        self.chunk_sizes: dict[str, list[int]] = {}
        self.by_sha256: dict[str, XetFile] = {}
        self.by_hash: dict[str, XetFile] = {}

    def add_xorb(self, xorb: str, data: bytes) -> bool:
        """Unpack an uploaded xorb and keep it.

        Returns:
            `bool`: Whether it is new.

        Raises:
            `ValueError`: If the bytes are not a xorb.
        """
        if xorb in self.chunk_sizes:
            return False
        chunks = unpack_xorb(data)
        (self.folder / xorb).write_bytes(b"".join(pack_chunk(chunk) for chunk in chunks))
        self.chunk_sizes[xorb] = [len(chunk) for chunk in chunks]
        return True

    def add_shard(self, data: bytes) -> None:
        """Register the files of a shard.

        Raises:
            `ValueError`: If the bytes are not a shard, a file names chunks that were not uploaded, or its sha256 is wrong.
        """
        for file_hash, declared, terms in parse_shard(data):
            for term in terms:
                if term.end > len(self.chunk_sizes.get(term.xorb, ())):
                    raise ValueError(f"xorb {term.xorb} with chunks up to {term.end} was never uploaded")
            content = b"".join(self._read_term(term) for term in terms)
            sha256 = hashlib.sha256(content).hexdigest()
            if declared not in (None, sha256):
                raise ValueError(f"file {file_hash} has sha256 {sha256}, not {declared}")
            file = XetFile(file_hash, sha256, len(content), terms)
            self.by_hash[file_hash] = self.by_sha256[sha256] = file

    def read(self, file: XetFile) -> bytes:
        """The bytes of a file as they are there now."""
        return b"".join(self._read_term(term) for term in file.terms)

    def reconstruction(self, file: XetFile, start: int, end: int, url: str) -> dict:
        """How to fetch the bytes `start` to `end` (exclusive) of a file.

        Args:
            file (`XetFile`):
                The file.
            start (`int`), end (`int`):
                Bytes of the file.
            url (`str`):
                Where xorbs are: their hash is appended.

        Returns:
            `dict`: `offset_into_first_range`, `terms` and `fetch_info` of the first version of the API.
        """
        terms, spans, position, skipped = [], {}, 0, 0
        for term in file.terms:
            chunks = []
            for number in range(term.start, term.end):
                size = self.chunk_sizes[term.xorb][number]
                if position < end and position + size > start:
                    chunks.append(number)
                    skipped = start - position if len(chunks) == 1 and not terms else skipped
                position += size
            if chunks:
                first, last = chunks[0], chunks[-1] + 1
                length = sum(self.chunk_sizes[term.xorb][first:last])
                terms.append(
                    {"hash": term.xorb, "unpacked_length": length, "range": {"start": first, "end": last}},
                )
                low, high = spans.get(term.xorb, (first, last))
                spans[term.xorb] = min(low, first), max(high, last)
        fetch = {}
        for xorb, (first, last) in spans.items():
            offsets = self._offsets(xorb)
            byte_range = {"start": offsets[first], "end": offsets[last] - 1}
            fetch[xorb] = [{"range": {"start": first, "end": last}, "url": url + xorb, "url_range": byte_range}]
        return {"offset_into_first_range": max(skipped, 0), "terms": terms, "fetch_info": fetch}

    def middle_byte(self, file: XetFile) -> tuple[Path, int]:
        """The xorb and the offset in it that contain the byte in the middle of a file."""
        position, middle = 0, file.size // 2
        for term in file.terms:
            for number in range(term.start, term.end):
                size = self.chunk_sizes[term.xorb][number]
                if position + size > middle:
                    return self.folder / term.xorb, self._offsets(term.xorb)[
                        number
                    ] + _CHUNK_HEADER + middle - position
                position += size
        raise ValueError("an empty file has no byte in its middle")

    def _offsets(self, xorb: str) -> list[int]:
        """Where each chunk begins in the xorb's file, header first, and where the last one ends."""
        return list(itertools.accumulate((size + _CHUNK_HEADER for size in self.chunk_sizes[xorb]), initial=0))

    def _read_term(self, term: Term) -> bytes:
        data, offsets = (self.folder / term.xorb).read_bytes(), self._offsets(term.xorb)
        numbers = range(term.start, term.end)
        return b"".join(data[offsets[number] + _CHUNK_HEADER : offsets[number + 1]] for number in numbers)


def pack_chunk(data: bytes) -> bytes:
    """One chunk after its header, uncompressed."""
    length = len(data).to_bytes(3, "little")
    return b"\0" + length + b"\0" + length + data


def unpack_xorb(data: bytes) -> list[bytes]:
    """The chunks of a xorb. A footer, which begins with `XETBLOB`, is left out."""
    chunks, position = [], 0
    while position < len(data) and not data.startswith(b"XETBLOB", position):
        header = data[position : position + _CHUNK_HEADER]
        if len(header) < _CHUNK_HEADER or header[0] != 0:
            raise ValueError(f"no chunk header at byte {position}")
        packed, size = int.from_bytes(header[1:4], "little"), int.from_bytes(header[5:8], "little")
        body = data[position + _CHUNK_HEADER : position + _CHUNK_HEADER + packed]
        if len(body) < packed:
            raise ValueError(f"the chunk at byte {position} ends early")
        chunks.append(_unpack_chunk(body, header[4], size))
        position += _CHUNK_HEADER + packed
    return chunks


def _unpack_chunk(body: bytes, scheme: int, size: int) -> bytes:
    """Undo the compression of a chunk: 0 none, 1 LZ4 frame, 2 bytes grouped by position modulo 4, then LZ4 frame."""
    if scheme == 0:
        return body
    if scheme not in (1, 2):
        raise ValueError(f"no compression scheme {scheme}")
    chunk = pyarrow.decompress(body, decompressed_size=size, codec="lz4", asbytes=True)
    if scheme == 1:
        return chunk
    ungrouped, position = bytearray(size), 0
    for group in range(4):
        length = len(range(group, size, 4))
        ungrouped[group::4] = chunk[position : position + length]
        position += length
    return bytes(ungrouped)


def parse_shard(data: bytes) -> list[tuple[str, str | None, tuple[Term, ...]]]:
    """The files of a shard: Xet hash, sha256 if it is given, and terms."""
    if not data.startswith(_SHARD_TAG):
        raise ValueError("this is not a shard")
    entries = _ENTRY.iter_unpack(data[_ENTRY.size : len(data) - len(data) % _ENTRY.size])

    def take(count: int) -> list[tuple]:
        taken = list(itertools.islice(entries, count))
        if len(taken) < count:
            raise ValueError("the shard's list of files has no end")
        return taken

    files = []
    while True:
        ((file_hash, flags, count, _, _),) = take(1)
        if file_hash == _END_OF_FILES:
            return files
        terms = tuple(Term(hex_hash(xorb), start, end) for xorb, _, _, start, end in take(count))
        # Proofs that the client has the chunks, one for each term, are passed over.
        take(count if flags & _HAS_VERIFICATION else 0)
        sha256 = hex_hash(take(1)[0][0]) if flags & _HAS_METADATA else None
        files.append((hex_hash(file_hash), sha256, terms))


def hex_hash(raw: bytes) -> str:
    """A hash as Xet writes it: four numbers of 8 bytes, little-endian, in hexadecimal."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))
