"""Regular expressions for identifiers, in order; developed on one half of the test corpus and evaluated on the other."""

import re

# In a pattern, `A-ZÀ-Þ`, `a-zß-ÿ` and `a-zà-ÿ` stand for the capitals and small letters of any script that has both.
_LETTERS = [chr(code) for code in range(0x100, 0x2000)]
_UPPER = "".join(letter for letter in _LETTERS if letter.isupper())
_LOWER = "".join(letter for letter in _LETTERS if letter.islower())


def any_script(pattern: str) -> str:
    """A pattern with its ranges of letters extended beyond Latin-1."""
    for start, more in (("A-ZÀ-Þ", _UPPER), ("a-zß-ÿ", _LOWER), ("a-zà-ÿ", _LOWER)):
        pattern = pattern.replace(start, start + more)
    return pattern


# Numbers after a label ---------------------------------------------------------------------------------------------------------

_NUMBER_WORD = r"(?:\s*(?:numbers?|num|no|nr|id|identifier)\b\.?|\s*\#)"


def _labelled(labels: str, digits: int = 4, number_word: str = "?") -> str:
    """An unbroken code with at least `digits` digits after a label; with `number_word=""` a word like `no.` is needed."""
    code = rf"(?P<it>(?!(?:19|20)\d\d(?![\w-]))(?=(?:[A-Z/.()-]*\d){{{digits}}})[A-Z0-9(][A-Z0-9/.()-]*[A-Z0-9])"
    return rf"(?i)(?<![A-Z])(?:{labels}){_NUMBER_WORD}{number_word}[\s:=#]{{0,4}}{code}"


_SPACED_CODE = (
    r"(?P<it>(?=(?:[^\d\n]{0,4}\d){4})(?!(?:19|20)\d\d(?![\w/-]|\.\w))(?-i:[A-Z]{0,4}\d[\dA-Z]*|[A-Z]{1,4}(?=[ ./-]?[A-Z\d]*\d))"
    r"(?-i:[ ./,-]{0,2}(?:[A-Z]{0,4}\d[\dA-Z]*|[A-Z]{1,3}(?![a-z])(?=[ ./-]?\d|\W|$))){0,6})(?!\w|\s?(?:mm|cm|mL|mg)\b)"
)
# Labels of numbers in several languages, with a word for `number` or a colon behind.
_ANY_LABEL = (
    r"(?:hosp(?:ital)?|patient(?:en)?|pat\.?|pt|chart|file|case|fall|dossier|record|medical\srecord|unit|scan|study|episode|admission|ticket|visa|passport"
    r"|identity|id|pid|uhid|hn|cpr|ahv|chi|kvnr|nhs|m\sr\sn|mrn?|medicare|versicherten|versicherungs?|social\ssecurity|personal|pacemaker|implant"
    r"|device|bed|tag|wristband|card|claim|policy|insurance|registration|reference|ref|protocol|specimen|account|acc(?:ession)?|member|old|new)"
)
_NUMBER_BEHIND = (
    r"(?:[\s_-]?(?:numbers?|nummer|num|no|nr|n°|n[uú]mero|id|card|tag|policy|ending|code|sn)\b\.?:?|[\s_]?[#:=]|\.|(?<=mrn)|(?<=nhs)|(?<=visa)|(?<=uhid)|(?<=kvnr)"
    r"|(?<=cpr)|(?<=ahv)|(?<=hn)|(?<=m\sr\sn)|(?<=passport)|(?<=medicare)|(?<=dossier)|(?<=fall)|(?<=case)|(?<=chart)|(?<=social\ssecurity)|(?<=specimen)"
    r"|(?<=registration)|(?<=admission)|(?<=medical\srecord)|(?<=id)|(?<=record))"
)
_DIGIT_WORD = r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine|null|eins|zwei|drei)"
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
    r"|nov(?:ember)?|dec(?:ember)?"
    r"|januar[iy]?|februar[iy]?|m(?:ä|ae)rz|mai|juni|juli|oktober|desember|dezember|janvier|f[ée]vrier|mars|avril|juin|juillet|ao[ûu]t"
    r"|septembre|octobre|novembre|d[ée]cembre|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre"
    r"|gennaio|febbraio|aprile|maggio|giugno|luglio|settembre|ottobre|dicembre|janeiro|fevereiro|março|maio|junho|julho|setembro"
    r"|outubro|dezembro|maart|mei|augustus|stycznia|lutego|marca|kwietnia|maja|czerwca|lipca|sierpnia|września|października"
    r"|listopada|grudnia)"
)
_FULL_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DAY, _MONTH_NUMBER, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
_DAY_MONTH = rf"(?:{_MONTH_NUMBER}(?P<s>[/-]){_DAY}|{_DAY}(?P<t>[/-]){_MONTH_NUMBER})"
_ORDINAL = rf"{_DAY}(?:st|nd|rd|th|\.(?=\s))?"
_ORDINAL_WORD = (
    r"(?:(?:twenty|thirty)[\s-])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|eleventh|twelfth|thirteenth"
    r"|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth"
)
_WEEKDAY = (
    r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|montag|dienstag|mittwoch|donnerstag|freitag|samstag|sonntag)s?"
)
_FEAST = (
    r"(?:christmas|x-?mas|boxing|easter|thanksgiving|hallowe'?en|ramadan|pentecost|whitsun|diwali|hanukk?ah|passover|yom\skippur|eid(?:\sal-\w+)?"
    r"|carnival|midsummer|(?:st\.?|saint)\s\w+'s\sday|new\syear'?s?|valentine'?s|mother'?s\sday|father'?s\sday|independence\sday|labou?r\sday"
    r"|memorial\sday|bank\sholiday|weihnachten|ostern|pfingsten|silvester|no[eë]l|navidad|(?:\w+\s)?birthday|geburtstag|wedding|funeral)"
)
_BEFORE_DATE = (
    r"\b(?:on|dated?|from|since|of|to|until|till|before|after|with|by|prior|previous|admitted|discharged|seen|exam|study|scan|ct|mri?|us|xr"
    r"|dos|dob|birth(?:\sdate)?|performed|done|last|period|died|am|vom|bis|seit|geb\.?|born|le|il|el|fell)[\s:]{1,2}"
)
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
# States whose abbreviation has no other meaning in a report, for a town without postal code.
_PLAIN_STATE = r"(?:AZ|DE|FL|GA|IL|KS|KY|MA|MN|NE|NH|NJ|NM|NY|TN|UT|WA|WI|WV|WY|DC)"
_TOWN = rf"{_CAPITALISED}(?:\s{_CAPITALISED}){{0,2}},?\s(?:{_STATE}\s+\d{{5}}(?:-\d{{4}})?|(?<=,\s){_PLAIN_STATE}\b)"
# After a street or a P.O. box, any two letters are a state.
_TOWN_BEHIND = rf"{_CAPITALISED}(?:\s{_CAPITALISED}){{0,2}}(?:,?\s{_STATE}\b(?:\s+\d{{5}}(?:-\d{{4}})?)?)?"
_DOOR = r"(?:,?\s(?:apt|apartment|unit|suite|ste|\#)\.?\s?\w+)"
_TOWN_ANY_CASE = rf"(?:,\s[a-zà-ÿ]+(?:\s[a-zà-ÿ]+){{0,2}},?\s{_STATE}\b(?:\s+\d{{5}}(?:-\d{{4}})?)?)"
# Clinics that every hospital has do not identify a place.
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

# Facilities and towns in a line of one case; words that may precede any hospital or clinic do not identify one.
_PLACE_WORD = (
    rf"(?:(?!(?:{_PLAIN_CLINIC}|all|and|another|any|care|city|clinic|county|day|dental|diabetes|each|every|eye|family|field|for|from|her|his|hospital|into|its|large|local"
    r"|near|nearby|new|old|other|one|our|out|own|prior|private|public|rural|same|school|skin|small|some|that|their|these|two|was|were|which|with|your"
    r"|\w+(?:ologist|ology|iatry|ics?|ed|ing|al|ary|ent|ous))\b)[a-zà-ÿ’'-]{3,})"
)
# Every place contains one of these; searched first for speed.
PLACE_CUE = re.compile(
    r"(?i)hospi|clinic|infirmary|health|cent(?:er|re)\b|system|group|home|associates|memorial|\d{5}|,\s[a-z]{2}\b"
)
PLACE_IN_ONE_CASE = re.compile(
    rf"(?i)\b(?:(?:st\.?|saint|mount|mt\.?)\s[a-zà-ÿ’']+\s{_FACILITY}|(?:{_PLACE_WORD}\s){{1,2}}{_FACILITY}"
    rf"|(?:hospital|clinic|infirmary)\sof\s{_PLACE_WORD}|[a-zà-ÿ]{{3,}}(?:\s[a-zà-ÿ]{{3,}})?,?\s{_STATE}\s\d{{5}}(?!\w|\.\d)"
    rf"|{_PLACE_WORD},\s(?!(?:DC|DE|FL|GA|NM)\b){_PLAIN_STATE}(?=[.,;]|$))"
)

# Names --------------------------------------------------------------------------------------------------------------------------

_PARTICLE = r"(?:(?:van|von|der|den|de|del|la|le|di|da|dos|du|bin|al|el|ter)\s|St\.?\s)"
WORD = rf"(?:{_PARTICLE}{{0,2}}(?:[A-ZÀ-Þ][’'])?(?:Mc|Mac|Al-|El-|De|Di|La|Le|Fitz)?{_CAPITALISED})"
_UPPER_WORD = r"(?:(?:VAN|VON|DE|DEL|LA|ST\.?)\s){0,2}[A-ZÀ-Þ][’']?[A-ZÀ-Þ]+(?:[-’'][A-ZÀ-Þ]+)*"
_NAME_PART = rf"(?:{WORD}|{_UPPER_WORD}|[A-ZÀ-Þ]\.?(?=\s))"
_NAME = rf"{_NAME_PART}(?:,?\s?{_NAME_PART}){{0,3}}"
_TWO_WORDS = rf"(?:{WORD}(?:\s[A-ZÀ-Þ]\.?)?\s{WORD}|{WORD},\s?{WORD})"
_TWO_UPPER_WORDS = (
    rf"(?!NO\b)(?:{_UPPER_WORD},\s?{_UPPER_WORD}(?:\s[A-Z]\b)?|{_UPPER_WORD}(?:\s[A-Z]\.?)?\s{_UPPER_WORD})"
)
NO_NAME_WORD = (
    r"(?!(?:[A-Z]+\b\s?){0,2}(?:Practitioner|Station|Department|Team|Service|Clinic|Unit|Office|Staff|Group|Desk|Room|Consult|On|The"
    r"|Dr|Drs|Emergency|ER|ED|ICU|OR|PACS|RIS|EMR|CT|MRI?|US|IR|Radiology|Surgery|Medicine|Trauma|Pediatrics|Ortho\w*|Neuro\w+"
    r"|\w+(?:ology|iatry|iatrics|surgery|ics|icine))\b)"
)
_NO_NAME_AFTER_TITLE = (
    r"(?!(?i:to|and|for|on|the|at|in|by|is|was|will|has|not|if|of|or|said|with|who|note|call|office|notified|aware|requests?"
    r"|requested|ordered|wants?|please|informed|paged|called|clinic)\b)"
)
# Titles and relations, before a word that is neither English nor medical.
TITLE = (
    r"drs?|doctors?|prof(?:essor)?|mrs?|ms|miss|mx|nurse|frau|herrn?|fräulein|mme|mlle|madame|monsieur|señor(?:a|ita)?|sra?|srta|dra|don|doña"
    r"|dona|dom|sig(?:nora?|ra)?|pan[ií]?|mevr(?:ouw)?|meneer|mag|ing|rev(?:erend)?|fr|father|pastor|rabbi|imam|sister|brother|matron|midwife"
    r"|capt(?:ain)?|col(?:onel)?|major|lt|lieutenant|sgt|sergeant|cpl|corporal|general|judge|justice|hon|sir|lady|lord|dame|master|chief"
    r"|uncle|aunt(?:ie|y)?|grand(?:ma|pa|mother|father)|cousin|consultant|registrar|paramedic|therapist|dietician|porter|secretary"
)
_CREDENTIAL = (
    r"(?:(?i:M\.?D\.?|PGY-?\d)|D\.?O\.?|R\.?N\.?|N\.?P\.?|P\.?A\.?-C|PA|Ph\.?D\.?|MBBS|MBChB|FRCR|FRCPC|FACR|DABR|CRNA|LPN|APRN|ARNP|FNP"
    r"|R\.T\.|RT\(R\))(?![A-Za-z])"
)
ROLE = (
    r"(?:patient(?:'?s)?(?:\sname)?|pt\sname|name|attending|resident|fellow|radiologist|technologist|tech|physician|provider"
    r"|clinician|surgeon|consultant|sonographer|nurse|(?:referring|ordering|requesting|attending|interpreting|performing|primary"
    r"|reading|reporting|supervising|family)\s(?:care\s)?(?:physician|provider|doctor|md|clinician|radiologist|surgeon)"
    r"|(?:dictated|transcribed|interpreted|read|reviewed|approved|verified|reported|performed|ordered|authenticated"
    r"|(?:electronically\s)?signed)(?:\sby)?|cc|attn|attention|author|operator|next\sof\skin|emergency\scontact|mother|father"
    r"|spouse|wife|husband|guardian|requested\sby|reported\sby)"
)
TOLD = (
    r"(?:discussed\swith|d/w|spoke(?:n)?\s(?:with|to)|reviewed\swith|paged|called|relayed\sto|communicated\s(?:to|with)|conveyed\sto"
    r"|reported\sto|notified|informed|told|seen\swith|read\sby|interpreted\sby|dictated\sby|signed\sby|performed\sby|requested\sby"
    r"|ordered\sby|transcribed\sby|per|attn|sent\sto|faxed\sto|message\s(?:to|for)|given\sto|resident|fellow|attending|nurse"
    r"|technologist|patient|wife|husband|son|daughter|mother|father|brother|sister|spouse|partner|friend|neighbou?r|caregiver)"
)
TOLD_A_PERSON = (
    r"(?:discussed\swith|d/w|spoken?\s(?:with|to)|reviewed\swith|paged|relayed\sto|conveyed\sto|(?:read|interpreted|dictated|signed"
    r"|requested|ordered|transcribed)\sby|sent\sto|faxed\sto)"
)
STAFF = (
    r"(?:attending|resident|fellow|radiologist|technologist|tech|physician|provider|clinician|surgeon|consultant|sonographer"
    r"|(?:referring|ordering|requesting)\s(?:physician|provider|doctor|md|clinician))"
)

_PUBLIC_HOSTS = (
    r"(?:[\w-]+\.)*(?:huggingface\.co|hf\.co|github\.(?:com|io)|arxiv\.org|doi\.org|pypi\.org|python\.org|pytorch\.org|apache\.org"
    r"|opensource\.org|creativecommons\.org|spdx\.org|wikipedia\.org|nih\.gov|physionet\.org|openreview\.net|aclanthology\.org"
    r"|acr\.org|rsna\.org|radlex\.org|loinc\.org|radiopaedia\.org|who\.int|readthedocs\.io|localhost|127\.0\.0\.1)"
)
_UNITS = (
    r"parameters|tokens|bytes|[KM]i?B\b|rows|steps|examples|words|characters|x\b|mm|cm|mL|mg|weeks|months|days|hours|%"
)
_UNIT_BEHIND = rf"(?!\s?(?:{_UNITS}))"

# Keys of configurations before a large number.
_NOT_A_COUNT = "".join(
    f"(?<!{key}: )"
    for key in ("size", "embeddings", "steps", "tokens", "length", "seed", "window", "theta", "token_id", "token id")
)

_PATTERNS = {
    "email": (
        r"(?<![\w.+-])(?P<it>[\w.+-]+@(?!v?\d)[\w-]+)(?![\w.-]*\.\w)",
        r"(?<![\w.@/-])(?P<it>@[a-zß-ÿA-ZÀ-Þ]\w{3,})",
        r"(?i)(?<![\w.+-])(?P<it>[\w+-]*[._][\w.+-]*\sat\s[\w-]+(?:\.[\w-]+)*\.[a-z]{2,})(?!\w)",
        r"(?i)(?<![\w.+-])(?P<it>[\w.+-]+(?:\sdot\s[\w-]+)*\s\(?(?:at|@)\)?\s[\w-]+(?:\s\(?dot\)?\s[\w-]+)+)",
        r"(?<![\w.+-])(?P<it>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)",
        r"(?i)(?<![\w.+-])(?P<it>[\w.+-]+\s?[\[(]\s?at\s?[\])]\s?[\w-]+(?:\s?(?:\.|[\[(]\s?dot\s?[\])])\s?[\w-]+)+)",
    ),
    "link": (
        rf"(?i)(?P<it>(?:https?|s?ftp)://(?!{_PUBLIC_HOSTS}(?:[:/\s)>\"']|$))[^\s<>\"')\]]+[^\s<>\"')\].,;:])",
        rf"(?i)(?<![\w@./-])(?P<it>(?:www\.(?!{_PUBLIC_HOSTS})[\w.-]+\.[a-z]{{2,}}(?:/\S*[\w/])?))",
        rf"(?i)(?<![\w@./-])(?P<it>(?!{_PUBLIC_HOSTS})[\w-]+(?:\.[\w-]+)+/(?:[\w.-]+/)*[\w-]*\d{{4,}}[\w-]*)(?<=[a-z/\d])",
    ),
    "study UID": (r"(?<![\w.])(?P<it>[0-2](?:\.(?:0|[1-9]\d*)){5,}|2\.25\.\d{8,})(?!\w)",),
    "IP address": (
        r"(?<![\w.])(?P<it>(?!127\.|0\.)(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d))(?!\.?\w)",
    ),
    "social security number": (
        r"(?i)(?:SSN|soc(?:ial)?\.?\s*sec(?:urity)?)\D{0,12}?(?P<it>[\dX*]{3}[-. ]?[\dX*]{2}[-. ]?\d{4})\b",
        r"(?i)(?<![\w.-])(?P<it>(?:\d{3}|xxx|\*{3})(?P<s>[-. ])(?:\d\d|xx|\*\*)(?P=s)\d{4})(?![\w-])",
    ),
    "medical record number": (
        _labelled(_RECORD),
        rf"(?i)(?<![A-Z])(?:{_RECORD}){_NUMBER_WORD}?[\s:=#]{{0,4}}(?P<it>\d{{2,4}}(?:\s\d{{2,4}}){{1,3}})(?!\w)",
    ),
    "vehicle number": (
        r"(?i)\b(?:VIN|licen[cs]e\splate)(?:\s(?:number|no\.?))?[\s:#]{0,3}(?P<it>(?=[A-Z-]*\d)[A-Z0-9](?:[\s-]?[A-Z0-9]){4,16})\b",
    ),
    "accession number": (
        _labelled(_ACCESSION, 5),
        _labelled(_EXAMINATION, 4, ""),
        r"(?i)(?<![\w.-])(?P<it>(?:[A-Z]{1,4}\d{2,4}|\d{2})-\d{5,9})(?![\w-])",
    ),
    "device serial number": (_labelled(_SERIAL),),
    "licence number": (_labelled(_LICENCE),),
    "account number": (_labelled(_ACCOUNT),),
    "pager": (
        r"(?i)\b(?:pager|beeper|pgr|page[dr]?(?:\s(?:at|to))?|bleep)(?:\s*(?:number|no\.?|id))?[\s:#]*(?P<it>\d[\d-]{2,11}\d)\b",
        r"(?i)\b(?:ext(?:ension)?\b\.?[\s:#]*(?P<it>\d[\d-]{1,5}\d))\b",
        r"(?<![\w.])(?P<it>[pPxX]\s?\d{4,6})(?!\w|\.\d)",
    ),
    "phone number": (
        (
            r"(?i)\b(?:tel(?:e(?:ph?on[eo]?)?)?|ph(?:one)?|fax|f|t|mob(?:ile)?|cell|call|dial|ring|reach|text|whatsapp|contact|office|hotline|landline"
            r"|number|handy)(?:\s(?:no|me|her|him|back|at|on|is|the))*[.:#\s]{1,3}(?P<it>[+(]?\d(?:[\s()./-]{0,3}\d){5,14})(?!\w|\s?(?:mm|cm))"
        ),
        r"(?i)\b(?:ward|pager|bleep|hotline)\s(?:phone|#)[\s:]{0,2}(?P<it>\d[\d-]{2,9}\d)(?!\w)",
        r"(?i)(?<![\w.-])(?P<it>(?:\+?1[\s.-]?)?(?:\(\d{3}\)\s?|\d{3}(?:\s|\s?[./-]\s?))\d{3}(?:\s|\s?[.-]\s?)\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,5})?)(?!\w)",
        # A country code begins with 1 to 9; a signed decimal such as `+1.25` is a difference of two metrics.
        r"(?<![\w+])(?P<it>\+(?!\d+\.\d{1,4}(?![\d.]|[\s-]\(?\d\d))[1-9]\d{0,2}(?:[\s.-]?\(?\d{1,5}\)?){2,6})(?!\w)",
        r"(?<![\w.,/-])(?P<it>0\d{2,4}[\s-]\d{3,4}[\s-]?\d{3,5})(?!\w)",
        rf"(?<![\w.,/-])(?P<it>\d{{3}}-\d{{4}})(?![\w-]){_UNIT_BEHIND}",
    ),
    "date": (
        rf"(?<![\w./-])(?P<it>{_DAY_MONTH}(?:(?P=s)|(?P=t))(?:{_YEAR}|['’]?\d\d))(?![\w/]|[.-]\d){_UNIT_BEHIND}",
        rf"(?<![\w./-])(?P<it>\d{{1,2}}\s/\s\d{{1,2}}\s/\s{_YEAR})(?!\w)",
        rf"(?<![\w./-])(?P<it>{_DAY}([./-])(?:I{{1,3}}|I?[VX]|VI{{1,3}}|XI{{1,2}})\2{_YEAR})(?!\w)",
        rf"(?i)(?<![\w./=-])(?P<it>{_YEAR}[\s.,-]?\s?{_MONTH}[\s.,-]?\s?{_ORDINAL})(?!\w)",
        rf"(?<![\w.])(?P<it>{_DAY}\.{_MONTH_NUMBER}\.{_YEAR}|[0-3]\d\.[01]\d\.\d\d)(?![\w]|\.\d)",
        rf"(?<![\w./=-])(?P<it>{_YEAR}(?P<s>[-/.]){_MONTH_NUMBER}(?P=s){_DAY}(?:[T ]\d\d:\d\d(?::\d\d)?)?)(?!\d|[\w/-]\d)",
        r"(?<![\w.-])(?P<it>(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:T\d{4,6})?)(?!\w|\.\d)",
        rf"(?i)(?<![\w./-])(?P<it>{_ORDINAL}(?:\sof)?[\s.-]?\s?{_MONTH}\b[\s.,-]{{0,2}}(?:{_YEAR}|['’]?\d\d(?!\d|\s?(?:mm|cm|%))))",
        rf"(?i)(?<![\w./-])(?P<it>\d{{1,2}}{_MONTH}(?:{_YEAR}|\d\d))(?!\w)",
        rf"(?i)\b(?P<it>{_MONTH}\b[\s.,-]{{0,2}}(?:{_ORDINAL}(?:,?\s(?:of\s)?|-))?{_YEAR})(?!\d)",
        rf"(?i)\b(?P<it>{_SAFE_MONTH}\b\.?\s{_ORDINAL})(?!\w|\.\d|\s?(?:mm|cm|mL|%))",
        rf"(?i)(?<![\w./-])(?<!series\s)(?<!image\s)(?P<it>{_ORDINAL}(?:\sof)?[\s-]{_SAFE_MONTH})\b",
        rf"(?<![\w./-])(?P<it>{_MONTH_NUMBER}/{_YEAR})(?![\w/])",
        (
            rf"(?i){_BEFORE_DATE}(?P<it>{_MONTH_NUMBER}/\d{{1,2}}|{_DAY}/{_MONTH_NUMBER})(?![\w/%]|\.\d|\s(?:of|pain|strength|systolic|diastolic"
            r"|murmur|power|in\s(?:severity|intensity)|reflexes|pulses|headache|nodes?|views?|cores?|positive)\b)"
        ),
        rf"(?i){_BEFORE_DATE}(?P<it>{_DAY}\.{_MONTH_NUMBER}\.\d\d|\d{{6}}|\d{{8}}|\d{{2,4}}[ /-]\d\d[ /-]\d{{2,4}})(?![\w]|\.\d)",
        rf"(?i)\b(?:am|vom|bis|seit|died|born|geb\.?)\s(?P<it>{_DAY}\.{_MONTH_NUMBER}\.)(?!\w)",
        rf"(?<![\w./-])(?P<it>{_YEAR}(?P<s>[ |]){_MONTH_NUMBER}(?P=s){_DAY}|{_DAY}(?P<t>[ |]){_MONTH_NUMBER}(?P=t){_YEAR})(?!\w)",
        rf"(?<![\w./-])(?P<it>{_DAY}(?:\s/\s{_MONTH_NUMBER}\s/\s|/{_MONTH_NUMBER}-)\d\d)(?!\w|\s\|)",
        rf"(?i)(?<![\w./-])(?P<it>{_DAY}\.?\s(?:de\s)?{_MONTH}\s(?:de\s)?{_YEAR})(?!\w)",
        rf"(?i)\b(?P<it>(?:{_ORDINAL_WORD})\s(?:day\s)?(?:of\s)?{_MONTH}(?:\s{_YEAR})?)(?!\w)",
        rf"(?i)\b(?P<it>{_MONTH}\s(?:the\s)?(?:{_ORDINAL_WORD}|{_DAY}(?:st|nd|rd|th))(?:,?\s{_YEAR})?)(?!\w)",
        rf"(?i)\b(?P<it>{_MONTH}\sof\s{_YEAR})(?!\w)",
        (
            rf"(?i)\b(?P<it>(?:(?:the\s)?(?:first|second|third|last|next|this)\s)?{_WEEKDAY}\b(?:,?\s(?:in\s{_MONTH}|(?:the\s)?{_ORDINAL}"
            rf"(?:\sof)?(?:\s{_MONTH})?|{_MONTH}\s{_ORDINAL}))?(?:\s(?:after|before)\s(?:last|{_FEAST}))?)(?!\w)"
        ),
        (
            r"(?i)\b(?P<it>(?:(?:(?:the|a|one|two|three|four|five|six)\s)?(?:days?|weeks?|months?|eve|evening|morning|night)\s(?:of|before|after)\s)?"
            rf"(?:on\s)?(?:(?:his|her|their|my|the)\s)?(?:\w+\s)?{_FEAST}(?:'?s)?(?:\s(?:eve|day|monday|sunday|in\s{_MONTH}))?)(?!\w)"
        ),
        r"(?i)\b(?P<it>yesterday|tomorrow|gestern|last\s(?:weekend|winter|spring|summer|autumn))\b",
        rf"\b(?:[Ii]n|[Ss]ince|[Ff]rom|[Uu]ntil|[Tt]ill|[Ll]ast|[Tt]his|[Ee]arly|[Ll]ate|[Mm]id|[Oo]f|[Tt]hrough)[\s-](?P<it>{_FULL_MONTH})(?![\w-]|\s(?:fracture|{_CAPITALISED}))",
    ),
    "age over 89": (
        r"(?i)(?<![\w./-])(?P<it>(?:9\d|1[01]\d)[\s-]?(?:years?(?:[\s-]?olds?)?|yrs?\.?(?:[\s-]?old)?|y\.?\s?/?o\.?|y)(?:\s?[mf])?)(?![a-z])(?!\s(?:survival|ago|of\s(?:smoking|follow)))",
        r"(?i)\b(?:aged?|age\s(?:of|is|was))[\s:=]*(?P<it>9\d|1[01]\d)\b(?!\s?(?:days?|weeks?|months?|hours?|%|mm|cm)|\.\d)",
        r"(?i)(?P<it>\b(?:ninety|one\shundred)(?:[\s-](?:and\s)?(?:one|two|three|four|five|six|seven|eight|nine|ten))?)[\s-](?:years?|yrs?)\b",
        r"(?i)\baged?\s(?:of\s|is\s)?(?P<it>(?:ninety|one\shundred)(?:[\s-](?:and\s)?(?:one|two|three|four|five|six|seven|eight|nine|ten))?)\b",
        r"(?im)(?:^|:\s)(?P<it>(?:9\d|1[01]\d)\s[mf])(?=\s|,)",
        r"(?i)\b(?P<it>(?:super|semi)?(?:nona|cente)n?[ag]?[eg]?narians?)\b",
        (
            r"(?<![\w./-])(?<![Tt]emp )(?<!fever )(?<!of )(?P<it>(?:9\d|1[01]\d)(?:\s?[MF]|[mf]))"
            r"(?!\w|[.-]\w|\s(?:sheath|catheter|temp|fever))"
        ),
    ),
    "address": (
        (
            rf"(?<![\w.])(?P<it>\d{{1,5}}[A-Z]?\s(?:(?:[NSEW]|NE|NW|SE|SW)\.?\s|(?:North|South|East|West)\s)?(?:{_CAPITALISED}\s|\d{{1,3}}(?:st|nd|rd|th)\s)"
            rf"(?:{_CAPITALISED}\s){{0,2}}{_STREET}(?:,?\s(?:Apt|Apartment|Unit|Suite|Ste|\#)\.?\s?\w+)?(?:,\s{_TOWN_BEHIND})?)"
        ),
        rf"(?i)(?P<it>\bP\.?\s?O\.?\s?Box\s\d+{_TOWN_ANY_CASE}?)",
        # Streets and facilities in text of one case; fewer endings, because CT and DR have other meanings there.
        (
            r"(?i)(?<![\w.])(?P<it>\d{1,5}\s(?:[nsew]\.?\s)?(?:(?:(?!the\b)[a-z]{3,}|\d{1,3}(?:st|nd|rd|th))\s){1,3}"
            r"(?:street|avenue|ave|road|rd|lane|boulevard|blvd|terrace|parkway|pkwy|highway|hwy|drive|court|circle|crescent)\b\.?"
            rf"{_DOOR}?{_TOWN_ANY_CASE}?)"
        ),
        (
            r"(?i)(?<![\w.])(?P<it>\d{1,5}\s(?:[nsew]\.?\s)?(?:(?!lead|phase|view)[a-z]{3,}\s){1,2}"
            rf"(?:(?:gardens|grove|place|way)\b|(?:st|ln|pl|ct|dr)\b\.?(?:{_DOOR}|(?={_TOWN_ANY_CASE})){_TOWN_ANY_CASE}?|(?:st|ln)\b(?=[.,;]|\s*$)))"
        ),
        r"(?i)\b(?:liv(?:es?|ing)|resid(?:es?|ing)|address(?:\sis)?)(?:\s(?:at|on|in)|:)\s(?P<it>\d{1,5}\s(?!mm|cm)[a-z][^,.;\n]{3,40})",
        rf"\b(?P<it>{_TOWN})",
        r"(?i)\b(?:zip|postal)(?:\s?code)?[\s:]*(?P<it>\d{5}(?:-\d{4})?)\b",
        r"\b(?P<it>(?![CLST]\d{1,2}\s)[A-Z]{1,2}\d[A-Z\d]?\s\d(?!ND|ST|RD|TH|D\b)[ABD-HJLNP-UW-Z]{2})\b",
    ),
    "facility": (
        rf"(?P<it>\b(?:University\s)?(?:Hospital|Clinic|Infirmary)\sof\s{_CAPITALISED})",
        rf"(?P<it>\b(?:St\.?|Saint|Mount|Mt\.?)\s{_CAPITALISED}(?:\s{_CAPITALISED}){{0,2}}\s{_FACILITY})",
        rf"(?P<it>\b(?!{_PLAIN_CLINIC}\s)(?:{_CAPITALISED}\s){{1,3}}{_FACILITY})",
    ),
    "labelled number": (
        rf"(?i)(?<![A-Za-z])(?<!token[ _]){_ANY_LABEL}{_NUMBER_BEHIND}(?:\s(?:is|was|on|n°))?[\s#:,]{{0,3}}{_SPACED_CODE}",
    ),
    "spelled number": (rf"(?i)(?<!\w)(?P<it>{_DIGIT_WORD}(?:[\s,-]{{1,2}}{_DIGIT_WORD}){{4,}})(?!\w)",),
    "long number": (
        rf"(?<![\w.,/-]){_NOT_A_COUNT}(?P<it>#?\d{{6,}})(?![\w-]|[.,]\d){_UNIT_BEHIND}",
        rf"(?<![\w.,/#-])(?P<it>[A-Z]{{1,4}}-?\d{{5,}}[A-Z]?)(?![\w-]|[.,]\d){_UNIT_BEHIND}",
        rf"(?<![\w.,/#-])(?P<it>(?!\d\d?\.\d+-)\d{{2,4}}(?:[ .-]\d{{2,4}}){{2,}})(?![\w-]|[.,]\d){_UNIT_BEHIND}",
        r"(?<![\w.,/#-])(?P<it>(?!(?:19|20)\d\d)\d{3,4}[ -]\d{4})(?![\w-]|[.,]\d)",
        r"(?<![\w.,/#-])(?P<it>(?!AVX512-)(?!\d?\d\.\d+-\d?\d\.\d)(?=(?:[A-Z./-]{0,6}\d){5})(?=[\d./-]{0,12}[A-Z]|(?:[./-]?\d){8})[A-Z0-9]{1,8}(?:[-/.][A-Z0-9]{1,8}){1,4})(?<!GB)(?<!XXXX)(?![\w-]|[.,]\d)",
        rf"(?<![\w.,/#-])(?P<it>[A-Z]{{1,3}} \d{{3}} \d{{3}}|[A-Z]{{2}} \d{{6,}})(?!\w){_UNIT_BEHIND}",
        rf"(?<![\w.,/#-])(?<!\":)(?<!\": )(?P<it>[A-Z]{{0,3}}\d{{7,}})(?![\w-]|[.,]\d){_UNIT_BEHIND}",
        r"(?<![\w.,/#-])(?P<it>[A-Z]{1,2}\d{6})(?![\w-]|[.,]\d)",
    ),
    "name": (
        rf"\b(?:Dr|Drs|Doctor|Doctors|Prof|Professor|Mr|Mrs|Ms|Miss|Mx|Nurse|DR|DRS|MRS|PROF)(?:\.\s?|\s){_NO_NAME_AFTER_TITLE}{NO_NAME_WORD}(?P<it>{_NAME})",
        rf"\b(?:Drs|Doctors|DRS)\.?\s{_NAME}\s?(?:and|&|,)\s(?P<it>{_NAME})",
        rf"\b(?:[Dd]rs?|[Mm]rs|[Pp]rof)(?:\.\s?|\s){_NO_NAME_AFTER_TITLE}(?P<it>(?:(?:van|von|de|la|del|st\.?|o|al)\s){{0,2}}[a-zß-ÿ][a-zß-ÿ’'-]+)",
        rf"(?P<it>\b{_NAME_PART}(?:\s{_NAME_PART}){{0,3}}),?\s\(?(?:{_CREDENTIAL})(?<!\sPA)(?<!\sDO)(?<!\sNP)(?<!\sRN)",
        rf"(?P<it>\b{_NAME_PART}(?:\s{_NAME_PART}){{0,3}})(?:,\s|\s\()(?:DO|NP|RN|PA)\b(?!\s(?i:and|view|chest))",
        rf"(?i:\b{ROLE}\s?:\s*){NO_NAME_WORD}(?P<it>{_TWO_UPPER_WORDS})",
        rf"(?i:\b(?:{TOLD},?\s+|{ROLE}\s?:\s*)){NO_NAME_WORD}(?P<it>{_TWO_WORDS})",
        # The recipient of a message, or a signer, is a person even if the name is also an eponym.
        rf"(?i:\b(?:{TOLD_A_PERSON},?\s+|{STAFF}\s?:\s*)){NO_NAME_WORD}(?P<it>{WORD})\b(?!\s?[A-ZÀ-Þ]|\s(?:and|or)\s[a-z])",
        rf"\b(?:[Pp]t|PT)\s?:\s*(?P<it>{WORD},\s?{WORD}|{_UPPER_WORD},\s?{_UPPER_WORD})",
        # A person name as DICOM writes it: DICOM PS3.5, value representation PN.
        r"(?<![\w^\\'’-])(?P<it>[A-Za-zÀ-ÿ'’-]{2,}\^[A-Za-zÀ-ÿ]+(?:[\^ ][A-Za-zÀ-ÿ.]*)*)",
        # The usual heading of a worklist entry: FAMILY, GIVEN and an age.
        rf"(?m)^\s*(?P<it>{_UPPER_WORD},\s?{_UPPER_WORD}(?:\s[A-Z])?|{WORD},\s?{WORD})(?=\s\(?\d{{1,3}}\s?(?:[MFmf]\b|y))",
    ),
}

# By kind, in order: text that one rule found is not matched by a later one. The group `it` is the identifier.
RULES = {kind: [re.compile(any_script(pattern)) for pattern in patterns] for kind, patterns in _PATTERNS.items()}

# All other kinds always contain a digit, and are searched only in texts with one.
WITHOUT_DIGIT = frozenset(("email", "link", "date", "age over 89", "spelled number", "address", "facility", "name"))

# Kinds that depend on capitals, also searched in the text as rewritten in normal case.
BY_CAPITALS = frozenset(("name", "address", "facility"))

# Kinds in which an underscore or a bar is also read as a space: `2021_03_14`, `knee_4471902.png`.
BY_DIGITS = frozenset(("date", "labelled number", "long number"))
