"""A folder laid out as huggingface_hub keeps what it downloaded."""

import shutil
from pathlib import Path


def lay_in_hub_cache(cache: Path, model_id: str, commit: str, source: Path) -> Path:
    """Copy a model's files into a cache: blobs, a snapshot of links to them, and the branch that names the commit.

    Args:
        cache (`Path`):
            What `HF_HUB_CACHE` names.
        model_id (`str`):
            Hub id.
        commit (`str`):
            Under which commit.
        source (`Path`):
            Folder with the files.

    Returns:
        `Path`: the snapshot's folder.
    """
    repository = cache / f"models--{model_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    for file in source.iterdir():
        blob = repository / "blobs" / f"{commit[:8]}-{file.name}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot
