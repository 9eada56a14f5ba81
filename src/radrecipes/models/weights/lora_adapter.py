"""A LoRA adapter, which is added to its base model."""

import contextlib
import json
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel
from trl import ModelConfig, get_peft_config

from radrecipes.errors import InputError, shown
from radrecipes.files import file_sha256, share_safetensors
from radrecipes.models.classification_head import HEAD_NAMES
from radrecipes.models.weights.weights import Weights, reading

_TRAIN_MORE = "raise learning_rate, lower lora_dropout, or train more steps"


class LoraAdapter(Weights):
    """A LoRA adapter in PEFT's files."""

    NAME = "adapter"
    needs_base = True
    CONFIG = "adapter_config.json"
    TENSORS = "adapter_model.safetensors"

    # Fields of its configuration that do not follow from the recipe; those of `base_model_name_or_path` and the layers are
    # compared in another way.
    _NOT_COMPARED = frozenset((
        "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "peft_version", "revision",
        "target_modules",
    ))  # fmt: skip

    @property
    def sha256(self) -> str:
        """See [`Weights`]."""
        path = self.folder / self.TENSORS
        try:
            found = file_sha256(path)
        except FileNotFoundError:
            raise InputError(f"{self.TENSORS} is missing; only safetensors are loaded", str(self.folder)) from None
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror}); ask its owner", str(path)) from error
        if self.recorded is not None and found != self.recorded:
            raise InputError("changed since training: its sha256 is not that of the manifest; restore it", str(path))
        return found

    def check(self, model: ModelConfig) -> None:
        """See [`Weights`]; the configuration must say what the recipe says, because other programs load the adapter by it."""
        found, path = self._configuration(), str(self.folder / self.CONFIG)
        if not model.use_peft:
            raise InputError(
                "is an adapter's, and the recipe trains all weights (`use_peft: false`); restore the run", path
            )
        if (named := found.get("base_model_name_or_path")) != model.model_name_or_path:
            raise InputError(f"the adapter belongs to {shown(named, 100)}, not to {model.model_name_or_path}", path)
        usual, trained = (
            json.loads(json.dumps(it.to_dict(), default=sorted)) for it in (LoraConfig(), lora_config(model))
        )
        for name in sorted(trained.keys() - self._NOT_COMPARED):
            if found.get(name, usual[name]) != trained[name]:
                raise InputError(f"`{name}` is not {trained[name]}, as in the recipe; restore the file", path)
        _ = self.sha256

    def save(self, trained: PeftModel, model: ModelConfig, state_dict: dict[str, torch.Tensor]) -> None:
        """See [`Weights`]."""
        for config in trained.peft_config.values():
            config.base_model_name_or_path, config.revision = model.model_name_or_path, model.model_revision
            # PEFT would write a set in the order of its hashes, another one in each process.
            if isinstance(config.target_modules, set):
                config.target_modules = sorted(config.target_modules)
            # PEFT adds the names of heads to those that are there already.
            if config.modules_to_save:
                config.modules_to_save = sorted(set(config.modules_to_save))
        # `save_embedding_layers=False`: otherwise PEFT asks the Hub whether the vocabulary grew, which no recipe does.
        trained.save_pretrained(
            self.folder, state_dict=state_dict, safe_serialization=True, save_embedding_layers=False
        )
        share_safetensors(self.folder, self.CONFIG)
        # PEFT's card is mostly empty headings; publishing writes the real one.
        (self.folder / "README.md").unlink(missing_ok=True)

    def verify(
        self,
        trained: PeftModel,
        model: ModelConfig,
        probe_ids: list[int] | None,
        state_dict: dict[str, torch.Tensor],
        base: PreTrainedModel | None = None,
    ) -> dict[str, Any]:
        """See [`Weights`]; the outputs must also differ from the base model's, which `trained` contains."""
        expected = get_peft_model_state_dict(trained, state_dict=state_dict, save_embedding_layers=False)
        saved = load_file(self.folder / self.TENSORS)
        if saved.keys() != expected.keys():
            raise RuntimeError(f"{self.folder}: the saved adapter contains other tensors than the trained one")
        for name, tensor in expected.items():
            if not torch.equal(saved[name], tensor.detach().cpu().to(saved[name].dtype)):
                raise RuntimeError(f"{self.folder}: the saved tensor {name} differs from the trained one")
        largest_b = max((float(tensor.abs().max()) for name, tensor in saved.items() if "lora_B" in name), default=0.0)
        if largest_b == 0.0:
            raise InputError(f"every B matrix is zero: nothing was trained; {_TRAIN_MORE}", str(self.folder))
        found = {"tensors": len(saved), "largest_b": largest_b, "sha256": self.sha256}
        return found if probe_ids is None else {**found, "output_change": self._output_change(trained, probe_ids)}

    def _output_change(self, model: PeftModel, probe_ids: list[int]) -> float:
        """Largest change of a next-token or label logit against the base model."""
        model.load_adapter(str(self.folder), adapter_name="saved")
        model.eval()
        probe = torch.tensor([probe_ids], device=model.device)
        try:
            with torch.no_grad():
                in_memory = _last_logits(model, probe)
                model.set_adapter("saved")
                loaded = _last_logits(model, probe)
                with model.disable_adapter():
                    base = _last_logits(model, probe)
        finally:
            model.set_adapter("default")
            model.delete_adapter("saved")
        # Of the largest logit: 8-bit products are rounded otherwise from call to call.
        if not torch.allclose(in_memory, loaded, atol=1e-2 * max(1.0, float(in_memory.abs().max())), rtol=1e-2):
            raise RuntimeError(f"{self.folder}: the loaded adapter answers differently from the trained one")
        output_change = float((loaded - base).abs().max())
        if output_change == 0.0:
            raise InputError(f"the adapter does not change the base model's output; {_TRAIN_MORE}", str(self.folder))
        return output_change

    def check_fit(self, base: PreTrainedModel, model: ModelConfig) -> PeftModel:
        """See [`Weights`]."""
        # The adapter's own configuration is not read: a stranger's could name modules to import, and slow patterns. With float32
        # LoRA matrices PEFT would cast every activation twice.
        config = lora_config(model)
        config.inference_mode = True
        adapted = get_peft_model(
            base, config, autocast_adapter_dtype=False, low_cpu_mem_usage=base.device.type == "meta"
        )
        expected = {
            name: tuple(tensor.shape)
            for name, tensor in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()
        }
        path = self.folder / self.TENSORS
        with reading(path), safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        self._check_names_and_shapes(found, expected, model, path)
        return adapted

    def load(self, base: PreTrainedModel, model: ModelConfig) -> PeftModel:
        """See [`Weights`]."""
        self.check(model)
        adapted = self.check_fit(base, model)
        self.put_into(adapted)
        return adapted.eval()

    def put_into(self, model: PeftModel) -> None:
        """See [`Weights`]."""
        path = self.folder / self.TENSORS
        with reading(path):
            tensors = load_file(path)
        self._check_finite(tensors.items(), path)
        set_peft_model_state_dict(model, tensors)

    def untuned(self, model: PeftModel) -> contextlib.AbstractContextManager:
        """See [`Weights`]."""
        return model.disable_adapter()


def lora_config(model: ModelConfig) -> LoraConfig:
    """The LoRA configuration of a recipe's model, as TRL builds it."""
    config = get_peft_config(model)
    # TRL turns a list of one name into that name, which PEFT would match against full module paths.
    if isinstance(config.target_modules, str) and config.target_modules != "all-linear":
        config.target_modules = {config.target_modules}
    if config.task_type == "SEQ_CLS":
        config.modules_to_save = sorted(HEAD_NAMES)
    return config


def _last_logits(model: PreTrainedModel, token_ids: torch.Tensor) -> torch.Tensor:
    """Of the next token, or of the labels, for one prompt of shape `(1, length)`."""
    return model(input_ids=token_ids).logits.flatten(0, -2)[-1].float()
