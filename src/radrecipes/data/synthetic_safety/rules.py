"""The rules by which safety changes the protocol of an order: a simplification of public guidance, not medical advice."""

from collections.abc import Callable
from dataclasses import dataclass, replace

IODINATED, GADOLINIUM = "iodinated", "gadolinium"

# Below this eGFR (mL/min/1.73 m²) iodinated contrast is a risk to the kidneys.
LOWEST_EGFR = 30
ADULT_AGE = 18


@dataclass(frozen=True)
class Exam:
    """What a question needs if nothing speaks against it, and what takes its place.

    Args:
        medium: The contrast medium, `None` without.
        without: The protocol without that medium.
        otherwise: The exam if MR is not possible.
        ultrasound: What comes first for a child or in pregnancy.
    """

    protocol: str
    medium: str | None = None
    without: str | None = None
    otherwise: "Exam | None" = None
    ultrasound: str | None = None

    @property
    def is_mr(self) -> bool:
        """Whether the patient goes into the magnet."""
        return self.protocol.startswith("MR")


_BRAIN = Exam(
    "MR Brain without and with Contrast",
    GADOLINIUM,
    without="MR Brain without Contrast",
    otherwise=Exam("CT Head with Contrast", IODINATED, without="CT Head without Contrast"),
)
_ABDOMEN = Exam(
    "CT Abdomen Pelvis with Contrast",
    IODINATED,
    without="CT Abdomen Pelvis without Contrast",
    ultrasound="US Abdomen",
)
_AORTA = Exam("CTA Aorta", IODINATED, without="MRA Aorta without Contrast")
# By the kind of question.
EXAMS = {
    "abdomen": _ABDOMEN,
    "appendix": _ABDOMEN,
    "staging": Exam(
        "CT Chest Abdomen Pelvis with Contrast", IODINATED, without="CT Chest Abdomen Pelvis without Contrast"
    ),
    "embolism": Exam("CT Pulmonary Angiogram", IODINATED, without="NM Lung Ventilation Perfusion"),
    "aorta": _AORTA,
    "aorta follow-up": _AORTA,
    "stone": Exam("CT Stone", ultrasound="US Kidneys and Bladder"),
    "brain": _BRAIN,
    "multiple sclerosis": _BRAIN,
    "liver": Exam(
        "MR Liver without and with Contrast",
        GADOLINIUM,
        without="MR Liver without Contrast",
        otherwise=Exam("US Liver with Microbubble Contrast"),
    ),
    "lumbar spine": Exam("MR Lumbar Spine without Contrast", otherwise=Exam("CT Lumbar Spine without Contrast")),
    "lung nodule": Exam("CT Chest without Contrast"),
}

# What the department has besides; no order needs another combination.
_PREPARED = (
    "CT Abdomen Pelvis with Contrast, Accelerated Premedication",
    "CT Abdomen Pelvis with Contrast, Hold Metformin",
    "MR Abdomen Pelvis without Contrast",
    "CT Chest Abdomen Pelvis with Contrast, 13-hour Premedication",
    "CT Chest Abdomen Pelvis with Contrast, Accelerated Premedication",
    "CT Pulmonary Angiogram, Accelerated Premedication",
    "CT Pulmonary Angiogram, Hold Metformin",
    "CTA Aorta, 13-hour Premedication",
    "CTA Aorta, Accelerated Premedication",
    "CTA Aorta, Hold Metformin",
    "MR Brain without and with Contrast, 13-hour Premedication",
    "MR Brain without and with Contrast, MR Conditional Implant",
    "MR Liver without and with Contrast, 13-hour Premedication",
    "MR Lumbar Spine without and with Contrast",
    "MR Lumbar Spine without Contrast, MR Conditional Implant",
    "CT Chest Low Dose",
    "XR Orbits before MR",
)


def _names(exam: Exam) -> list[str]:
    names = [exam.protocol, exam.without, exam.ultrasound, *(_names(exam.otherwise) if exam.otherwise else [])]
    return [name for name in names if name]


PROTOCOLS = frozenset([*_PREPARED, *(name for exam in EXAMS.values() for name in _names(exam))])


@dataclass(frozen=True)
class Order:
    """What an order says that a rule reads; what it does not mention is absent.

    Reactions are `none`, `physiologic`, `allergic` or `severe`, and belong to one class of contrast medium. `disease` is `known`
    or `new`, `implant` `harmless`, `conditional` or `unsafe`, `urgency` `routine`, `urgent` or `emergency`.
    """

    exam: str
    age: int = 50
    egfr: int | None = None
    creatinine_rose: bool = False
    dialysis: str = "none"
    metformin: bool = False
    iodinated_reaction: str = "none"
    gadolinium_reaction: str = "none"
    urgency: str = "routine"
    pregnant: bool = False
    radiograph: str | None = None
    ultrasound: str = "not done"
    implant: str = "none"
    metal_in_eye: bool = False
    lumbar_surgery: bool = False
    disease: str = "new"

    @property
    def kidneys_at_risk(self) -> bool:
        """Acute kidney injury, or an eGFR under 30 in a patient whose kidneys still matter."""
        low = self.egfr is not None and self.egfr < LOWEST_EGFR
        return self.dialysis != "anuric" and (self.creatinine_rose or low)

    def reaction_to(self, medium: str | None) -> str:
        """The earlier reaction to a class of contrast medium."""
        return {IODINATED: self.iodinated_reaction, GADOLINIUM: self.gadolinium_reaction}.get(medium, "none")


@dataclass(frozen=True)
class Rule:
    """One rule.

    Args:
        decides: The facts that decide whether it applies, by the names under which results are given.
        when, then: The condition, and what it changes.
        unless: What does not fulfil it, though it is said in the same words.
        guidance: What the rule simplifies.
        applies, change: The condition in code, and the exam that takes the place of the one that earlier rules left.
    """

    decides: tuple[str, ...]
    when: str
    then: str
    unless: str
    guidance: str
    applies: Callable[[Order, Exam], bool]
    change: Callable[[Order, Exam], Exam]


def _without_medium(order: Order, exam: Exam) -> Exam:
    return Exam(exam.without)


def _prepared(preparation: str) -> Callable[[Order, Exam], Exam]:
    return lambda order, exam: replace(exam, protocol=f"{exam.protocol}, {preparation}")


_SELECTION = "ACR Manual on Contrast Media, Patient Selection and Preparation Strategies"
_IMPLANTS = "ACR Manual on MR Safety, implants, devices and objects"
# In the order in which they are applied; each sees the exam that the ones before it left.
RULES = (
    Rule(
        ("metal in the eye",),
        when="MR; metal entered the eye after the last clear radiographs of the orbits",
        then="XR Orbits before MR",
        unless="the clear radiographs are later than the injury",
        guidance="ACR Manual on MR Safety, screening for orbital foreign bodies",
        applies=lambda order, exam: exam.is_mr and order.metal_in_eye,
        change=lambda order, exam: Exam("XR Orbits before MR"),
    ),
    Rule(
        ("implant",),
        when="MR; an MR Unsafe implant is in place",
        then="head: CT with contrast; liver: ultrasound with microbubbles; lumbar spine: CT",
        unless="it was removed and the implant in place is another one; no MR",
        guidance=f"{_IMPLANTS}; ACR Appropriateness Criteria, Liver Lesion-Initial Characterization",
        applies=lambda order, exam: exam.is_mr and order.implant == "unsafe",
        change=lambda order, exam: exam.otherwise,
    ),
    Rule(
        ("pregnancy", "prior study"),
        when="appendicitis or stone; pregnant",
        then="ultrasound; after a nondiagnostic one MR Abdomen Pelvis without Contrast",
        unless="pregnant in an earlier year",
        guidance="ACR Appropriateness Criteria, Right Lower Quadrant Pain; Acute Onset Flank Pain-Suspicion of Stone Disease",
        applies=lambda order, exam: order.pregnant and exam.ultrasound is not None,
        change=lambda order, exam: Exam(
            exam.ultrasound if order.ultrasound == "not done" else "MR Abdomen Pelvis without Contrast"
        ),
    ),
    Rule(
        ("pregnancy", "prior study"),
        when="pulmonary embolism; pregnant, chest radiograph normal",
        then="NM Lung Ventilation Perfusion",
        unless="only an earlier radiograph was normal; not pregnant",
        guidance="ACR Appropriateness Criteria, Suspected Pulmonary Embolism; ATS/STR guideline on pulmonary embolism in pregnancy",
        applies=lambda order, exam: order.exam == "embolism" and order.pregnant and order.radiograph == "normal",
        change=_without_medium,
    ),
    Rule(
        ("age", "prior study"),
        when="appendicitis; under 18, no ultrasound yet",
        then="US Abdomen",
        unless="ultrasound was nondiagnostic",
        guidance="ACR Appropriateness Criteria, Suspected Appendicitis-Child",
        applies=lambda order, exam: order.age < ADULT_AGE and exam.ultrasound and order.ultrasound == "not done",
        change=lambda order, exam: Exam(exam.ultrasound),
    ),
    Rule(
        ("earlier surgery",),
        when="lumbar spine; an operation on it was done",
        then="MR Lumbar Spine without and with Contrast",
        unless="it is planned, and another operation was done",
        guidance="ACR Appropriateness Criteria, Low Back Pain",
        applies=lambda order, exam: exam.protocol == "MR Lumbar Spine without Contrast" and order.lumbar_surgery,
        change=lambda order, exam: Exam(
            "MR Lumbar Spine without and with Contrast", GADOLINIUM, exam.protocol, exam.otherwise
        ),
    ),
    Rule(
        ("known or new disease",),
        when="known multiple sclerosis; no new deficit now",
        then="MR Brain without Contrast",
        unless="the deficit is new, and there was none earlier",
        guidance="MAGNIMS-CMSC-NAIMS consensus recommendations on MRI in multiple sclerosis, 2021",
        applies=lambda order, exam: order.exam == "multiple sclerosis" and exam.is_mr and order.disease == "known",
        change=_without_medium,
    ),
    Rule(
        ("known or new disease",),
        when="lung nodule; it is known and something else is new",
        then="CT Chest Low Dose",
        unless="the nodule is new",
        guidance="ACR Appropriateness Criteria, Incidentally Detected Indeterminate Pulmonary Nodule; Fleischner Society, 2017",
        applies=lambda order, exam: order.exam == "lung nodule" and order.disease == "known",
        change=lambda order, exam: Exam("CT Chest Low Dose"),
    ),
    Rule(
        ("pregnancy",),
        when="gadolinium planned; pregnant",
        then="MR without contrast",
        unless="pregnant in an earlier year; breast-feeding",
        guidance="ACR Manual on Contrast Media, Administration of Contrast Media to Pregnant or Potentially Pregnant Patients",
        applies=lambda order, exam: exam.medium == GADOLINIUM and order.pregnant,
        change=_without_medium,
    ),
    Rule(
        ("kidney function", "urgency"),
        when="iodinated contrast planned, no emergency; eGFR now under 30, or creatinine up 1.5 times within days",
        then="CT without contrast, NM Lung Ventilation Perfusion or MRA Aorta without Contrast",
        unless="it was so earlier; on dialysis without urine; gadolinium (group II agent) or no contrast planned",
        guidance="ACR Manual on Contrast Media, Post-Contrast Acute Kidney Injury; Nephrogenic Systemic Fibrosis",
        applies=lambda order, exam: (
            exam.medium == IODINATED and order.kidneys_at_risk and order.urgency != "emergency"
        ),
        change=_without_medium,
    ),
    Rule(
        ("contrast reaction",),
        when="severe allergic-like reaction to the class of contrast medium that is planned",
        then="the exam without that contrast medium",
        unless="it was to the other class, food or a drug; it was denied; it was not severe",
        guidance=_SELECTION,
        applies=lambda order, exam: order.reaction_to(exam.medium) == "severe",
        change=_without_medium,
    ),
    Rule(
        ("metformin", "kidney function", "urgency"),
        when="emergency, so that iodinated contrast is given although the kidneys are at risk; on metformin",
        then="the exam, Hold Metformin",
        unless="metformin was stopped; the kidneys are not at risk",
        guidance="ACR Manual on Contrast Media, Metformin",
        applies=lambda order, exam: exam.medium == IODINATED and order.kidneys_at_risk and order.metformin,
        change=_prepared("Hold Metformin"),
    ),
    Rule(
        ("contrast reaction", "urgency"),
        when="allergic-like reaction, not severe, to the class of contrast medium that is planned",
        then="the exam, 13-hour Premedication; if it is urgent now, Accelerated Premedication",
        unless="it was physiologic; it was to the other class, food or a drug; it was denied",
        guidance=_SELECTION,
        applies=lambda order, exam: order.reaction_to(exam.medium) == "allergic",
        change=lambda order, exam: _prepared(
            "13-hour Premedication" if order.urgency == "routine" else "Accelerated Premedication"
        )(order, exam),
    ),
    Rule(
        ("implant",),
        when="MR; an MR Conditional implant is in place",
        then="the exam, MR Conditional Implant",
        unless="it was removed; no MR",
        guidance=_IMPLANTS,
        applies=lambda order, exam: exam.is_mr and order.implant == "conditional",
        change=_prepared("MR Conditional Implant"),
    ),
)


def protocol_of(order: Order) -> str:
    """The protocol of an order by the rules; combinations of rules can give one that the label set does not have."""
    exam = EXAMS[order.exam]
    for rule in RULES:
        if rule.applies(order, exam):
            exam = rule.change(order, exam)
    return exam.protocol
