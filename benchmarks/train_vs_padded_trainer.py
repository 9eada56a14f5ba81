"""`scripts/sft.py` against a plain Trainer loop that pads every row to 512 tokens, as most notebooks do."""

import sys
from pathlib import Path

from measuring import BIN, run_with_peak_memory
from training_side import TrainingComparison, samples_per_second


class TrainVsPaddedTrainer(TrainingComparison):
    """The padded side runs two steps only: each takes as long as about ten of ours."""

    description = (
        "samples per second of scripts/sft.py against a plain transformers.Trainer that pads to 512 tokens; "
        "SmolLM2-135M-Instruct, LoRA r 16 on all linear layers, the same rows, batch 16, bfloat16, no gradient checkpointing"
    )

    def theirs(self) -> dict[str, float]:
        """The padded side, in its own process."""
        peak, printed = run_with_peak_memory([BIN / "python", Path(__file__), self.rows.base, self.rows.folder])
        return {"samples_per_second": samples_per_second(printed), "peak_memory_gib": peak}


def train_padded(base: str, folder: Path, steps: int = 2, length: int = 512) -> None:
    """The loop of a notebook: pad to a fixed length, and let the model compute its own loss over all positions."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

    def pad(row):
        fill = length - len(row["input_ids"])
        return {
            "input_ids": row["input_ids"] + [0] * fill,
            "attention_mask": [1] * len(row["input_ids"]) + [0] * fill,
            "labels": row["labels"] + [-100] * fill,
        }

    rows = load_dataset("parquet", data_files=str(folder / "rows" / "train.parquet"), split="train[:64]").map(pad)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, trust_remote_code=False)
    adapter = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    args = TrainingArguments(
        output_dir=str(folder / "padded"),
        per_device_train_batch_size=16,
        max_steps=steps,
        learning_rate=1e-3,
        bf16=True,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    Trainer(get_peft_model(model, adapter), args, train_dataset=rows, data_collator=default_data_collator).train()


if __name__ == "__main__":
    train_padded(sys.argv[1], Path(sys.argv[2]))
