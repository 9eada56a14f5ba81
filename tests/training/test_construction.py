"""What cannot be built here is found without weights, and named by the field of the recipe that asks for it."""

import pytest

from radrecipes.errors import InputError
from radrecipes.recipe import find_recipes, parse_recipe
from radrecipes.training.construction import check_construction

RECIPE = "recipes/tiny/protocol_lora.yaml"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--report_to=wandb"], "`report_to: wandb` here .*wandb to be installed"),
        (["--report_to=[none, mlflow]"], "report_to"),
        (["--optim=galore_adamw"], "`optim: galore_adamw` here .*galore_torch"),
        (["--optim=schedule_free_adamw"], "optim: schedule_free_adamw"),
        (["--optim_args=foo"], "optim_args: foo"),
        (["--adam_beta1=1.0"], "Invalid beta"),
        (["--lr_scheduler_type=cosine_with_min_lr"], "`lr_scheduler_type: cosine_with_min_lr` .*min_lr"),
        (["--lr_scheduler_type=cosine", "--lr_scheduler_kwargs={num_cycles: x}"], "lr_scheduler_kwargs: .*num_cycles"),
        (["--lr_scheduler_type=polynomial", "--lr_scheduler_kwargs={lr_end: 1.0}"], "lr_end"),
        (["--dataloader_num_workers=-1"], "`dataloader_num_workers: -1`"),
        (["--dataloader_persistent_workers=true"], "`dataloader_persistent_workers: True`"),
        (
            ["--activation_checkpointing=true", "--activation_checkpointing_kwargs={foo: 1}"],
            "activation_checkpointing_kwargs: .*foo",
        ),
        (["--torch_compile_backend=xyz"], "torch_compile_backend: xyz"),
        (["--torch_compile_mode=xyz"], "torch_compile_mode: xyz"),
        (["--dtype=bfloat16", "--load_in_4bit=true", "--bnb_4bit_quant_storage=xyz"], "bnb_4bit_quant_storage: xyz"),
    ],
)
def test_what_cannot_be_built_is_named_by_its_field(workspace, words, said):
    with pytest.raises(InputError, match=rf"protocol_lora.yaml: training cannot start with .*{said}") as raised:
        check_construction(parse_recipe(RECIPE, words))
    assert len(str(raised.value)) < 500


def test_a_layer_that_lora_cannot_adapt_is_refused(workspace):
    with pytest.raises(InputError, match=r"lora_target_modules: .*norm"):
        check_construction(parse_recipe(RECIPE, ["--lora_target_modules=[q_proj, norm]"]))


def test_attention_whose_package_is_missing_is_refused(workspace):
    with pytest.raises(InputError, match=r"FlashAttention2 .* doesn't seem to be installed"):
        check_construction(parse_recipe(RECIPE, ["--attn_implementation=flash_attention_2"]))


def test_every_recipe_here_can_be_built(workspace):
    for path in find_recipes("recipes"):
        check_construction(parse_recipe(path))
    check_construction(parse_recipe(RECIPE, ["--model_name_or_path=nobody/has-this"]))  # as far as it is known
