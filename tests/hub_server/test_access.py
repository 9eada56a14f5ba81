"""Who may do what: roles of tokens, private and gated repositories, and what the client says if it is refused."""

import pytest


def told(function, *words, **options) -> str:
    """What a call raises, by name and status, or `done`. The client's errors cannot be sent between processes."""
    try:
        function(*words, **options)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return f"{type(error).__name__} {status}" if status else type(error).__name__
    return "done"


def private_repository(folder):
    from huggingface_hub import HfApi

    owner, reader = HfApi(), HfApi(token="token-that-reads")
    stranger, unknown, anonymous = HfApi(token="token-of-a-stranger"), HfApi(token="no-such-token"), HfApi(token=False)
    owner.create_repo("radiology/private", private=True)
    owner.upload_folder(repo_id="radiology/private", folder_path=folder)
    upload = {"path_or_fileobj": b"x", "path_in_repo": "x.txt", "repo_id": "radiology/private"}
    return {
        "roles": [api.whoami()["auth"]["accessToken"]["role"] for api in (owner, reader)],
        "whoami unknown": told(unknown.whoami),
        "info": [told(api.model_info, "radiology/private") for api in (owner, reader, stranger, unknown, anonymous)],
        "upload": [told(api.upload_file, **upload) for api in (owner, reader, stranger, unknown)],
        "create again": told(reader.create_repo, "radiology/private", exist_ok=True),
        "create": [
            told(api.create_repo, f"radiology/new-{n}") for n, api in enumerate((owner, reader, stranger, unknown))
        ],
        "organization": told(stranger.create_repo, "hospital/model"),
        "delete": [told(api.delete_repo, "radiology/new-0") for api in (reader, owner)],
    }


def test_a_private_repository_is_its_owners(hub, hub_client, tmp_path):
    hub.add_user("radiology", "token-that-reads", role="read")
    hub.add_user("stranger", "token-of-a-stranger", organizations=("hospital",))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights.bin").write_bytes(b"\0\1\2")
    outcome = hub_client(private_repository, tmp_path / "files")
    missing = "RepositoryNotFoundError 404"
    assert outcome == {
        "roles": ["write", "read"],
        "whoami unknown": "HfHubHTTPError 401",
        "info": ["done", "done", missing, "HfHubHTTPError 401", "RepositoryNotFoundError 401"],
        "upload": ["done", "HfHubHTTPError 403", missing, "HfHubHTTPError 401"],
        "create again": "done",
        "create": ["done", "HfHubHTTPError 403", "HfHubHTTPError 403", "HfHubHTTPError 401"],
        "organization": "done",
        "delete": ["HfHubHTTPError 403", "done"],
    }
    assert hub.repo("hospital/model").revision().author == "stranger"
    with pytest.raises(KeyError):
        hub.repo("radiology/new-0")


def gated_repository(folder):
    from huggingface_hub import HfApi, hf_hub_download

    owner, stranger, anonymous = HfApi(), HfApi(token="token-of-a-stranger"), HfApi(token=False)
    owner.create_repo("radiology/gated")
    owner.upload_folder(repo_id="radiology/gated", folder_path=folder)
    owner.update_repo_settings("radiology/gated", gated="manual")
    return {
        "info": [api.model_info("radiology/gated").gated for api in (owner, stranger, anonymous)],
        "check": [told(api.auth_check, "radiology/gated") for api in (owner, stranger, anonymous)],
        # The owner comes last, as the file is in the cache from then on.
        "file": [
            told(hf_hub_download, "radiology/gated", "weights.bin", token=token)
            for token in (False, "token-of-a-stranger", None)
        ],
    }


def download_gated():
    from huggingface_hub import snapshot_download

    return told(snapshot_download, "radiology/gated", token="token-of-a-stranger")


def test_a_gated_repository_shows_itself_but_not_its_files(hub, hub_client, tmp_path):
    hub.add_user("stranger", "token-of-a-stranger")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights.bin").write_bytes(b"\0\1\2")
    outcome = hub_client(gated_repository, tmp_path / "files")
    assert outcome["info"] == ["manual"] * 3
    assert outcome["check"] == outcome["file"][::-1] == ["done", "GatedRepoError 403", "GatedRepoError 401"]
    hub.repo("radiology/gated").granted.add("stranger")
    assert hub_client(download_gated) == "done"


def revisions():
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

    api, repo_id = HfApi(), "radiology/model"
    api.create_repo(repo_id)
    first = api.model_info(repo_id).sha

    def add(text, **options):
        operation = CommitOperationAdd("a.txt", text)
        return api.create_commit(repo_id, [operation], commit_message="add", **options)

    second = add(b"two", parent_commit=first).oid
    api.create_tag(repo_id, tag="v1", revision=first)
    api.create_branch(repo_id, branch="next/step", revision=second)
    add(b"three", revision="next/step")
    request = add(b"four", create_pr=True)
    return {
        "stale": told(add, b"x", parent_commit=first),
        "tag again": told(api.create_tag, repo_id, tag="v1"),
        "tag anyway": told(api.create_tag, repo_id, tag="v1", exist_ok=True),
        "no revision": told(api.model_info, repo_id, revision="v9"),
        "no file": told(hf_hub_download, repo_id, "b.txt"),
        "no upload": told(add, b"x", revision="v9"),
        "branch": open(hf_hub_download(repo_id, "a.txt", revision="next/step")).read(),
        "request": [request.pr_revision, open(hf_hub_download(repo_id, "a.txt", revision="refs/pr/1")).read()],
        "untagged": told(api.delete_tag, repo_id, tag="v1"),
        "no branch": told(api.delete_branch, repo_id, branch="next/step"),
    }


def test_revisions(hub, hub_client):
    assert hub_client(revisions) == {
        "stale": "HfHubHTTPError 412",
        "tag again": "HfHubHTTPError 409",
        "tag anyway": "done",
        "no revision": "RevisionNotFoundError 404",
        "no file": "RemoteEntryNotFoundError 404",
        "no upload": "RevisionNotFoundError 404",
        "branch": "three",
        "request": ["refs/pr/1", "four"],
        "untagged": "done",
        "no branch": "done",
    }
    assert hub.repo("radiology/model").files() == {"a.txt": b"two"}
    assert list(hub.repo("radiology/model").branches) == ["main"]


def cards():
    from huggingface_hub import HfApi, ModelCard

    api = HfApi()
    api.create_repo("radiology/model")
    good = ModelCard("---\nlicense: mit\n---\n# Good\n")
    bad = ModelCard("---\nbase_model: /models/llama\nlicense: my-own\n---\n# Bad\n")
    refused = ""
    try:
        bad.validate()
    except ValueError as error:
        refused = str(error)
    return {
        "refused": refused,
        "pushed": [told(card.push_to_hub, "radiology/model") for card in (good, bad)],
        "uploaded": told(
            api.upload_file, path_or_fileobj=str(bad).encode(), path_in_repo="README.md", repo_id="radiology/model"
        ),
    }


def test_a_card_with_bad_metadata_is_refused(hub, hub_client):
    outcome = hub_client(cards)
    assert "base_model" in outcome["refused"] and "license" in outcome["refused"]
    assert outcome["pushed"] == ["done", "ValueError"]
    # The client checks cards itself before some uploads; either way nothing of it arrives.
    assert outcome["uploaded"] != "done"
    assert hub.repo("radiology/model").files() == {"README.md": b"---\nlicense: mit\n---\n# Good\n"}
