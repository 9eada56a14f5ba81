"""`scripts/sft.py` against TRL's own `trl sft`: same model, rows, batch, dtype, adapter and seed."""

import json

from measuring import BIN, run_with_peak_memory
from training_side import TrainingComparison, samples_per_second

_LOSS_STEPS = 5


class TrainVsTrlSft(TrainingComparison):
    """TRL's script gets the same token ids and labels; gradient checkpointing, its default, is off on both sides."""

    description = (
        "samples per second of scripts/sft.py against `trl sft`; SmolLM2-135M-Instruct, LoRA r 16 on all linear layers, the same "
        "rows as token ids with labels, batch 16, bfloat16, no gradient checkpointing on either side"
    )

    def theirs(self) -> dict[str, float]:
        """TRL's side."""
        return self._trl("bfloat16", self.rows.steps)

    def checks(self) -> dict:
        """Losses of the first steps on both sides in float32; without equal losses a ratio of speeds is meaningless."""
        rows = self.rows
        steps, rows.steps = rows.steps, _LOSS_STEPS
        rows.run_ours(dtype="float32")
        rows.steps = steps
        log = (rows.folder / "ours" / "train_log.jsonl").read_text().splitlines()
        ours = [entry["loss"] for entry in map(json.loads, log) if "loss" in entry]
        self._trl("float32", _LOSS_STEPS, "--save_strategy", "steps", "--save_steps", str(_LOSS_STEPS))
        state = json.loads((rows.folder / "trl" / f"checkpoint-{_LOSS_STEPS}" / "trainer_state.json").read_text())
        theirs = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
        largest = max(abs(first - second) for first, second in zip(ours, theirs, strict=True))
        return {"float32_losses": {"ours": ours, "theirs": theirs, "largest_difference": largest}}

    def _trl(self, dtype: str, steps: int, *words: str) -> dict[str, float]:
        rows = self.rows
        settings = {
            "model_name_or_path": rows.base,
            "dataset_name": rows.folder / "rows",
            "output_dir": rows.folder / "trl",
            "dtype": dtype,
            "bf16": dtype == "bfloat16",
            "max_steps": steps,
            "per_device_train_batch_size": rows.recipe.arguments.global_batch_size,
            "learning_rate": rows.recipe.training.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": rows.recipe.training.warmup_steps,
            "max_length": rows.recipe.training.max_length,
            "lora_r": rows.recipe.model.lora_r,
            "lora_alpha": rows.recipe.model.lora_alpha,
            "lora_dropout": 0.0,
            "lora_target_modules": "all-linear",
            "seed": rows.recipe.training.seed,
            "logging_steps": 1,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "save_strategy": "no",
            "report_to": "none",
            "use_peft": True,
        }
        command = [BIN / "trl", "sft", "--num_processes", "1"]
        for key, value in settings.items():
            if f"--{key}" not in words:
                command += [f"--{key}", value]
        peak, printed = run_with_peak_memory([*command, *words])
        return {"samples_per_second": samples_per_second(printed), "peak_memory_gib": peak}
