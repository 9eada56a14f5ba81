"""What goes over the wire and the real client would hide: headers, ranges, and uploads that are not what they say."""

import base64
import hashlib
import json
import time

import httpx2
import pytest

from hub_server import Cut, Delay, Status

WEIGHTS = bytes(range(256)) * 4
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def http(hub):
    """A client of `hub` with the token that writes, and an empty repository `radiology/model`."""
    with httpx2.Client(base_url=hub.url, headers={"Authorization": "Bearer token-that-writes"}) as client:
        assert client.post("/api/repos/create", json={"name": "model", "organization": None}).status_code == 200
        yield client


def send_weights(http, data: bytes = WEIGHTS) -> None:
    """Upload `data` by legacy LFS as if it were `WEIGHTS`."""
    body = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": SHA256, "size": len(WEIGHTS)}]}
    (answer,) = http.post("/radiology/model.git/info/lfs/objects/batch", json=body).json()["objects"]
    assert httpx2.put(answer["actions"]["upload"]["href"], content=data).status_code == 200


def commit(http, *operations: tuple[str, dict]):
    lines = [("header", {"summary": "change"}), *operations]
    content = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
    return http.post("/api/models/radiology/model/commit/main", content=content)


def small(path: str, text: str) -> tuple[str, dict]:
    return "file", {"path": path, "content": base64.b64encode(text.encode()).decode(), "encoding": "base64"}


def large(path: str) -> tuple[str, dict]:
    return "lfsFile", {"path": path, "algo": "sha256", "oid": SHA256, "size": len(WEIGHTS)}


def test_headers_and_ranges_of_a_file(hub, http):
    send_weights(http)
    sha = commit(http, large("model.safetensors"), small("notes/a.txt", "hello")).json()["commitOid"]
    url = "/radiology/model/resolve/main/model.safetensors"
    for answer in (http.head(url), http.get(url)):
        assert answer.status_code == 302 and answer.content == b""
        assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{SHA256}"'
        assert answer.headers["x-linked-size"] == str(len(WEIGHTS))
        assert answer.headers["x-repo-commit"] == sha and "x-xet-hash" not in answer.headers
    address = answer.headers["location"]
    assert httpx2.get(address).content == WEIGHTS and not address.startswith(hub.url)
    assert httpx2.get(address.partition("?")[0]).status_code == 403
    assert httpx2.get(address, headers={"Authorization": "Bearer token-that-writes"}).status_code == 400
    small_file = http.get("/radiology/model/resolve/main/notes%2Fa.txt")
    assert small_file.content == b"hello" and "x-linked-etag" not in small_file.headers
    assert small_file.headers["etag"] == f'"{hashlib.sha1(b"blob 5" + bytes(1) + b"hello").hexdigest()}"'
    for asked, start, end in (("0-3", 0, 4), ("1000-", 1000, 1024), ("-5", 1019, 1024), ("9-9999", 9, 1024)):
        answer = httpx2.get(address, headers={"Range": f"bytes={asked}"})
        assert answer.status_code == 206 and answer.content == WEIGHTS[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"
    assert httpx2.get(address, headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416


def test_errors_carry_their_code(http):
    for url, code in {
        "/api/models/radiology/none": "RepoNotFound",
        "/api/models/radiology/model/revision/v9": "RevisionNotFound",
        "/radiology/model/resolve/main/none.txt": "EntryNotFound",
        "/api/models/radiology/model/tree/main/none": "EntryNotFound",
        "/api/nothing": None,
    }.items():
        answer = http.get(url)
        assert answer.status_code == 404 and answer.headers.get("x-error-code") == code, url
        assert answer.headers["x-error-message"] == answer.json()["error"], url


def test_a_commit_is_whole_or_absent(hub, http):
    before = hub.repo("radiology/model").revision()
    send_weights(http, WEIGHTS[:-1] + b"!")
    assert commit(http, small("a.txt", "a"), large("model.safetensors")).status_code == 400
    assert commit(http, ("lfsFile", {"path": "b", "algo": "sha256", "oid": "0" * 64, "size": 1})).status_code == 400
    assert commit(http, small("README.md", "---\nlicense: none\n---\n")).status_code == 400
    assert commit(http, ("deletedFile", {"path": "none.txt"})).status_code == 400
    assert hub.repo("radiology/model").revision() is before

    assert commit(http, small("a/b.txt", "1"), small("a/c/d.txt", "2"), small("ab.txt", "3")).status_code == 200
    tree = "/api/models/radiology/model/tree/main"
    assert [entry["path"] for entry in http.get(tree).json()] == ["a", ".gitattributes", "ab.txt"]
    assert [entry["path"] for entry in http.get(f"{tree}/a?recursive=true").json()] == ["a/c", "a/b.txt", "a/c/d.txt"]
    names = {"paths": ["a/b.txt", "a", "none.txt"]}
    assert len(http.post("/api/models/radiology/model/paths-info/main", data=names).json()) == 2
    assert commit(http, ("deletedFolder", {"path": "a/"})).status_code == 200
    assert hub.repo("radiology/model").files() == {"ab.txt": b"3"}


def test_the_hub_notes_large_files_that_their_names_do_not_give_away(hub, http):
    send_weights(http)
    before = hub.repo("radiology/model").revision().files[".gitattributes"].data
    assert commit(http, large("model.safetensors"), large("index.dat")).status_code == 200
    assert commit(http, large("index.dat"), small("a.txt", "a")).status_code == 200
    after = hub.repo("radiology/model").revision().files[".gitattributes"].data
    assert after == before + b"index.dat filter=lfs diff=lfs merge=lfs -text\n"


def test_uploads_take_only_what_was_announced(hub, http):
    assert httpx2.put(f"{hub.url}/lfs/{SHA256}", content=WEIGHTS).status_code == 403
    token = http.get("/api/models/radiology/model/xet-read-token/main").json()
    xorb = f"{token['casUrl']}/v1/xorbs/default/{'0' * 64}"
    assert httpx2.post(xorb, content=b"").status_code == 401
    assert httpx2.post(xorb, content=b"", headers={"Authorization": "Bearer x"}).status_code == 401
    reader = {"Authorization": f"Bearer {token['accessToken']}"}
    assert httpx2.post(xorb, content=b"", headers=reader).status_code == 403
    assert httpx2.get(f"{token['casUrl']}/v1/reconstructions/{'0' * 64}", headers=reader).status_code == 404
    assert httpx2.get(f"{token['casUrl']}/v2/reconstructions/{'0' * 64}", headers=reader).status_code == 404
    token = http.get("/api/models/radiology/model/xet-write-token/main").json()
    writer = {"Authorization": f"Bearer {token['accessToken']}"}
    assert httpx2.post(xorb, content=b"no xorb!", headers=writer).status_code == 400
    assert httpx2.post(f"{token['casUrl']}/v1/shards", content=b"no shard", headers=writer).status_code == 400


def test_faults_on_the_wire(hub, http):
    hub.faults.fail("whoami", Status(429, retry_after=7))
    hub.faults.fail("whoami", Cut(after=10))
    hub.faults.fail("whoami", Delay(0.2))
    answer = http.get("/api/whoami-v2")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.headers["ratelimit"] == '"api";r=499;t=120'
    with pytest.raises(httpx2.RemoteProtocolError, match="received 10 bytes"):
        http.get("/api/whoami-v2")
    began = time.monotonic()
    assert http.get("/api/whoami-v2").json()["name"] == "radiology"
    assert time.monotonic() - began >= 0.2
    hub.faults.fail("whoami", Cut(after=10_000))
    with pytest.raises(httpx2.RemoteProtocolError):
        http.get("/api/whoami-v2")
    assert [request[:2] for request in hub.requests[-4:]] == [("GET", "/api/whoami-v2")] * 4
    assert {request.step for request in hub.requests[-4:]} == {"whoami"}
