"""The shipped chat templates write what the models' own do, of which TRL ships copies, except for what is fixed on purpose."""

import copy
from importlib.resources import files

import pytest
from conftest import REPOSITORY
from tiny_model import build_markup_tokenizer

from radrecipes.models.chat_template import check_chat_template

TOKENIZER = build_markup_tokenizer(["<|begin_of_text|>", "<|eot_id|>"], begin="<|begin_of_text|>", end="<|eot_id|>")
QUESTION = {"role": "user", "content": "Which protocol?\nr/o bleed"}
SYSTEM = {"role": "system", "content": "Answer briefly."}
ANSWER = {"role": "assistant", "content": "CT Head"}
CONVERSATIONS = ([QUESTION], [SYSTEM, QUESTION], [SYSTEM, QUESTION, ANSWER, QUESTION])


def rendered(template: str, messages: list, **variables) -> str:
    return TOKENIZER.apply_chat_template(messages, chat_template=template, tokenize=False, **variables)


def ours(name: str) -> str:
    return (REPOSITORY / "recipes" / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def copied(name: str) -> str:
    return files("trl").joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["question", "with system", "third turn"])
def test_llama_writes_the_own_turns_with_one_date(messages):
    expected = rendered(copied("llama3_1"), messages, add_generation_prompt=True)
    assert "Today Date: 26 Jul 2024" in expected
    found = rendered(ours("llama_3"), messages, add_generation_prompt=True)
    assert found == expected
    assert found == rendered(copied("llama3_2"), messages, add_generation_prompt=True, date_string="26 Jul 2024")
    assert found != rendered(copied("llama3_2"), messages, add_generation_prompt=True)  # another one every day


@pytest.mark.parametrize("messages", CONVERSATIONS[:2], ids=["question", "with system"])
def test_qwen_writes_its_own_prompt_with_thinking_switched_off(messages):
    found = rendered(ours("qwen3"), messages, add_generation_prompt=True)
    assert found == rendered(copied("qwen3"), messages, add_generation_prompt=True, enable_thinking=False)
    # With an answer its own writes the block too: here prompt and answer together begin with the prompt.
    whole = rendered(copied("qwen3"), [*messages, ANSWER])
    assert whole == rendered(ours("qwen3"), [*messages, ANSWER]) == found + "CT Head<|im_end|>\n"
    assert not whole.startswith(rendered(copied("qwen3"), messages, add_generation_prompt=True) + "CT Head")


@pytest.mark.parametrize(
    "template",
    [
        *map(ours, ("llama_3", "qwen3", "smollm3", "mistral")),
        *map(copied, ("gemma3", "phi3", "qwen2_5", "qwen3", "lfm2")),
    ],
    ids=["llama_3", "our qwen3", "smollm3", "mistral", "gemma3", "phi3", "qwen2_5", "qwen3", "lfm2"],
)
def test_the_limited_process_renders_what_transformers_renders(template):
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.chat_template = template
    check_chat_template(tokenizer)


@pytest.mark.parametrize("name", ["llama_3", "qwen3", "smollm3", "mistral"])
def test_a_prompt_is_the_beginning_of_prompt_and_answer_and_instructions_are_not_lost(name):
    for messages in CONVERSATIONS:
        prompt = rendered(ours(name), messages, add_generation_prompt=True)
        assert rendered(ours(name), [*messages, ANSWER]).startswith(prompt + "CT Head")
        assert all(message["content"] in prompt for message in messages)
