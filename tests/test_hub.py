import hashlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from client_process import TOKEN, HubClient
from hub_server import Cut, Delay, FlippedBit, HubServer, LostReply, Status
from hub_server.state import Repository, StoredFile
from huggingface_hub import constants
from huggingface_hub.hf_api import RepoFile
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.errors import InputError
from radrecipes.hub import connection
from radrecipes.hub import pull as hub_pull
from radrecipes.hub.reference import Reference

READ_TOKEN, FINE_TOKEN = "hf_" + "r" * 34, "hf_" + "f" * 34
CARD = "---\nlicense: apache-2.0\n---\n# A release for tests\n"
OLD_FILES = {"README.md": b"old", "label_set.yaml": b"name: old\n", "adapter_model.safetensors": b"\0old" * 500}
# The steps of a publication on the wire, by who takes them; both transports take the common ones.
COMMON_STEPS = ("whoami", "create", "settings", "validate_yaml", "preupload", "commit", "tag", "model_info", "tree")
COMMON_STEPS += ("resolve_head", "resolve")
LFS_STEPS = ("lfs_batch", "lfs_upload", "lfs_complete", "lfs_verify", "lfs_download")
XET_STEPS = ("commit", "xet_token", "xet_xorb", "xet_shard", "xet_reconstruction", "xet_download")
# As many as the client itself waits for: 503, 429, a cut connection and a lost reply. They come first and wait together.
LANES = 4
REFUSALS = {f"status {code}": Status(code) for code in (401, 403, 404)}
# A copy of the Hub that is out of date does not know the newest files yet.
REFUSALS |= {f"lag {what}": Status(404, error_code=what) for what in ("RepoNotFound", "RevisionNotFound")}
PASSING = {
    "status 503": Status(503),
    "status 429": Status(429, retry_after=0),
    "cut": Cut(20),
    "lost reply": LostReply(),
    **{f"status {code}": Status(code) for code in (409, 412)},
}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory):
    """By transport, pairs of a server and a client process; several, because the clients mostly wait.

    Each test takes repositories of its own. The first pair is also in `servers`.
    """
    started = {"lfs": [], "xet": []}
    with ExitStack() as stack:
        for transport in [*started] * LANES:
            # `hf_xet` waits up to 3 s before it tries again; how often it tries stays as it is.
            settings = (
                {"HF_HUB_DISABLE_XET": "1"} if transport == "lfs" else {"HF_XET_CLIENT_RETRY_BASE_DELAY": "50ms"}
            )
            server = stack.enter_context(HubServer(tmp_path_factory.mktemp("server"), multipart_chunk_size=4096))
            server.add_user("lab", TOKEN)
            server.add_user("lab", FINE_TOKEN, role="fineGrained")
            server.add_user("guest", READ_TOKEN, role="read")
            client = stack.enter_context(HubClient(server.url, tmp_path_factory.mktemp("home"), **settings))
            started[transport].append((server, client))
        yield started


@pytest.fixture(scope="module")
def servers(lanes):
    return {transport: pairs[0] for transport, pairs in lanes.items()}


@pytest.fixture
def server(servers):
    server = servers["lfs"][0]
    yield server
    server.faults.clear()


@pytest.fixture
def client(servers):
    return servers["lfs"][1]


@pytest.fixture
def repo_id(request):
    """A repository that no other test uses."""
    return "lab/" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def reader(servers, tmp_path_factory):
    """A second client process of the first server, whose cache is empty at the start."""
    with HubClient(servers["lfs"][0].url, tmp_path_factory.mktemp("reader_home"), HF_HUB_DISABLE_XET="1") as client:
        yield client


def make_release(folder: Path, repo_id: str, tag: str = "v2.0", **files: bytes) -> dict[str, bytes]:
    """Write a release; `files` adds or replaces some. Two large files, of which one comes in parts over legacy LFS."""
    content = {
        "README.md": CARD.encode(),
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": hashlib.sha256(f"{repo_id}{tag}".encode()).digest() * 400,
        "tokenizer.model": hashlib.sha256(f"tokenizer {repo_id}{tag}".encode()).digest() * 50,
        **files,
    }
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
    published = {"format": 1, "repo": repo_id, "tag": tag, "files": hashes}
    content["manifest.json"] = json.dumps({"recipe": "tiny", "published": published}).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for path, data in content.items():
        (folder / path).write_bytes(data)
    return content


def add_old_revision(server: HubServer, repo_id: str) -> Repository:
    """A private repository that already has a tagged revision, put there without a client."""
    hub = server._hub
    repository = Repository(repo_id, "model", True, "lab", hub.storage)
    hub.repositories["model", repo_id] = repository
    files = {**repository.revision().files, **{path: StoredFile.small(data) for path, data in OLD_FILES.items()}}
    repository.tags["v1.0"] = repository.commit("main", files, tuple(OLD_FILES), "old", "", "lab")
    return repository


def slow_down(server: HubServer) -> None:
    """Wait before the commit and between it and the tag, and lose the replies of both."""
    for step in ("preupload", "lfs_upload", "lfs_verify", "tree"):
        server.faults.fail(step, Delay(0.1))
    for step in ("commit", "tag"):
        server.faults.fail(step, LostReply())


def check_line(error: str, repo_id: str) -> None:
    """One line that names the repository and a fix, and no token."""
    assert error.startswith(f"{repo_id}: ") and "; " in error and "\n" not in error, error
    assert TOKEN not in error and "hf_" not in error


def test_a_release_is_complete_under_its_tag(server, client, tmp_path, repo_id):
    content = make_release(tmp_path / "release", repo_id)

    outcome = client.publish(tmp_path / "release", repo_id)

    assert outcome.error is None
    repository = server.repo(repo_id)
    assert repository.private
    assert repository.files("v2.0") == repository.files("main") == content
    assert [commit.title for commit in repository.log()] == ["Release v2.0", "initial commit"]
    assert outcome.result.commit == repository.tags["v2.0"].oid and outcome.result.changed
    assert outcome.result.files == {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
    assert not [path for path in tmp_path.iterdir() if path.name != "release"]


@pytest.mark.parametrize("transport", ["lfs", "xet"])
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_what_is_pulled_is_what_was_published(servers, tmp_path, repo_id, transport, repo_type):
    server, client = servers[transport]
    content = make_release(tmp_path / "release", repo_id)
    assert client.publish(tmp_path / "release", repo_id, repo_type=repo_type).error is None

    folder = client.pull(f"{repo_id}@v2.0", repo_type=repo_type).result

    pulled = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".gitattributes"}
    assert pulled == content == server.repo(repo_id, repo_type).files("v2.0")
    # Its manifest names no access class, so it counts as closed.
    assert (folder / "adapter_model.safetensors").stat().st_mode & 0o077 == 0


def test_publishing_again_changes_nothing(server, client, tmp_path, repo_id):
    # The Hub adds a line about this file to its own `.gitattributes`, which is not part of the release.
    make_release(tmp_path / "release", repo_id, **{"index.dat": b"\0binary" * 50})
    first = client.publish(tmp_path / "release", repo_id).result
    seen = len(server.requests)

    second = client.publish(tmp_path / "release", repo_id).result

    assert not second.changed
    assert (second.commit, second.files) == (first.commit, first.files)
    assert b"index.dat" in server.repo(repo_id).revision("v2.0").files[".gitattributes"].data
    assert {request.method for request in server.requests[seen:]} <= {"GET", "HEAD"}


def test_a_new_release_replaces_all_files_of_the_old_one(server, client, tmp_path, repo_id):
    repository = add_old_revision(server, repo_id)
    content = make_release(tmp_path / "release", repo_id)

    assert client.publish(tmp_path / "release", repo_id).error is None

    assert "label_set.yaml" not in content and repository.files("v2.0") == content
    assert repository.files("v1.0") == OLD_FILES


def test_a_tag_never_moves(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    client.publish(tmp_path / "release", repo_id)
    repository = server.repo(repo_id)
    before = repository.tags["v2.0"]
    make_release(tmp_path / "other", repo_id, **{"adapter_config.json": b'{"r": 8}'})

    outcome = client.publish(tmp_path / "other", repo_id)

    check_line(outcome.error, repo_id)
    assert "tag: v2.0 exists already with other content (adapter_config.json" in outcome.error
    assert repository.tags["v2.0"] is before is repository.revision("main")


def test_a_token_that_can_only_read_is_found_out_before_any_work(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    add_old_revision(server, repo_id)
    seen = len(server.requests)

    outcome = client.publish(tmp_path / "release", repo_id, token=READ_TOKEN)

    check_line(outcome.error, repo_id)
    assert "token: the token of guest is read-only" in outcome.error
    assert [request.step for request in server.requests[seen:]] == ["whoami"]


def test_an_unknown_token_is_named_but_not_shown(client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    secret = "hf_" + "x" * 34

    outcome = client.publish(tmp_path / "release", repo_id, token=secret)

    check_line(outcome.error, repo_id)
    assert "token: the Hub answered 401" in outcome.error and "hf auth login" in outcome.error


def test_a_token_whose_rights_show_at_the_first_change_only(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    repository = add_old_revision(server, repo_id)

    outcome = client.publish(tmp_path / "release", repo_id, token=FINE_TOKEN)

    check_line(outcome.error, repo_id)
    assert "commit: the Hub answered 403" in outcome.error and "a token with the permission" in outcome.error
    assert repository.files("main") == OLD_FILES


def test_the_repository_of_someone_else_is_refused(client, tmp_path):
    make_release(tmp_path / "release", "stranger/adapter")
    outcome = client.publish(tmp_path / "release", "stranger/adapter")
    check_line(outcome.error, "stranger/adapter")
    assert "create: the Hub answered 403" in outcome.error


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_of_another_visibility_gets_no_file(server, client, tmp_path, repo_id, private):
    repository = add_old_revision(server, repo_id)
    repository.private = not private
    make_release(tmp_path / "release", repo_id)

    outcome = client.publish(tmp_path / "release", repo_id, private=private)

    check_line(outcome.error, repo_id)
    is_now, wanted = ("public", "private") if private else ("private", "public")
    assert f"visibility: the repository is {is_now}, not {wanted} as requested" in outcome.error
    assert repository.files("main") == OLD_FILES


def test_public_only_on_request(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    assert client.publish(tmp_path / "release", repo_id, private=False).error is None
    assert not server.repo(repo_id).private


def test_access_is_gated_before_the_first_file(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    seen = len(server.requests)

    assert client.publish(tmp_path / "release", repo_id, private=False, gated="manual").error is None

    assert server.repo(repo_id).gated == "manual"
    steps = [request.step for request in server.requests[seen:]]
    assert steps.index("settings") < steps.index("preupload")


def test_a_new_repository_that_does_not_show_at_once_is_waited_for(server, client, tmp_path, repo_id):
    content = make_release(tmp_path / "release", repo_id)
    # The first look is before it is made.
    server.faults.fail("model_info", Status(404, error_code="RepoNotFound"), times=3)

    outcome = client.publish(tmp_path / "release", repo_id)

    assert outcome.error is None and outcome.waits == [1, 2]
    assert server.repo(repo_id).files("v2.0") == content


@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_address_of_the_storage_is_requested_again(server, client, tmp_path, repo_id, status):
    make_release(tmp_path / "release", repo_id)
    server.faults.fail("lfs_download", Status(status))

    outcome = client.publish(tmp_path / "release", repo_id)

    assert outcome.error is None and outcome.waits == [1]
    assert f"read back: the Hub's storage answered {status}; next attempt in 1 s" in outcome.steps


def test_a_hub_that_never_answers_ends_in_one_line(tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    script = (
        "import sys, httpx2\n"
        "from radrecipes.errors import InputError\n"
        "from radrecipes.hub import connection\n"
        "from radrecipes.hub.publish import publish_folder\n"
        "connection.TIMEOUT = httpx2.Timeout(0.2)\n"
        "try:\n"
        "    publish_folder(sys.argv[1], sys.argv[2], repo_type='model', private=True, tag='v2.0')\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_TOKEN": TOKEN}
        words = [sys.executable, "-c", script, tmp_path / "release", repo_id]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)

    assert "token: the connection to the Hub failed (ReadTimeout)" in done.stdout, done.stderr
    check_line(done.stdout.strip(), repo_id)


def test_a_card_that_the_hub_refuses_is_one_line(server, client, tmp_path, repo_id):
    repository = add_old_revision(server, repo_id)
    make_release(tmp_path / "release", repo_id, **{"README.md": f"---\nlicense: {TOKEN}\n---\n".encode()})

    outcome = client.publish(tmp_path / "release", repo_id)

    check_line(outcome.error, repo_id)
    assert "README.md" in outcome.error and "license" in outcome.error
    assert repository.files("main") == OLD_FILES


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "predictions.parquet").write_bytes(b"rows"), "predictions.parquet does not belong"),
        (
            lambda folder: (folder / "adapter_config.json").write_bytes(b"{ }"),
            "adapter_config.json has another sha256",
        ),
        (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "there is no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"{"), "manifest.json is not JSON"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"{}"), "does not list the files"),
        (lambda folder: make_release(folder, "lab/another"), "made for lab/another@v2.0"),
        (lambda folder: make_release(folder, "lab/adapter", "v3.0"), "made for lab/adapter@v3.0"),
        (
            lambda folder: make_release(folder, "lab/adapter", **{f"f{n}.txt": b"" for n in range(250)}),
            "255 files; a release has at most 250",
        ),
    ],
)
def test_a_folder_that_is_not_the_release_of_its_manifest_never_reaches_the_hub(
    server, client, tmp_path, spoil, expected
):
    make_release(tmp_path / "release", "lab/adapter")
    spoil(tmp_path / "release")
    seen = len(server.requests)

    outcome = client.publish(tmp_path / "release", "lab/adapter")

    assert expected in outcome.error and str(tmp_path / "release") in outcome.error
    assert server.requests[seen:] == []


def test_waits_as_long_as_the_hub_asks(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    server.faults.fail("whoami", Status(429, retry_after=7), times=2)
    server.faults.fail("tag", Status(503))

    outcome = client.publish(tmp_path / "release", repo_id)

    assert outcome.error is None
    assert outcome.waits == [7, 7, 1]
    assert "token: the Hub answered 429; next attempt in 7 s" in outcome.steps


def test_waits_until_the_quota_is_new(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    server.faults.fail("commit", Status(429, rate_limit=40))
    # What is left of the quota comes with every answer; if something is left, there is no reason to wait.
    server.faults.fail("tag", Status(503, retry_after=3))

    outcome = client.publish(tmp_path / "release", repo_id)

    assert outcome.error is None
    assert outcome.waits == [41, 3]


def test_gives_up_after_five_waits_and_continues_later(server, client, tmp_path, repo_id):
    content = make_release(tmp_path / "release", repo_id)
    server.faults.fail("commit", Status(503), times=6)

    outcome = client.publish(tmp_path / "release", repo_id)

    check_line(outcome.error, repo_id)
    assert outcome.waits == [1, 2, 4, 8, 8]
    assert "commit: the Hub answered 503" in outcome.error and "run the same command again" in outcome.error
    assert client.publish(tmp_path / "release", repo_id).error is None
    assert server.repo(repo_id).files("v2.0") == content


@pytest.mark.parametrize("step", ["whoami", "create", "validate_yaml", "commit", "tag"])
def test_a_gateways_page_in_place_of_an_answer_passes(server, client, tmp_path, repo_id, step):
    content = make_release(tmp_path / "release", repo_id)
    server.faults.fail(step, Status(502, page=True))

    outcome = client.publish(tmp_path / "release", repo_id)

    assert outcome.error is None and outcome.waits == [1]
    assert server.repo(repo_id).files("v2.0") == content


def test_a_commit_of_many_files_that_fails_is_never_made_in_parts(servers, tmp_path, repo_id):
    server, client = servers["xet"]
    repository = add_old_revision(server, repo_id)
    content = make_release(tmp_path / "release", repo_id, **{f"part-{number}.json": b"[]" for number in range(30)})
    server.faults.fail("commit", Status(503), times=6)

    assert "commit: the Hub answered 503" in client.publish(tmp_path / "release", repo_id).error
    assert repository.files("main") == OLD_FILES
    assert client.publish(tmp_path / "release", repo_id).error is None
    assert [repository.files(commit.oid) for commit in repository.log()[:2]] == [content, OLD_FILES]


def test_does_not_wait_for_hours(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    server.faults.fail("whoami", Status(429, retry_after=3600))

    outcome = client.publish(tmp_path / "release", repo_id)

    check_line(outcome.error, repo_id)
    assert outcome.waits == [] and "in 3600 s run the same command again" in outcome.error


def test_a_commit_of_someone_else_in_between_is_not_overwritten(server, client, tmp_path, repo_id):
    repository = add_old_revision(server, repo_id)
    make_release(tmp_path / "release", repo_id)
    server.faults.fail("commit", Delay(0.5))
    seen = len(server.requests)

    publication = client.begin_to_publish(tmp_path / "release", repo_id)
    while not any(request.step == "commit" for request in server.requests[seen:]):
        time.sleep(0.005)
    head = repository.revision("main")
    other = repository.commit("main", head.files, (), "someone else", "", "lab")
    outcome = publication.result()

    check_line(outcome.error, repo_id)
    assert "someone else changed it in the meantime" in outcome.error
    assert repository.revision("main") is other and "v2.0" not in repository.tags


def scenarios():
    for step in (*COMMON_STEPS, *LFS_STEPS):
        yield "lfs", step
    for step in XET_STEPS:
        yield "xet", step


@pytest.mark.parametrize(("transport", "step"), scenarios())
def test_every_fault_leaves_the_old_or_the_whole_new_revision(lanes, tmp_path, transport, step):
    faults = {**PASSING, **REFUSALS, **({"flipped bit": FlippedBit()} if step == "commit" else {})}
    free = queue.SimpleQueue()
    for lane in lanes[transport]:
        free.put(lane)

    def play(name):
        lane = free.get()
        try:
            check_fault(*lane, tmp_path, step, name, faults[name])
        finally:
            lane[0].faults.clear()
            free.put(lane)

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(play, faults))


def check_fault(server, client, tmp_path, step, name, fault):
    """Publish over one fault and again without it; look at everything that a reader may have seen."""
    repo_id = f"lab/{tmp_path.name.lower().replace('_', '-')}-{name.replace(' ', '-')}"[:90]
    folder, gated = tmp_path / name / "release", "auto" if step == "settings" else None
    content = make_release(folder, repo_id)
    repository = None if step == "create" else add_old_revision(server, repo_id)
    server.faults.fail(step, fault)
    begun = len(server.requests)

    outcome = client.publish(folder, repo_id, gated=gated)

    assert server.faults.pending[step] == [], f"{name}: the step was never taken"
    repository = repository or server._hub.repositories.get(("model", repo_id))
    # Every commit that ever was at the head of the branch, so that a reader may have seen it.
    seen = [repository.files(commit.oid) for commit in repository.log()] if repository else []
    if name == "flipped bit":
        assert "read back" in outcome.error and "no tag was set" in outcome.error
        repository.flip_bit("adapter_model.safetensors")
    else:
        assert all(files in ({}, OLD_FILES, content) for files in seen), name
    # The Xet storage never answers 409 or 412, and its client does not wait for them to pass.
    if name in PASSING and not (step.startswith("xet_") and name in ("status 409", "status 412")):
        assert outcome.error is None, f"{name}: {outcome.error}"
    if outcome.error:
        check_line(outcome.error, repo_id)
        assert repository is None or "v2.0" not in repository.tags, name
    else:
        assert repository.files("v2.0") == content, name

    again = client.publish(folder, repo_id, gated=gated)

    assert again.error is None, f"{name}: {again.error}"
    repository = server.repo(repo_id)
    assert repository.files("v2.0") == repository.files("main") == content, name
    assert [commit.title for commit in repository.log()].count("Release v2.0") == 1, f"{name}: commit made twice"
    # A tag does not move unless it is deleted, so what it contains now is all that a reader ever got under it.
    assert "DELETE" not in {request.method for request in server.requests[begun:]}, name
    if step != "create":
        assert repository.files("v1.0") == OLD_FILES, name


def test_a_reader_never_sees_a_mixture(server, client, tmp_path, repo_id):
    repository = add_old_revision(server, repo_id)
    content = make_release(tmp_path / "release", repo_id)
    slow_down(server)
    seen, published = {"v1.0": [], "v2.0": [], "main": []}, threading.Event()

    def read():
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(base_url=server.url, headers=headers, follow_redirects=True) as http:
            while True:
                last = published.is_set()
                for revision in seen:
                    info = http.get(f"/api/models/{repo_id}/revision/{revision}")
                    if info.status_code == 404:
                        seen[revision].append(None)
                        continue
                    paths = [file["rfilename"] for file in info.json()["siblings"]]
                    # A tag is read by its name, file by file; a branch by the commit that was at its head.
                    name = info.json()["sha"] if revision == "main" else revision
                    seen[revision].append(
                        {path: http.get(f"/{repo_id}/resolve/{name}/{path}").content for path in paths}
                    )
                    seen[revision][-1].pop(".gitattributes")
                if last:
                    return

    thread = threading.Thread(target=read)
    thread.start()
    outcome = client.publish(tmp_path / "release", repo_id)
    published.set()
    thread.join()

    assert outcome.error is None and not any(server.faults.pending.values())
    assert all(files == OLD_FILES for files in seen["v1.0"])
    assert all(files in (None, content) for files in seen["v2.0"])
    assert all(files in (OLD_FILES, content) for files in seen["main"])
    assert seen["v2.0"][0] is None and seen["v2.0"][-1] == content and seen["main"][0] == OLD_FILES
    assert repository.files("v2.0") == content


@pytest.mark.parametrize("exists", [True, False], ids=["new-tag", "new-repository"])
def test_a_reader_that_waits_for_a_tag_gets_all_of_it_once_it_exists(
    server, client, reader, tmp_path, repo_id, exists
):
    if exists:
        add_old_revision(server, repo_id)
    content = make_release(tmp_path / "release", repo_id)
    slow_down(server)

    # `pull` asks at every turn with the same cache, so that what it keeps of a refusal would spoil the next.
    turns = [reader.pull(f"{repo_id}@v2.0")]
    publication = client.begin_to_publish(tmp_path / "release", repo_id)
    while turns[-1].error is not None and not publication.done():
        turns.append(reader.pull(f"{repo_id}@v2.0"))
    turns.append(reader.pull(f"{repo_id}@v2.0"))

    assert publication.result().error is None
    assert len(turns) > 10, "the tag was never waited for"
    assert not any(server.faults.pending.values())
    pulled = [turn for turn in turns if turn.error is None]
    for turn in turns[: -len(pulled)]:
        check_line(turn.error, repo_id)
        assert "tag: the Hub answered 404" in turn.error and turn.waits == []
    assert {turn.result for turn in pulled} == {turns[-1].result}
    folder = turns[-1].result
    assert folder.name == publication.result().result.commit
    assert {path: (folder / path).read_bytes() for path in content} == content


def test_a_publication_that_was_killed_resumes(server, client, tmp_path, repo_id):
    repository = add_old_revision(server, repo_id)
    content = make_release(tmp_path / "release", repo_id)
    server.faults.fail("commit", Delay(30))
    seen = len(server.requests)
    with HubClient(server.url, tmp_path / "home", HF_HUB_DISABLE_XET="1") as doomed:
        publication = doomed.begin_to_publish(tmp_path / "release", repo_id)
        while not any(request.step == "commit" for request in server.requests[seen:]):
            time.sleep(0.01)
        os.kill(doomed.process_id, signal.SIGKILL)
        assert publication.exception() is not None
    assert repository.files("main") == OLD_FILES and list(repository.tags) == ["v1.0"]
    seen = len(server.requests)

    assert client.publish(tmp_path / "release", repo_id).error is None

    assert repository.files("v2.0") == content
    assert "lfs_upload" not in [request.step for request in server.requests[seen:]], "sent again what had arrived"


def test_pulls_without_the_hub_what_was_pulled_before(server, client, reader, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    client.publish(tmp_path / "release", repo_id)
    reference = f"{repo_id}@v2.0"
    first = reader.pull(reference)
    seen = len(server.requests)
    server.faults.fail("model_info", Status(503))

    assert reader.pull(reference).result == first.result
    assert [request.step for request in server.requests[seen:]] == ["model_info"]
    home = Path(reader.environment["HF_HOME"])
    with HubClient(server.url, home, HF_HUB_OFFLINE="1") as offline:
        assert offline.pull(reference).result == first.result
        never = offline.pull("lab/never@v1.0")
    check_line(never.error, "lab/never")
    assert "offline mode is on" in never.error and "unset HF_HUB_OFFLINE" in never.error


def test_a_moved_tag_is_refused_until_it_is_accepted(server, client, reader, tmp_path, repo_id):
    content = make_release(tmp_path / "release", repo_id)
    old = client.publish(tmp_path / "release", repo_id).result.commit
    repository = server.repo(repo_id)
    reader.pull(f"{repo_id}@v2.0")
    make_release(tmp_path / "other", repo_id, "v3.0")
    new = client.publish(tmp_path / "other", repo_id, tag="v3.0").result.commit
    repository.tags["v2.0"] = repository.tags["v3.0"]

    moved = reader.pull(f"{repo_id}@v2.0")

    tags = Path(reader.environment["HF_HOME"]) / "radrecipes" / "tags.json"
    assert moved.error.startswith(f"{repo_id}@v2.0: tag: it pointed to {old} ") and "\n" not in moved.error
    assert f"points to {new} now" in moved.error
    assert f"removing models/{repo_id}@v2.0 from {tags}" in moved.error
    folder = reader.pull(f"{repo_id}@{old}").result
    assert (folder / "adapter_model.safetensors").read_bytes() == content["adapter_model.safetensors"]
    remembered = json.loads(tags.read_text())
    del remembered[f"models/{repo_id}@v2.0"]
    tags.write_text(json.dumps(remembered))
    assert reader.pull(f"{repo_id}@v2.0").result.name == new


def test_a_file_that_changed_on_the_hub_is_refused_until_it_is_repaired(server, client, reader, tmp_path, repo_id):
    content = make_release(tmp_path / "release", repo_id)
    client.publish(tmp_path / "release", repo_id)
    server.repo(repo_id).flip_bit("adapter_model.safetensors")

    outcome = reader.pull(f"{repo_id}@v2.0")

    assert outcome.error.startswith(f"{repo_id}@v2.0: download: adapter_model.safetensors has another sha256")
    assert "\n" not in outcome.error
    server.repo(repo_id).flip_bit("adapter_model.safetensors")
    folder = reader.pull(f"{repo_id}@v2.0").result
    assert (folder / "adapter_model.safetensors").read_bytes() == content["adapter_model.safetensors"]


def test_a_damaged_file_in_the_cache_is_repaired(server, client, reader, tmp_path, repo_id):
    content = make_release(tmp_path / "release", repo_id)
    client.publish(tmp_path / "release", repo_id)
    cached = reader.pull(f"{repo_id}@v2.0").result / "adapter_config.json"
    cached.resolve().write_bytes(b"[]")

    again = reader.pull(f"{repo_id}@v2.0").result

    assert (again / "adapter_config.json").read_bytes() == content["adapter_config.json"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"training_args.bin": b"pickle"}, "training_args.bin does not belong to the release"),
        ({"manifest.json": b"{}"}, "manifest.json does not list the files"),
        ({"manifest.json": None}, "there is no manifest.json"),
        ({"tokenizer.model": None}, "tokenizer.model is missing"),
    ],
)
def test_what_is_not_a_release_as_it_was_published_is_refused(
    server, client, reader, tmp_path, repo_id, files, expected
):
    make_release(tmp_path / "release", repo_id)
    client.publish(tmp_path / "release", repo_id)
    repository = server.repo(repo_id)
    spoiled = dict(repository.revision("main").files)
    for path, data in files.items():
        spoiled.pop(path, None)
        if data is not None:
            spoiled[path] = StoredFile.small(data)
    repository.tags["v2.1"] = repository.commit("main", spoiled, tuple(files), "by hand", "", "lab")

    seen = len(server.requests)

    outcome = reader.pull(f"{repo_id}@v2.1")

    assert expected in outcome.error and outcome.error.startswith(f"{repo_id}@v2.1: ")
    fetched = [request.path for request in server.requests[seen:] if request.step == "resolve"]
    assert all(path.endswith("/manifest.json") for path in fetched), "fetched before it was refused"
    assert f"models/{repo_id}@v2.1" not in (
        Path(reader.environment["HF_HOME"]) / "radrecipes" / "tags.json"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([("manifest.json", 10**12)], "manifest.json has more than 128 MiB"),
        ([("manifest.json", 9), *((f"{number}.json", 9) for number in range(251))], "more than the 250 files"),
        ([("manifest.json", 9), ("model.safetensors", 10**18)], "are free in HF_HOME"),
    ],
)
def test_what_is_too_large_is_refused_before_any_file_is_fetched(monkeypatch, tmp_path, files, expected):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "there"))
    listed = [RepoFile(path=path, size=size, oid="0") for path, size in files]
    repository = connection.Repository("lab/large", "model")
    monkeypatch.setattr(connection.Repository, "list_files", lambda self, commit, most: listed)
    monkeypatch.setattr(connection.Repository, "download", lambda self, commit, **options: pytest.fail("fetched"))
    with pytest.raises(InputError, match=expected):
        _, difference = hub_pull._download(repository, "0" * 40)
        raise InputError(difference)


@pytest.mark.parametrize(
    ("reference", "token", "expected"),
    [
        ("{repo_id}@v9.0", TOKEN, "the Hub answered 404"),
        ("lab/nothing@v1.0", TOKEN, "the Hub answered 404"),
        ("{repo_id}@v2.0", READ_TOKEN, "the Hub answered 404"),
        ("{repo_id}@v2.0", "hf_" + "x" * 34, "the Hub answered 401"),
    ],
)
def test_what_cannot_be_seen_is_named(client, reader, tmp_path, repo_id, reference, token, expected):
    make_release(tmp_path / "release", repo_id)
    client.publish(tmp_path / "release", repo_id)

    outcome = reader.pull(reference.format(repo_id=repo_id), token=token)

    check_line(outcome.error, reference.format(repo_id=repo_id).partition("@")[0])
    assert expected in outcome.error


def test_gated_files_need_access(server, client, reader, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    client.publish(tmp_path / "release", repo_id, private=False, gated="manual")

    refused = reader.pull(f"{repo_id}@v2.0", token=READ_TOKEN)
    server.repo(repo_id).granted.add("guest")

    check_line(refused.error, repo_id)
    assert "ask for access on its page" in refused.error
    assert reader.pull(f"{repo_id}@v2.0", token=READ_TOKEN).error is None


def test_a_list_of_tags_that_is_damaged_is_named(server, client, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    client.publish(tmp_path / "release", repo_id)
    tags = tmp_path / "home" / "radrecipes" / "tags.json"
    tags.parent.mkdir(parents=True)
    tags.write_text('{"models/', encoding="utf-8")
    with HubClient(server.url, tmp_path / "home", HF_HUB_DISABLE_XET="1") as client:
        outcome = client.pull(f"{repo_id}@v2.0")
    assert (
        outcome.error.startswith(f"{tags}:1: not valid JSON")
        and "delete it to reset the remembered tags" in outcome.error
    )


def test_a_hub_that_is_not_there(tmp_path):
    make_release(tmp_path / "release", "lab/adapter")
    with HubClient("http://127.0.0.1:9", tmp_path / "home") as client:
        outcome = client.publish(tmp_path / "release", "lab/adapter")
    check_line(outcome.error, "lab/adapter")
    assert "token: the connection to the Hub failed" in outcome.error
    assert outcome.waits == [1, 2, 4, 8, 8]


@pytest.mark.parametrize(
    ("url", "settings", "expected"),
    [
        (
            "http://127.0.0.1:9",
            {},
            "the connection to the Hub failed (ConnectError: Connection refused); check the network",
        ),
        ("http://a.invalid", {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": ""}, "pip install socksio"),
        ("http://a.invalid", {"HF_HUB_OFFLINE": "1"}, "offline mode is on; unset HF_HUB_OFFLINE"),
    ],
)
def test_why_a_base_model_cannot_be_downloaded_is_said_at_once(tmp_path, url, settings, expected):
    with HubClient(url, tmp_path / "home", **settings) as client:
        started = time.monotonic()
        problem = client.problem_with_model("lab/base", "a" * 40)
    assert expected in problem and "\n" not in problem
    assert time.monotonic() - started < 20  # the client's own attempts take 40 s or more


def test_access_and_revision_of_a_base_model_are_named(server, client, reader, tmp_path, repo_id):
    make_release(tmp_path / "release", repo_id)
    commit = client.publish(tmp_path / "release", repo_id, private=False, gated="manual").result.commit

    assert client.problem_with_model(repo_id, commit) is None
    assert "ask for access on its page" in reader.problem_with_model(repo_id, commit, READ_TOKEN)
    assert "it has no revision bbbb" in client.problem_with_model(repo_id, "b" * 40)
    assert "the Hub answered 404" in client.problem_with_model("lab/nothing", commit)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lab/adapter", "lab/adapter: add a tag, as in lab/adapter@v1.0"),
        ("lab/adapter@", "add a tag"),
        ("lab/adapter@main", "main: this branch moves"),
        ("adapter@v1.0", "adapter: a repository on the Hub is named org/name"),
        ("@v1.0", "a repository on the Hub is named org/name|Repo id"),
        ("lab/ada pter@v1.0", "Repo id must use alphanumeric chars"),
        ("lab/a/b@v1.0", "Repo id must be in the form"),
        ("lab/adapter@../../v1", "a tag consists of letters"),
        ("lab/adapter@v1..0", "a tag consists of letters"),
        ("lab/adapter@-v1", "a tag consists of letters"),
        ("lab/adapter@v1@v2", "a tag consists of letters"),
    ],
)
def test_what_is_not_a_reference_is_named(text, expected):
    with pytest.raises(InputError) as error:
        Reference.parse(text)
    assert re.search(expected, str(error.value)) and "\n" not in str(error.value)


@given(st.text(max_size=40))
def test_a_reference_is_read_as_it_is_written_or_refused(text):
    try:
        reference = Reference.parse(text)
    except InputError:
        return
    assert str(reference) == text and Reference.parse(str(reference)) == reference
    assert ".." not in text and re.fullmatch(r"[\w.-]+/[\w.-]+@[A-Za-z0-9][\w.+-]*", text, re.ASCII)


@given(st.from_regex(r"\A[a-z][a-z0-9]{0,8}/[a-z][a-z0-9]{0,8}@v[0-9]{1,3}(\.[0-9]{1,3}){0,2}\Z"))
def test_ordinary_references_are_read(text):
    reference = Reference.parse(text)
    assert f"{reference.repo_id}@{reference.revision}" == text
