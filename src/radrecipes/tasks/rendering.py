"""Renders a task's question and answer to token ids, identically for training, evaluation and prediction."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from radrecipes.errors import InputError
from radrecipes.models.chat_template import check_chat_template
from radrecipes.models.control_tokens import FAMILY_TOKENS, control_token_in
from radrecipes.tasks.task import Task


@dataclass(frozen=True)
class RenderedExample:
    """Token ids of one training example: only the completion has a loss, and it ends with a stop token."""

    prompt_ids: list[int]
    completion_ids: list[int]


def render_prompts(
    task: Task, inputs: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, style: str
) -> list[list[int]]:
    """Token ids of the prompts; `style` is `"chat"` (needs a chat template), `"plain"` or `"input"`, as in the recipe."""
    if not inputs:  # tokenizers refuse an empty list
        return []
    return _token_ids(_questions(task, inputs, tokenizer, style), None, tokenizer, style)


def render_examples(
    task: Task,
    inputs: Sequence[dict[str, str]],
    targets: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    style: str,
    stop_token_ids: list[int],
    names: Sequence[str] | None = None,
) -> list[RenderedExample]:
    """Token ids of prompt and completion of training rows, which have `names` in errors.

    The first of `stop_token_ids` is appended if style `"plain"` writes none. It is an [`InputError`] if the template
    changes the prompt when an answer follows (training and prediction would differ), writes no stop token after the
    answer (the model would never learn to stop), or if a row contains a control token of its own.
    """
    # The last row is only there for the control tokens that the template itself writes.
    questions = _questions(task, [*inputs, task.probe], tokenizer, style)
    *prompts, _ = _token_ids(questions, None, tokenizer, style)
    *wholes, frame = _token_ids(questions, [*targets, "x"], tokenizer, style)
    _refuse_unsafe(_other_control_tokens(wholes, frame, tokenizer), names)
    return [
        _split_up(prompt_ids, whole, style, stop_token_ids) for prompt_ids, whole in zip(prompts, wholes, strict=True)
    ]


def prompts_with_control_tokens(
    prompts: Sequence[list[int]], task: Task, tokenizer: PreTrainedTokenizerBase, style: str
) -> list[bool]:
    """Whether each prompt contains other control tokens than those of the template, in spite of the spaces in its text."""
    (frame,) = render_prompts(task, [task.probe], tokenizer, style)
    return _other_control_tokens(prompts, frame, tokenizer)


def check_prompts(
    prompts: Sequence[list[int]], task: Task, tokenizer: PreTrainedTokenizerBase, style: str, names: Sequence[str]
) -> None:
    """Raise an [`InputError`] if the prompt of a training row, which has one of `names`, contains a control token of its own."""
    _refuse_unsafe(prompts_with_control_tokens(prompts, task, tokenizer, style), names)


def _refuse_unsafe(is_unsafe: Sequence[bool], names: Sequence[str] | None) -> None:
    unsafe = [place for place, other in enumerate(is_unsafe) if other]
    if unsafe:
        raise InputError(
            f"{len(unsafe)} rows contain a control token of the model (first: row {names[unsafe[0]] if names else unsafe[0] + 1}); "
            "remove it and prepare the dataset again"
        )


def _other_control_tokens(
    rows: Sequence[list[int]], frame: list[int], tokenizer: PreTrainedTokenizerBase
) -> list[bool]:
    """Whether each row has other control tokens than `frame`, which a harmless text gives.

    Tokenizers that change letters can make a control token of a text that does not look like one.
    """
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    expected = [token for token in frame if token in control]
    return [[token for token in row if token in control] != expected for row in rows]


def check_answers(answers: Sequence[str], kind: str, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Raise an [`InputError`] if an answer (of `kind` rows or labels) contains a control token, where a model would stop."""
    own = _special_tokens(tokenizer) if tokenizer else set()
    found = {}
    for number, answer in enumerate(answers, start=1):
        if token := control_token_in(answer) or next((token for token in own if token in answer), None):
            found[number] = token
    if found:
        first, token = next(iter(found.items()))
        raise InputError(
            f"the answers of {len(found)} of {len(answers)} {kind} contain a control token, where the model would stop (first: "
            f"number {first}, {token!r}); remove it and prepare the dataset again"
        )


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
    task: Task, targets: Sequence[str], tokenizer: PreTrainedTokenizerBase, style: str, stop_token_ids: list[int]
) -> list[list[int]]:
    """Token ids of each target as the model writes it, with its stop token; independent of the prompt."""
    check_answers(targets, "labels", tokenizer)
    inputs = [{task.input_column: "x"}] * len(targets)
    examples = render_examples(task, inputs, targets, tokenizer, style, stop_token_ids)
    return [example.completion_ids for example in examples]


def prompt_template_digest(task: Task, tokenizer: PreTrainedTokenizerBase, style: str) -> str:
    """sha256 of everything that decides a prompt: instruction, style, and the chat template, which is checked first."""
    if style == "chat" and tokenizer.chat_template:
        check_chat_template(tokenizer)
    (probe,) = _texts(task, [task.probe], style)
    template = tokenizer.chat_template if style == "chat" else _written("{question}", style)
    return hashlib.sha256(f"{style}\n{probe}\n{template}".encode()).hexdigest()


def _token_ids(
    questions: Sequence[str], answers: Sequence[str] | None, tokenizer: PreTrainedTokenizerBase, style: str
) -> list[list[int]]:
    """Token ids of the user's turns, followed by their answers if given."""
    if style != "chat":
        texts = [_written(question, style) for question in questions]
        if answers is not None:
            texts = [f"{text} {answer}" for text, answer in zip(texts, answers, strict=True)]
        return tokenizer(texts)["input_ids"]
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template; set `prompt_style: plain` or `chat_template_path`")
    check_chat_template(tokenizer)
    turns = [[{"role": "user", "content": question}] for question in questions]
    if answers is not None:
        for turn, answer in zip(turns, answers, strict=True):
            turn.append({"role": "assistant", "content": answer})
    texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answers is None)
    # As apply_chat_template does, but without its wrapper around the ids: the text already contains the special tokens.
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def _questions(
    task: Task, inputs: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase, style: str
) -> list[str]:
    """The user's turns, with a space inside any text that is a special token, or markup that the template writes.

    Otherwise a note with `<|im_end|>` would end the user's turn, and what follows could pose as an instruction.
    """
    markers = _special_tokens(tokenizer)
    if style == "chat" and tokenizer.chat_template:
        # `<think>` is an ordinary token, and `[INST]` often no token at all.
        markup = {token.content for token in tokenizer.added_tokens_decoder.values()} | FAMILY_TOKENS
        markers |= {token for token in markup if token[0] in "<[" and token in tokenizer.chat_template}
    # Longest first: breaking a marker also breaks any marker inside it.
    ordered = sorted(markers, key=len, reverse=True)
    questions = []
    for question in _texts(task, inputs, style):
        for marker in ordered:
            question = question.replace(marker, f"{marker[0]} {marker[1:]}")
        questions.append(question)
    return questions


def _texts(task: Task, inputs: Sequence[dict[str, str]], style: str) -> list[str]:
    """What is asked: the instruction with the input, or the input alone."""
    return [row[task.input_column] if style == "input" else task.question(row) for row in inputs]


def _written(question: str, style: str) -> str:
    """A question without a chat template."""
    return question if style == "input" else f"{question}\nAnswer:"


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    # A single letter cannot be broken, and is no markup.
    return {token for token in special | set(tokenizer.all_special_tokens) if len(token) > 1}


def write_question(task: Task, inputs: dict[str, str], style: str) -> str:
    """The user's turn of style `"chat"`, or the complete prompt of the other styles."""
    (text,) = _texts(task, [inputs], style)
    return text if style == "chat" else _written(text, style)
