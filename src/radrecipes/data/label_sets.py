"""Label sets: the names that a model may answer with, and the spellings under which each is known."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml
from rapidfuzz import fuzz, process

from radrecipes.data.normalise import matching_key
from radrecipes.errors import InputError

# Codes of DICOM PS3.3 C.7.3.1.1.1, those that order protocols.
MODALITIES = ("CT", "MR", "US", "DX", "MG", "RF", "XA", "NM", "PT")
CONTRASTS = ("none", "with", "without and with")

_REQUIRED_SET_KEYS = ("name", "version", "labels")
_SET_KEYS = (*_REQUIRED_SET_KEYS, "costly_confusions")
_LABEL_KEYS = ("name", "aliases", "modality", "body_region", "contrast", "loinc", "playbook", "always_review")
# Below this a "did you mean" misleads more often than it helps.
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
    """One label of a label set.

    Args:
        name (`str`):
            Canonical name, the one that training writes and evaluation compares.
        aliases (`tuple[str, ...]`, *optional*, defaults to `()`):
            Other spellings of the same label.
        modality (`str`, *optional*):
            One of `MODALITIES`.
        body_region (`str`, *optional*):
            For example `"abdomen"`.
        contrast (`str`, *optional*):
            One of `CONTRASTS`.
        loinc (`str`, *optional*):
            Code of the procedure in LOINC.
        playbook (`str`, *optional*):
            Code of the procedure in the RSNA Playbook.
        always_review (`bool`, *optional*, defaults to `False`):
            A person looks at every answer with this label, however sure the model is.
    """

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
    """A list of labels that tells every known spelling from every unknown one.

    Args:
        name (`str`):
            Name of the set, for example `"protocol_ct_mr"`.
        version (`int`):
            Raised by its author whenever a label changes.
        labels (`tuple[Label, ...]`):
            The labels; names and aliases must be unique after [`matching_key`].
        text (`str`):
            The YAML that the set was read from; it is copied unchanged into a prepared dataset.
        costly_confusions (`tuple[tuple[str, str], ...]`, *optional*, defaults to `()`):
            Pairs of canonical names that must not be taken for each other, in either direction.
    """

    name: str
    version: int
    labels: tuple[Label, ...]
    text: str
    costly_confusions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> "LabelSet":
        """Read a label set and refuse what is not exactly one.

        Args:
            path (`str` or `Path`):
                A YAML file with `name`, `version`, `labels` and, where wanted, `costly_confusions`.

        Returns:
            `LabelSet`: The labels in the order of the file.

        Raises:
            InputError: The file is missing or is not YAML, a key is unknown, missing or doubled, a value has the
                wrong type or choice, a name or alias stands twice, or a costly pair names no label or the same pair
                or label twice. Names the line.
        """
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
        """Read a label set from YAML text; `where` is what error messages call the file. Raises as [`load`] does."""
        return _parse(text, where)

    @classmethod
    def derive(cls, name: str, spellings: Counter[str], source: str) -> "LabelSet":
        """Make a label set out of the labels that a file holds.

        Spellings with one [`matching_key`] are one label. The commonest is its name (the alphabetically first among
        equals), because that is the one that the users of the file would recognise.

        Args:
            name (`str`):
                Name of the new set.
            spellings (`Counter[str]`):
                How often each label occurs.
            source (`str`):
                Name of the file that the labels come from, for the comment at the top.

        Returns:
            `LabelSet`: Labels in alphabetical order, without modality, body region or contrast.

        Raises:
            InputError: A label has no letter or digit.
        """
        by_key: dict[str, list[str]] = {}
        for spelling in spellings:
            by_key.setdefault(matching_key(spelling), []).append(spelling)
        if "" in by_key:
            raise InputError(f"label {by_key[''][0]!r} has no letter or digit; correct or remove it", where=source)
        commonest = (min(group, key=lambda spelling: (-spellings[spelling], spelling)) for group in by_key.values())
        document = {"name": name, "version": 1, "labels": [{"name": label} for label in sorted(commonest)]}
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
        """Canonical names of the labels that are never used without a look."""
        return frozenset(label.name for label in self.labels if label.always_review)

    def canonical(self, text: str) -> str | None:
        """Canonical name of a spelling (compared by [`matching_key`]), or `None` when the set does not know it."""
        return self._name_by_key.get(matching_key(text))

    def label(self, name: str) -> Label:
        """The label with this canonical name; `KeyError` when there is none."""
        return self._label_by_name[name]

    def suggest(self, text: str) -> str | None:
        """Canonical name of the known spelling nearest to an unknown one, or `None` when none is near."""
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
    # Composed nodes instead of loaded values: only they know their lines, and loading keeps the last of doubled keys.
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
    version_node = fields["version"]
    # yaml writes 1_000 and 0x1 as integers too; a version is a plain number.
    if version_node.tag != "tag:yaml.org,2002:int" or not version_node.value.isdecimal():
        raise InputError("version must be a whole number, for example 1", where=_at(version_node, where))
    labels_node = fields["labels"]
    if not isinstance(labels_node, yaml.SequenceNode) or not labels_node.value:
        raise InputError("labels must be a list with at least one label", where=_at(labels_node, where))

    labels = []
    line_of_key: dict[str, tuple[str, int]] = {}
    for node in labels_node.value:
        label_fields = _mapping(node, where, "a label", allowed=_LABEL_KEYS, required=("name",))
        values = {
            key: _text(value, where, key)
            for key, value in label_fields.items()
            if key not in ("aliases", "modality", "contrast", "always_review")
        }
        for key, choices in (("modality", MODALITIES), ("contrast", CONTRASTS)):
            if key in label_fields:
                values[key] = _choice(label_fields[key], where, key, choices)
        if "always_review" in label_fields:
            values["always_review"] = _truth(label_fields["always_review"], where, "always_review")
        alias_nodes = []
        if "aliases" in label_fields:
            aliases_node = label_fields["aliases"]
            if not isinstance(aliases_node, yaml.SequenceNode):
                raise InputError("aliases must be a list, for example [CT renal]", where=_at(aliases_node, where))
            alias_nodes = aliases_node.value
        aliases = tuple(_text(alias, where, "an alias") for alias in alias_nodes)
        labels.append(Label(aliases=aliases, **values))
        for spelling, spelling_node in zip(
            (values["name"], *aliases), (label_fields["name"], *alias_nodes), strict=True
        ):
            key = matching_key(spelling)
            line = spelling_node.start_mark.line + 1
            if not key:
                raise InputError(f"{spelling!r} has no letter or digit", where=f"{where}:{line}")
            if key in line_of_key:
                first, first_line = line_of_key[key]
                raise InputError(
                    f"{spelling!r} stands twice (as {first!r} in line {first_line}; case and punctuation do not"
                    " count); remove one",
                    where=f"{where}:{line}",
                )
            line_of_key[key] = (spelling, line)
    label_set = LabelSet(name, int(version_node.value), tuple(labels), text)
    if "costly_confusions" not in fields:
        return label_set
    return replace(label_set, costly_confusions=_costly_pairs(fields["costly_confusions"], label_set, where))


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
                f"the pair of {first!r} and {second!r} stands twice (first in line {line_of_pair[pair]}, in either"
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
            raise InputError(f"key {key!r} stands twice in {what}; remove one", where=_at(key_node, where))
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
