"""Show what a model will read and learn to write."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from radrecipes.recipe import parse_recipe
from radrecipes.tasks import TASKS
from radrecipes.training import data as inspection


def inspect(path: Path, shown: int, overrides: Sequence[str]) -> None:
    """Print training examples with the trained tokens marked, and what all rows look like."""
    recipe = parse_recipe(path, overrides)
    data = inspection.load_training_data(recipe, max_dropped_fraction=1.0)
    tokenizer, rows, console = data.tokenizer, data.rows, Console(highlight=False, soft_wrap=True)

    # Examples: colour on a terminal, the brackets everywhere
    for number in range(min(shown, len(rows.rows))):
        prompt, answer = inspection.prompt_and_answer(rows.rows[number], tokenizer)
        console.print(Text(f"example {number + 1}; only ⟦…⟧ carries loss", style="bold"))
        console.print(Text.assemble((prompt, "dim"), (f"⟦{answer}⟧", "bold green")), end="\n\n")

    # Tokens and lengths
    lengths = inspection.summarise_lengths([len(ids) for ids in rows.rows["input_ids"]])
    answers = inspection.summarise_lengths(inspection.answer_lengths(rows.rows["labels"]))
    print("stop tokens        " + ", ".join(f"{tokenizer.decode([stop])} ({stop})" for stop in data.stops))
    print(f"padding token      {tokenizer.pad_token} ({tokenizer.pad_token_id})")
    for name, found in (("tokens a row", lengths), ("tokens an answer", answers)):
        print(
            f"{name:18} min {found.smallest}, median {found.median:g}, 95 % {found.percentile_95}, max {found.largest}"
        )
    print(
        f"carry loss         {rows.scored_tokens:,} of {rows.tokens:,} tokens ({rows.scored_tokens / rows.tokens:.1%})"
    )
    total = len(rows.rows) + len(rows.too_long)
    first = f", first: row {rows.too_long[0]}" if rows.too_long else ""
    print(
        f"left out           {len(rows.too_long)} of {total:,} rows, longer than {recipe.training.max_length}{first}"
    )

    # What the rows are examples of
    task = TASKS[recipe.arguments.task]
    labels = inspection.count_categories(data.dataset.splits["train"], task)
    print(f"{'labels' if task.writes == 'label' else 'observations':18} {len(labels)}")
    for name, entries in (("most rows", labels[:3]), ("least rows", labels[-3:])):
        print(f"{name:18} " + ", ".join(f"{label} ({count})" for label, count in entries))
