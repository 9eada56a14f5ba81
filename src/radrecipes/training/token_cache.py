"""The key of a dataset in the token cache: everything that determines its token ids."""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from radrecipes.files import file_sha256, text_sha256

# Packages that render and tokenise, besides this one.
_PACKAGES = ("jinja2", "sacremoses", "tokenizers", "transformers")


def cache_key(tokenizer: PreTrainedTokenizerBase, **facts: Any) -> str:
    """sha256 of everything that determines token ids: the tokenizer's files, package versions, and `facts` in plain values."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: file_sha256(path) for path in Path(folder).iterdir()}
    versions = {name: version(name) for name in _PACKAGES}
    return text_sha256(json.dumps([facts, files, versions], sort_keys=True))
