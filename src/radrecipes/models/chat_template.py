"""Checks a chat template, a program of the model's author: its prompts must depend on the messages alone, and cost little."""

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from radrecipes.errors import InputError, RadrecipesError
from radrecipes.models import template_probe

# For a prompt of two words; the templates of current models take a few milliseconds.
_SECONDS, _MEBIBYTES, _CHARACTERS = 2, 1024, 100_000
_WAIT = 60  # seconds, on a busy machine
_QUESTION = [{"role": "user", "content": "knee pain"}]
_CONVERSATIONS = (_QUESTION, [*_QUESTION, {"role": "assistant", "content": "MR Knee"}])
_OTHER = "set chat_template_path to another, for example one of recipes/chat_templates/"
# What changes from day to day or from process to process, by its name in a template.
_CHANGING = {"strftime_now": "the current date", "lipsum": "random text", "random": "a random choice"}


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Render two short conversations in a process with limits, then here; an [`InputError`] unless both give the same texts.

    A template that uses the date or anything random is refused even if these conversations do not show it.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        raise InputError(f"the tokenizer has several chat templates and none named default; {_OTHER}") from None
    expected = _texts(template, json.dumps(tokenizer.special_tokens_map))
    for text, turns, is_prompt in zip(expected, _CONVERSATIONS, (True, False), strict=True):
        if tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=is_prompt) != text:
            raise InputError(
                f"the chat template writes other texts for the same messages in another process; {_OTHER}"
            )


@functools.lru_cache(maxsize=64)
def _texts(template: str, tokens: str) -> list[str]:
    """What a template writes for the two conversations, in a process with limits; `tokens` is JSON."""
    if len(template) > 10 * _CHARACTERS:
        raise InputError(f"the chat template has {len(template):,} characters; {_OTHER}")
    found = _probe(template, json.loads(tokens))
    if found.get("over_limit"):
        raise InputError(
            f"the chat template needs more than {_SECONDS} s or {_MEBIBYTES:,} MiB for a prompt of two words, writes more than "
            f"{_CHARACTERS:,} characters, or contains a larger number; {_OTHER}"
        )
    if "error" in found:
        line = f" in line {found['line']}" if found["line"] else ""
        raise InputError(
            f"the chat template cannot be rendered ({found['error']}{line}: {found['message']!a}); {_OTHER}"
        )
    for name in found["used"]:
        raise InputError(
            f"the chat template writes {_CHANGING[name]} ({name}), so that equal inputs would get other prompts on another day; "
            f"{_OTHER}"
        )
    return found["texts"]


def _probe(template: str, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """What `template_probe.py` answers, which ends or is ended within its limits."""
    request = {
        "template": template,
        "tokens": tokens,
        "conversations": _CONVERSATIONS,
        "packages": str(Path(jinja2.__file__).parents[1]),
        "seconds": _SECONDS,
        "memory": _MEBIBYTES * 2**20,
        "characters": _CHARACTERS,
    }
    # Isolated, and without the packages of this environment, whose start would take longer than the rest.
    command = [sys.executable, "-I", "-S", template_probe.__file__]
    try:
        # A session of its own, so that Ctrl-C does not look like a template that was ended.
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=_WAIT, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return {"over_limit": True}
    if done.returncode < 0:  # ended by a signal
        return {"over_limit": True}
    if done.returncode:
        raise RadrecipesError(f"the check of the chat template failed: {done.stderr[-200:]!a}")
    return json.loads(done.stdout)
