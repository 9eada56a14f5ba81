"""Finds tokens, keys and passwords in a text; reports their kind and location, and never quotes them."""

import itertools
import re

from radrecipes.errors import InputError
from radrecipes.text_span import TextSpan


def _token(pattern: str) -> str:
    """A token of a known form that is not part of a longer word; after an escape in a URL (`%3D`) a new word begins."""
    return rf"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f][0-9A-Fa-f]))(?P<secret>{pattern})"


# Not a secret: a placeholder, a reference to a variable, or a word for an absent value.
_NOT_A_VALUE = (
    r"(?!(?:none|null|true|false|required|optional|hidden|redacted|removed|changeme|placeholder|example|your|my|the|xxx)"
    r"(?![A-Za-z0-9])|your[_-]|my[_-]|os\.|env[.:\[]|getenv|process\.|x{4}|\*{3}|\.{3})"
)
_SECRET_NAME = (
    r"(?:(?:pg)?pass(?:word|wd|phrase)?|pwd|secret|credentials?"
    r"|(?:api|access|account|auth|private|secret|signing|client)[_-]?key)"
)

# By kind, in order: the first pattern that matches wins. Token formats come from each issuer's documentation.
_PATTERNS = {
    "private key": (
        r"(?P<secret>-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----)",
        r"(?P<secret>PuTTY-User-Key-File-\d|AGE-SECRET-KEY-1[0-9A-Z]{50,})",
    ),
    "Hugging Face token": (_token(r"(?:hf_|api_org_)[A-Za-z0-9]{30,}"),),
    "GitHub token": (_token(r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,}"),),
    "GitLab token": (_token(r"gl(?:pat|dt|ptt|rt|oas|cbt)-[A-Za-z0-9_-]{20,}"),),
    "Slack token": (
        _token(
            r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{20,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}"
        ),
    ),
    "AWS key": (
        _token(r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}(?![A-Za-z0-9])"),
        r"(?i)aws.{0,30}?[\"'\s:=](?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    ),
    "Google key": (_token(r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{30,}"),),
    "API key": (
        _token(r"sk-[A-Za-z0-9_-]{20,}|[sr]k_(?:live|test)_[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{30,}"),
        _token(
            r"(?:r8_[A-Za-z0-9]{37}|gsk_[A-Za-z0-9]{40,}|whsec_[A-Za-z0-9+/]{24,}|dapi[0-9a-f]{32}"
            r"|ms-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|pypi-[A-Za-z0-9_-]{50,}|npm_[A-Za-z0-9]{36}|SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{30,}|dop_v1_[a-f0-9]{64})"
        ),
        r"\"username\"[^{}]{1,80}\"key\"\s*:\s*\"(?P<secret>[0-9a-f]{32})\"",
    ),
    "signed link": (r"(?i)[?&](?:sig|x-amz-signature|x-goog-signature)=(?P<secret>[A-Za-z0-9%+/_-]{32,})",),
    "JSON web token": (_token(r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),),
    "Weights & Biases key": (
        r"(?i)(?:wandb|weights\s*(?:&|and)\s*biases).{0,40}?(?<![0-9a-f])(?P<secret>[0-9a-f]{40})(?![0-9a-f])",
        _token(r"wandb_v1_[A-Za-z0-9_]{40,}"),
    ),
    "password in a link": (
        r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@<>{}$\[\]]*:(?P<secret>[^\s:/@<>{}$\[\]*]{3,})@",
    ),
    "bearer token": (r"(?i)\b(?:bearer|authorization:\s*(?:basic|token))\s+(?P<secret>[A-Za-z0-9._~+/-]{16,}=*)",),
    # Quoted text or text after an equals sign is a value; after a colon it may be prose, so it needs a digit.
    "password or key": (
        rf"(?i)(?<![A-Za-z]){_SECRET_NAME}[\"'*`]{{0,3}}\s*(?:=>|:?=|[:：]\s*(?=[\"']))\s*[\"']?{_NOT_A_VALUE}(?P<secret>[^\s\"'<>{{}}()\[\]$,;]{{6,}})",
        rf"(?i)(?<![A-Za-z]){_SECRET_NAME}[*`]{{0,3}}\s*(?:[:：|]|\bis\b)\**\s*`?{_NOT_A_VALUE}(?P<secret>(?=[^\s]*\d)[^\s`\"'<>{{}}()\[\]$,;]{{6,}})",
        rf"(?i)\b(?:machine|login|--?user(?:name)?)\s+\S+[^{{}}]{{0,60}}?\bpassword\s+{_NOT_A_VALUE}(?P<secret>\S{{4,}})",
    ),
    # `token` alone is common in this field (pad_token, eos_token), so its value must be long, with letters and digits.
    "token": (
        r"(?i)token[\"']?\s*(?:[:=]|=>|\s)\s*[\"']?(?P<secret>(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z])[A-Za-z0-9_-]{20,})(?![A-Za-z0-9_.-]*[./])",
    ),
}
_RULES = {kind: [re.compile(pattern) for pattern in patterns] for kind, patterns in _PATTERNS.items()}


def find_secrets(text: str) -> list[TextSpan]:
    """Find tokens, keys and passwords in a text, in order and without overlaps."""
    found: list[TextSpan] = []
    for kind, patterns in _RULES.items():
        for match in itertools.chain.from_iterable(pattern.finditer(text) for pattern in patterns):
            start, end = match.span("secret")
            if not any(other.overlaps(start, end) for other in found):
                found.append(TextSpan(kind, start, end))
    return sorted(found, key=lambda secret: secret.start)


def refuse_secrets(text: str, place: str) -> None:
    """Refuse a text with a secret, by its kind and line, because a run folder would keep it; `place` is its file or origin."""
    for found in find_secrets(text)[:1]:
        line = text.count("\n", 0, found.start) + 1
        named = place if ":" in place or place == "command line" else f"{place}:{line}"
        raise InputError(f"looks like a {found.kind}; take it out, and revoke it if anybody else can read this", named)
