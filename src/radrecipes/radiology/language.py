"""Whether a report is written in English, the only language that the rules of this package know.

No library: those that know many languages bring megabytes of models, and reports are telegraphic and full of Latin.
"""

import re

# Words that most sentences have, and no other of these languages.
_ENGLISH = re.compile(
    r"\b(?:the|of|is|are|and|with|without|for|to|there|has|have|been|be|was|were|from|by|this|that|which|not|or|may|at|as|on|"
    r"seen|evidence|lungs|heart|chest|clear)\b"
)
# Spanish, Portuguese, Italian, French, German and Dutch; without accents too, as exports lose them. Not `non`, `y` and `e`: English
# reports have them (`Non displaced`, `e.g.`), nor what comes before a hyphen (`Non-displaced`, `en-bloc`).
_OTHER = re.compile(
    r"\b(?:del?|las?|el|los|con|sin|se|una|por|para|que|en|hay|da|dos|com|sem|nao|não|uma?|os|ni|observan?|respect|"
    r"di|il|lo|gli|della|delle|dei|senza|versament[oi]|si|les?|des|du|et|avec|sans|pas|une|est|sont|aux?|dans|"
    r"der|das|und|mit|ohne|keine?|keinen|nicht|eine?|im|ist|sind|von|beidseits|het|een|van|met|zonder|geen|niet|zijn)\b(?!-)"
)
# `ET tube` is no French, `LA enlargement` no Spanish.
_ABBREVIATION = re.compile(r"\b[A-Z]+\b")
_LETTER, _LATIN = re.compile(r"[^\W\d_]"), re.compile(r"[a-zß-ɏ]")


def language_evidence(text: str) -> int:
    """Above 0 if a text is English, below 0 if it is in another language, 0 if nothing in it tells."""
    capitals, text, words = text.isupper(), text.lower(), _ABBREVIATION.sub("", text).lower()
    if not text.isascii() and 2 * len(_LATIN.findall(text)) < len(_LETTER.findall(text)):
        return -1
    other = _OTHER.findall(text if capitals else words)
    # In capitals one word may be an abbreviation.
    return len(_ENGLISH.findall(text)) - (0 if capitals and len(set(other)) < 2 else len(other))
