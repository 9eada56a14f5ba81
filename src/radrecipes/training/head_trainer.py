"""The trainer for a classification head: Transformers' own, with batches of similar length or without padding."""

import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from peft import get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from radrecipes.models.classification_head import head_at, is_encoder
from radrecipes.models.weights import lora_config
from radrecipes.recipe import Recipe
from radrecipes.training.collators import IGNORED, PaddedCollator
from radrecipes.training.sampler import SimilarLengthSampler, with_empty_row
from radrecipes.training.trainer import RunTrainer, check_trainable, collator_for, show_loss


class HeadTrainer(RunTrainer):
    """[`~transformers.Trainer`] for a classification head; each row is labelled with its class, at its last token."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # so that a loss is the mean over the rows of all batches of a step

    def order_of_rows(self, rows: int, step_rows: int, seed: int) -> SeedableRandomSampler:
        """Rows of similar length together where they would be padded."""
        if not isinstance(self.data_collator, PaddedCollator):
            return super().order_of_rows(rows, step_rows, seed)
        return SimilarLengthSampler([len(ids) for ids in self.train_dataset["input_ids"][:rows]], step_rows, seed)

    def scored(self, labels: torch.Tensor) -> torch.Tensor:
        """The classes of the rows."""
        return labels[labels != IGNORED]

    def score(self, model, inputs):
        """The logits of shape `(rows, labels)` of a batch's rows."""
        is_last = inputs["labels"] != IGNORED
        forward_inputs = {key: value for key, value in inputs.items() if key not in ("labels", "index")}
        unwrapped = self.accelerator.unwrap_model(model)
        if is_encoder(unwrapped.config):
            return SequenceClassifierOutput(logits=model(**forward_inputs).logits[is_last.any(dim=1)])
        counts = is_last.sum(dim=1, keepdim=True)
        most = max(int(counts.max()), 1)  # a batch of empty rows only takes part in the step's collectives
        positions = is_last.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        with head_at(unwrapped, positions):
            logits = model(**forward_inputs, use_cache=False).logits
        return SequenceClassifierOutput(logits=logits[torch.arange(most, device=logits.device) < counts])


def head_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    validation: Dataset | None = None,
) -> HeadTrainer:
    """The trainer of a recipe with `decode: head`; arguments and errors as for [`~training.trainer.sft_trainer`]."""
    check_trainable(recipe, model)
    model.config.pad_token_id = tokenizer.pad_token_id  # without one Transformers refuses several rows
    args = recipe.training
    if recipe.model.use_peft:
        set_seed(args.seed)  # an adapter is random
        model = get_peft_model(model, lora_config(recipe.model))
        if args.activation_checkpointing:
            model.enable_input_require_grads()
    trainer = HeadTrainer(
        model=model,
        args=args,
        data_collator=collator_for(recipe, tokenizer, torch.bfloat16 if args.bf16 else model.dtype),
        train_dataset=rows if args.world_size == 1 else with_empty_row(rows, tokenizer.pad_token_id),
        eval_dataset=validation,
        processing_class=tokenizer,
    )
    show_loss(trainer)
    return trainer
