"""Label sets: the names that a model may answer with, and the known spellings of each."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import yaml

from radrecipes.data.normalise import matching_key
from radrecipes.errors import InputError, nearest, quoted, shown
from radrecipes.files import YAML_LIMIT, compose_yaml, read_text
from radrecipes.models.control_tokens import control_token_in

# The codes of DICOM PS3.3 C.7.3.1.1.1 that protocols are ordered by.
MODALITIES = ("CT", "MR", "US", "DX", "MG", "RF", "XA", "NM", "PT")
CONTRASTS = ("none", "with", "without and with")
_CHOICES = {"modality": MODALITIES, "contrast": CONTRASTS}

_REQUIRED_SET_KEYS = ("name", "version", "labels")
# Below this score a "did you mean" misleads more often than it helps.
_SUGGESTION_SCORE = 60

_DERIVED_HEADER = """\
# Derived from the distinct labels of {source}. Edit it: give each label its aliases and, where you want results
# by modality, body region or contrast, add
#   modality: CT               # {modalities}
#   body_region: abdomen
#   contrast: without and with # {contrasts}
# and prepare again with --label-set.
"""


@dataclass(frozen=True)
class Label:
    """One label, with its codes in LOINC and the RSNA Playbook; a person reviews every `always_review` answer.

    `acceptable` are the names of labels that a department would accept in place of this one; the reverse need not hold.
    """

    name: str
    aliases: tuple[str, ...] = ()
    modality: str | None = None
    body_region: str | None = None
    contrast: str | None = None
    loinc: str | None = None
    playbook: str | None = None
    always_review: bool = False
    acceptable: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelSet:
    """A list of labels and their known spellings; names and aliases are unique after [`matching_key`].

    Args:
        version: Raised by the author whenever a label changes.
        text: The YAML that the set was read from; it is copied unchanged into a prepared dataset.
        costly_confusions: Pairs of canonical names that must not be confused, in either direction.
    """

    name: str
    version: int
    labels: tuple[Label, ...]
    text: str
    costly_confusions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> "LabelSet":
        """Read a label set from a YAML file; an [`InputError`] names the line of the first mistake."""
        try:
            text = read_text(path, YAML_LIMIT)
        except FileNotFoundError:
            raise InputError("label set not found; check the path", where=str(path)) from None
        except OSError as error:
            raise InputError(f"label set cannot be read ({error.strerror})", where=str(path)) from None
        return cls.from_text(text, where=str(path))

    @classmethod
    def from_text(cls, text: str, where: str = "label set") -> "LabelSet":
        """Read a label set from YAML text as [`load`] does; `where` is the file in error messages."""
        # Composed nodes, not loaded values: they know their lines, and loading drops all but the last of repeated keys.
        root = compose_yaml(text, where)
        if root is None:
            raise InputError("the label set is empty; it needs the keys name, version, labels", where=where)

        found = _mapping(root, "the label set", (*_REQUIRED_SET_KEYS, "costly_confusions"), _REQUIRED_SET_KEYS)
        name, version = _text(found["name"], "name"), found["version"]
        # yaml reads 1_000 and 0x1 as integers too; a version is a plain number.
        if version.tag != "tag:yaml.org,2002:int" or not re.fullmatch("[0-9]{1,9}", version.value):
            raise _error(version, "version must be an integer, for example 1")
        nodes = _items(found["labels"], "labels must be a list with at least one label")
        line_of_key: dict[str, tuple[str, int]] = {}
        label_set = cls(name, int(version.value), tuple(_label(node, line_of_key) for node in nodes), text)
        for node, label in zip(nodes, label_set.labels, strict=True):
            _check_acceptable(node, label, label_set)
        if "costly_confusions" not in found:
            return label_set
        return replace(label_set, costly_confusions=_costly_pairs(found["costly_confusions"], label_set))

    @classmethod
    def derive(cls, name: str, spellings: Counter[str], source: str) -> "LabelSet":
        """Make a label set from the labels of the file `source`, in alphabetical order.

        Spellings with the same [`matching_key`] are one label, named after the most frequent one (on a tie, the alphabetically
        first), which users of the file recognise. A label without a letter or digit is an [`InputError`].
        """
        by_key: dict[str, list[str]] = {}
        for spelling in spellings:
            by_key.setdefault(matching_key(spelling), []).append(spelling)
        if "" in by_key:
            raise InputError("a label has no letter or digit; correct or remove it", where=source)
        most_frequent = (
            min(group, key=lambda spelling: (-spellings[spelling], spelling)) for group in by_key.values()
        )
        document = {"name": name, "version": 1, "labels": [{"name": label} for label in sorted(most_frequent)]}
        header = _DERIVED_HEADER.format(
            source=" ".join(source.split()), modalities=" | ".join(MODALITIES), contrasts=" | ".join(CONTRASTS)
        )
        return cls.from_text(header + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000))

    @property
    def names(self) -> list[str]:
        """Canonical names in the order of the file."""
        return [label.name for label in self.labels]

    @property
    def always_review(self) -> frozenset[str]:
        """Canonical names of the labels that a person always reviews."""
        return frozenset(label.name for label in self.labels if label.always_review)

    @cached_property
    def accepted(self) -> dict[str, frozenset[str]]:
        """For each label the answers that count as acceptable if it is correct: itself and its `acceptable` labels."""
        return {label.name: frozenset((label.name, *label.acceptable)) for label in self.labels}

    def canonical(self, text: str) -> str | None:
        """Canonical name of a spelling (compared by [`matching_key`]), or `None` if the set does not know it."""
        return self._name_by_key.get(matching_key(text))

    def label(self, name: str) -> Label:
        """The label with this canonical name; `KeyError` if there is none."""
        return self._label_by_name[name]

    def suggest(self, text: str) -> str | None:
        """Canonical name of the known spelling closest to an unknown one, or `None` if none is close."""
        near = nearest(matching_key(text), self._name_by_key, _SUGGESTION_SCORE)
        return None if near is None else self._name_by_key[near]

    @cached_property
    def _label_by_name(self) -> dict[str, Label]:
        return {label.name: label for label in self.labels}

    @cached_property
    def _name_by_key(self) -> dict[str, str]:
        return {
            matching_key(spelling): label.name for label in self.labels for spelling in (label.name, *label.aliases)
        }


def _error(node: yaml.Node, message: str) -> InputError:
    return InputError(message, where=f"{node.start_mark.name}:{_line(node)}")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _label(node: yaml.Node, line_of_key: dict[str, tuple[str, int]]) -> Label:
    found = _mapping(node, "a label", [field.name for field in fields(Label)], required=("name",))
    nodes = [found["name"]]
    values = {
        key: _truth(value, key) if key == "always_review" else _text(value, key, _CHOICES.get(key))
        for key, value in found.items()
        if key not in ("aliases", "acceptable")
    }
    if "aliases" in found:
        aliases = _items(found["aliases"], "aliases must be a list, for example [CT renal]", least=0)
        values["aliases"] = tuple(_text(alias, "an alias") for alias in aliases)
        nodes += aliases
    if "acceptable" in found:
        names = _items(found["acceptable"], "acceptable must be a list of label names, for example [CT Head]", least=0)
        values["acceptable"] = tuple(_text(name, "an acceptable label") for name in names)
    label = Label(**values)
    for spelling, spelling_node in zip((label.name, *label.aliases), nodes, strict=True):
        key = matching_key(spelling)
        if not key:
            raise _error(spelling_node, f"{quoted(spelling)} has no letter or digit")
        if token := control_token_in(spelling):
            raise _error(
                spelling_node, f"contains {token}, a control token of a chat format, at which a model stops; remove it"
            )
        if key in line_of_key:
            first, line = line_of_key[key]
            again = f"as {quoted(first)} in line {line}; case and punctuation do not count"
            raise _error(spelling_node, f"{quoted(spelling)} occurs twice ({again}); remove one")
        line_of_key[key] = spelling, _line(spelling_node)
    return label


def _check_acceptable(node: yaml.Node, label: Label, label_set: LabelSet) -> None:
    """Refuse names that are no other label of the set, or that occur twice."""
    names = next((value.value for key, value in node.value if key.value == "acceptable"), [])
    for place, name_node in enumerate(names):
        if _known_name(name_node, label_set, "an acceptable label") in (label.name, *label.acceptable[:place]):
            raise _error(name_node, f"{quoted(name_node.value)} is the label itself or occurs twice; remove it")


def _costly_pairs(node: yaml.Node, label_set: LabelSet) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    line_of_pair: dict[frozenset[str], int] = {}
    example = "costly_confusions must be a list of pairs, for example [[CT Head, CTA Head]]"
    for pair_node in _items(node, example, least=0):
        example = "a costly confusion must be a list of two label names, for example [CT Head, CTA Head]"
        first, second = names = [
            _known_name(name_node, label_set, "a label of a costly confusion")
            for name_node in _items(pair_node, example, least=2, most=2)
        ]
        if first == second:
            raise _error(pair_node, f"{quoted(first)} is paired with itself; name two labels")
        if line := line_of_pair.get(frozenset(names)):
            again = f"first in line {line}, in either order"
            raise _error(
                pair_node, f"the pair of {quoted(first)} and {quoted(second)} occurs twice ({again}); remove one"
            )
        line_of_pair[frozenset(names)] = _line(pair_node)
        pairs.append((first, second))
    return tuple(pairs)


def _known_name(node: yaml.Node, label_set: LabelSet, what: str) -> str:
    name = _text(node, what)
    if name not in label_set.names:
        near = label_set.canonical(name) or label_set.suggest(name)
        hint = f"did you mean {quoted(near)}?" if near else "write the name of a label of this set"
        raise _error(node, f"no label is named {quoted(name)}; {hint}")
    return name


def _mapping(node: yaml.Node, what: str, allowed: Sequence[str], required: Sequence[str]) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise _error(node, f"{what} must be a mapping with the keys {', '.join(required)}")
    found: dict[str, yaml.Node] = {}
    for key_node, value in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "(not text)"
        if key not in allowed:
            near = nearest(key, allowed, _SUGGESTION_SCORE)
            hint = f"did you mean {near!r}?" if near else f"known keys: {', '.join(allowed)}"
            raise _error(key_node, f"unknown key {quoted(key)} in {what}; {hint}")
        if key in found:
            raise _error(key_node, f"key {key!r} occurs twice in {what}; remove one")
        found[key] = value
    for key in required:
        if key not in found:
            raise _error(node, f"{what} lacks the key {key!r}; add it")
    return found


def _items(node: yaml.Node, message: str, least: int = 1, most: float = math.inf) -> list[yaml.Node]:
    if not isinstance(node, yaml.SequenceNode) or not least <= len(node.value) <= most:
        raise _error(node, message)
    return node.value


def _text(node: yaml.Node, what: str, choices: Sequence[str] | None = None) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _error(node, f"{what} must be text")
    if node.tag != "tag:yaml.org,2002:str":
        raise _error(node, f"{what} must be text; put it in quotes: '{shown(node.value)}'")
    if not node.value.strip() or len(node.value.splitlines()) > 1 or node.value != node.value.strip():
        raise _error(node, f"{what} must be one line of text without spaces around it")
    if any(unicodedata.category(character) == "Cc" for character in node.value):
        raise _error(node, f"{what} contains a control character; remove it")
    if choices and node.value not in choices:
        raise _error(node, f"{what} is {quoted(node.value)}; choose one of: {', '.join(choices)}")
    return node.value


def _truth(node: yaml.Node, what: str) -> bool:
    # yaml reads yes and on as true too; two spellings are enough.
    if node.tag != "tag:yaml.org,2002:bool" or node.value not in ("true", "false"):
        raise _error(node, f"{what} must be true or false")
    return node.value == "true"
