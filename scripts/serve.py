r"""Answer over HTTP with a finished run that stays loaded; also FHIR R4 resources, and HL7 v2 messages over MLLP.

    python scripts/serve.py --adapter runs/smollm2-135m/protocol_lora/seed-42 --port 8000 --audit-log served.jsonl

    curl -H "Content-Type: application/json" -d '{"id": "A17", "text": "r/o renal recurrence, hx RCC"}' \
        http://127.0.0.1:8000/v1/predict

Needs more packages: pip install "radrecipes[serve]". By default only this machine can connect. Any other --host needs a
--token-file that only you can read, with a token of at least 32 characters; clients send it as `Authorization: Bearer TOKEN`.
There is no TLS: put a reverse proxy in front. The routes are at /docs.

With --audit-log every answer is on disk in a chained log, without any text, before it is sent (scripts/audit_log.py). The log of
requests on standard error has no text, id or address either.
The answers are drafts for review by a person; this is not a medical device.

Exit codes: 0 stopped by SIGTERM or SIGINT after answering what was accepted, 1 memory ran out, 2 wrong input.
"""

import argparse
import ipaddress
import logging
import re
import signal
import socket
import sys
from pathlib import Path

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import add_answer_options, non_negative, positive, run
from radrecipes.errors import InputError

_SHORTEST_TOKEN = 32


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=non_negative, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--token-file", metavar="FILE", help="every request but /healthz needs the token in it")
    parser.add_argument(
        "--audit-log", metavar="FILE", help="append an entry per answer: ids, digests, decisions; no text"
    )
    parser.add_argument(
        "--max-batch", type=positive, default=32, help="orders in a request, and in a micro-batch (default: 32)"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=1,
        metavar="N",
        help="orders that the model reads together: with 1 an answer does not depend on what others ask; more are faster under "
        "load, but change the last digits (default: 1)",
    )
    parser.add_argument(
        "--max-body-bytes", type=positive, default=2**20, help="largest request or HL7 message (default: 1 MiB)"
    )
    parser.add_argument(
        "--requests-per-minute", type=positive, metavar="N", help="of one client address (default: any)"
    )
    parser.add_argument(
        "--mllp-port", type=non_negative, metavar="PORT", help="labels: HL7 v2 orders, on 127.0.0.1 only"
    )
    add_answer_options(parser)
    return parser.parse_args()


def main() -> None:
    """Check everything, load the model, serve."""
    args = parse_args()
    token = _token(args.token_file)
    loopback = _is_loopback(args.host)
    if not loopback and not token:
        raise InputError("other machines could connect; give --token-file", f"--host {args.host}")
    from radrecipes.access import protect
    from radrecipes.inference.audit_log import AuditLog
    from radrecipes.inference.predictors import load_predictor
    from radrecipes.serving.app import Limits, make_app
    from radrecipes.serving.engine import Engine
    from radrecipes.serving.metrics import Metrics
    from radrecipes.tasks import LabelTask
    from radrecipes.training.run_folder import read_manifest, run_of

    folder, _, task = run_of(args.adapter)
    if args.mllp_port is not None:
        if not isinstance(task, LabelTask):
            raise InputError(f"the task {task.name} writes text; orders need a run that chooses labels", "--mllp-port")
        if columns := read_manifest(folder)["data"].get("input_columns"):
            raise InputError(
                f"the run reads the columns {', '.join(columns)}, which HL7 v2 does not have", "--mllp-port"
            )
        if args.mllp_port == args.port != 0:
            raise InputError("is also --port; choose another", f"--mllp-port {args.port}")
    log = AuditLog(args.audit_log) if args.audit_log else None
    if log:
        log.check_usable()
    http = _bound(args.host, args.port, "--port")
    mllp = None if args.mllp_port is None else _bound("127.0.0.1", args.mllp_port, "--mllp-port")
    protect(None)  # the class of what clients send is unknown, so it counts as closed
    predictor = load_predictor(
        args.adapter,
        args.allow_other_weights,
        label_set=args.label_set,
        target_accuracy=args.target_accuracy,
        tries=args.tries,
    )
    engine = Engine(predictor, log, args.max_batch, Metrics(), args.batch_size)
    engine.start()
    hosts = ("localhost", "127.0.0.1", "::1", "[::1]", args.host) if loopback else ("*",)
    limits = Limits(args.max_body_bytes, args.requests_per_minute, token, hosts)
    _serve(make_app(engine, limits, mllp), http, mllp, args.adapter)


def _serve(app, http: socket.socket, mllp: socket.socket | None, adapter: str) -> None:
    """Serve until a signal; connections are accepted once the address is printed."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            try:
                await super().startup(sockets)
            except OSError as error:  # another server began to listen since this one was bound
                raise InputError(f"cannot listen ({error.strerror}); choose another", "--port") from None
            host, port = http.getsockname()[:2]
            print(f"serving {adapter} at http://{f'[{host}]' if ':' in host else host}:{port}")
            if mllp:
                print(f"HL7 v2 over MLLP at {':'.join(map(str, mllp.getsockname()))}")
            sys.stdout.flush()

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("radrecipes.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # uvicorn raises the signal again after it has stopped; it must not end the process a second time.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        app, http="h11", loop="asyncio", ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False,
    )  # fmt: skip
    Server(config).run(sockets=[http])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(path: str | None) -> str | None:
    """The token in a private file."""
    from radrecipes.files import read_text

    if path is None:
        return None
    try:
        mode = Path(path).stat().st_mode
        token = read_text(path, 4096).strip()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); write a token into it", path) from None
    if mode & 0o077:
        raise InputError(f"others may read it; make it yours: chmod 600 {path}", path)
    if not re.fullmatch(rf"[!-~]{{{_SHORTEST_TOKEN},}}", token):
        raise InputError(
            f"must contain one token of at least {_SHORTEST_TOKEN} letters, digits or signs, for example of "
            "`openssl rand -hex 32`",
            path,
        )
    return token


def _bound(host: str, port: int, option: str) -> socket.socket:
    """A socket of that address, which does not accept connections yet."""
    try:
        if port > 65535:  # the system would leave out its first bits
            raise OverflowError
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such port"
        raise InputError(f"cannot listen on {host} ({reason}); choose another", f"{option} {port}") from None
    return bound


if __name__ == "__main__":
    run(main)
