r"""HL7 v2 orders (ORM^O01, OMI^O23) over MLLP, answered in their acknowledgement.

The text of an order is OBR-4.2 (name of the procedure), OBR-31 (reason, each repetition's text or else its code) and NTE-3 of
the NTE segments directly after the OBR, each on a line. Messages are split as in `data/sources/hl7.py`, which says why hl7apy
is not used; it also writes `\.br\` back as `\E\.br\E\`.
"""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from radrecipes.data.example import Example
from radrecipes.data.sources.hl7 import field, unescaped
from radrecipes.errors import InputError
from radrecipes.serving import ORDER_ID
from radrecipes.serving.engine import LOGGER, BusyError, Engine, RefusedError, UnansweredError

IDLE_SECONDS = 300
REPLY_SECONDS = 10
_START, _END = b"\x0b", b"\x1c\r"
_KINDS = ("ORM^O01", "OMI^O23")
# ORC-1 of orders that want a protocol: new and changed ones. Others, such as cancellations, are only acknowledged.
_ANSWERED = ("", "NW", "XO")
# Codes of HL7 table 0357
_SEGMENT_SEQUENCE, _MISSING, _DATA_TYPE, _UNSUPPORTED, _INTERNAL = "100", "101", "102", "200", "207"


class RejectedError(Exception):
    """Why a message is not accepted: `AE` for its content, `AR` for its kind or the server's state."""

    def __init__(self, code: str, error: str, place: str, message: str):
        super().__init__(message)
        self.code, self.error, self.place = code, error, place


class _Order(NamedTuple):
    place: str  # of the OBR, as in ERR-2
    id: str
    control: str
    lines: list[str]


class Message:
    """The header of a message, and its segments; a `ValueError` if it has no header that can be read."""

    def __init__(self, text: str):
        self.segments = [segment for segment in re.split(r"[\r\n]+", text) if segment.strip()]
        head = self.segments[0] if self.segments else ""
        self.separators = head[3:8]
        # After the five separators, version 2.7 has a sixth for cut texts.
        if not re.match(r"MSH([^\w\s])[^\w\s]{4}#?\1", head) or len(set(self.separators)) < 5:
            raise ValueError("no MSH segment")
        # MSH-1 is the separator itself.
        self.head = ["MSH", *head.split(head[3])]
        self.head[1] = head[3]

    def orders(self) -> list[_Order]:
        """The orders; raises a [`RejectedError`]."""
        kind = "^".join(self.parts(field(self.head, 9))[:2])
        if not field(self.head, 10):
            raise RejectedError("AR", _MISSING, "MSH^1^10", "the message control id is missing")
        if kind not in _KINDS:
            raise RejectedError("AR", _UNSUPPORTED, "MSH^1^9", f"only {' and '.join(_KINDS)} are answered")
        orders, common, note_of = [], [], None
        for segment in self.segments[1:]:
            fields = segment.split(self.separators[0])
            if not re.fullmatch("[A-Z][A-Z0-9]{2}", fields[0]) or fields[0] == "MSH":
                raise RejectedError("AR", _SEGMENT_SEQUENCE, "", "a line is not a segment")
            if fields[0] == "ORC":
                common = fields
            elif fields[0] == "OBR":
                order_id = field(fields, 2) or field(common, 2) or field(self.head, 10)
                reasons = [self.parts(reason) for reason in field(fields, 31).split(self.separators[2])]
                lines = [*self.parts(field(fields, 4))[1:2], *("".join(it[1:2]) or it[0] for it in reasons)]
                place, order_id = f"OBR^{len(orders) + 1}", unescaped(order_id, self.separators)
                if not ORDER_ID.fullmatch(order_id):
                    what = "the order's number has more than 200 characters or a control character"
                    raise RejectedError("AE", _DATA_TYPE, f"{place}^2", what)
                note_of = _Order(place, order_id, field(common, 1), lines)
                orders.append(note_of)
            elif fields[0] == "NTE" and note_of:
                note_of.lines.extend(field(fields, 3).split(self.separators[2]))
            if fields[0] not in ("OBR", "NTE"):  # later comments are those of other segments
                note_of = None
        if not orders:
            raise RejectedError("AE", _SEGMENT_SEQUENCE, "OBR^1", "the message has no OBR segment")
        return [order for order in orders if order.control in _ANSWERED]

    def parts(self, value: str) -> list[str]:
        """The components of a field."""
        return value.split(self.separators[1])

    def escaped(self, text: str) -> str:
        """A text for a component of the answer."""
        codes = {"\n": ".br"} | dict(zip(self.separators, "FSRET", strict=True))
        escape = self.separators[3]
        return "".join(f"{escape}{codes[it]}{escape}" if it in codes else it for it in text)

    def acknowledgement(self, code: str, rows: Sequence[Mapping[str, Any]], error: RejectedError | None = None) -> str:
        """The answer: MSH, MSA, ERR for an error, and a ZPR segment for each answered order."""
        bar, component, repeat = self.separators[:3]
        now = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
        msh = [f"MSH{bar}{self.separators[1:]}", *(field(self.head, place) for place in (5, 6, 3, 4)), now, ""]
        msh += [f"ACK{component}{''.join(self.parts(field(self.head, 9))[1:2])}{component}ACK", uuid4().hex[:20]]
        msh += [field(self.head, 11), field(self.head, 12), *[""] * 5, "UNICODE UTF-8"]
        segments = [msh, ["MSA", code, field(self.head, 10)]]
        if error:
            place = component.join(error.place.split("^"))
            segments.append(["ERR", "", place, error.error, "E", "", "", "", self.escaped(str(error))])
        for number, row in enumerate(rows, start=1):
            best = [(row.get(f"top_{place}"), row.get(f"top_{place}_probability")) for place in (1, 2, 3)]
            values = [row.get(name) for name in ("id", "label", "probability", "decision", "reason")]
            top = repeat.join(
                f"{self.escaped(label)}{component}{probability:.6f}" for label, probability in best if label
            )
            cells = (f"{it:.6f}" if isinstance(it, float) else self.escaped(it or "") for it in values)
            segments.append(["ZPR", str(number), *cells, top])
        return "".join(bar.join(fields).rstrip(bar) + "\r" for fields in segments)


async def answer(data: bytes, engine: Engine) -> tuple[str, str]:
    """The acknowledgement of a message and its code; a `ValueError` if the message has no header that can be read."""
    text = data.decode("utf-8", errors="replace")
    message = Message(text)
    rows, orders = [], []
    try:
        if "\ufffd" in text or field(message.head, 18) not in ("", "ASCII", "UNICODE UTF-8"):
            raise RejectedError("AR", _DATA_TYPE, "MSH^1^18", "the character set must be UTF-8")
        orders = message.orders()
        if len(orders) > engine.max_batch:
            raise RejectedError("AE", _SEGMENT_SEQUENCE, "OBR", f"at most {engine.max_batch} orders a message")
        if orders:
            rows = await asyncio.wrap_future(engine.submit(_read(orders, message, engine)))
    except RejectedError as error:
        problem = error
    except RefusedError as error:
        problem = RejectedError("AE", _DATA_TYPE, orders[error.place].place, str(error))
    except (BusyError, UnansweredError) as error:
        problem = RejectedError("AR", _INTERNAL, "", f"{error}; send it again")
    except Exception as error:  # a traceback could contain the client's text
        LOGGER.error("internal error: %s", type(error).__name__)
        problem = RejectedError("AR", _INTERNAL, "", "internal error")
    else:
        return message.acknowledgement("AA", rows), "AA"
    return message.acknowledgement(problem.code, (), problem), problem.code


def _read(orders: Sequence[_Order], message: Message, engine: Engine) -> list[Example]:
    examples = []
    for order in orders:
        lines = (unescaped(line, message.separators).strip() for line in order.lines)
        try:
            examples.append(engine.read(order.id, "\n".join(filter(None, lines))))
        except InputError as error:
            raise RejectedError("AE", _DATA_TYPE, order.place, str(error)) from None
    return examples


class MllpServer:
    """Listens for MLLP frames of at most `largest` bytes; a connection is closed after `idle` seconds without one."""

    def __init__(self, engine: Engine, largest: int, idle: float = IDLE_SECONDS):
        self._engine, self._largest, self._idle = engine, largest, idle
        self._answering: set[asyncio.Task] = set()
        self._connections: dict[asyncio.Task, asyncio.StreamWriter] = {}
        self._stopping = False

    async def start(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        self._server = await asyncio.start_server(self._converse, sock=sock, limit=self._largest)

    async def stop(self) -> None:
        """Accept no more, answer what was accepted, and close the connections."""
        self._stopping = True
        self._server.close()
        while self._answering:
            await asyncio.wait(self._answering)
        for writer in self._connections.values():
            writer.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=REPLY_SECONDS)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)
        # Too large, not framed, too slow, without a header, or gone: nothing can be acknowledged.
        with contextlib.suppress(
            asyncio.LimitOverrunError, asyncio.IncompleteReadError, TimeoutError, ValueError, OSError
        ):
            while not self._stopping:
                async with asyncio.timeout(self._idle):
                    frame = await reader.readuntil(_END)
                if self._stopping or not frame.startswith(_START):
                    break
                task = asyncio.create_task(self._reply(frame[1 : -len(_END)], writer))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
                await task
        writer.close()

    async def _reply(self, message: bytes, writer: asyncio.StreamWriter) -> None:
        began = time.perf_counter()
        text, code = await answer(message, self._engine)
        seconds = time.perf_counter() - began
        self._engine.metrics.count_request("mllp", "MLLP", code, seconds)
        LOGGER.info("MLLP %s %.0f ms", code, 1000 * seconds)
        writer.write(_START + text.encode() + _END)
        async with asyncio.timeout(REPLY_SECONDS):  # a sender that does not read its answers
            await writer.drain()
