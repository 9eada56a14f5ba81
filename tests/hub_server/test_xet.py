"""Xorbs, shards and reconstructions against what the formats say."""

import hashlib
import struct

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub_server.xet import Term, XetFiles, hex_hash, pack_chunk, parse_shard, unpack_xorb

CHUNKS = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8)


def packed(chunk: bytes, scheme: int) -> bytes:
    """A chunk as a client may pack it; grouping the bytes is written out one by one."""
    body = chunk
    if scheme == 2:
        body = bytes(chunk[n] for group in range(4) for n in range(len(chunk)) if n % 4 == group)
    if scheme:
        body = pyarrow.compress(body, codec="lz4", asbytes=True)
    return b"\0" + len(body).to_bytes(3, "little") + bytes([scheme]) + len(chunk).to_bytes(3, "little") + body


def raw(hexadecimal: str) -> bytes:
    return struct.pack("<4Q", *(int(hexadecimal[n : n + 16], 16) for n in range(0, 64, 16)))


def shard(files: list, footer: bytes = b"") -> bytes:
    """A shard with these files: Xet hash, sha256 or `None`, terms, and whether verification entries follow."""
    entries = [b"HFRepoMetaData\0" + bytes(17) + struct.pack("<QQ", 2, 0)]
    for file_hash, sha256, terms, verified in files:
        flags = (1 << 31 if verified else 0) | (1 << 30 if sha256 else 0)
        entries.append(raw(file_hash) + struct.pack("<IIQ", flags, len(terms), 0))
        entries += [raw(term.xorb) + struct.pack("<4I", 0, 1, term.start, term.end) for term in terms]
        entries += [bytes(48)] * (len(terms) if verified else 0)
        entries += [raw(sha256) + bytes(16)] if sha256 else []
    return b"".join(entries) + b"\xff" * 32 + bytes(16) + footer


@given(CHUNKS, st.lists(st.integers(0, 2), min_size=8, max_size=8), st.booleans())
def test_xorbs_unpack(chunks, schemes, footer):
    data = b"".join(packed(chunk, scheme) for chunk, scheme in zip(chunks, schemes, strict=False))
    assert unpack_xorb(data + (b"XETBLOB" + bytes(30) if footer else b"")) == chunks
    assert unpack_xorb(b"".join(map(pack_chunk, chunks))) == chunks


def test_shards_list_their_files():
    one, two, xorb = "1" * 64, "0123456789abcdef" * 4, "f" * 63 + "0"
    terms = (Term(xorb, 0, 2), Term(one, 5, 6))
    data = shard([(one, two, terms, True), (two, None, terms[:1], False)], footer=bytes(100))
    assert parse_shard(data) == [(one, two, terms), (two, None, terms[:1])]
    assert hex_hash(raw(two)) == two
    with pytest.raises(ValueError, match="not a shard"):
        parse_shard(b"something else")
    for entries in range(1, 8):
        with pytest.raises(ValueError, match="no end"):
            parse_shard(data[: 48 * entries])


@given(CHUNKS, st.data())
def test_reconstructions_fetch_the_requested_range(tmp_path_factory, chunks, data):
    files = XetFiles(tmp_path_factory.mktemp("xet") / "xorbs")
    xorb, file_hash = "a" * 64, "b" * 64
    files.add_xorb(xorb, b"".join(map(pack_chunk, chunks)))
    ranges = st.tuples(st.integers(0, len(chunks) - 1), st.integers(1, len(chunks)))
    spans = data.draw(st.lists(ranges.filter(lambda span: span[0] < span[1]), min_size=1, max_size=4))
    terms = tuple(Term(xorb, first, last) for first, last in spans)
    content = b"".join(b"".join(chunks[first:last]) for first, last in spans)
    sha256 = hashlib.sha256(content).hexdigest()
    files.add_shard(shard([(file_hash, sha256, terms, True)]))
    file = files.by_sha256[sha256]
    assert files.read(file) == content and file.size == len(content)

    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start + 1, len(content)))
    answer = files.reconstruction(file, start, end, "http://here/")
    stored, joined = (files.folder / xorb).read_bytes(), b""
    for term in answer["terms"]:
        (fetch,) = answer["fetch_info"][term["hash"]]
        assert fetch["url"] == f"http://here/{xorb}"
        fetched = unpack_xorb(stored[fetch["url_range"]["start"] : fetch["url_range"]["end"] + 1])
        assert len(fetched) == fetch["range"]["end"] - fetch["range"]["start"]
        skip = term["range"]["start"] - fetch["range"]["start"]
        part = b"".join(fetched[skip : skip + term["range"]["end"] - term["range"]["start"]])
        assert len(part) == term["unpacked_length"]
        joined += part
    offset = answer["offset_into_first_range"]
    assert joined[offset : offset + end - start] == content[start:end]
    path, middle = files.middle_byte(file)
    assert path.read_bytes()[middle] == content[len(content) // 2]


def test_what_does_not_fit_is_refused(tmp_path):
    files = XetFiles(tmp_path / "xorbs")
    xorb, file_hash = "a" * 64, "b" * 64
    with pytest.raises(ValueError, match="ends early"):
        files.add_xorb(xorb, pack_chunk(b"abc")[:-1])
    with pytest.raises(ValueError, match="never uploaded"):
        files.add_shard(shard([(file_hash, None, (Term(xorb, 0, 1),), False)]))
    assert files.add_xorb(xorb, pack_chunk(b"abc")) and not files.add_xorb(xorb, pack_chunk(b"abc"))
    with pytest.raises(ValueError, match="sha256"):
        files.add_shard(shard([(file_hash, "c" * 64, (Term(xorb, 0, 1),), False)]))
    assert files.by_sha256 == {}
