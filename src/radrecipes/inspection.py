"""What a recipe will train on, made visible before anything is trained."""

from transformers import PreTrainedTokenizerBase

from radrecipes.batching import IGNORED


def masked_example(row: dict[str, list[int]], tokenizer: PreTrainedTokenizerBase) -> str:
    """One training row as text, the tokens that carry loss between double brackets.

    Args:
        row (`dict[str, list[int]]`):
            `input_ids` and `labels`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Decodes them.

    Returns:
        `str`: a line of explanation, then the example.
    """
    first_scored = next(index for index, label in enumerate(row["labels"]) if label != IGNORED)
    prompt = tokenizer.decode(row["input_ids"][:first_scored])
    answer = tokenizer.decode(row["input_ids"][first_scored:])
    stop = tokenizer.decode(row["input_ids"][-1:])
    return f"One training example; only ⟦…⟧ carries loss, and {stop} stops the model:\n{prompt}⟦{answer}⟧"
