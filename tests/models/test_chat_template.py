"""A chat template must be a function of the messages, and must not use up memory or time."""

import subprocess

import pytest
from tiny_model import CHATML, build_tiny_tokenizer

from radrecipes.errors import InputError
from radrecipes.models.chat_template import check_chat_template

TOKENIZER = build_tiny_tokenizer()
LIMITS = "needs more than 2 s or 1,024 MiB"


def check(template):
    TOKENIZER.chat_template = template
    check_chat_template(TOKENIZER)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ strftime_now('%d %b %Y') }}" + CHATML, r"writes the current date \(strftime_now\)"),
        ("{% if tools %}{{ strftime_now('%Y') }}{% endif %}" + CHATML, "writes the current date"),
        (CHATML + "{{ lipsum() }}", r"writes random text \(lipsum\)"),
        (CHATML + "{{ [1, 2] | random }}", "writes a random choice"),
        (CHATML + "{{ messages | map('upper') }}", "writes other texts for the same messages"),  # an address
        ("{{ 'x' * 9000000000 }}", LIMITS),
        ("{{ 'x' * 90000 }}{{ 'x' * 90000 }}", LIMITS),
        (CHATML + "{% if 'fall' in messages[0].content %}{{ 'x' * 9000000000 }}{% endif %}", LIMITS),
        ("{% for i in range(999999999) %}{% endfor %}", LIMITS),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", LIMITS),
        ("{% for %}", "cannot be rendered .TemplateSyntaxError in line 1"),
        ("{{ raise_exception('\x1b[2J' * 999) }}", r"cannot be rendered \(TemplateError: '\\x1b\[2J"),
        ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", "cannot be rendered .RecursionError"),
        ("{#" + "x" * 1_000_000 + "#}", "has 1,000,004 characters"),
        ({"rag": CHATML, "tools": CHATML}, "several chat templates and none named default"),
    ],
)
def test_a_template_that_is_no_function_of_the_messages_or_too_expensive_is_refused(template, said):
    with pytest.raises(InputError, match=said) as caught:
        check(template)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_a_template_is_rendered_elsewhere_once(monkeypatch):
    check("{# seen once #}" + CHATML)
    started = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: started.append(command))
    check("{# seen once #}" + CHATML)
    assert not started
