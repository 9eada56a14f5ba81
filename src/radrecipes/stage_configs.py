"""The configuration class of each training stage: TRL's, with the fields that recipes of every stage have."""

from dataclasses import dataclass, field

from trl import GRPOConfig, SFTConfig


@dataclass
class RejectionConfig(SFTConfig):
    """Supervised fine-tuning on the dataset's texts and on texts of the model itself that pass the task's check.

    Args:
        num_generations: Texts that the model writes for each prompt.
        temperature: Of their sampling.
    """

    num_generations: int = 8
    temperature: float = 0.7


@dataclass
class GrpoConfig(GRPOConfig):
    """Group relative policy optimisation (Shao et al. 2024) with the task's rewards.

    Args:
        max_length: Tokens of the longest prompt with the dataset's text, as in supervised fine-tuning.
        completion_only_loss, chat_template_path: As in [`~trl.SFTConfig`].
        num_generations_eval: Validation measures the task's metrics of one greedy text.
    """

    max_length: int | None = 256
    completion_only_loss: bool = True
    chat_template_path: str | None = None
    num_generations_eval: int | None = field(default=1)


CONFIGS: dict[str, type] = {"sft": SFTConfig, "rejection": RejectionConfig, "grpo": GrpoConfig}
