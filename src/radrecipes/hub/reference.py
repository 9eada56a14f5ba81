"""Names of releases on the Hub, `org/name@tag`."""

import re
from dataclasses import dataclass

from radrecipes.errors import InputError

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_-]*(\.[A-Za-z0-9+_-]+)*")


@dataclass(frozen=True)
class Reference:
    """A repository at a tag, or at a commit of 40 hexadecimal digits; never at a branch, because branches move."""

    repo_id: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read `org/name@v1.0`; raises an [`InputError`] if it is not a repository name with a tag or commit."""
        repo_id, _, revision = text.partition("@")
        check_repo_id(repo_id)
        if not revision:
            raise InputError(f"{text}: add a tag, as in {repo_id}@v1.0; without one the content can change")
        check_tag(revision)
        return cls(repo_id, revision)

    def __str__(self) -> str:
        """As it is written: `org/name@v1.0`."""
        return f"{self.repo_id}@{self.revision}"


def is_local_path(name: str) -> bool:
    """Whether the name of a model is a path on this machine, and not `org/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def check_repo_id(repo_id: str) -> None:
    """Raise an [`InputError`] unless it is `org/name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id}: {' '.join(str(error).split()).rstrip('.;')}") from error
    if repo_id.count("/") != 1:
        raise InputError(f"{repo_id}: a repository on the Hub is named org/name")


def check_tag(tag: str) -> None:
    """Raise an [`InputError`] unless it is the name of a tag (or a commit)."""
    if tag == "main":
        raise InputError(f"{tag}: this branch moves with every commit; give a tag such as v1.0")
    if not _TAG.fullmatch(tag):
        raise InputError(
            f"{tag}: a tag consists of letters, digits and . _ + - and begins with a letter or digit, as in v1.0"
        )
