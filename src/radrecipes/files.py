"""Files: digests, atomic writes, locks."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
