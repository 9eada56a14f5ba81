"""Secrets are found in cards, logs, YAML and JSON. Each is put together here, so that no scanner finds one in this file."""

import random
import string
import time

import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from radrecipes.secrets import find_secrets

BASE62 = string.ascii_letters + string.digits
_draw = random.Random(0)


def made_up(count: int, alphabet: str = BASE62) -> str:
    return "".join(_draw.choice(alphabet) for _ in range(count))


HF = "hf" + "_"
SECRETS = {
    "Hugging Face token": [HF + made_up(34), HF + made_up(37), "api_" + "org_" + made_up(34)],
    "GitHub token": ["gh" + "p_" + made_up(36), "github" + "_pat_" + made_up(22) + "_" + made_up(59)],
    "AWS key": ["AK" + "IA" + made_up(16, string.ascii_uppercase + "234567")],
    "private key": ["-----BEGIN " + f"{kind}PRIVATE " + "KEY-----" for kind in ("RSA ", "OPENSSH ", "EC ", "")],
    "JSON web token": [f"ey{'J'}{made_up(20)}.ey{'J'}{made_up(40)}.{made_up(43)}"],
    "Slack token": ["xo" + "xb-" + made_up(11, string.digits) + "-" + made_up(24)],
    "API key": [
        "gs" + "k_" + made_up(52),
        "da" + "pi" + made_up(32, "0123456789abcdef"),
        "sk" + "-" + made_up(48),
        "sk" + "-proj-" + made_up(60),
        "np" + "m_" + made_up(36),
    ],
    "GitLab token": ["gl" + "pat-" + made_up(20)],
    "Google key": ["AI" + "za" + made_up(35)],
}
PLACES = (
    "{}",
    "HF_TOKEN={}",
    "token: {}",
    '{{"token": "{}", "rows": 12}}',
    "2026-01-01 INFO started with key {} on rank 0",
    "https://example.org/login?next=token%3D{}",
    "Run `export KEY='{}'` first.",
    "git clone https://user:{}@example.org/repository.git",
    "Authorization: Bearer {}",
)


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("place", PLACES)
def test_every_form_is_found_in_every_place(kind, place):
    for secret in SECRETS[kind]:
        text = place.format(secret)
        (found,) = find_secrets(text)
        assert found.kind == kind
        assert text[found.start : found.end] == secret


ASSIGNED = {
    "password in a link": ["postgres://reader:{}@db.example.org/reports", "https://:{}@example.org"],
    "Weights & Biases key": ["WANDB_API_KEY={hex}", "wandb: using key {hex}", 'wandb.login(key="{hex}")'],
    "password or key": [
        "password = {}",
        "DB_PASSWORD={}",
        'api_key: "{}"',
        "client_secret='{}'",
        "the password is {}",
        "passwd: {}",
        "**password**: `{}`",
        "| password | {} |",
        "PGPASSWORD={} psql",
        "machine example.org\n  login reader\n  password {}",
        "machine example.org login reader password {}",
        '{{"secret": "{}"}}',
    ],
    "bearer token": ["authorization: bearer {long}", "curl -H 'Authorization: Basic {long}'"],
    "token": ["--token {long}", "access_token={long}"],
    "AWS key": ["aws_secret_access_key = {forty}"],
    "signed link": ["https://blobs.example.org/model.bin?sv=2022-11-02&sig={long}%3D"],
    "API key": ['{{"username": "reader", "key": "{key}"}}'],
}


@pytest.mark.parametrize(("kind", "form"), [(kind, form) for kind, forms in ASSIGNED.items() for form in forms])
def test_what_is_assigned_to_a_secret_name_is_found(kind, form):
    short = made_up(7) + "4x"
    values = {
        "key": made_up(32, "0123456789abcdef"),
        "hex": made_up(40, "0123456789abcdef"),
        "long": made_up(30) + "7a",
        "forty": made_up(38) + "/7",
    }
    text = form.format(short, **values)
    (found,) = find_secrets(text)
    assert found.kind == kind
    assert text[found.start : found.end].removesuffix("%3D") in (short, *values.values())


HARMLESS = [
    "max_new_tokens: 64",
    '"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": "[UNK]"',
    "tokenizer_class: PreTrainedTokenizerFast",
    "export HF_TOKEN=<your token>",
    "token=os.environ['HF_TOKEN']",
    'password: "${DB_PASSWORD}"',
    "password: required for the gated repository",
    "PASSWORD=None",
    "secret: null",
    "hf_hub_download and hf_transfer are functions",
    "sha256: " + "0123456789abcdef" * 4,
    "base_model_revision: 12fd25f77366fa6b3b4b768ec3050bf629380bac",
    "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/tree/main",
    "see https://example.org:8080/path@v1",
    "Enter your password: it is never stored.",
    "api_key=your_api_key_here",
    "Tokens per second: 1234.5; tokenised 24000 tokens",
    "sk-learn-compatible estimators, scikit-learn-1.9.1",
    "The keys of the patient were found. Secret: none.",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_let_through(text):
    assert find_secrets(text) == []


def test_this_repository_contains_none():
    folders = ("recipes", "scripts", "src", "data", "launch", "accelerate_configs", "benchmarks")
    paths = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "setup.cfg"]
    for folder in folders:
        paths += [
            path for path in (REPOSITORY / folder).rglob("*") if path.suffix in {".md", ".yaml", ".json", ".py", ".sh"}
        ]
    assert {str(path): found for path in paths if (found := find_secrets(path.read_text(encoding="utf-8")))} == {}


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_token_is_found_whatever_is_around_it(before, after):
    secret = HF + "a1B2" * 9
    text = f"{before} {secret} {after}"
    start = len(before) + 1
    assert any(found.start <= start and found.end >= start + len(secret) for found in find_secrets(text))


@pytest.mark.parametrize("text", ["a", "A1", "sk-", "aws ", "password ", "machine x "])
def test_one_long_line_is_read_in_the_time_of_its_length(text):
    start = time.perf_counter()
    find_secrets(text * (100_000 // len(text)))
    assert time.perf_counter() - start < 2
