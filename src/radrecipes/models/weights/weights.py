"""What every kind of trained weights can do."""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel
from trl import ModelConfig

from radrecipes.errors import InputError, shown
from radrecipes.files import read_json_object


class Weights(ABC):
    """Trained weights in a folder. Each kind, such as a LoRA adapter or all weights of a model, is a subclass.

    `recorded` is the digest that their manifest records, which they must have; `None` while they are being made.

    Attributes:
        NAME: Of their folder in a run, and of their entry in its manifest.
        CONFIG: Their configuration, a file in JSON.
        needs_base: Whether they are added to the base model's weights; otherwise they replace them.
    """

    NAME: str
    CONFIG: str
    needs_base: bool

    def __init__(self, folder: Path, recorded: str | None = None):
        self.folder = folder
        self.recorded = recorded

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Digest of the tensors; an [`InputError`] if there are none, or it is not the recorded one."""

    @abstractmethod
    def check(self, model: ModelConfig) -> None:
        """Raise an [`InputError`] unless the files are those that training by a recipe with this model wrote."""

    @abstractmethod
    def save(self, trained: PreTrainedModel, model: ModelConfig, state_dict: dict[str, torch.Tensor]) -> None:
        """Save a trained model's tensors, gathered from all processes; the files name the base model by Hub id, never by path."""

    @abstractmethod
    def verify(
        self,
        trained: PreTrainedModel,
        model: ModelConfig,
        probe_ids: list[int] | None,
        state_dict: dict[str, torch.Tensor],
        base: PreTrainedModel | None = None,
    ) -> dict[str, Any]:
        """Load the saved weights back and compare every tensor with the trained `state_dict`, gathered from all processes.

        Args:
            probe_ids: Token ids of a prompt, on which outputs are compared; `None` if the model is sharded, so one process cannot
                run it.
            base: The base model, loaded again, for weights that replace its own; `None` if outputs are not compared.

        Returns what the manifest records. A [`RuntimeError`] if they differ, an [`InputError`] if nothing was trained.
        """

    @abstractmethod
    def check_fit(self, base: PreTrainedModel, model: ModelConfig) -> PreTrainedModel:
        """The base model, which can be on the meta device, prepared for these weights; an [`InputError`] if they do not fit it.

        They fit if names and shapes of all tensors are exactly those that training would make.
        """

    @abstractmethod
    def load(self, base: PreTrainedModel, model: ModelConfig) -> PreTrainedModel:
        """A model with these weights, ready to predict; an [`InputError`] if they are missing or do not fit.

        It is `base` with the weights added, or another model of its class, configuration and dtype. If `needs_base` is false,
        `base` can be on the meta device.
        """

    @abstractmethod
    def put_into(self, model: torch.nn.Module) -> None:
        """Give a model that is to be trained these weights, in its own precision."""

    @abstractmethod
    def untuned(self, model: PreTrainedModel) -> contextlib.AbstractContextManager:
        """A context in which a model answers like the base model: one from [`load`], or if not `needs_base` the base model."""

    def _configuration(self) -> dict[str, Any]:
        try:
            return read_json_object(self.folder / self.CONFIG, fix="restore the file")
        except FileNotFoundError:
            raise InputError(f"no {self.CONFIG}; name the folder of a finished run", str(self.folder)) from None

    def _check_names_and_shapes(
        self, found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], model: ModelConfig, where: Path
    ) -> None:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            raise InputError(
                f"{len(wrong)} tensors do not fit {model.model_name_or_path} and the recipe, first {shown(wrong[0], 100)}; is it "
                "for another base model?",
                str(where),
            )

    def _check_finite(self, tensors: Iterable[tuple[str, torch.Tensor]], where: Path) -> None:
        for name, tensor in tensors:
            if not math.isfinite(tensor.sum(dtype=torch.float64)):
                raise InputError(f"{name} contains NaN or infinite numbers; train again", str(where))


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """How many parameters of a model are trained, and how many it has; also if it is quantised or sharded."""
    # It needs no adapter.
    return PeftModel.get_nb_trainable_parameters(model)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make an [`InputError`] of what safetensors raises for a damaged file."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise InputError("is not a complete safetensors file; restore it", str(path)) from error
