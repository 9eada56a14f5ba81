"""All weights of a model, which replace those of its base model."""

import contextlib
import copy
import json
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME
from trl import ModelConfig

from radrecipes.errors import InputError, shown
from radrecipes.files import share_safetensors
from radrecipes.models.base import is_classifier, load_config, weight_files, weight_files_digest
from radrecipes.models.classification_head import keep_head_in_float32
from radrecipes.models.compute_dtype import compute_dtype
from radrecipes.models.weights.weights import Weights, reading

_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


class FullModel(Weights):
    """All weights of a model in Transformers' files: `config.json` and `model.safetensors`, or several files with an index.

    It works for every model class: that of the base model which its methods are given. Weights are saved in the recipe's dtype.
    """

    NAME = "model"
    needs_base = False
    CONFIG = CONFIG_NAME

    # Fields of the configuration in which a trained model may differ from its base model: how it was saved, the tokens that the
    # Trainer copies from the tokenizer, and what the outputs of a classifier mean.
    _NOT_COMPARED = frozenset((
        "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache",
        "bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "num_labels", "problem_type",
    ))  # fmt: skip

    @property
    def sha256(self) -> str:
        """See [`Weights`]; the same as that of a base model with these files."""
        found = weight_files_digest(self._files())
        if found is None:
            raise InputError(f"{SAFE_WEIGHTS_NAME} is missing; only safetensors are loaded", str(self.folder))
        if self.recorded is not None and found != self.recorded:
            raise InputError(
                "the weights changed since training: their sha256 is not that of the manifest; restore them",
                str(self.folder),
            )
        return found

    def check(self, model: ModelConfig) -> None:
        """See [`Weights`]; the configuration must be the base model's, because other programs load the model by it."""
        path = self.folder / self.CONFIG
        if model.use_peft:
            raise InputError(
                "is a complete model's, and the recipe trains an adapter; use that instead of the model merged with it",
                str(path),
            )
        found, base = self._configuration(), load_config(model)
        # All fields, and those without which it would mean another model.
        whole, needed = (json.loads(base.to_json_string(use_diff=use_diff)) for use_diff in (False, True))
        for name in sorted((found.keys() | needed.keys()) - self._NOT_COMPARED):
            if name not in found or name not in whole or found[name] != whole[name]:
                raise InputError(
                    f"`{shown(name, 60)}` is not as in {model.model_name_or_path}; restore the file", str(path)
                )
        _ = self.sha256

    def save(self, trained: PreTrainedModel, model: ModelConfig, state_dict: dict[str, torch.Tensor]) -> None:
        """See [`Weights`]."""
        dtype = compute_dtype(model.dtype)
        tensors = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in _to_save(trained, state_dict).items()
        }
        config = copy.deepcopy(trained.config)
        config.dtype = dtype
        config.architectures = [type(trained).__name__.removeprefix("FSDP")]  # FSDP2 gives the class another name
        config.save_pretrained(self.folder)
        save_torch_state_dict(tensors, self.folder, metadata={"format": "pt"})
        share_safetensors(self.folder, self.CONFIG)

    def verify(
        self,
        trained: PreTrainedModel,
        model: ModelConfig,
        probe_ids: list[int] | None,
        state_dict: dict[str, torch.Tensor],
        base: PreTrainedModel | None = None,
    ) -> dict[str, Any]:
        """See [`Weights`]; the outputs must also differ from those of `base`."""
        expected = _to_save(trained, state_dict)
        tensors = len(expected)
        for file in self._files():
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    tensor, saved = expected.pop(name, None), opened.get_tensor(name)
                    if tensor is None or not torch.equal(saved, tensor.detach().cpu().to(saved.dtype)):
                        raise RuntimeError(f"{file}: the saved tensor {name} differs from the trained one")
        if expected:
            raise RuntimeError(f"{self.folder}: the saved model lacks the trained tensor {min(expected)}")
        found = {
            "tensors": tensors,
            "dtype": str(compute_dtype(model.dtype)).removeprefix("torch."),
            "sha256": self.sha256,
        }
        if probe_ids is None or base is None:
            return found
        return {**found, "output_change": self._output_change(base, model, probe_ids)}

    def _output_change(self, base: PreTrainedModel, model: ModelConfig, probe_ids: list[int]) -> float:
        """Largest change of an output against the base model."""
        probe = torch.tensor([probe_ids])
        with torch.no_grad():
            outputs = [it.eval()(input_ids=probe).logits.float() for it in (self.load(base, model), base)]
        output_change = float((outputs[0] - outputs[1]).abs().max())
        if output_change == 0.0:
            raise InputError(
                "the trained model answers as the base model; raise learning_rate, or train more steps",
                str(self.folder),
            )
        return output_change

    def check_fit(self, base: PreTrainedModel, model: ModelConfig) -> PreTrainedModel:
        """See [`Weights`]."""
        expected = {name: tuple(tensor.shape) for name, tensor in _to_save(base, {}).items()}
        found: dict[str, tuple[int, ...]] = {}
        for file in self._files():
            with reading(file), safe_open(file, framework="pt") as opened:
                names = opened.keys()
                if repeated := found.keys() & names:
                    raise InputError(f"repeats {shown(min(repeated), 100)} of another file; restore it", str(file))
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in names}
        self._check_names_and_shapes(found, expected, model, self.folder)
        return base

    def load(self, base: PreTrainedModel, model: ModelConfig) -> PreTrainedModel:
        """See [`Weights`]; the class and its configuration are those of `base`, the folder's own is not read."""
        self.check(model)
        self.check_fit(base, model)
        with reading(self.folder):
            loaded = type(base).from_pretrained(
                self.folder,
                trust_remote_code=False,
                config=base.config,
                dtype=base.dtype,
                use_safetensors=True,
                local_files_only=True,
            )
        self._check_finite(loaded.state_dict().items(), self.folder)
        if is_classifier(model):
            keep_head_in_float32(loaded)
        return loaded.eval()

    def put_into(self, model: PreTrainedModel) -> None:
        """See [`Weights`]."""
        own = _to_save(model, {})
        for file in self._files():
            with reading(file):
                tensors = load_file(file)
            self._check_finite(tensors.items(), file)
            for name, tensor in tensors.items():
                own[name].data.copy_(tensor)

    def untuned(self, model: PreTrainedModel) -> contextlib.AbstractContextManager:
        """See [`Weights`]."""
        return contextlib.nullcontext()

    def _files(self) -> list[Path]:
        """The files with the tensors, which must have the names that [`save`] gives."""
        try:
            files = weight_files(self.folder)
        except (InputError, LookupError, AttributeError, TypeError) as error:
            raise InputError("the index of the weights cannot be read; restore it", str(self.folder)) from error
        for file in files:
            if not _FILE.fullmatch(file.name) or file.parent != self.folder:
                raise InputError(f"the index names {shown(file.name)}; restore it", str(self.folder))
        return files


def _to_save(model: PreTrainedModel, gathered: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a model by name, those that were gathered instead of its own; of tied weights only the one that is saved."""
    return {
        name: gathered.get(name, tensor)
        for name, tensor in model.state_dict().items()
        if name not in model.all_tied_weights_keys
    }
