"""Names of exams: which are chest radiographs, and what the others are, in words of this module only."""

import re

# In this order: the first that a name contains is its modality or region.
_MODALITIES = {
    "PET": r"pet|pet ?/? ?ct",
    "CT": r"ct|cta|hrct|ldct|cat scan|computed tomography|tomogra\w+",
    "MRI": r"mri?|mra|mrcp|magnetic resonance",
    "ultrasound": r"us|ultrasound|sono\w*|doppler|duplex|echo\w*",
    "mammography": r"mg|mammo\w*|tomosynthesis",
    "nuclear medicine": r"nm|scintigra\w*|spect|v/?q|bone scan",
    "fluoroscopy": r"rf|fl|fluoro\w*|esophagram|swallow|barium|upper gi|ugi",
    "angiography": r"xa|angiogra\w*|ir|embolization|angioplasty",
    "bone densitometry": r"dexa|dxa|densitometry",
}
_RADIOGRAPH = r"xr|xray|x ray|x-ray|dx|dr|cr|cxr|radiograph\w*|films?|plain"
_CHEST = r"chest|cxr|thorax|tórax|torax|lungs?|ribs?|sternum"
_REGIONS = {
    "head or neck": r"head|skull|brain|face|facial|orbits?|sinus\w*|mandible|neck|nasal|tmj|dental|soft tissue neck",
    "spine": r"spine|[ctl][ -]?spine|cervical|lumbar|thoracic spine|sacrum|coccyx|scoliosis|lumbosacral",
    "abdomen or pelvis": r"abd|abdomen|abdominal|kub|pelvis|hips?|bladder|kidneys?|renal|liver|pancreas|appendix",
    "arm": r"shoulder|clavicle|scapula|humerus|elbow|forearm|radius|ulna|wrist|hands?|fingers?|thumb|ac joints?|arm|upper ext\w*",
    "leg": r"femur|thigh|knees?|patella|tibia|fibula|tib|leg|ankles?|foot|feet|toes?|heel|calcaneus|lower ext\w*",
    "skeleton": r"bone age|bone survey|skeletal survey|osseous survey|long bones",
    "breast": r"breasts?",
}


def _words(names: str) -> re.Pattern:
    return re.compile(rf"(?<![^\W_])(?:{names})(?![^\W_])", re.IGNORECASE)


_MODALITY_PATTERNS = {name: _words(words) for name, words in _MODALITIES.items()}
_REGION_PATTERNS = {name: _words(words) for name, words in _REGIONS.items()}
_IS_RADIOGRAPH, _IS_CHEST = _words(_RADIOGRAPH), _words(_CHEST)
# In a report on one line the exam ends at a full stop, or at the next heading.
_NEXT_HEADING = (
    r"(?:clinical|patient|reason|relevant|date|time|order\w*|referr\w*|accession|history|indications?|comparisons?|technique|"
    r"findings?|impressions?|conclusions?|comments?|diagnosis|contrast|priors?)\b[\w /&()]{0,30}:"
)
_HEADING = re.compile(
    r"^[ \t]*(?:TYPE OF )?(?:EXAM(?:INATION)?|STUDY|PROCEDURE)(?: NAME| DESCRIPTION)?[ \t]*:[ \t]*"
    rf"(?!{_NEXT_HEADING})(\S[^\n]*?)[ \t]*(?=\.\s|\.?$|\b{_NEXT_HEADING})",
    re.IGNORECASE | re.MULTILINE,
)
# Within a text these are modalities in capitals only: "transferred to us", "Mr".
_WORDS = re.compile(r"\b(?!US|IR|MR|FL|NM|RF)(?i:us|ir|mr|fl|nm|rf)\b")


def other_exam(name: str) -> str:
    """What an exam is if certainly no chest radiograph, in words of this module: `CT of the head or neck`; otherwise empty."""
    modality = next((known for known, pattern in _MODALITY_PATTERNS.items() if pattern.search(name)), "")
    # A chest radiograph may be taken after a biopsy under CT.
    if modality and _IS_RADIOGRAPH.search(name) and modality not in ("mammography", "fluoroscopy"):
        modality = ""
    chest = _IS_CHEST.search(name) is not None
    if chest and not modality:
        return ""
    region = (
        "chest" if chest else next((known for known, pattern in _REGION_PATTERNS.items() if pattern.search(name)), "")
    )
    if not (modality or region):
        return ""
    return f"{modality or 'radiograph'}{f' of the {region}' if region else ''}"


def exam_in(text: str) -> str:
    """The exam that a report names under a heading (`EXAM: …`), empty if there is none."""
    heading = _HEADING.search(text.replace("\r", "\n"))
    return " ".join(_WORDS.sub("", heading[1]).split()) if heading else ""
