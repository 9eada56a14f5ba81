"""HL7 v2 orders: which text is read, and acknowledgements that another implementation can parse."""

import asyncio
import socket
from concurrent.futures import Future

import pytest
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from radrecipes.data.example import Example
from radrecipes.errors import InputError
from radrecipes.serving import hl7
from radrecipes.serving.engine import BusyError, RefusedError, UnansweredError
from radrecipes.serving.metrics import Metrics

HEAD = r"MSH|^~\&|RIS|North^1.2^ISO|RAD|North|20260101120000||ORM^O01^ORM_O01|42|P|2.5"
ORDER = [
    HEAD,
    "PID|1||9^^^H",
    "NTE|1||a note on the patient",
    "ORC|NW|P1",
    r"OBR|1|P1|F1|71250^CT chest \T\ abdomen^L" + "|" * 27 + r"^cough \.br\ fever~R07^~second",
    "NTE|1||line one~line two",
    "NTE|2||line three",
    "DG1|1||R05",
    "NTE|1||of the diagnosis",
]
ROW = {"id": "P|1", "label": "CT^Chest", "probability": 0.25, "decision": "auto", "reason": None}
ROW |= {"top_1": "CT^Chest", "top_1_probability": 0.25, "top_2": "MR", "top_2_probability": 0.125, "top_3": None}


def message(*segments):
    return "\r".join(segments) + "\r"


class Answering:
    """An engine that gives every order the same row, or fails."""

    def __init__(self, error=None, max_batch=3):
        self.error, self.max_batch, self.seen, self.metrics = error, max_batch, [], Metrics()

    def read(self, order_id, text):
        if not text:
            raise InputError("the note is empty")
        return Example(order_id, "", {"note": text}, "")

    def submit(self, examples):
        self.seen += [(example.id, example.inputs["note"]) for example in examples]
        done = Future()
        done.set_exception(self.error) if self.error else done.set_result([ROW] * len(examples))
        return done


def answered(text, **options):
    engine = Answering(**options)
    data = text if isinstance(text, bytes) else text.encode()
    acknowledgement, code = asyncio.run(hl7.answer(data, engine))
    assert (
        acknowledgement.startswith("MSH")
        and f"\rMSA{text[3:4] if isinstance(text, str) else '|'}{code}" in acknowledgement
    )
    return acknowledgement.split("\r")[:-1], code, engine.seen


def test_the_text_is_the_procedure_the_reason_and_the_notes_of_the_order():
    segments, code, seen = answered(message(*ORDER))
    assert code == "AA"
    lines = ("CT chest & abdomen", "cough \n fever", "R07", "second", "line one", "line two", "line three")
    assert seen == [("P1", "\n".join(lines))]
    assert segments[0].startswith(r"MSH|^~\&|RAD|North|RIS|North^1.2^ISO|") and segments[0].endswith(
        "|P|2.5||||||UNICODE UTF-8"
    )
    assert segments[1] == "MSA|AA|42"
    assert segments[2] == r"ZPR|1|P\F\1|CT\S\Chest|0.250000|auto||CT\S\Chest^0.250000~MR^0.125000"
    parsed = parse_message("\r".join(segments), find_groups=False)
    assert [it.name for it in parsed.children] == ["MSH", "MSA", "ZPR"]
    assert parsed.msa.msa_2.value == "42" and parsed.msh.msh_9.value == "ACK^O01^ACK"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_separators_and_versions_of_other_systems_are_read(end):
    _, code, seen = answered(message(*ORDER).replace("\r", end).replace("|2.5", "|2.9"))
    assert code == "AA" and len(seen) == 1
    other = message(*ORDER).replace("|", "$").replace("^", "*")
    segments, code, seen = answered(other)
    assert code == "AA" and seen[0][1].startswith("CT chest & abdomen\n") and segments[1] == "MSA$AA$42"
    assert answered(message(HEAD.replace(r"^~\&", r"^~\&#"), *ORDER[1:]))[1] == "AA"


def test_several_orders_and_cancellations():
    text = message(HEAD, "ORC|NW|P1", "OBR|1|||^one", "ORC|CA|P2", "OBR|2|||^two", "ORC|XO|P3", "OBR|3|||^three")
    segments, code, seen = answered(text)
    assert code == "AA" and seen == [("P1", "one"), ("P3", "three")]
    assert [segment[:5] for segment in segments[2:]] == ["ZPR|1", "ZPR|2"]
    segments, code, seen = answered(message(HEAD, "ORC|CA|P2", "OBR|1|||^two"))
    assert (len(segments), code, seen) == (2, "AA", [])


@pytest.mark.parametrize(
    ("text", "options", "code", "place", "error"),
    [
        (message(HEAD.replace("ORM^O01", "ORU^R01"), *ORDER[3:]), {}, "AR", "MSH^1^9", "200"),
        (message(HEAD.replace("|42|", "||"), *ORDER[3:]), {}, "AR", "MSH^1^10", "101"),
        (message(HEAD, "qzvmark has a cough"), {}, "AR", "", "100"),
        (message(HEAD, HEAD), {}, "AR", "", "100"),
        (message(*ORDER).replace("cough", "h\u00fcsteln").encode("latin-1"), {}, "AR", "MSH^1^18", "102"),
        (message(HEAD + "||||||8859/1", *ORDER[1:]), {}, "AR", "MSH^1^18", "102"),
        (message(HEAD, "PID|1"), {}, "AE", "OBR^1", "100"),
        (message(HEAD, "OBR|1|||^one", "OBR|2|P2"), {}, "AE", "OBR^2", "102"),
        (message(HEAD, *["OBR|1|||^one"] * 4), {}, "AE", "OBR", "100"),
        (message(HEAD, r"OBR|1|P\X0D41\||^one"), {}, "AE", "OBR^1^2", "102"),
        (message(HEAD, r"OBR|1|P\X1C0D\||^one"), {}, "AE", "OBR^1^2", "102"),
        (message(HEAD, f"OBR|1|{'P' * 201}||^one"), {}, "AE", "OBR^1^2", "102"),
        (message(*ORDER), {"error": RefusedError(0, "too long")}, "AE", "OBR^1", "102"),
        (message(*ORDER), {"error": BusyError("too many requests are waiting")}, "AR", "", "207"),
        (message(*ORDER), {"error": UnansweredError("the model failed")}, "AR", "", "207"),
        (message(*ORDER), {"error": RuntimeError("qzvmark")}, "AR", "", "207"),
    ],
)
def test_an_error_has_its_place_its_code_and_no_text_of_the_message(text, options, code, place, error):
    segments, found, _ = answered(text, **options)
    assert found == code and len(segments) == 3 and "qzvmark" not in "".join(segments)
    assert segments[2].split("|")[:5] == ["ERR", "", place, error, "E"] and len(segments[2].split("|")[8]) > 5
    parsed = parse_message("\r".join(segments), find_groups=False)
    assert parsed.err.err_3.value == error and parsed.err.err_4.value == "E"


@given(
    st.one_of(
        st.text(), st.text(alphabet="MSHOBRNTE|^~\\&\r1 "), st.builds(lambda rest: HEAD + "\r" + rest, st.text())
    )
)
@settings(max_examples=60)
def test_any_text_is_acknowledged_or_has_no_header(text):
    try:
        hl7.Message(text)
    except ValueError:
        return
    _, code, _ = answered(text.lstrip("\r\n"))
    assert code in ("AA", "AE", "AR")


async def exchanged(frames, idle=5.0, largest=4096):
    """What a server sends back before it closes the connection, or the client does."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = hl7.MllpServer(Answering(), largest, idle)
    await server.start(listening)
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(frames)
    if idle == 5.0:
        writer.write_eof()
    found = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await server.stop()
    return found


def test_frames_are_answered_and_what_is_no_frame_closes_the_connection():
    frame = b"\x0b" + message(*ORDER).encode() + b"\x1c\r"
    assert asyncio.run(exchanged(frame * 2)).count(b"\x0bMSH|") == 2
    for wrong in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x0bhello\x1c\r",
        b"x\x1c\r",
        frame[:-1],
        b"\x0b" + b"x" * 9000 + b"\x1c\r",
    ):
        assert asyncio.run(exchanged(wrong + frame * (wrong[-1:] == b"\r"))) == b""


def test_an_idle_connection_is_closed():
    assert asyncio.run(exchanged(b"\x0bMSH", idle=0.1)) == b""


def test_stopping_answers_what_was_accepted_and_closes_open_connections(caplog):
    async def stopped():
        listening = socket.create_server(("127.0.0.1", 0))
        server = hl7.MllpServer(Answering(), 4096)
        await server.start(listening)
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"\x0b" + message(*ORDER).encode() + b"\x1c\r")
        assert await reader.readuntil(b"\x1c\r")
        await asyncio.wait_for(server.stop(), 5)  # the sender keeps its connection open
        assert await reader.read() == b""
        writer.close()

    asyncio.run(stopped())
    assert not caplog.records
