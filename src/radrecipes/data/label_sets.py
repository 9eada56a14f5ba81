"""Label sets: the names that a model may answer with, and the known spellings of each."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml
from rapidfuzz import fuzz, process

from radrecipes.data.normalise import matching_key
from radrecipes.errors import InputError

# The codes of DICOM PS3.3 C.7.3.1.1.1 that protocols are ordered by.
MODALITIES = ("CT", "MR", "US", "DX", "MG", "RF", "XA", "NM", "PT")
CONTRASTS = ("none", "with", "without and with")
_CHOICES = {"modality": MODALITIES, "contrast": CONTRASTS}

_REQUIRED_SET_KEYS = ("name", "version", "labels")
_SET_KEYS = (*_REQUIRED_SET_KEYS, "costly_confusions")
_LABEL_KEYS = ("name", "aliases", "modality", "body_region", "contrast", "loinc", "playbook", "always_review")
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
    """One label, with its codes in LOINC and the RSNA Playbook; a person reviews every `always_review` answer."""

    name: str
    aliases: tuple[str, ...] = ()
    modality: str | None = None
    body_region: str | None = None
    contrast: str | None = None
    loinc: str | None = None
    playbook: str | None = None
    always_review: bool = False


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
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError("label set not found; check the path", where=str(path)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"label set is not readable as UTF-8 text: {error}", where=str(path)) from None
        return cls.from_text(text, where=str(path))

    @classmethod
    def from_text(cls, text: str, where: str = "label set") -> "LabelSet":
        """Read a label set from YAML text as [`load`] does; `where` is the file in error messages."""
        return _parse(text, where)

    @classmethod
    def derive(cls, name: str, spellings: Counter[str], source: str) -> "LabelSet":
        """Make a label set from the labels of the file `source`, in alphabetical order.

        Spellings with the same [`matching_key`] are one label, named after the most frequent one (on a tie, the
        alphabetically first), which users of the file recognise. A label without a letter or digit is an
        [`InputError`].
        """
        by_key: dict[str, list[str]] = {}
        for spelling in spellings:
            by_key.setdefault(matching_key(spelling), []).append(spelling)
        if "" in by_key:
            raise InputError(f"label {by_key[''][0]!r} has no letter or digit; correct or remove it", where=source)
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

    def canonical(self, text: str) -> str | None:
        """Canonical name of a spelling (compared by [`matching_key`]), or `None` if the set does not know it."""
        return self._name_by_key.get(matching_key(text))

    def label(self, name: str) -> Label:
        """The label with this canonical name; `KeyError` if there is none."""
        return self._label_by_name[name]

    def suggest(self, text: str) -> str | None:
        """Canonical name of the known spelling closest to an unknown one, or `None` if none is close."""
        match = process.extractOne(
            matching_key(text), list(self._name_by_key), scorer=fuzz.ratio, score_cutoff=_SUGGESTION_SCORE
        )
        return self._name_by_key[match[0]] if match else None

    @cached_property
    def _label_by_name(self) -> dict[str, Label]:
        return {label.name: label for label in self.labels}

    @cached_property
    def _name_by_key(self) -> dict[str, str]:
        return {
            matching_key(spelling): label.name for label in self.labels for spelling in (label.name, *label.aliases)
        }


def _parse(text: str, where: str) -> LabelSet:
    # Composed nodes, not loaded values: they know their lines, and loading drops all but the last of repeated keys.
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"not valid YAML: {error.problem}", where=f"{where}{line}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"not valid YAML: {' '.join(str(error).split())}", where=where) from None
    if root is None:
        raise InputError("the label set is empty; it needs the keys name, version, labels", where=where)

    fields = _mapping(root, where, "the label set", allowed=_SET_KEYS, required=_REQUIRED_SET_KEYS)
    name = _text(fields["name"], where, "name")
    version = fields["version"]
    # yaml reads 1_000 and 0x1 as integers too; a version is a plain number.
    if version.tag != "tag:yaml.org,2002:int" or not version.value.isdecimal():
        raise InputError("version must be an integer, for example 1", where=_at(version, where))
    nodes = fields["labels"]
    if not isinstance(nodes, yaml.SequenceNode) or not nodes.value:
        raise InputError("labels must be a list with at least one label", where=_at(nodes, where))
    line_of_key: dict[str, tuple[str, int]] = {}
    labels = tuple(_label(node, where, line_of_key) for node in nodes.value)
    label_set = LabelSet(name, int(version.value), labels, text)
    if "costly_confusions" not in fields:
        return label_set
    return replace(label_set, costly_confusions=_costly_pairs(fields["costly_confusions"], label_set, where))


def _label(node: yaml.Node, where: str, line_of_key: dict[str, tuple[str, int]]) -> Label:
    fields = _mapping(node, where, "a label", allowed=_LABEL_KEYS, required=("name",))
    values = {}
    for key, value in fields.items():
        if key in _CHOICES:
            values[key] = _choice(value, where, key, _CHOICES[key])
        elif key == "always_review":
            values[key] = _truth(value, where, key)
        elif key != "aliases":
            values[key] = _text(value, where, key)
    aliases = []
    if "aliases" in fields:
        if not isinstance(fields["aliases"], yaml.SequenceNode):
            raise InputError("aliases must be a list, for example [CT renal]", where=_at(fields["aliases"], where))
        aliases = fields["aliases"].value
    label = Label(aliases=tuple(_text(alias, where, "an alias") for alias in aliases), **values)
    for spelling, spelling_node in zip((label.name, *label.aliases), (fields["name"], *aliases), strict=True):
        key = matching_key(spelling)
        if not key:
            raise InputError(f"{spelling!r} has no letter or digit", where=_at(spelling_node, where))
        if key in line_of_key:
            first, first_line = line_of_key[key]
            raise InputError(
                f"{spelling!r} occurs twice (as {first!r} in line {first_line}; case and punctuation do not count); remove"
                " one",
                where=_at(spelling_node, where),
            )
        line_of_key[key] = (spelling, spelling_node.start_mark.line + 1)
    return label


def _costly_pairs(node: yaml.Node, label_set: LabelSet, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise InputError(
            "costly_confusions must be a list of pairs, for example [[CT Head, CTA Head]]", where=_at(node, where)
        )
    pairs: list[tuple[str, str]] = []
    line_of_pair: dict[frozenset[str], int] = {}
    for pair_node in node.value:
        if not isinstance(pair_node, yaml.SequenceNode) or len(pair_node.value) != 2:
            raise InputError(
                "a costly confusion must be a list of two label names, for example [CT Head, CTA Head]",
                where=_at(pair_node, where),
            )
        names = []
        for name_node in pair_node.value:
            name = _text(name_node, where, "a label of a costly confusion")
            if name not in label_set.names:
                near = label_set.canonical(name) or label_set.suggest(name)
                hint = f"did you mean {near!r}?" if near else "write the name of a label of this set"
                raise InputError(f"no label is named {name!r}; {hint}", where=_at(name_node, where))
            names.append(name)
        first, second = names
        if first == second:
            raise InputError(f"{first!r} is paired with itself; name two labels", where=_at(pair_node, where))
        pair = frozenset(names)
        if pair in line_of_pair:
            raise InputError(
                f"the pair of {first!r} and {second!r} occurs twice (first in line {line_of_pair[pair]}, in either"
                " order); remove one",
                where=_at(pair_node, where),
            )
        line_of_pair[pair] = pair_node.start_mark.line + 1
        pairs.append((first, second))
    return tuple(pairs)


def _at(node: yaml.Node, where: str) -> str:
    return f"{where}:{node.start_mark.line + 1}"


def _mapping(
    node: yaml.Node, where: str, what: str, allowed: tuple[str, ...], required: tuple[str, ...]
) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{what} must be a mapping with the keys {', '.join(required)}", where=_at(node, where))
    fields: dict[str, yaml.Node] = {}
    for key_node, value in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "(not text)"
        if key not in allowed:
            near = process.extractOne(key, allowed, scorer=fuzz.ratio, score_cutoff=_SUGGESTION_SCORE)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(allowed)}"
            raise InputError(f"unknown key {key!r} in {what}; {hint}", where=_at(key_node, where))
        if key in fields:
            raise InputError(f"key {key!r} occurs twice in {what}; remove one", where=_at(key_node, where))
        fields[key] = value
    for key in required:
        if key not in fields:
            raise InputError(f"{what} lacks the key {key!r}; add it", where=_at(node, where))
    return fields


def _text(node: yaml.Node, where: str, what: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{what} must be text", where=_at(node, where))
    if node.tag != "tag:yaml.org,2002:str":
        raise InputError(f"{what} must be text; put it in quotes: '{node.value}'", where=_at(node, where))
    if not node.value.strip() or len(node.value.splitlines()) > 1 or node.value != node.value.strip():
        raise InputError(f"{what} must be one line of text without spaces around it", where=_at(node, where))
    return node.value


def _truth(node: yaml.Node, where: str, what: str) -> bool:
    # yaml reads yes and on as true too; two spellings are enough.
    if node.tag != "tag:yaml.org,2002:bool" or node.value not in ("true", "false"):
        raise InputError(f"{what} must be true or false", where=_at(node, where))
    return node.value == "true"


def _choice(node: yaml.Node, where: str, what: str, choices: tuple[str, ...]) -> str:
    value = _text(node, where, what)
    if value not in choices:
        raise InputError(f"{what} is {value!r}; choose one of: {', '.join(choices)}", where=_at(node, where))
    return value
