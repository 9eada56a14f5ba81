"""The gates of a release: each looks at what would be published and says what it found and where, before any byte moves.

A gate that cannot look says so as a finding; none is passed by default. No finding quotes what was found: findings are printed,
logged and pasted into tickets, and what they are about may be a patient's name.
"""

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from transformers.utils import CHAT_TEMPLATE_FILE

from radrecipes.data.dataset_folder import ACCESS_LEVELS, CARD_FILE, MANIFEST_FILE, SHOWABLE_ACCESS
from radrecipes.errors import InputError
from radrecipes.hub.release_files import LARGEST_RELEASE
from radrecipes.publishing.cards.card_checks import check_card
from radrecipes.publishing.cards.front_matter import gated_form
from radrecipes.publishing.identifiers import find_identifiers
from radrecipes.publishing.licences import HUB_LICENCES, licence_conflicts
from radrecipes.publishing.memorisation import SHORTEST_RUN, verbatim_overlap
from radrecipes.publishing.release import ADAPTER_CONFIG, METRICS_FILE, is_allowed
from radrecipes.publishing.secrets import find_secrets

# What a user can vouch for after looking at the findings; everything else has to be mended.
ACKNOWLEDGEMENTS = ("credentialed", "identifiers", "memory")
VISIBILITIES = ("private", "gated", "public")
# Tokens of training text in a row, neither in the prompt nor from the base nor common, from which on a model recites.
LONGEST_RUN = 24
# Vocabularies hold word pieces and numbers; three words in a row are none. Only secrets are looked for in all of them.
_VOCABULARIES = frozenset(("merges.txt", "tokenizer.json", "vocab.json", "vocab.txt"))
_NO_WORD_PIECE = re.compile(r"[^\W\d_]{2,} [^\W\d_]{2,} [^\W\d_]{2,}")
# sha256 of each file of recipes/chat_templates/: by their content, so that one that was changed or laid beside them is searched.
_SHIPPED_TEMPLATES = frozenset(
    (
        "0033b26cc77a7d6a83fa28b5eba42628f3fc05f0b9495dd2db8d96d708c55ec0",
        "1c8f27600a277325c8daf331fa5f23f1636f2dade624767df176cb322e7c3e13",
        "22373a1a882d100022fbc93819996588700958f40f78a532e7026b850fc09fdb",
        "8846e49dfc6bf2aa64a64b3a662b9cc46ae6158fea0e6eb71d69780dda9da779",
    )
)
_TEXT_SUFFIXES = frozenset((".md", ".json", ".yaml", ".jinja", ".txt"))
_HEAD = "(head)"
# How JSON writes what is no plain character; one for one, so that lines stay where they are.
_JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
# What encoded bytes look like, also in lines of 76: nobody can tell what they say.
_ENCODED = re.compile(r"[A-Za-z0-9+/]{72}")
_LONGEST_LINE = 100_000
# Marks of comments, lists, quotations and JSON around what stands in a line.
_LINE_MARKS = re.compile(r"^[\s#>*|-]*[\"']?|[\"'],?\s*$")
# Folders of a user, a temporary or mounted disk, Windows drives and shares; a value that is a path; Hub ids and links have no
# slash in front.
_LOCAL_PATH = re.compile(
    r"(?<![\w./~<-])(?:/(?:data|home|media|mnt|opt|private|root|scratch|srv|tmp|Users|var|Volumes|work)/|~/|[A-Za-z]:\\)[\w.-]"
    r"|(?:[\"']|[:-] )/[\w.-]+/[\w.-]|\b(?:file|nfs|smb):/|(?<![\w\\])\\\\[\w.-]+\\\w"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Left out of what is searched for identifiers in texts that this project writes, never in tables of rows: counts of manifests, a
# key of YAML or JSON behind which a person's name would be expected, and digests, commits and decimal figures, by which nobody
# is called.
_COUNT = re.compile(
    r'"(?:groups|rows|scored_tokens|seed|size|steps|test|tokens|train|trainable_parameters|validation)": \d+(?=,?$)'
)
_KEY_OF_NAMES = re.compile(r'^[\s-]*"?(?:dataset_)?name"?: ')
# A whole number of many digits stays, also with `.0` behind it: tables write record numbers so. The one of 31 digits stands in
# every tokenizer's configuration that names no longest input.
_OF_MACHINES = re.compile(
    rf"(?<![\w.+-])(?:[0-9a-f]{{64}}|[0-9a-f]{{40}}|{int(1e30)}|"
    r"[+−-]?(?!\d{5,}\.0+\b)\d+\.\d+(?:e[+-]?\d+)?)(?!\.?\d|[\w+-])"
)


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against publishing.

    Args:
        gate (`str`):
            Which gate found it.
        file (`str`):
            File of the release; empty where it is about the whole.
        line (`int` or `None`):
            Line of a text, row of a table, both from 1.
        what (`str`):
            What it is and how to mend it; never the text itself.
    """

    gate: str
    file: str
    line: int | None
    what: str

    def __str__(self) -> str:
        """`file:line: what`, for a terminal."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}" if place else self.what


@dataclass(frozen=True)
class GateResult:
    """What one gate looked at and found.

    Args:
        gate (`str`):
            Its name.
        looked_at (`str`):
            What it looked at, in words.
        findings (`tuple[Finding, ...]`):
            What it found.
        acknowledged (`bool`):
            Whether the user vouched for the findings, and may.
    """

    gate: str
    looked_at: str
    findings: tuple[Finding, ...] = ()
    acknowledged: bool = False

    @property
    def passed(self) -> bool:
        """Whether nothing stands against publishing."""
        return not self.findings or self.acknowledged


@dataclass(frozen=True)
class ReleaseFacts:
    """What the gates must know beside the files.

    Args:
        kind (`"adapter"`, `"merged"` or `"dataset"`):
            What is released.
        access (`str`):
            Access class of the data that it is, or was made from.
        visibility (`"private"`, `"gated"` or `"public"`):
            Who will be able to read the repository: its members, whom its owner admits one by one, or everybody.
        licence (`str`):
            Licence of the repository.
        source_licences (`Mapping[str, str | None]`):
            Licence of base and data, by their names.
        rows (`Sequence[str]`):
            Texts of the data that a closed release must not quote: every input and every answer that is no label.
        base (`str` or `None`, *optional*):
            Hub id of the base; `None` for a dataset.
        writes (`"label"`, `"report"` or `None`, *optional*):
            What the model writes; `None` for a dataset.
        reference (`str`, *optional*, defaults to `""`):
            The release itself, `org/name@tag`, which looks like the address of a mailbox.
        memory (`Mapping[str, Any]` or `None`, *optional*):
            Figures of [`~publishing.memorisation.VerbatimOverlap`], where it was measured.
        base_template (`str` or `None`, *optional*):
            Chat template that the base itself brings, from [`~models.own_chat_template`]; the same text in the release is not
            searched for identifiers.
    """

    kind: str
    access: str
    visibility: str
    licence: str
    source_licences: Mapping[str, str | None]
    rows: Sequence[str]
    base: str | None = None
    writes: str | None = None
    reference: str = ""
    memory: Mapping[str, Any] | None = None
    base_template: str | None = None


@dataclass(frozen=True)
class _Text:
    """A piece of a release that holds words: a whole text file, a head with its notes, or one cell of a table."""

    file: str
    row: int | None
    column: str | None
    text: str

    @property
    def is_cell(self) -> bool:
        """Whether it is a cell of a table, which a source wrote and not this project."""
        return self.row is not None

    def line(self, offset: int) -> int | None:
        """Line or row of a place in it; none in a head."""
        return self.row if self.column else self.text.count("\n", 0, offset) + 1

    def lines(self) -> Iterator[tuple[int | None, str]]:
        """What may hold sentences, with its line; a cell is one line."""
        if self.is_cell:
            yield self.row, self.text
            return
        for number, line in enumerate(self.text.splitlines(), 1):
            place = None if self.column else number
            if self.file not in _VOCABULARIES:
                yield place, line
            else:
                yield from ((place, piece) for piece in line.split('"') if _NO_WORD_PIECE.search(piece))


def check_release(
    folder: Path,
    facts: ReleaseFacts,
    acknowledgements: Collection[str] = (),
    on_text: Callable[[int], None] | None = None,
) -> list[GateResult]:
    """Look at a release with every gate.

    Args:
        folder (`Path`):
            The release's folder.
        facts ([`ReleaseFacts`]):
            What the files do not say.
        acknowledgements (`Collection[str]`, *optional*):
            Words of `ACKNOWLEDGEMENTS` that the user gave.
        on_text (`Callable[[int], None]`, *optional*):
            Called with the number of texts that were searched for identifiers, the slow part.

    Returns:
        `list[GateResult]`: one a gate, always all of them. Publish only where every one has `passed`.

    Raises:
        `ValueError`: an acknowledgement or a visibility that is none.
    """
    if facts.visibility not in VISIBILITIES:
        raise ValueError(f"no visibility: {facts.visibility!r}")
    if unknown := set(acknowledgements) - set(ACKNOWLEDGEMENTS):
        raise ValueError(f"no acknowledgements: {sorted(unknown)}")
    names = _names(folder)
    texts, unreadable = _read(folder, names)
    return [
        _files(folder, names, facts.kind, texts, unreadable),
        _access(folder, names, facts, "credentialed" in acknowledgements),
        _card(folder, facts),
        _quotes(texts, facts),
        _identifiers(folder, texts, facts, "identifiers" in acknowledgements, on_text),
        _secrets(texts),
        _local_paths(texts),
        _base(folder, facts),
        _licence(facts),
        _memory(facts, "memory" in acknowledgements),
    ]


def texts_to_search(folder: Path) -> int:
    """How many texts [`check_release`] will search for identifiers."""
    return len(_read(folder, _names(folder))[0])


def _names(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def _read(folder: Path, names: Sequence[str]) -> tuple[list[_Text], list[str]]:
    """Every word of a release, and the files that cannot be looked into."""
    texts, unreadable = [], []
    for name in names:
        try:
            texts += _texts(folder / name, name)
        except (OSError, ValueError, RecursionError, SafetensorError):
            unreadable.append(name)
    return texts, unreadable


def _texts(path: Path, name: str) -> Iterator[_Text]:
    """The words of one file: a text, the text columns of a table, the notes and names in the head of tables and weights."""
    if path.suffix in _TEXT_SUFFIXES:
        text = path.read_text(encoding="utf-8")
        if "\0" in text:
            raise ValueError("no text")
        if path.suffix == ".json":
            json.loads(text)
            text = _without_escapes(text)
        yield _Text(name, None, None, text)
    elif path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        notes = [note for part in (schema, *schema) for note in (part.metadata or {}).items()]
        head = [*schema.names, *(f"{key.decode()} {_without_escapes(value.decode())}" for key, value in notes)]
        yield _Text(name, None, _HEAD, "\n".join(head))
        row = 0
        for batch in file.iter_batches():
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                for place, value in enumerate(values.to_pylist(), row + 1):
                    if value is not None:
                        yield _Text(name, place, column, str(value))
            row += batch.num_rows
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as weights:
            notes = (f"{key} {_without_escapes(value)}" for key, value in (weights.metadata() or {}).items())
            yield _Text(name, None, _HEAD, "\n".join([*notes, *weights.keys()]))
    else:
        raise ValueError("neither text, table nor weights")


def _without_escapes(text: str) -> str:
    """JSON as it reads: what is escaped as a character, and a line break or half a character as a blank."""

    def plain(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16)) if match[1] else " " if match[2] in "bfnrt" else match[2]
        return " " if character.isspace() or "\ud800" <= character <= "\udfff" else character

    return _JSON_ESCAPE.sub(plain, text)


def _files(
    folder: Path, names: Sequence[str], kind: str, texts: Sequence[_Text], unreadable: Sequence[str]
) -> GateResult:
    """Nothing but what the allow-list names, in one commit, and nothing that the other gates cannot look into."""
    findings = []
    for text in texts:
        if any(len(line) > _LONGEST_LINE for _, line in text.lines()):
            what = f"a line of more than {_LONGEST_LINE:,} characters, too long to look into; break it"
            findings.append(Finding("files", text.file, text.row, what))
        if not text.is_cell and text.file not in _VOCABULARIES:
            what = "encoded bytes, which nobody can read; leave them out"
            findings += [
                Finding("files", text.file, number, what) for number, line in text.lines() if _ENCODED.search(line)
            ]
    for name in names:
        if not is_allowed(kind, name):
            findings.append(
                Finding("files", name, None, f"no file of a published {kind}; nothing else leaves the folder")
            )
        elif (folder / name).is_symlink():
            findings.append(
                Finding("files", name, None, "a link, and what it points to can change; put the file itself")
            )
        elif name in unreadable:
            what = (
                "not what its name says, or no text in UTF-8, so nobody can look into it; make it anew, or remove it"
            )
            findings.append(Finding("files", name, None, what))
    if len(names) > LARGEST_RELEASE:
        what = f"{len(names)} files, more than the {LARGEST_RELEASE} of one commit: a reader could see half of them"
        findings.append(Finding("files", "", None, what))
    return GateResult("files", f"{len(names)} files against the list for {kind}", tuple(findings))


def _access(folder: Path, names: Sequence[str], facts: ReleaseFacts, acknowledged: bool) -> GateResult:
    """Closed data: no row ever; what was trained on them only where not everybody can read it, and on somebody's word."""
    looked_at = f"{facts.kind} from {facts.access} data, {facts.visibility}"
    if facts.kind != "dataset" and (others := _other_access(folder, facts.access)):
        what = (
            f"names another access class of the data than the dataset does now ({facts.access}); prepare it with the right "
            "--access, then train and evaluate again"
        )
        return GateResult("access", looked_at, tuple(Finding("access", name, None, what) for name in others))
    if facts.access in SHOWABLE_ACCESS:
        return GateResult("access", looked_at)
    if facts.access not in ACCESS_LEVELS:
        what = f"the access class is none of {', '.join(ACCESS_LEVELS)}; prepare the dataset again with its --access"
        return GateResult("access", looked_at, (Finding("access", "", None, what),))
    tables = [name for name in names if name.endswith(".parquet")]
    if facts.kind == "dataset" or tables:
        what = f"rows of {facts.access} data are never published, whatever is acknowledged"
        return GateResult(
            "access", looked_at, tuple(Finding("access", name, None, what) for name in tables or ["README.md"])
        )
    if facts.visibility == "public":
        what = f"what was trained on {facts.access} data can repeat it; leave --public out, or take --gated instead"
        return GateResult("access", looked_at, (Finding("access", "", None, what),))
    what = (
        f"trained on {facts.access} data, whose terms hold for the model too: everybody who can read the repository must be "
        "allowed to read the data. If so, say it: --acknowledge credentialed"
    )
    return GateResult("access", looked_at, (Finding("access", "", None, what),), acknowledged)


def _other_access(folder: Path, access: str) -> list[str]:
    """Files of a model's release that do not name this access class of the data: what training and evaluation wrote down."""
    others = []
    for name, key in ((MANIFEST_FILE, "data"), (METRICS_FILE, "dataset")):
        try:
            said = json.loads((folder / name).read_text(encoding="utf-8"))[key]["access"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            said = None
        if said != access:
            others.append(name)
    return others


def _card(folder: Path, facts: ReleaseFacts) -> GateResult:
    """A card that the Hub accepts and a reader can use, and that says of licence and access what holds."""
    kind = "dataset" if facts.kind == "dataset" else "model"
    try:
        card = check_card((folder / CARD_FILE).read_text(encoding="utf-8"), kind)
    except InputError as error:
        return GateResult("card", CARD_FILE, (Finding("card", "", None, str(error)),))
    except (OSError, ValueError):
        return GateResult("card", CARD_FILE, (Finding("card", CARD_FILE, None, "is missing, or no text in UTF-8"),))
    findings = []
    if card["license"] != facts.licence:
        findings.append(Finding("card", CARD_FILE, None, f"`license` is not {facts.licence}; make them one"))
    # A prepared dataset's card is made with it, so it tells when its access class was changed afterwards.
    if kind == "dataset" and (
        ("synthetic" in card["tags"]) != (facts.access == "synthetic")
        or any(key in card for key in gated_form("credentialed", kind)) != bool(gated_form(facts.access, kind))
    ):
        what = f"was written for data of another access class than {facts.access}; prepare the dataset again"
        findings.append(Finding("card", CARD_FILE, None, what))
    return GateResult("card", CARD_FILE, tuple(findings))


def _quotes(texts: Sequence[_Text], facts: ReleaseFacts) -> GateResult:
    """No sentence of closed data in any text: no example on the card, no prediction in the figures."""
    if facts.access in SHOWABLE_ACCESS:
        return GateResult("quotes", f"not looked for: {facts.access} data may be quoted")
    lines = [
        (text.file, number, passage)
        for text in texts
        if not text.is_cell
        for number, passage in _passages([*text.lines()])
    ]
    nothing = [""] * len(lines)
    # One group for all: what stands in many rows is no less a quotation.
    overlap = verbatim_overlap([line for *_, line in lines], facts.rows, nothing, [], [0] * len(facts.rows))
    findings = []
    # Neighbours see the same run, because each passage reaches into the next lines: the one that sees most of it tells.
    for found, group in itertools.groupby(zip(overlap.longest, lines, strict=True), lambda pair: pair[0] > 0):
        if found:
            length, (file, number, _) = max(reversed([*group]), key=lambda pair: pair[0])
            findings.append(
                Finding("quotes", file, number, f"{length} words in a row of the data; take the example out")
            )
    return GateResult("quotes", f"{len(lines):,} lines beside {len(facts.rows):,} texts of the data", tuple(findings))


def _passages(lines: Sequence[tuple[int | None, str]]) -> Iterator[tuple[int | None, str]]:
    """Each line, and as much of the next ones as a run of words that begins in it needs."""
    bare = [(number, words) for number, line in lines if (words := _LINE_MARKS.sub("", line))]
    for place, (number, passage) in enumerate(bare):
        words = 0
        for _, line in bare[place + 1 : place + 1 + SHORTEST_RUN]:
            if words >= SHORTEST_RUN:
                break
            passage += " " + line
            words += len(line.split(maxsplit=SHORTEST_RUN))
        yield number, passage


def _identifiers(
    folder: Path,
    texts: Sequence[_Text],
    facts: ReleaseFacts,
    acknowledged: bool,
    on_text: Callable[[int], None] | None,
) -> GateResult:
    """What looks like a person: a tripwire, no certificate.

    A chat template of the base's makers or of this project is left out: it names fixed days (`26 Jul 2024` in Llama's) and its
    makers, and who vouched for those would vouch for every other finding too. One character more, and it is searched like the rest.
    What lies under `models/` is taken for the base's own: it was downloaded, not written.
    """
    cached = functools.lru_cache(maxsize=100_000)(find_identifiers)
    findings, reference = [], facts.reference
    searched, left_out = len(texts), ""
    for text in texts:
        if text.file == CHAT_TEMPLATE_FILE and (whose := _known_template(folder, facts)):
            searched, left_out = searched - 1, f"; not {CHAT_TEMPLATE_FILE}, byte for byte {whose}"
            if on_text:
                on_text(1)
            continue
        column = f" in column {text.column}" if text.is_cell else ""
        for number, line in text.lines():
            if len(line) > _LONGEST_LINE:
                continue  # stopped by the gate of the files
            if not text.is_cell:
                line = _COUNT.sub("", line.replace(reference, "") if reference else line)
                line = _KEY_OF_NAMES.sub("", line)
                # Without the marks of JSON, which stand between `mrn` and its number.
                line = _OF_MACHINES.sub("", line.replace('"', ""))
            findings += [_identifier(found.kind, text.file, number, column) for found in cached(line)]
        if on_text:
            on_text(1)
    return GateResult("identifiers", f"{searched:,} texts{left_out}", tuple(findings), acknowledged)


def _known_template(folder: Path, facts: ReleaseFacts) -> str | None:
    """Whose chat template a release holds, where nobody wrote it who had the data."""
    content = (folder / CHAT_TEMPLATE_FILE).read_bytes()
    if facts.base_template is not None and content == facts.base_template.encode("utf-8"):
        return f"the one of {facts.base}"
    return "one of recipes/chat_templates/" if hashlib.sha256(content).hexdigest() in _SHIPPED_TEMPLATES else None


def _identifier(kind: str, file: str, line: int | None, column: str = "") -> Finding:
    what = f"looks like {kind}{column}; take it out, or look at it and vouch: --acknowledge identifiers"
    return Finding("identifiers", file, line, what)


def _secrets(texts: Sequence[_Text]) -> GateResult:
    """Tokens, keys and passwords; nobody can vouch for one."""
    findings = [
        Finding("secrets", text.file, text.line(found.start), f"looks like {found.kind}; take it out and revoke it")
        for text in texts
        for found in find_secrets(text.text)
    ]
    return GateResult("secrets", f"{len(texts):,} texts", tuple(findings))


def _local_paths(texts: Sequence[_Text]) -> GateResult:
    """No path of the machine that trained: it tells of users and projects, and means nothing elsewhere."""
    files = [text for text in texts if not text.is_cell and text.file not in _VOCABULARIES]
    findings = [
        Finding(
            "paths", text.file, text.line(match.start()), "a path of this machine; name it relative, or leave it out"
        )
        for text in files
        for match in _LOCAL_PATH.finditer(text.text)
    ]
    return GateResult("paths", f"{len(files)} texts", tuple(findings))


def _base(folder: Path, facts: ReleaseFacts) -> GateResult:
    """The base by Hub id and commit, so that a stranger loads the same weights."""
    if facts.kind != "adapter":
        return GateResult("base", "not looked for: only an adapter names a base to load")
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        named, revision = config.get("base_model_name_or_path"), str(config.get("revision"))
    except (OSError, ValueError, AttributeError):
        named, revision = None, ""
    findings = []
    if named != facts.base:
        findings.append(
            Finding("base", ADAPTER_CONFIG, None, f"base_model_name_or_path is not the Hub id {facts.base}")
        )
    if not _COMMIT.fullmatch(revision):
        what = "names no commit of the base, so others may load other weights; train with model_revision in the recipe"
        findings.append(Finding("base", ADAPTER_CONFIG, None, what))
    return GateResult("base", f"{facts.base} in {ADAPTER_CONFIG}", tuple(findings))


def _licence(facts: ReleaseFacts) -> GateResult:
    """The repository's licence beside those of base and data."""
    looked_at = f"{facts.licence} beside " + ", ".join(
        f"{licence or 'unknown'} of {name}" for name, licence in facts.source_licences.items()
    )
    conflicts = licence_conflicts(facts.licence, facts.source_licences)
    if facts.licence not in HUB_LICENCES - {"unknown"}:
        conflicts.insert(0, "the repository's licence is none that the Hub knows; choose one with --license")
    return GateResult("licence", looked_at, tuple(Finding("licence", "", None, line) for line in conflicts))


def _memory(facts: ReleaseFacts, acknowledged: bool) -> GateResult:
    """How far the model recites its training texts; nobody vouches for it in public where the data are closed."""
    if facts.writes is None:
        return GateResult("memory", "not looked for: a dataset is no model")
    if facts.writes == "label":
        return GateResult("memory", "not looked for: it was trained to write labels of its label set and no text")
    may_vouch = acknowledged and (facts.visibility != "public" or facts.access in SHOWABLE_ACCESS)
    if facts.memory is None:
        what = "it was not measured how much the model recites of its training texts"
        return GateResult("memory", "nothing", (Finding("memory", "", None, what),))
    looked_at = f"{facts.memory['rows']} training prompts, longest run {facts.memory['longest_run']} tokens"
    if facts.memory["longest_run"] < LONGEST_RUN:
        return GateResult("memory", looked_at)
    what = (
        f"recites up to {facts.memory['longest_run']} tokens in a row ({LONGEST_RUN} are too many; "
        f"{facts.memory['repeated_share']:.1%} of what it writes) that neither prompt nor base holds and fewer than "
        f"{facts.memory['common_from_groups']} patients share; train shorter, or vouch: --acknowledge memory"
    )
    return GateResult("memory", looked_at, (Finding("memory", "", None, what),), may_vouch)
