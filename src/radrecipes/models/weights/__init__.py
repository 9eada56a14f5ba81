"""What a run trained: saved, verified, loaded. Callers need not know whether it is an adapter or all weights of a model."""

from pathlib import Path

from trl import ModelConfig

from radrecipes.models.weights.full_model import FullModel
from radrecipes.models.weights.lora_adapter import LoraAdapter, lora_config
from radrecipes.models.weights.weights import Weights, count_parameters

__all__ = [
    "KINDS",
    "FullModel",
    "LoraAdapter",
    "Weights",
    "count_parameters",
    "lora_config",
    "weights_in",
    "weights_to_train",
]

KINDS: tuple[type[Weights], ...] = (LoraAdapter, FullModel)


def weights_to_train(model: ModelConfig, parent: Path) -> Weights:
    """The weights that a recipe trains, to be saved into a folder of their own below `parent`."""
    kind = LoraAdapter if model.use_peft else FullModel
    return kind(parent / kind.NAME)


def weights_in(folder: Path, recorded: str | None = None) -> Weights:
    """The weights in a folder; the only place that decides which kind they are."""
    is_model = (folder / FullModel.CONFIG).is_file() and not (folder / LoraAdapter.CONFIG).is_file()
    return FullModel(folder, recorded) if is_model else LoraAdapter(folder, recorded)
