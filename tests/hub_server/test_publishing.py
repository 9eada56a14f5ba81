"""The real client publishes a model and reads it back, by both transports."""

import hashlib
from pathlib import Path

import numpy
import pytest

CARD = "---\nlicense: apache-2.0\nlibrary_name: peft\nbase_model: org/base\ntags: [lora]\n---\n# An adapter\n"


@pytest.fixture(params=["lfs", "xet"])
def transport(request, hub, monkeypatch) -> str:
    """How large files travel. Without the variable the client takes Xet."""
    if request.param == "lfs":
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    return request.param


@pytest.fixture
def adapter(tmp_path) -> Path:
    """A folder with small and large files: noise of several parts, floats that compress by groups of four, a repetition."""
    folder = tmp_path / "adapter"
    (folder / "nested").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "adapter_config.json").write_text('{"r": 16}\n')
    (folder / "adapter_model.safetensors").write_bytes(numpy.random.default_rng(0).bytes(11 * 1024**2 + 7))
    (folder / "nested" / "floats.bin").write_bytes(numpy.linspace(0, 1, 300_001, dtype="float32").tobytes() + b"xyz")
    (folder / "nested" / "same.bin").write_bytes(b"radiology" * 50_000)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def publish(folder):
    """Create, upload, upload again, tag."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo("radiology/adapter", private=True)
    first = api.upload_folder(repo_id="radiology/adapter", folder_path=folder, commit_message="Release 1.0")
    again = api.upload_folder(repo_id="radiology/adapter", folder_path=folder, commit_message="Release 1.0")
    api.create_tag("radiology/adapter", tag="v1.0", tag_message="first")
    info = api.model_info("radiology/adapter", files_metadata=True)
    return {
        "commits": [first.oid, again.oid],
        "private": info.private,
        "license": info.card_data.license,
        "tags": info.tags,
        "hashes": {sibling.rfilename: sibling.lfs.sha256 for sibling in info.siblings if sibling.lfs},
        "log": [commit.title for commit in api.list_repo_commits("radiology/adapter")],
        "references": [reference.ref for reference in api.list_repo_refs("radiology/adapter").tags],
        "top": sorted(entry.path for entry in api.list_repo_tree("radiology/adapter")),
    }


def change(folder):
    """Change one file and delete another, on top of the tag."""
    from huggingface_hub import HfApi

    (Path(folder) / "adapter_config.json").write_text('{"r": 32}\n')
    HfApi().upload_folder(
        repo_id="radiology/adapter", folder_path=folder, delete_patterns=["nested/same.bin"], commit_message="Next"
    )


def download(revision, folder):
    from huggingface_hub import snapshot_download

    snapshot_download("radiology/adapter", revision=revision, local_dir=folder)


def test_what_is_published_comes_back_by_its_tag(hub, hub_client, transport, adapter, tmp_path):
    wanted = contents(adapter)
    published = hub_client(publish, adapter)

    repository = hub.repo("radiology/adapter")
    assert repository.files() == wanted
    assert published["commits"][0] == published["commits"][1] == repository.revision("main").oid
    assert published["log"] == ["Release 1.0", "initial commit"]
    assert published["private"] is True and repository.private
    assert published["license"] == "apache-2.0" and "base_model:org/base" in published["tags"]
    assert published["references"] == ["refs/tags/v1.0"]
    assert published["top"] == [
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "nested",
    ]
    large = ("adapter_model.safetensors", "nested/floats.bin", "nested/same.bin")
    assert published["hashes"] == {path: hashlib.sha256(wanted[path]).hexdigest() for path in large}
    steps = {request.step for request in hub.requests}
    if transport == "lfs":
        assert {"lfs_batch", "lfs_upload", "lfs_complete", "lfs_verify"} <= steps
        assert not {"xet_token", "xet_xorb"} & steps
    else:
        assert {"xet_token", "xet_xorb", "xet_shard"} <= steps
        assert not {"lfs_batch", "lfs_upload"} & steps

    (adapter / "nested" / "same.bin").unlink()
    hub_client(change, adapter)
    assert set(repository.files()) == set(wanted) - {"nested/same.bin"}
    assert repository.files("v1.0") == wanted

    for revision, files in (("v1.0", wanted), ("main", repository.files())):
        hub_client(download, revision, tmp_path / revision)
        got = {path: data for path, data in contents(tmp_path / revision).items() if not path.startswith(".")}
        assert got == files
    assert ("xet_download" in {request.step for request in hub.requests}) == (transport == "xet")


def test_a_second_repository_needs_no_bytes_again(hub, hub_client, transport, adapter):
    hub_client(publish, adapter)
    sent = [request.step for request in hub.requests]
    hub_client(upload_elsewhere, adapter)
    more = [request.step for request in hub.requests][len(sent) :]
    assert hub.repo("radiology/copy").files() == contents(adapter)
    assert "commit" in more
    assert not {"lfs_upload", "xet_xorb"} & set(more)


def upload_elsewhere(folder):
    from huggingface_hub import HfApi

    HfApi().create_repo("radiology/copy")
    HfApi().upload_folder(repo_id="radiology/copy", folder_path=folder)
