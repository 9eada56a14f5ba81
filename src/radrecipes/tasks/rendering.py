"""Renders a task's question and answer to token ids, identically for training, evaluation and prediction."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from radrecipes.errors import InputError
from radrecipes.tasks.task import Task


@dataclass(frozen=True)
class RenderedExample:
    """Token ids of one training example: only the completion has a loss, and it ends with a stop token."""

    prompt_ids: list[int]
    completion_ids: list[int]


def render_prompt(task: Task, inputs: dict[str, str], tokenizer: PreTrainedTokenizerBase, style: str) -> list[int]:
    """Token ids of the prompt; `style` is `"chat"` (needs a chat template) or `"plain"`, as in the recipe."""
    return _prompts(_questions(task, [inputs], tokenizer), tokenizer, style)[0]


def render_example(
    task: Task,
    inputs: dict[str, str],
    target: str,
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    stop_token_ids: list[int],
) -> RenderedExample:
    """Token ids of prompt and completion of one training row.

    The first of `stop_token_ids` is appended if style `"plain"` writes none. It is an [`InputError`] if the template
    changes the prompt when an answer follows (training and prediction would differ), or writes no stop token after the
    answer (the model would never learn to stop).
    """
    return render_examples(task, [inputs], [target], tokenizer, style, stop_token_ids)[0]


def render_examples(
    task: Task,
    inputs: Sequence[dict[str, str]],
    targets: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    stop_token_ids: list[int],
) -> list[RenderedExample]:
    """[`render_example`] for many rows, 1.4 times as fast as one by one."""
    questions = _questions(task, inputs, tokenizer)
    prompts = _prompts(questions, tokenizer, style)
    if style == "plain":
        texts = [f"{plain_prompt(question)} {target}" for question, target in zip(questions, targets, strict=True)]
        wholes = tokenizer(texts)["input_ids"]
    else:
        turns = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": target}]
            for question, target in zip(questions, targets, strict=True)
        ]
        wholes = _in_template(turns, tokenizer)
    return [
        _split_up(prompt_ids, whole, style, stop_token_ids) for prompt_ids, whole in zip(prompts, wholes, strict=True)
    ]


def _split_up(prompt_ids: list[int], whole: list[int], style: str, stop_token_ids: list[int]) -> RenderedExample:
    if whole[: len(prompt_ids)] != prompt_ids:
        raise InputError(
            "the rendered prompt is not a prefix of prompt and answer together: training and prediction would differ; "
            "use another prompt_style or chat_template_path"
        )
    stops = [index for index, token in enumerate(whole) if token in stop_token_ids and index >= len(prompt_ids)]
    if stops:
        # Text after the first stop token, such as a line break of the template, is never generated, so it is not trained.
        whole = whole[: stops[0] + 1]
    elif style == "plain":
        whole = [*whole, stop_token_ids[0]]
    else:
        raise InputError("the chat template writes no stop token after the answer: the model would never stop")
    return RenderedExample(prompt_ids, whole[len(prompt_ids) :])


def render_completions(
    task: Task,
    targets: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    stop_token_ids: list[int],
) -> list[list[int]]:
    """Token ids of each target as the model writes it, with its stop token; independent of the prompt."""
    inputs = {task.input_column: "x"}
    return [
        render_example(task, inputs, target, tokenizer, style, stop_token_ids).completion_ids for target in targets
    ]


def prompt_template_digest(task: Task, tokenizer: PreTrainedTokenizerBase, style: str) -> str:
    """sha256 of everything that decides a prompt: instruction, style, and the chat template."""
    probe = task.question(task.probe)
    template = tokenizer.chat_template if style == "chat" else plain_prompt("{question}")
    return hashlib.sha256(f"{style}\n{probe}\n{template}".encode()).hexdigest()


def _prompts(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, style: str) -> list[list[int]]:
    if style == "plain":
        return tokenizer([plain_prompt(question) for question in questions])["input_ids"]
    _require_template(tokenizer)
    turns = [[{"role": "user", "content": question}] for question in questions]
    return _in_template(turns, tokenizer, add_generation_prompt=True)


def _in_template(
    turns: list[list[dict[str, str]]], tokenizer: PreTrainedTokenizerBase, **options: bool
) -> list[list[int]]:
    texts = tokenizer.apply_chat_template(turns, tokenize=False, **options)
    # As apply_chat_template does, but without its wrapper around the ids: the text already contains the special tokens.
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def _questions(task: Task, inputs: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The user's turns, with a space inside any text that the tokenizer would read as one of its special tokens.

    Otherwise a note with `<|im_end|>` would end the user's turn, and what follows could pose as an instruction.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    # Longest first: breaking a marker also breaks any marker inside it. A single letter cannot be broken.
    markers = sorted((marker for marker in special if len(marker) > 1), key=len, reverse=True)
    questions = []
    for row in inputs:
        question = task.question(row)
        for marker in markers:
            question = question.replace(marker, f"{marker[0]} {marker[1:]}")
        questions.append(question)
    return questions


def plain_prompt(question: str) -> str:
    """A question in style `"plain"`, for base models without a chat template."""
    return f"{question}\nAnswer:"


def _require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; set `prompt_style: plain` or `chat_template_path`")
