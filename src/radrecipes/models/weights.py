"""What a run trained: saved, verified, loaded onto its base model. Callers need not know that it is a LoRA adapter."""

import contextlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel

from radrecipes.errors import InputError
from radrecipes.files import file_sha256


class Weights(ABC):
    """Trained weights in a folder. Each kind, such as a LoRA adapter or all weights of a model, is a subclass."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Digest of the tensors; an [`InputError`] if there are none."""

    @property
    @abstractmethod
    def base_model(self) -> str:
        """Hub id of the base model; an [`InputError`] if the folder contains no weights of this kind."""

    @abstractmethod
    def save(
        self, model: PreTrainedModel, model_id: str, revision: str | None, state_dict: dict[str, torch.Tensor]
    ) -> None:
        """Save a trained model's tensors, gathered from all processes; the files name the base model by Hub id, never by path."""

    @abstractmethod
    def verify(
        self, model: PreTrainedModel, probe_ids: list[int] | None, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, Any]:
        """Load the saved weights back and compare every tensor with the trained `state_dict`, gathered from all processes.

        Outputs are compared on the token ids of a prompt; `probe_ids` is `None` if the model is sharded, so one process cannot run
        it. Returns what the manifest records. A [`RuntimeError`] if they differ or nothing was trained.
        """

    @abstractmethod
    def load(self, base: PreTrainedModel, model_id: str) -> PreTrainedModel:
        """The base model with these weights, ready to predict; an [`InputError`] if they are missing or do not fit."""

    @abstractmethod
    def untuned(self, model: PreTrainedModel) -> contextlib.AbstractContextManager:
        """A context in which a model from [`load`] answers like its base model."""


class LoraAdapter(Weights):
    """A LoRA adapter in PEFT's files."""

    CONFIG = "adapter_config.json"
    TENSORS = "adapter_model.safetensors"

    @property
    def sha256(self) -> str:
        """See [`Weights`]."""
        return file_sha256(self._tensors())

    @property
    def base_model(self) -> str:
        """See [`Weights`]."""
        try:
            return json.loads((self.folder / self.CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"no readable {self.CONFIG}; name the folder of a finished run", str(self.folder)
            ) from error

    def save(self, model: PeftModel, model_id: str, revision: str | None, state_dict: dict[str, torch.Tensor]) -> None:
        """See [`Weights`]."""
        for config in model.peft_config.values():
            config.base_model_name_or_path, config.revision = model_id, revision
        # `save_embedding_layers=False`: otherwise PEFT asks the Hub whether the vocabulary grew, which no recipe does.
        model.save_pretrained(self.folder, state_dict=state_dict, safe_serialization=True, save_embedding_layers=False)
        # PEFT's card is mostly empty headings; publishing writes the real one.
        (self.folder / "README.md").unlink(missing_ok=True)

    def verify(
        self, model: PeftModel, probe_ids: list[int] | None, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, Any]:
        """See [`Weights`]; the outputs must also differ from the base model's."""
        trained = get_peft_model_state_dict(model, state_dict=state_dict, save_embedding_layers=False)
        saved = load_file(self.folder / self.TENSORS)
        if saved.keys() != trained.keys():
            raise RuntimeError(f"{self.folder}: the saved adapter contains other tensors than the trained one")
        for name, tensor in trained.items():
            if not torch.equal(saved[name], tensor.detach().cpu().to(saved[name].dtype)):
                raise RuntimeError(f"{self.folder}: the saved tensor {name} differs from the trained one")
        largest_b = max((float(tensor.abs().max()) for name, tensor in saved.items() if "lora_B" in name), default=0.0)
        if largest_b == 0.0:
            raise RuntimeError(f"{self.folder}: every B matrix is zero; nothing was trained")
        found = {"tensors": len(saved), "largest_b": largest_b, "sha256": self.sha256}
        return found if probe_ids is None else {**found, "output_change": self._output_change(model, probe_ids)}

    def _output_change(self, model: PeftModel, probe_ids: list[int]) -> float:
        """Largest change of a next-token logit against the base model."""
        model.load_adapter(str(self.folder), adapter_name="saved")
        model.eval()
        probe = torch.tensor([probe_ids], device=model.device)
        try:
            with torch.no_grad():
                in_memory = model(input_ids=probe).logits[0, -1].float()
                model.set_adapter("saved")
                loaded = model(input_ids=probe).logits[0, -1].float()
                with model.disable_adapter():
                    base = model(input_ids=probe).logits[0, -1].float()
        finally:
            model.set_adapter("default")
            model.delete_adapter("saved")
        if not torch.allclose(in_memory, loaded, atol=1e-2, rtol=1e-2):
            raise RuntimeError(f"{self.folder}: the loaded adapter answers differently from the trained one")
        output_change = float((loaded - base).abs().max())
        if output_change == 0.0:
            raise RuntimeError(f"{self.folder}: the adapter does not change the base model's output")
        return output_change

    def load(self, base: PreTrainedModel, model_id: str) -> PeftModel:
        """See [`Weights`]."""
        if self.base_model != model_id:
            raise InputError(f"the adapter belongs to {self.base_model}, not to {model_id}", str(self.folder))
        self._tensors()
        try:
            # With float32 LoRA matrices PEFT would cast every activation twice.
            return PeftModel.from_pretrained(base, str(self.folder), autocast_adapter_dtype=False).eval()
        except RuntimeError as error:  # torch's error for tensors of another shape
            raise InputError(
                f"the adapter's tensors do not fit {model_id}; is it for another base model?", str(self.folder)
            ) from error

    def untuned(self, model: PeftModel) -> contextlib.AbstractContextManager:
        """See [`Weights`]."""
        return model.disable_adapter()

    def _tensors(self) -> Path:
        path = self.folder / self.TENSORS
        if not path.is_file():
            raise InputError(f"{self.TENSORS} is missing; only safetensors are loaded", str(self.folder))
        return path


def weights_in(folder: Path) -> Weights:
    """The weights in a folder; the only place that decides which kind they are."""
    return LoraAdapter(folder)
