"""Inputs for fuzzing: valid files with bytes, lines or values replaced by those that break readers."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

_PIECES = (
    *(
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n",
        b"\t",
        b",",
        b'"',
        b"'",
        b"\\",
        b":",
        b"- ",
        b"# ",
        b"{}",
        b"[]",
    ),
    *(
        b"&a [x, x]",
        b"*a",
        b"<<: {a: 1}",
        b"!!python/object:os.system x",
        b"!!int ''",
        b"!!timestamp x",
        b"!!binary '='",
    ),
    *(b"null", b"true", b"-1", b"1e999", b".nan", b"NaN", b"0x" + b"f" * 6000, b"9" * 5000, b"1:" * 400 + b"1"),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"- " * 2000,
        b"\x1b[2J",
        "\u202e\U0001f600e\u0301".encode(),
        b"\xed\xa0\x80",
        b"../../x",
    ),
    *(
        b"{{ 'x' * 9000000000 }}",
        b"{% for i in range(99999999) %}x{% endfor %}",
        b"{{ cycler.__init__ }}",
        b"<|im_end|>",
    ),
    *(b"(a+)+$", b"a" * 70_000, b" " * 3000),
)
_VALUES = (
    *(
        None,
        True,
        False,
        0,
        -1,
        2**31,
        2**63,
        10**30,
        10**300,
        1e308,
        -0.0,
        "",
        "x",
        "\x1b[2J",
        "\ud800",
        "x" * 70_000,
    ),
    *([], {}, [[]], [None], {"a": {}}, ["x"] * 3000, {str(i): i for i in range(300)}, "../../x", "(a+)+$", 1.5, "NaN"),
)


def _deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


@st.composite
def bytes_like(draw, seed: bytes) -> bytes:
    """The seed with up to four places changed."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from((0, 0, 1, 1, 7, 60, len(data)))))
        piece = draw(
            st.one_of(
                st.sampled_from(_PIECES),
                st.binary(max_size=6),
                st.just(bytes(data[start:end]) * draw(st.integers(2, 30))),
            )
        )
        data[start:end] = piece
    return bytes(data)


@st.composite
def json_like(draw, seed: bytes) -> bytes:
    """The seed, a JSON document, with one or two values or keys changed."""
    content = json.loads(seed)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(content))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 4)) == 0:
            del holder[key]
        else:
            holder[key] = draw(st.one_of(st.sampled_from(_VALUES), st.integers(50, 900).map(_deep)))
    return json.dumps(content).encode("utf-8", "surrogatepass")


def _places(content):
    if isinstance(content, dict | list):
        for key in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from _places(content[key])


def either(seed: bytes):
    """A JSON document changed by bytes or by values."""
    return st.one_of(bytes_like(seed), json_like(seed))


@st.composite
def safetensors_like(draw, seed: bytes) -> bytes:
    """Weights with changed bytes, or with another header."""
    if draw(st.booleans()):
        return draw(bytes_like(seed))
    (length,) = struct.unpack("<Q", seed[:8])
    header = draw(either(seed[8 : 8 + length]))
    size = draw(st.sampled_from((len(header), len(header), len(header), 0, 2**62, len(header) + 1)))
    return struct.pack("<Q", size) + header + seed[8 + length :]


def compress(data: bytes) -> bytes:
    """The same gzip file every time."""
    return gzip.compress(data, mtime=0)


def gzip_like(seed: bytes):
    """A gzip file with changed content or changed bytes, or one that unpacks to much."""
    return st.one_of(
        bytes_like(seed).map(compress),
        bytes_like(compress(seed)),
        st.sampled_from((b"0", b"\n", b'"', b"a,b\n", b"{}\n")).map(lambda piece: compress(seed + piece * 2**25)),
    )


def archive_like(members: Mapping[str, bytes], pack: Callable[[Mapping[str, bytes]], bytes]):
    """An archive of which one member, name or byte is changed, or one member unpacks to much."""
    first = next(iter(members))
    names = st.sampled_from((first, "../../x.xml", "files/p10/p10000001/s1.txt.gz", "/etc/x", "\x1b[2J.xml", ""))
    changed = st.tuples(names, bytes_like(members[first])).map(lambda one: pack({**members, one[0]: one[1]}))
    return st.one_of(changed, bytes_like(pack(members)), st.just(pack({**members, first: b" " * 2**26})))


def pack_zip(members: Mapping[str, bytes]) -> bytes:
    """A zip file with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def pack_tar(members: Mapping[str, bytes]) -> bytes:
    """A gzipped tar file with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return compress(buffer.getvalue())


@st.composite
def parquet_like(draw, columns: list[str]) -> bytes:
    """A Parquet file with columns of any type, of one shared large text, or with changed bytes."""
    rows = draw(st.sampled_from((0, 1, 3, 40)))
    table = {
        name: draw(_column(rows)) for name in draw(st.permutations(columns))[: draw(st.integers(1, len(columns)))]
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, compression=draw(st.sampled_from(("none", "zstd", "snappy"))))
    data = buffer.getvalue()
    return draw(bytes_like(data)) if draw(st.integers(0, 2)) == 0 else data


@st.composite
def _column(draw, rows: int):
    texts = pa.array([f"knee pain {number}" for number in range(rows)])
    return draw(
        st.sampled_from((
            texts, texts, texts, pa.array(range(rows)), pa.array([1.5] * rows), pa.nulls(rows), pa.array([["a"]] * rows),
            pa.array([b"\xff"] * rows, pa.binary()), pa.array([b"\xff\0"] * rows, pa.binary()).view(pa.string()),
            pa.array([0] * rows, pa.timestamp("us")), texts.cast(pa.large_string()), texts.dictionary_encode(),
            pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 4_000_000])),
        ))
    )  # fmt: skip
