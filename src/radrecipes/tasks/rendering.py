"""From a task's question and answer to token ids, the same way for training, evaluation and prediction."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from radrecipes.errors import InputError
from radrecipes.tasks.task import Task


@dataclass(frozen=True)
class RenderedExample:
    """Token ids of one training example.

    Args:
        prompt_ids (`list[int]`):
            What the model reads; carries no loss.
        completion_ids (`list[int]`):
            What the model learns to write; its last id is a stop token.
    """

    prompt_ids: list[int]
    completion_ids: list[int]


def render_prompt(task: Task, inputs: dict[str, str], tokenizer: PreTrainedTokenizerBase, style: str) -> list[int]:
    """Token ids of the prompt, up to where the model begins to write.

    Args:
        task ([`Task`]):
            The task.
        inputs (`dict[str, str]`):
            The row's input columns.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        style (`str`):
            `"chat"` or `"plain"`, as in the recipe.

    Returns:
        `list[int]`

    Raises:
        [`InputError`]: style `"chat"` with a tokenizer that has no chat template.
    """
    question = _question(task, inputs, tokenizer)
    if style == "plain":
        return tokenizer(plain_prompt(question))["input_ids"]
    _require_template(tokenizer)
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
    )["input_ids"]


def render_example(
    task: Task,
    inputs: dict[str, str],
    target: str,
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    stop_token_ids: list[int],
) -> RenderedExample:
    """Token ids of prompt and completion of one training row.

    Args:
        task, inputs, tokenizer, style:
            As in [`render_prompt`].
        target (`str`):
            What the model is to write.
        stop_token_ids (`list[int]`):
            Tokens that end generation; the first is appended where the template writes none.

    Returns:
        [`RenderedExample`]

    Raises:
        [`InputError`]: the template rewrites the prompt when an answer follows (so that training and prediction would differ), or
            writes no stop token behind the answer (so that the model would never learn to stop).
    """
    prompt_ids = render_prompt(task, inputs, tokenizer, style)
    question = _question(task, inputs, tokenizer)
    if style == "plain":
        whole = tokenizer(plain_prompt(question) + " " + target)["input_ids"]
    else:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": target}]
        whole = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    if whole[: len(prompt_ids)] != prompt_ids:
        raise InputError(
            "the rendered prompt is no beginning of prompt and answer together: training and prediction would differ; "
            "use another prompt_style or chat_template_path"
        )
    stops = [index for index, token in enumerate(whole) if token in stop_token_ids and index >= len(prompt_ids)]
    if stops:
        # What stands behind the first stop token (a line break of the template, say) is never generated, so it is not trained.
        whole = whole[: stops[0] + 1]
    elif style == "plain":
        whole = [*whole, stop_token_ids[0]]
    else:
        raise InputError("the chat template writes no stop token behind the answer: the model would never stop")
    return RenderedExample(prompt_ids, whole[len(prompt_ids) :])


def render_completions(
    task: Task,
    targets: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    stop_token_ids: list[int],
) -> list[list[int]]:
    """Token ids of what the model would write for each target, its stop token last: the same behind every prompt.

    Args:
        targets (`Sequence[str]`):
            For example the labels of a label set.
        task, tokenizer, style, stop_token_ids:
            As in [`render_example`].

    Returns:
        `list[list[int]]`
    """
    inputs = {task.input_column: "x"}
    return [
        render_example(task, inputs, target, tokenizer, style, stop_token_ids).completion_ids for target in targets
    ]


def prompt_template_digest(task: Task, tokenizer: PreTrainedTokenizerBase, style: str) -> str:
    """sha256 of everything that decides a prompt: instruction, style, and the chat template."""
    probe = task.question(task.probe)
    template = tokenizer.chat_template if style == "chat" else plain_prompt("{question}")
    return hashlib.sha256(f"{style}\n{probe}\n{template}".encode()).hexdigest()


def _question(task: Task, inputs: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> str:
    """The user's turn, with a space inside whatever the tokenizer would read as one of its special tokens.

    A note that holds `<|im_end|>` would else end the user's turn, and what follows it could pose as an instruction.
    """
    question = task.question(inputs)
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    # Longest first: a marker that is part of another one is broken with it. One letter cannot be broken.
    for marker in sorted(special, key=len, reverse=True):
        if len(marker) > 1:
            question = question.replace(marker, f"{marker[0]} {marker[1:]}")
    return question


def plain_prompt(question: str) -> str:
    """A question as style `"plain"` puts it, for base models without a chat template."""
    return f"{question}\nAnswer:"


def _require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; set `prompt_style: plain` or `chat_template_path`")
