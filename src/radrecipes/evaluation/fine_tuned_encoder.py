"""A baseline of label tasks: all weights of an encoder, fine-tuned with a linear head and stopped on the validation split."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's usual name)
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, get_linear_schedule_with_warmup
from trl import ModelConfig

from radrecipes.errors import InputError
from radrecipes.evaluation import Progress
from radrecipes.inference.head_scoring import HeadScorer
from radrecipes.models.base import inference_device, load_base, load_config, load_tokenizer, weights_digest
from radrecipes.training.sampler import SimilarLengthSampler
from radrecipes.training.token_cache import cache_key

BATCH_SIZE = 16
# Validation is asked after each round: an epoch, or as many as have this many steps.
ROUNDS = 4
FEWEST_STEPS = 100
# For the width of MiniLM; wider encoders need smaller steps.
LEARNING_RATE, WIDTH = 2e-4, 384
LABEL_SMOOTHING = 0.05
WARMUP = 0.06  # fraction of the steps
SEED = 0
# Of what a tokenizer says if it has no limit
_UNLIMITED = 10**9


class FineTunedEncoder:
    """An encoder of the Hub, of `models/<org>/<name>/`, of an installed package or of a folder, and what fine-tuning makes of it.

    Raises an [`InputError`] if it cannot be loaded. `settings` has the hyperparameters once it is fitted.
    """

    def __init__(self, model: ModelConfig, classes: Sequence[str]):
        self._source, self._classes = model, list(classes)
        self._tokenizer = load_tokenizer(model)
        self._longest = longest_input(self._tokenizer, load_config(model))
        self._model = self._load()
        width = getattr(self._model.config.get_text_config(), "hidden_size", WIDTH)
        self.settings: dict[str, Any] = {"learning_rate": LEARNING_RATE * WIDTH / width}

    @property
    def digest(self) -> str:
        """sha256 of the weights, the configuration and the tokenizer."""
        config = self._model.config.to_dict()
        name = self._source.model_name_or_path
        facts = {"weights": weights_digest(name), "config": {**config, "_name_or_path": ""}}
        return cache_key(self._tokenizer, **json.loads(json.dumps(facts, default=str)))

    def _load(self) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = load_base(self._source, row_tokens=self._longest, labels=self._classes)
        if model.config.pad_token_id is None:  # a causal model finds the end of a text by it
            model.config.pad_token_id = self._tokenizer.pad_token_id
        return model.to(inference_device())

    def fit(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        validation_texts: Sequence[str],
        validation_labels: Sequence[str],
        progress: Progress,
    ) -> None:
        """Train for up to `ROUNDS` rounds, until one is not better than the one before it; the best on validation is kept."""
        index = {label: place for place, label in enumerate(self._classes)}
        rows, targets = self._rows(texts), torch.tensor([index[label] for label in labels])
        validation_rows = self._rows(validation_texts)
        right = np.array([index.get(label, -1) for label in validation_labels])
        steps = math.ceil(len(rows) / BATCH_SIZE)
        epochs = math.ceil(FEWEST_STEPS / steps)
        optimizer, schedule = self._optimizer(ROUNDS * epochs * steps)
        order, device = SimilarLengthSampler([len(row) for row in rows], BATCH_SIZE, SEED), self._model.device
        best, kept = -1.0, {}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(SEED)
            for number in range(1, ROUNDS + 1):
                with progress(f"encoder, round {number}", epochs * len(rows)) as advance:
                    for places in _batches(order, range((number - 1) * epochs, number * epochs)):
                        self._backward([rows[place] for place in places], targets[places])
                        optimizer.step()
                        schedule.step()
                        optimizer.zero_grad()
                        advance(len(places))
                scores = self._scores(validation_rows)
                accuracy = float(np.mean(scores.argmax(axis=1) == right)) if np.isfinite(scores).all() else -1.0
                if accuracy <= best:
                    break
                best, self.settings["epochs"] = accuracy, number * epochs
                kept = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
                if best == 1.0:
                    break
        if not kept:
            raise InputError("training of this encoder diverged; name another one, or none", "--encoder")
        self._model.load_state_dict(kept)

    def _optimizer(self, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        rate = self.settings["learning_rate"]
        optimizer = torch.optim.AdamW(self._model.parameters(), lr=rate, weight_decay=0.01, fused=True)
        return optimizer, get_linear_schedule_with_warmup(optimizer, round(WARMUP * steps), steps)

    def _backward(self, rows: Sequence[list[int]], targets: torch.Tensor) -> None:
        """The gradient of a batch."""
        self._model.train()
        batch = self._tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt").to(self._model.device)
        logits = self._model(**batch).logits.float()
        F.cross_entropy(logits, targets.to(logits.device), label_smoothing=LABEL_SMOOTHING).backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Log-probabilities of shape `(texts, classes)`."""
        return self._scores(self._rows(texts))

    def _scores(self, rows: Sequence[list[int]]) -> np.ndarray:
        self._model.eval()
        return HeadScorer(self._model, self._tokenizer, range(len(self._classes))).score(rows).log_likelihoods

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with the model's own special tokens; a text that is too long loses its end."""
        options = {"truncation": True, "max_length": self._longest} if self._longest else {}
        encoded = self._tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, **options)
        return encoded["input_ids"]


def longest_input(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> int | None:
    """Tokens that the model reads at most; `None` if neither the tokenizer nor the model has a limit."""
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    return min((int(limit) for limit in limits if limit and limit < _UNLIMITED), default=None)


def _batches(order: SimilarLengthSampler, epochs: Iterable[int]) -> Iterator[list[int]]:
    """Places of the rows of each batch, epoch after epoch."""
    for epoch in epochs:
        order.set_epoch(epoch)
        places = list(order)
        yield from (places[start : start + BATCH_SIZE] for start in range(0, len(places), BATCH_SIZE))
