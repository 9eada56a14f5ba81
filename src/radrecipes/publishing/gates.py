"""The gates of a release: each inspects what would be published and reports findings with their location, before any upload.

A gate that cannot inspect something reports this as a finding. Findings are printed and logged, so they never quote the text.
"""

import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import CHAT_TEMPLATE_FILE

from radrecipes.access import ACCESS_LEVELS, may_show
from radrecipes.data.dataset_folder import CARD_FILE, MANIFEST_FILE
from radrecipes.errors import InputError
from radrecipes.files import read_bytes, read_json, read_json_object, read_text
from radrecipes.hub.release_files import LARGEST_RELEASE
from radrecipes.publishing.cards.card_checks import check_card
from radrecipes.publishing.cards.front_matter import gated_form
from radrecipes.publishing.identifiers import find_identifiers
from radrecipes.publishing.licences import HUB_LICENCES, licence_conflicts
from radrecipes.publishing.memorisation import SHORTEST_RUN, verbatim_overlap
from radrecipes.publishing.project_json import METRICS_FILE, digests, schema_of
from radrecipes.publishing.release import ADAPTER_CONFIG, is_allowed
from radrecipes.publishing.release_texts import LONGEST_LINE, VOCABULARIES, ReleaseText, names_of, read_release
from radrecipes.secrets import find_secrets
from radrecipes.shipped import ROOT
from radrecipes.tasks import LabelTask, Task
from radrecipes.text_span import TextSpan

# A model recites if it repeats this many consecutive training tokens that are not in prompt, base model output or common.
LONGEST_RUN = 24
# More new entries in a vocabulary than a person looks at.
MOST_NEW_ENTRIES = 1_000
_CHAT_TEMPLATES = ROOT / "recipes" / "chat_templates"
# Encoded bytes, also wrapped at 76 characters, cannot be inspected.
_ENCODED = re.compile(r"[A-Za-z0-9+/]{72}")
# Markup of comments, lists, quotations and JSON around the words of a line.
_LINE_MARKS = re.compile(r"^[\s#>*|-]*[\"']?|[\"'],?\s*$")
# User, temporary and mount folders, Windows drives and shares, and values that are paths; Hub ids and links have no leading
# slash.
_LOCAL_PATH = re.compile(
    r"(?<![\w./~<-])(?:/(?:data|home|media|mnt|opt|private|root|scratch|srv|tmp|Users|var|Volumes|work)/|~/|[A-Za-z]:\\)[\w.-]"
    r"|(?:[\"']|[:-] )/[\w.-]+/[\w.-]|\b(?:file|nfs|smb):/|(?<![\w\\])\\\\[\w.-]+\\\w"
)
# In a card also any absolute path, of at least two parts: elsewhere a regular expression or a token can look like one.
_PATH_IN_CARD = re.compile(rf"{_LOCAL_PATH.pattern}|(?<![\w/.~<])/[\w.-]+/[\w./-]+")
# The file of a release that names its base model, and under which keys; in the manifest they are those of `base`.
_NAMES_BASE = {
    "adapter": (ADAPTER_CONFIG, ("base_model_name_or_path", "revision")),
    "model": (MANIFEST_FILE, ("model_id", "revision")),
}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Finding:
    """A reason not to publish, without the text; `line` is of a text or a table, `file` empty for the release as a whole."""

    file: str
    line: int | None
    what: str

    def __str__(self) -> str:
        """`file:line: what`, for a terminal."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}" if place else self.what


@dataclass(frozen=True)
class GateResult:
    """What a gate inspected and found, whether the user acknowledged the findings, and whether that is allowed."""

    gate: str
    looked_at: str
    findings: tuple[Finding, ...] = ()
    acknowledged: bool = False

    @property
    def passed(self) -> bool:
        """Whether this gate lets the release through."""
        return not self.findings or self.acknowledged


@dataclass(frozen=True)
class ReleaseFacts:
    """What the gates need to know in addition to the files.

    Args:
        kind: `"adapter"`, `"model"`, `"merged"` or `"dataset"`.
        access: Access class of the released data or of the training data.
        visibility: `"private"` (only members), `"gated"` (users whom the owner approves) or `"public"`.
        source_licences: Licences of base model and data, by name.
        rows: Texts that a release of restricted data must not quote: every input, and every answer that is not a label.
        reference: The release itself, `org/name@tag`, which looks like an email address.
        memory: From [`~publishing.memorisation.VerbatimOverlap`], if measured.
        base_template: Chat template of the base model; an identical text in the release is not searched for identifiers.
        base_vocabulary: Entries of the base model's vocabularies; any other entry in the release is searched.
    """

    kind: str
    access: str
    visibility: str
    licence: str
    source_licences: Mapping[str, str | None]
    rows: Sequence[str]
    base: str | None = None
    task: Task | None = None
    reference: str = ""
    memory: Mapping[str, Any] | None = None
    base_template: str | None = None
    base_vocabulary: frozenset[str] | None = None


def check_release(
    folder: Path,
    facts: ReleaseFacts,
    acknowledgements: Collection[str] = (),
    progress: Callable[[Sequence[ReleaseText]], Iterable[ReleaseText]] = iter,
) -> list[GateResult]:
    """Inspect a release with every gate; publish only if every result has `passed`.

    Args:
        acknowledgements: The members of `publishing.ACKNOWLEDGEMENTS` that the user gave.
        progress: Shows the progress of the slow part, the search for identifiers; for example `tqdm`.
    """
    names = names_of(folder)
    texts, unreadable = read_release(folder)
    return [
        _files(folder, names, facts.kind, texts, unreadable),
        _access(folder, names, facts, "credentialed" in acknowledgements),
        _card(folder, facts),
        _quotes(texts, facts),
        _identifiers(folder, texts, facts, "identifiers" in acknowledgements, progress),
        _secrets(texts),
        _local_paths(texts),
        _base(folder, facts),
        _licence(facts),
        _memory(facts, "memory" in acknowledgements),
    ]


def _files(
    folder: Path, names: Sequence[str], kind: str, texts: Sequence[ReleaseText], unreadable: Sequence[str]
) -> GateResult:
    """Only allow-listed files that fit into one commit and that the other gates can inspect, and JSON that matches its schema."""
    findings = [Finding(text.file, line, what) for text in texts for line, what in _text_faults(text, kind)]
    for name in names:
        if not is_allowed(kind, name):
            findings.append(Finding(name, None, f"not a file of a published {kind}; nothing else leaves the folder"))
        elif (folder / name).is_symlink():
            findings.append(Finding(name, None, "a link, and its target can change; put the file itself there"))
        elif name in unreadable:
            what = "not what its name says, or not UTF-8, so it cannot be inspected; write it again, or remove it"
            findings.append(Finding(name, None, what))
    if len(names) > LARGEST_RELEASE:
        what = f"{len(names)} files, more than the {LARGEST_RELEASE} of one commit: a reader could see half of them"
        findings.append(Finding("", None, what))
    return GateResult("files", f"{len(names)} files against the list for {kind}", tuple(findings))


def _text_faults(text: ReleaseText, kind: str) -> Iterator[tuple[int | None, str]]:
    """Why a text cannot be inspected, with the line."""
    if any(len(line) > LONGEST_LINE for _, line in text.lines()):
        yield text.row, f"a line of more than {LONGEST_LINE:,} characters, too long to inspect; break it"
    if not text.is_cell and text.file not in VOCABULARIES:
        for number, line in text.lines():
            if _ENCODED.search(line):
                yield number, "encoded bytes, which cannot be read; leave them out"
    for place in text.schema_errors(kind):
        yield None, f"does not match its schema at {place}; write it again with this version of radrecipes"


def _access(folder: Path, names: Sequence[str], facts: ReleaseFacts, acknowledged: bool) -> GateResult:
    """Closed data are never published; models trained on them only non-publicly, and after an acknowledgement."""
    looked_at = f"{facts.kind} from {facts.access} data, {facts.visibility}"
    files, may_acknowledge = [""], False
    tables = [name for name in names if name.endswith(".parquet")]
    if facts.kind != "dataset" and (others := _files_of_other_access(folder, facts.access)):
        files = others
        what = (
            f"names another access class of the data than the dataset does now ({facts.access}); prepare it with the right "
            "--access, then train and evaluate again"
        )
    elif may_show(facts.access):
        return GateResult("access", looked_at)
    elif facts.access not in ACCESS_LEVELS:
        what = f"the access class must be one of {', '.join(ACCESS_LEVELS)}; prepare the dataset again with --access"
    elif facts.kind == "dataset" or tables:
        files = tables or [CARD_FILE]
        what = f"rows of {facts.access} data are never published, whatever is acknowledged"
    elif facts.visibility == "public":
        what = f"a model trained on {facts.access} data can repeat them; leave out --public, or use --gated instead"
    else:
        may_acknowledge = True
        what = (
            f"trained on {facts.access} data, whose terms apply to the model too: everybody who can read the repository must "
            "be allowed to read the data. If so, add --acknowledge credentialed"
        )
    findings = tuple(Finding(file, None, what) for file in files)
    return GateResult("access", looked_at, findings, may_acknowledge and acknowledged)


def _files_of_other_access(folder: Path, access: str) -> list[str]:
    """Files of a model's release that do not state this access class: the records of training and evaluation."""
    others = []
    for name, key in ((MANIFEST_FILE, "data"), (METRICS_FILE, "dataset")):
        try:
            recorded = read_json(folder / name)[key]["access"]
        except (OSError, InputError, LookupError, TypeError):
            recorded = None
        if recorded != access:
            others.append(name)
    return others


def _card(folder: Path, facts: ReleaseFacts) -> GateResult:
    """A card that the Hub accepts and a reader can use, with the right licence and access."""
    kind = "dataset" if facts.kind == "dataset" else "model"
    try:
        card = check_card(read_text(folder / CARD_FILE), kind)
    except InputError as error:
        return GateResult("card", CARD_FILE, (Finding("", None, str(error)),))
    except (OSError, ValueError):
        return GateResult("card", CARD_FILE, (Finding(CARD_FILE, None, "is missing, or not UTF-8"),))
    findings = []
    if card["license"] != facts.licence:
        findings.append(Finding(CARD_FILE, None, f"`license` is not {facts.licence}; make them the same"))
    # A dataset's card is written at preparation, so it shows if the access class was changed afterwards.
    if kind == "dataset" and (
        ("synthetic" in card["tags"]) != (facts.access == "synthetic")
        or any(key in card for key in gated_form("credentialed", kind)) != bool(gated_form(facts.access, kind))
    ):
        what = f"was written for data of another access class than {facts.access}; prepare the dataset again"
        findings.append(Finding(CARD_FILE, None, what))
    return GateResult("card", CARD_FILE, tuple(findings))


def _quotes(texts: Sequence[ReleaseText], facts: ReleaseFacts) -> GateResult:
    """No sentence of restricted data in any text: no example on the card, no prediction among the metrics."""
    if may_show(facts.access):
        return GateResult("quotes", f"skipped: {facts.access} data may be quoted")
    lines = [
        (text.file, number, passage)
        for text in texts
        if not text.is_cell
        for number, passage in _passages([*text.lines()])
    ]
    nothing = [""] * len(lines)
    # One group for all rows: a sentence that many rows share is still a quotation.
    overlap = verbatim_overlap([line for *_, line in lines], facts.rows, nothing, [], [0] * len(facts.rows))
    findings = []
    # Passages extend into the next lines, so neighbours contain the same run: report the one with most of it.
    for found, group in itertools.groupby(zip(overlap.longest, lines, strict=True), lambda pair: pair[0] > 0):
        if found:
            length, (file, number, _) = max(reversed([*group]), key=lambda pair: pair[0])
            what = f"{length} words in a row of the data; remove the example"
            findings.append(Finding(file, number, what))
    return GateResult("quotes", f"{len(lines):,} lines against {len(facts.rows):,} texts of the data", tuple(findings))


def _passages(lines: Sequence[tuple[int | None, str]]) -> Iterator[tuple[int | None, str]]:
    """Each line, extended by the next ones until it contains any run of words that begins in it."""
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
    texts: Sequence[ReleaseText],
    facts: ReleaseFacts,
    acknowledged: bool,
    progress: Callable[[Sequence[ReleaseText]], Iterable[ReleaseText]],
) -> GateResult:
    """Names and other identifiers of people.

    A chat template identical to the base model's or to one of this project is skipped, because templates contain fixed dates and
    their makers' names. The base model's files are trusted, because they were downloaded.
    """
    cached = functools.lru_cache(maxsize=100_000)(find_identifiers)
    # The card and the recipe repeat the name of the release, and the hashes and commits in its JSON.
    documents = [(text.raw, schema_of(text.file, facts.kind)) for text in texts if text.raw is not None]
    known = {digest for raw, schema in documents if schema for digest in digests(raw, schema)} | {facts.reference}
    known = sorted(known - {""})
    findings, skipped = [], ""
    for text in progress(texts):
        if text.file == CHAT_TEMPLATE_FILE and (origin := _known_template(folder, facts)):
            skipped = f"; not {CHAT_TEMPLATE_FILE}, byte for byte {origin}"
            continue
        if text.file in VOCABULARIES and facts.base_vocabulary is not None:
            findings += _new_entries(text, facts.base_vocabulary, cached)
        column = f" in column {text.column}" if text.is_cell else ""
        for number, line in text.lines() if text.is_cell else text.free_lines(facts.kind):
            if len(line) > LONGEST_LINE:
                continue  # the gate `files` reports it
            for part in () if text.is_cell else known:
                line = line.replace(part, "")
            for found in cached(line):
                what = f"looks like {found.kind}{column}; remove it, or check it and add --acknowledge identifiers"
                findings.append(Finding(text.file, number, what))
    looked_at = f"{len(texts) - bool(skipped):,} texts{skipped}"
    return GateResult("identifiers", looked_at, tuple(findings), acknowledged)


def _new_entries(
    text: ReleaseText, known: frozenset[str], search: Callable[[str], Sequence[TextSpan]]
) -> Iterator[Finding]:
    """Entries of a vocabulary that are not the base model's and look like an identifier, or are too many to look at."""
    entries = text.new_entries(known)
    if len(entries) > MOST_NEW_ENTRIES:
        yield Finding(
            text.file, None, f"{len(entries):,} entries that the base model's vocabulary lacks; use the base's"
        )
        return
    for entry in entries:
        for found in search(entry):
            what = f"a new entry looks like {found.kind}; take it out, or check it and add --acknowledge identifiers"
            yield Finding(text.file, None, what)


def _known_template(folder: Path, facts: ReleaseFacts) -> str | None:
    """Where the release's chat template comes from, if its author cannot have had access to the data."""
    content = read_bytes(folder / CHAT_TEMPLATE_FILE)
    if facts.base_template is not None and content == facts.base_template.encode("utf-8"):
        return f"the one of {facts.base}"
    if any(content == path.read_bytes() for path in _CHAT_TEMPLATES.glob("*.jinja")):
        return "one of recipes/chat_templates/"
    return None


def _secrets(texts: Sequence[ReleaseText]) -> GateResult:
    """Tokens, keys and passwords; they cannot be acknowledged."""
    findings = [
        Finding(text.file, text.line(found.start), f"looks like {found.kind}; remove it and revoke it")
        for text in texts
        for found in find_secrets(text.text)
    ]
    return GateResult("secrets", f"{len(texts):,} texts", tuple(findings))


def _local_paths(texts: Sequence[ReleaseText]) -> GateResult:
    """No path of the training machine: it reveals users and projects, and is meaningless elsewhere."""
    files = [text for text in texts if not text.is_cell and text.file not in VOCABULARIES]
    what = "a path of this machine; make it relative, or leave it out"
    findings = [
        Finding(text.file, text.line(match.start()), what)
        for text in files
        for match in (_PATH_IN_CARD if text.file == CARD_FILE else _LOCAL_PATH).finditer(text.text)
    ]
    return GateResult("paths", f"{len(files)} texts", tuple(findings))


def _base(folder: Path, facts: ReleaseFacts) -> GateResult:
    """The base model by Hub id and commit, so that everyone loads the same weights."""
    if facts.kind not in _NAMES_BASE:
        return GateResult("base", "skipped: only an adapter or a fine-tuned model names its base model")
    file, keys = _NAMES_BASE[facts.kind]
    try:
        found = read_json_object(folder / file)
        named, revision = (str((found if file == ADAPTER_CONFIG else found["base"]).get(key)) for key in keys)
    except (OSError, InputError, LookupError, AttributeError):
        named, revision = "", ""
    faults = []
    if named != facts.base:
        faults.append(f"{keys[0]} is not the Hub id {facts.base}")
    if not _COMMIT.fullmatch(revision):
        what = "names no commit of the base model, so others may load other weights; set model_revision and train"
        faults.append(what)
    findings = tuple(Finding(file, None, what) for what in faults)
    return GateResult("base", f"{facts.base} in {file}", findings)


def _licence(facts: ReleaseFacts) -> GateResult:
    """The repository's licence against those of base model and data."""
    looked_at = f"{facts.licence} against " + ", ".join(
        f"{licence or 'unknown'} of {name}" for name, licence in facts.source_licences.items()
    )
    conflicts = licence_conflicts(facts.licence, facts.source_licences)
    if facts.licence not in HUB_LICENCES - {"unknown"}:
        conflicts.insert(0, "the Hub does not know the repository's licence; choose one with --license")
    return GateResult("licence", looked_at, tuple(Finding("", None, line) for line in conflicts))


def _memory(facts: ReleaseFacts, acknowledged: bool) -> GateResult:
    """How much the model recites its training texts; cannot be acknowledged for a public model trained on restricted data."""
    if facts.task is None:
        return GateResult("memory", "skipped: a dataset is not a model")
    if isinstance(facts.task, LabelTask):
        return GateResult("memory", "skipped: it was trained to write labels only")
    if facts.memory is None:
        what = "memorisation of the training texts was not measured"
        return GateResult("memory", "nothing", (Finding("", None, what),))
    longest = facts.memory["longest_run"]
    looked_at = f"{facts.memory['rows']} training prompts, longest run {longest} tokens"
    if longest < LONGEST_RUN:
        return GateResult("memory", looked_at)
    what = (
        f"reproduces up to {longest} consecutive training tokens (limit {LONGEST_RUN}; {facts.memory['repeated_share']:.1%} of "
        "its output) that are not in the prompt, not from the base model, and common to fewer than "
        f"{facts.memory['common_from_groups']} groups; train shorter, or add --acknowledge memory"
    )
    may_acknowledge = facts.visibility != "public" or may_show(facts.access)
    return GateResult("memory", looked_at, (Finding("", None, what),), acknowledged and may_acknowledge)
