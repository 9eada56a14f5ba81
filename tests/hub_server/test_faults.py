"""Each kind of fault as the real client meets it."""

import random

import pytest

from hub_server import STEPS, Cut, FlippedBit, LostReply, Status
from hub_server.test_access import told

FILES = {"adapter_model.safetensors": random.Random(0).randbytes(2_300_000), "config.json": b"{}\n"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files").mkdir()
    for name, data in FILES.items():
        (tmp_path / "files" / name).write_bytes(data)
    return tmp_path / "files"


@pytest.fixture
def without_xet(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")


def create():
    from huggingface_hub import HfApi

    return told(HfApi().create_repo, "radiology/model", exist_ok=True)


def upload(folder):
    from huggingface_hub import HfApi

    return told(HfApi().upload_folder, repo_id="radiology/model", folder_path=folder, commit_message="all")


def download(target):
    from huggingface_hub import snapshot_download

    return told(snapshot_download, "radiology/model", local_dir=target)


def checksums(target):
    from huggingface_hub import HfApi

    found = HfApi().verify_repo_checksums("radiology/model", local_dir=target)
    return [mismatch["path"] for mismatch in found.mismatches]


def steps(hub) -> list[str]:
    return [request.step for request in hub.requests]


def test_a_status_is_raised_or_retried(hub, hub_client, folder, without_xet):
    hub.faults.fail("create", Status(503))
    assert hub_client(create) == "HfHubHTTPError 503"
    assert hub_client(create) == "done"
    hub.faults.fail("preupload", Status(429, retry_after=0))
    assert hub_client(upload, folder) == "done"
    assert steps(hub).count("preupload") == 2
    hub.faults.fail("commit", Status(500))
    (folder / "config.json").write_text("[]\n")
    assert hub_client(upload, folder) == "HfHubHTTPError 500"
    assert hub.repo("radiology/model").files() == FILES


def test_a_cut_upload_is_sent_again(hub, hub_client, folder, without_xet):
    hub_client(create)
    hub.faults.fail("lfs_upload", Cut(after=100_000))
    assert hub_client(upload, folder) == "done"
    assert steps(hub).count("lfs_upload") == 2
    assert hub.repo("radiology/model").files() == FILES


def test_a_lost_reply_hides_a_commit_that_exists(hub, hub_client, folder, without_xet):
    hub_client(create)
    hub.faults.fail("commit", LostReply())
    assert hub_client(upload, folder) == "RemoteProtocolError"
    assert hub.repo("radiology/model").files() == FILES
    assert len(hub.repo("radiology/model").log()) == 2


def test_through_xet_a_lost_reply_makes_two_commits_of_one(hub, hub_client, folder, monkeypatch):
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "50ms")
    hub_client(create)
    hub.faults.fail("xet_xorb", Status(503))
    hub.faults.fail("commit", LostReply())
    assert hub_client(upload, folder) == "done"
    assert steps(hub).count("xet_xorb") == 2
    assert hub.repo("radiology/model").files() == FILES
    assert [commit.title for commit in hub.repo("radiology/model").log()] == ["all", "all", "initial commit"]


@pytest.mark.parametrize("xet", [False, True])
def test_a_flipped_bit_arrives_unless_checksums_are_compared(hub, hub_client, folder, tmp_path, monkeypatch, xet):
    if not xet:
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    hub_client(create)
    hub.faults.fail("commit", FlippedBit())
    assert hub_client(upload, folder) == "done"
    name = "adapter_model.safetensors"
    stored = hub.repo("radiology/model").files()
    assert [n for n in range(len(stored[name])) if stored[name][n] != FILES[name][n]] == [len(FILES[name]) // 2]
    assert stored["config.json"] == FILES["config.json"]
    assert hub_client(download, tmp_path / "got") == "done"
    assert (tmp_path / "got" / name).read_bytes() == stored[name]
    assert hub_client(checksums, tmp_path / "got") == [name]
    hub.repo("radiology/model").flip_bit(name)
    hub.repo("radiology/model").flip_bit("config.json")
    changed = hub.repo("radiology/model").files()
    assert changed[name] == FILES[name] and changed["config.json"] != FILES["config.json"]


def test_downloads_resume_where_they_were_interrupted(hub, hub_client, folder, tmp_path, without_xet):
    hub_client(create)
    hub_client(upload, folder)
    hub.faults.fail("resolve", Cut(after=1_000))
    assert hub_client(download, tmp_path / "got") == "done"
    assert {name: (tmp_path / "got" / name).read_bytes() for name in FILES} == FILES


def test_faults_that_make_no_sense_are_refused(hub):
    with pytest.raises(ValueError, match="no step"):
        hub.faults.fail("upload", Status(500))
    with pytest.raises(ValueError, match="commit"):
        hub.faults.fail("lfs_upload", FlippedBit())
    hub.faults.fail("commit", Status(500), times=3)
    hub.faults.clear()
    assert [hub.faults.take(step) for step in STEPS] == [None] * len(STEPS)
