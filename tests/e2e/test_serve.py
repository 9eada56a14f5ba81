"""A served model as its clients see it: the real script over HTTP and MLLP, next to the answers of scripts/predict.py."""

import base64
import csv
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2e.conftest import ORDERS, RUN
from radrecipes.inference.audit_log import AuditLog, text_digest, verify

JSON, FHIR = "application/json", "application/fhir+json"
# In every text that a test sends; nothing but the model may see it.
MARK = "qzvmark"
NOTE = f"44 yo F, chronic knee pain, r/o meniscal tear, {MARK}"
LARGEST, BATCH = 20_000, 4
REPORT_RUN = "runs/tiny/report_lora/seed-42"

pytestmark = pytest.mark.slow  # a server of its own


class Server:
    """A running `scripts/serve.py`, and what it printed."""

    def __init__(self, workspace, folder, *words):
        self.output = folder / "server.txt"
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "scripts/serve.py", "--port", "0", *map(str, words)],
                cwd=workspace,
                stdout=stream,
                stderr=stream,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )
        while not (found := re.search(r"^serving .* at http://[\d.]+:(\d+)\n", self.text, re.MULTILINE)):
            assert self.process.poll() is None, self.text
            time.sleep(0.05)
        self.port = int(found[1])
        self.mllp = int(found[1]) if (found := re.search(r"MLLP at 127\.0\.0\.1:(\d+)\n", self.text)) else None

    @property
    def text(self):
        return self.output.read_text("utf-8")

    def ask(self, path, body=None, kind=JSON, method=None, **headers):
        """Status, headers and body of an answer; a body that is not bytes is sent as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers |= {} if body is None else {"Content-Type": kind}
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        return (
            answer.status,
            dict(answer.getheaders()),
            json.loads(read) if "json" in answer.headers["content-type"] else read,
        )

    def metric(self, name):
        return float(
            re.search(rf"^radrecipes_{re.escape(name)} (\S+)$", self.ask("/metrics")[2].decode(), re.MULTILINE)[1]
        )

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def serving(workspace, folder, *words):
    server = Server(workspace, folder, *words)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def served(finished, tmp_path_factory):
    """The finished run, served with an audit log; at the end nothing of a request may be in what it printed."""
    folder = tmp_path_factory.mktemp("served")
    words = ("--adapter", RUN, "--audit-log", folder / "log", "--mllp-port", 0)
    limits = ("--max-batch", BATCH, "--max-body-bytes", LARGEST)
    with serving(finished.workspace, folder, *words, *limits) as server:
        server.log = folder / "log"
        yield server
        metrics = server.ask("/metrics")[2].decode()
        assert server.end(signal.SIGINT) == 0
        for printed in (server.text, metrics):
            assert MARK not in printed and "order-of" not in printed and "Traceback" not in printed
        if server.log.exists():  # not if a single test that logs nothing was chosen
            assert verify(server.log).entries and MARK not in server.log.read_text()


def predicted_rows(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            {name: float(cell) if name.endswith("probability") else cell or None for name, cell in row.items()}
            for row in csv.DictReader(stream)
        ]


def test_answers_are_those_of_predict_and_in_the_audit_log(finished, served):
    expected = predicted_rows(finished.workspace / "answers.csv")
    orders = [{"id": order_id, "text": note} for order_id, note in ORDERS]
    together = served.ask("/v1/predict", {"orders": orders})[2]["answers"]
    alone = [served.ask("/v1/predict", order)[2] for order in orders]
    assert together == alone == expected
    key = bytes.fromhex(Path(f"{served.log}.key").read_text())
    entries = [json.loads(line) for line in served.log.read_text().splitlines()]
    for row, (order_id, note) in zip(expected, ORDERS, strict=True):
        found = [entry for entry in entries if entry["id"] == order_id]
        assert len(found) == 2
        assert all(entry["input_hmac_sha256"] == text_digest(key, note) for entry in found)
        assert all(entry[name] == row[name] for entry in found for name in ("label", "probability", "decision"))
    assert re.fullmatch("[0-9a-f]{32}", served.ask("/v1/predict", {"text": NOTE})[2]["id"])


def test_the_same_order_gets_the_same_answer_whatever_other_clients_send(served):
    texts = [f"{age} yo M, r/o bleed" + ", hx of fall" * (age % 7) for age in range(20, 36)]
    quiet = [served.ask("/v1/predict", {"text": text, "id": "x"})[2] for text in texts]
    before = served.metric("batch_rows_count"), served.metric("batch_rows_sum")
    with ThreadPoolExecutor(8) as clients:
        busy = list(clients.map(lambda text: served.ask("/v1/predict", {"text": text, "id": "x"})[2], texts * 2))
    assert busy == quiet * 2
    batches, rows = served.metric("batch_rows_count") - before[0], served.metric("batch_rows_sum") - before[1]
    assert rows == 32 and batches < 32, "requests must have shared micro-batches"


def test_a_full_queue_refuses_and_a_client_that_leaves_disturbs_nobody(served):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", served.port)) as leaving:
            body = json.dumps({"text": NOTE}).encode()
            head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
            leaving.sendall(head.encode() + body)
    orders = {"orders": [{"text": NOTE, "id": "x"}] * BATCH}
    with ThreadPoolExecutor(24) as clients:
        answers = list(clients.map(lambda _: served.ask("/v1/predict", orders), range(48)))
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    assert all(headers["retry-after"] == "1" for status, headers, _ in answers if status == 503)
    rows = [row for status, _, body in answers if status == 200 for row in body["answers"]]
    assert all(row == rows[0] for row in rows)
    assert served.metric("queue_rows") == 0


WRONG = [
    ("/v1/predict", b"{", {}, 400, None),
    ("/v1/predict", b"", {}, 400, None),
    ("/v1/predict", b'{"text": "\xff"}', {}, 400, None),
    ("/v1/predict", b'{"text": "\\ud800 qzvmark"}', {}, 400, None),
    ("/v1/predict", b'{"text": NaN}', {}, 400, None),
    ("/v1/predict", b"[" * 5000, {}, 400, None),
    ("/v1/predict", [MARK], {}, 422, None),
    ("/v1/predict", {}, {}, 422, "text"),
    ("/v1/predict", {"text": 7}, {}, 422, "text"),
    ("/v1/predict", {"text": ""}, {}, 422, "text"),
    ("/v1/predict", {"text": " \n\u200b"}, {}, 422, "text"),
    ("/v1/predict", {"text": f"{MARK}\0"}, {}, 422, "text"),
    ("/v1/predict", {"text": "knee, " * 1000}, {}, 422, "text"),
    ("/v1/predict", {"text": NOTE, MARK: 1}, {}, 422, None),
    ("/v1/predict", {"text": NOTE, "id": 7}, {}, 422, "id"),
    ("/v1/predict", {"text": NOTE, "id": f"{MARK}\n"}, {}, 422, "id"),
    ("/v1/predict", {"orders": []}, {}, 422, "orders"),
    ("/v1/predict", {"orders": [{"text": NOTE}] * (BATCH + 1)}, {}, 422, "orders"),
    ("/v1/predict", {"orders": [{"text": NOTE}, {"text": NOTE, MARK: 1}]}, {}, 422, "orders.1"),
    ("/v1/predict", {"orders": [{"text": NOTE}, {"text": "knee, " * 1000}]}, {}, 422, "orders.1.text"),
    ("/v1/predict", {"text": NOTE}, {"kind": "text/plain"}, 415, "Content-Type"),
    ("/v1/predict", b" " * (LARGEST + 1), {}, 413, None),
    ("/v1/predict", None, {}, 405, None),
    ("/v1/predict", {"text": NOTE}, {"method": "DELETE"}, 405, None),
    ("/v1/report", {"text": NOTE}, {}, 404, None),
    (f"/{MARK}?{MARK}", None, {}, 404, None),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "options", "status", "field"), WRONG)
def test_what_is_wrong_is_named_without_a_word_of_it(served, path, body, options, status, field):
    found, _, answer = served.ask(path, body, **options)
    assert (found, answer["field"]) == (status, field) and set(answer) == {"error", "field"}
    assert MARK not in json.dumps(answer) and answer["error"]


def test_a_body_that_is_too_large_is_refused_while_it_comes(served):
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head.encode() + b"4000\r\n" + b" " * 0x4000 + b"\r\n4000\r\n" + b" " * 0x4000 + b"\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "id", "orders", "x"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
_FHIR = st.builds(
    lambda more: {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "subject": {"reference": "P/1"}} | more,
    st.dictionaries(st.sampled_from(["id", "code", "note", "subject", "contained", "identifier", "entry"]), _VALUES),
)  # fmt: skip


@given(st.sampled_from(["/v1/predict", "/fhir/ServiceRequest"]), _VALUES | _FHIR | st.binary(max_size=50))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_else_is_answered_with_an_error_of_the_client(served, path, body):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, answer = served.ask(path, body, kind=JSON if path[1] == "v" else FHIR)
    assert status in (200, 400, 422)
    if status != 200:
        assert set(answer) == ({"error", "field"} if path[1] == "v" else {"resourceType", "issue"})


def test_a_service_request_gets_a_task_or_a_proposal(served):
    order = {
        "resourceType": "ServiceRequest",
        "id": "order-of-1",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/1"},
        "reasonCode": [{"text": NOTE}],
    }
    expected = served.ask("/v1/predict", {"text": NOTE})[2]
    status, headers, task = served.ask("/fhir/ServiceRequest", order, FHIR)
    assert (status, headers["content-type"]) == (200, FHIR)
    assert task["resourceType"] == "Task" and task["statusReason"]["text"] == expected["reason"]
    best = [(it["valueCodeableConcept"]["text"], it["extension"][0]["valueDecimal"]) for it in task["input"]]
    assert best == [(expected[f"top_{place}"], expected[f"top_{place}_probability"]) for place in (1, 2, 3)]
    many = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": order | {"id": f"o{n}"}} for n in (1, 2)],
    }
    answer = served.ask("/fhir/ServiceRequest", many)[2]
    assert [it["resource"]["focus"]["reference"] for it in answer["entry"]] == [
        "ServiceRequest/o1",
        "ServiceRequest/o2",
    ]
    for broken, place in (
        (order | {"note": MARK}, "ServiceRequest.note"),
        (order | {"reasonCode": None}, "ServiceRequest"),
    ):
        status, headers, outcome = served.ask("/fhir/ServiceRequest", broken, FHIR)
        assert (status, headers["content-type"]) == (422, FHIR) and MARK not in json.dumps(outcome)
        assert outcome["resourceType"] == "OperationOutcome" and outcome["issue"][0]["expression"] == [place]
    for options, code in (({"kind": "text/xml"}, "not-supported"), ({"method": "PUT"}, "not-supported")):
        assert served.ask("/fhir/ServiceRequest", order, **options)[2]["issue"][0]["code"] == code


def test_an_hl7_order_is_answered_in_its_acknowledgement(served):
    expected = served.ask("/v1/predict", {"text": f"CT head\n{NOTE}"})[2]
    segments = [
        r"MSH|^~\&|RIS|N|RAD|N|20260101||OMI^O23|c17|P|2.5.1",
        "ORC|NW|order-of-9",
        "OBR|1|||1^CT head",
        f"NTE|1||{NOTE}",
    ]
    order = "\r".join(segments)
    with socket.create_connection(("127.0.0.1", served.mllp)) as client, client.makefile("rb") as replies:
        for message in (order, order.replace("OMI^O23", "ADT^A01")):
            client.sendall(b"\x0b" + message.encode() + b"\r\x1c\r")
            reply = b""
            while not reply.endswith(b"\x1c\r"):
                reply += replies.read(1)
            segments = reply[1:-2].decode().split("\r")
            if message == order:
                assert segments[1] == "MSA|AA|c17"
                cells = segments[2].split("|")
                assert cells[:4] == ["ZPR", "1", "order-of-9", expected["label"]]
                assert float(cells[4]) == expected["probability"] and cells[5] == expected["decision"]
            else:
                assert segments[1] == "MSA|AR|c17" and segments[2].startswith("ERR||MSH^1^9|200|E")
            assert MARK not in reply.decode()
        client.sendall(b"\x0bhello " + MARK.encode() + b"\x1c\r")
        assert replies.read() == b""


def test_the_interface_describes_itself(served):
    document = served.ask("/openapi.json")[2]
    answer = served.ask("/v1/predict", {"text": NOTE})[2]
    assert list(document["components"]["schemas"]["Answer"]["properties"]) == list(answer)
    for path, methods in document["paths"].items():
        assert served.ask(path, None if "get" in methods else {})[0] in (200, 422)
    headers, page = served.ask("/docs")[1:]
    page = page.decode()
    for shown in ("POST /v1/predict", *document["components"]["schemas"], *answer, "429", "localhost:PORT/v1/predict"):
        assert shown in page
    assert "<script" not in page and "http:" not in page and "https:" not in page
    (style,) = re.findall("<style>(.*)</style>", page)
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert headers["content-security-policy"] == f"default-src 'none'; style-src 'sha256-{allowed}'"


def test_another_host_header_is_refused(served):
    assert served.ask("/v1/predict", {"text": NOTE}, Host="evil.example")[0] == 400
    assert served.ask("/healthz", Host=f"localhost:{served.port}")[2] == {"status": "ok"}


def test_a_proxy_needs_a_token(served):
    status, _, answer = served.ask("/v1/predict", {"text": NOTE}, **{"X-Forwarded-For": "10.0.0.7"})
    assert status == 401 and "--token-file" in answer["error"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0: other machines could connect; give --token-file"),
        (("--token-file", "none"), "none: cannot be read (No such file or directory)"),
        (("--token-file", "open"), "open: others may read it"),
        (("--token-file", "short"), "short: must contain one token of at least 32 letters"),
        (("--audit-log", "orders.csv"), "orders.csv:6: is not an audit log"),
        (("--audit-log", "none/log"), "none/log: the folder of the audit log does not exist"),
        (("--port", "99999"), "--port 99999: cannot listen on 127.0.0.1 (no such port)"),
        (("--host", "192.0.2.1", "--token-file", "good"), "--port 8000: cannot listen on 192.0.2.1 (Cannot assign"),
        (("--host", "a..b", "--token-file", "good"), "--port 8000: cannot listen on a..b ("),
        (("--mllp-port", "8000"), "--mllp-port 8000: is also --port; choose another"),
        (("--adapter", "runs/none"), "runs/none: "),
        (("--target-accuracy", "0.5"), "decision_policy.json: target accuracy 0.5 was not fitted"),
        (("--tries", "2"), "--tries: the task protocol chooses a label and does not take this option"),
    ],
)
def test_wrong_arguments_end_before_any_request(finished_copy, call, words, said):
    for name, token, mode in (("open", "a" * 32, 0o644), ("short", "a" * 31, 0o600), ("good", "a" * 32, 0o600)):
        Path(name).write_text(token + "\n")
        Path(name).chmod(mode)
    done = call("serve", "--adapter", RUN, *words)
    assert done.code == 2 and done.stdout == "", done.stderr
    last = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(last) == 1 and last[0].startswith(f"error: {said}") and "Traceback" not in done.stderr


def test_a_run_that_read_columns_does_not_answer_messages_without_them(finished_copy, call):
    path = Path(RUN, "manifest.json")
    manifest = json.loads(path.read_text("utf-8"))
    manifest["data"]["input_columns"] = ["exam", "indication"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    refused = call("serve", "--adapter", RUN, "--mllp-port", "0")
    assert refused.code == 2 and "reads the columns exam, indication, which HL7 v2 does not have" in refused.stderr
    with serving(finished_copy, finished_copy, "--adapter", RUN) as server:
        order = {
            "resourceType": "ServiceRequest",
            "id": "o",
            "status": "active",
            "intent": "order",
            "subject": {"reference": "P/1"},
        }
        status, _, answer = server.ask("/fhir/ServiceRequest", order, kind=FHIR)
        assert status == 404 and "(exam, indication)" in answer["issue"][0]["diagnostics"]


def test_a_port_in_use_is_one_line(finished, served, call, monkeypatch):
    monkeypatch.chdir(finished.workspace)
    done = call("serve", "--adapter", RUN, "--port", served.port)
    said = f"error: --port {served.port}: cannot listen on 127.0.0.1 (Address already in use); choose another\n"
    assert (done.code, done.stdout, done.stderr) == (2, "", said)


def test_a_table_of_many_rows_has_the_answers_of_predict(finished_copy, call, tmp_path):
    texts = [f"{20 + n} yo {'MF'[n % 2]}, r/o bleed" + ", hx of fall" * (n % 9) for n in range(96)]
    Path("many.csv").write_text("mrn,order\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts)))
    table = ("--adapter", RUN, "--input", "many.csv", "--text-column", "order", "--id-column", "mrn", "--output")
    for batch in ("1", "32"):
        assert call("predict", *table, f"out{batch}.csv", "--batch-size", batch).code == 0
    orders = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    for number in ("1", "16"):  # that the model reads together
        served = serving(finished_copy, tmp_path, "--adapter", RUN, "--batch-size", number)
        with served as server, ThreadPoolExecutor(8) as clients:
            assert server.ask("/v1/predict", {"text": "x" * 20_001})[0] == 422  # refuses nobody else
            answers = list(clients.map(lambda order: server.ask("/v1/predict", order)[2], orders))
        # In float32 batches differ by less than the sixth digit shows
        for batch in ("1", "32"):
            for row, answer in zip(predicted_rows(Path(f"out{batch}.csv")), answers, strict=True):
                assert {name: answer[name] for name in ("id", "label", "decision", "reason")}.items() <= row.items()
                assert abs(row["probability"] - answer["probability"]) < 2e-6


def test_a_token_and_a_limit_of_requests(finished, tmp_path):
    token = "t0k-" + "x" * 40
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    words = ("--adapter", RUN, "--token-file", tmp_path / "token", "--requests-per-minute", 50, "--host", "0.0.0.0")
    with serving(finished.workspace, tmp_path, *words) as server:
        for authorization in (
            None,
            "Bearer",
            f"Bearer {token}x",
            f"Basic {token}",
            f"Bearer {token[:-1]}",
            "Bearer \xfc",
        ):
            headers = {"Authorization": authorization} if authorization else {}
            for path, body in (("/v1/predict", {"text": NOTE}), ("/metrics", None), ("/docs", None)):
                status, sent, answer = server.ask(path, body, **headers)
                assert (status, sent["www-authenticate"], answer["field"]) == (401, "Bearer", "Authorization")
        # A path in the Host header is not the path
        for host in ("127.0.0.1/healthz?", "127.0.0.1/healthz#", "[::1"):
            assert server.ask("/v1/predict", {"text": NOTE}, Host=host)[0] == 401
        right = {"Authorization": f"Bearer {token}"}
        assert server.ask("/healthz", Host="[::1")[0] == 200
        assert server.ask("/v1/predict", {"text": NOTE}, **right)[0] == 200
        statuses = [server.ask("/v1/predict", {}, **right)[0] for _ in range(25)]
        # A new minute may begin meanwhile
        assert set(statuses) <= {422, 429}
        while server.ask("/v1/predict", {}, **right)[0] != 429:
            assert server.ask("/healthz")[0] == 200
        assert 0 < int(server.ask("/docs", **right)[1]["retry-after"]) <= 60
        assert token not in server.text


def test_a_stopped_server_answers_what_it_accepted(finished, tmp_path):
    words = ("--adapter", RUN, "--audit-log", tmp_path / "log", "--max-batch", "2")
    with serving(finished.workspace, tmp_path, *words) as server:
        answered, lock = [], threading.Lock()

        def post(name):
            body = {"orders": [{"id": f"{name}-{place}", "text": NOTE} for place in (1, 2)]}
            try:
                status, _, answer = server.ask("/v1/predict", body)
            except (HTTPException, OSError):
                return
            assert status in (200, 503)
            with lock:
                answered.extend(row["id"] for row in answer.get("answers", ()))

        clients = [threading.Thread(target=post, args=(name,)) for name in range(8)]
        for client in clients:
            client.start()
        while len(answered) < 4:
            time.sleep(0.001)
        assert server.end() == 0, server.text
        before = len(answered)
        for client in clients:
            client.join()
        logged = [json.loads(line)["id"] for line in (tmp_path / "log").read_text().splitlines()]
        assert sorted(logged) == sorted(answered) and len(answered) >= before
        assert verify(tmp_path / "log").entries == len(logged) and "Traceback" not in server.text
        with pytest.raises(ConnectionRefusedError):
            server.ask("/healthz")


def test_no_answer_is_lost_by_a_kill(finished, tmp_path):
    log, answered = tmp_path / "log", {}
    with serving(finished.workspace, tmp_path, "--adapter", RUN, "--audit-log", log) as server:

        def post(client):
            for number in range(1000):
                order_id = f"{client}-{number}"
                try:
                    answered[order_id] = server.ask("/v1/predict", {"id": order_id, "text": f"{NOTE} {number}"})
                except (HTTPException, OSError):
                    return

        clients = [threading.Thread(target=post, args=(client,)) for client in range(8)]
        for client in clients:
            client.start()
        while len(answered) < 40:
            time.sleep(0.001)
        server.process.kill()
        for client in clients:
            client.join()
    # What follows the last line end is incomplete.
    logged = {entry["id"]: entry for entry in map(json.loads, log.read_bytes().split(b"\n")[:-1])}
    for order_id, (status, _, row) in answered.items():
        assert status == 200 and logged[order_id]["probability"] == row["probability"]
    # The next writer repairs an incomplete line, and the chain is whole.
    assert AuditLog(log).append_new([]).head == verify(log).head


def test_a_run_that_writes_reports(shared_workspace, tmp_path, call, monkeypatch):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for path in shared_workspace.iterdir():
        (workspace / path.name).symlink_to(path)
    monkeypatch.chdir(workspace)
    trained = call("sft", "--config", "recipes/tiny/report_lora.yaml", "--max_steps", "2")
    assert trained.code == 0, trained.stderr
    texts = ["Edema: positive", "Pneumothorax: negative; Fracture: positive"]
    (workspace / "requests.csv").write_text("observations\n" + "".join(f"{text}\n" for text in texts))
    table = (
        "--input",
        "requests.csv",
        "--output",
        "out.csv",
        "--batch-size",
        "1",
        "--tries",
        "2",
        "--chunk-rows",
        "1",
    )
    predicted = call("predict", "--adapter", REPORT_RUN, *table)
    assert predicted.code == 0, predicted.stderr
    refused = call("serve", "--adapter", REPORT_RUN, "--mllp-port", "0")
    assert refused.code == 2 and "error: --mllp-port: the task report writes text" in refused.stderr
    words = ("--adapter", REPORT_RUN, "--tries", "2", "--audit-log", tmp_path / "log")
    with serving(workspace, tmp_path, *words) as server:
        orders = [{"id": str(number), "text": text} for number, text in enumerate(texts, start=1)]
        answers = server.ask("/v1/report", {"orders": orders})[2]["answers"]
        for row, answer in zip(predicted_rows(workspace / "out.csv"), answers, strict=True):
            assert row == {name: cell or None for name, cell in answer.items()}
        assert server.ask("/v1/report", {"text": f"Edema {MARK}"})[0] == 422
        assert server.ask("/v1/predict", orders[0])[:1] == server.ask("/fhir/ServiceRequest", orders[0])[:1] == (404,)
        assert server.end() == 0 and MARK not in server.text
    assert verify(tmp_path / "log").entries == 2
