"""What the studies of a synthetic patient show: diseases occur together, persist, change and resolve."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from radrecipes.data.synthetic_reports.bank import Device, load_bank
from radrecipes.radiology.observations import Status

# Patterns of disease: weight, probability of devices, and for each observation the probabilities that it is shown and that
# it is certain.
_PATTERNS = (
    (26, 0.3, {"Cardiomegaly": (0.7, 0.9), "Edema": (0.85, 0.7), "Pleural Effusion": (0.6, 0.75)}),
    (22, 0.15, {"Lung Opacity": (0.75, 0.9), "Consolidation": (0.3, 0.75), "Pneumonia": (0.9, 0.35)}),
    (18, 0.2, {"Atelectasis": (1.0, 0.55), "Lung Opacity": (0.45, 0.9), "Pneumonia": (0.15, 0.0)}),
    (18, 0.2, {"Pleural Effusion": (1.0, 0.7), "Atelectasis": (0.6, 0.6), "Pleural Other": (0.08, 0.3)}),
    (9, 0.15, {"Cardiomegaly": (1.0, 0.8)}),
    (8, 0.5, {"Pneumothorax": (1.0, 0.65), "Fracture": (0.25, 0.7), "Pleural Effusion": (0.2, 0.6)}),
    (4, 0.05, {"Fracture": (1.0, 0.75), "Atelectasis": (0.2, 0.5)}),
    (4, 0.1, {"Lung Lesion": (1.0, 0.6), "Lung Opacity": (0.12, 0.8)}),
    (2, 0.1, {"Pleural Other": (1.0, 0.7)}),
    (3, 0.2, {"Enlarged Cardiomediastinum": (1.0, 0.55), "Cardiomegaly": (0.35, 0.7)}),
    (7, 0.1, {"Lung Opacity": (0.8, 0.85), "Consolidation": (0.15, 0.4)}),
    (9, 1.0, {"Atelectasis": (0.6, 0.6), "Pleural Effusion": (0.5, 0.7), "Edema": (0.4, 0.6)}),
)
# How often an absent observation is denied.
_DENIED = {
    "Enlarged Cardiomediastinum": 0.55,
    "Cardiomegaly": 0.55,
    "Lung Opacity": 0.4,
    "Lung Lesion": 0.03,
    "Edema": 0.35,
    "Consolidation": 0.7,
    "Pneumonia": 0.25,
    "Atelectasis": 0.03,
    "Pneumothorax": 0.82,
    "Pleural Effusion": 0.82,
    "Pleural Other": 0.025,
    "Fracture": 0.12,
}
_IN_THE_LUNG = ("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
_BOTH_SIDES = ("Lung Opacity", "Atelectasis", "Pleural Effusion")
_LASTING = ("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Pleural Other", "Fracture")
NORMAL_FRACTION, NEW_DISEASE_FRACTION = 0.57, 0.3
SECOND_DISEASE_FRACTION = 0.65
LASTS, PASSES = 0.8, 0.5
DEVICE_LASTS, DEVICE_PASSES, STRAY_DEVICE = 0.97, 0.5, 0.08


@dataclass(frozen=True)
class Finding:
    """An observation or device at one study; `gaps` fills the placeholders of its texts, such as side and size."""

    status: Status
    gaps: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """What one study shows; `devices` that were just removed are negative, `previous` is `None` at the first study."""

    findings: dict[str, Finding]
    devices: dict[str, tuple[Device, Finding]]
    previous: dict[str, Finding] | None

    @property
    def present(self) -> set[str]:
        """Observations that are present or possible."""
        return {name for name, finding in self.findings.items() if finding.status != Status.NEGATIVE}


def follow_patient(studies: int, rng: random.Random) -> Iterator[Study]:
    """The studies of one patient in their order."""
    previous: dict[str, Finding] | None = None
    devices: dict[str, tuple[Device, Finding]] = {}
    for _ in range(studies):
        shown, device_probability = _diseases(previous or {}, rng)
        devices = _devices(devices, device_probability, rng)
        findings = {**shown, **_denials(shown, previous or {}, rng)}
        yield Study(findings, devices, previous)
        previous = findings


def fill_gaps(rng: random.Random, name: str = "") -> dict[str, str]:
    """Side, size, place and so on of one finding, singular or plural throughout; a few can be on both sides."""
    side = rng.choice(("left", "right"))
    lobe = rng.choice(
        ("lower", "lower", "lower", "upper") if side == "left" else ("lower", "lower", "upper", "middle")
    )
    size = rng.choice(("small", "small", "small", "moderate", "large", "tiny", "trace"))
    texture = rng.choice(("patchy", "patchy", "hazy", "streaky", "linear", "focal"))
    several = name in _BOTH_SIDES and rng.random() < 0.3
    if several:
        place = rng.choice(("bibasilar", "bibasilar", "bilateral perihilar", "bilateral lower lobe"))
    elif lobe == "lower":
        place = rng.choice((f"{side} basilar", f"{side} basilar", f"{side} lower lobe", f"{side} retrocardiac"))
    else:
        place = f"{side} {lobe} lobe"
    opacity = f"{texture} {place} {'opacities' if several else 'opacity'}"
    effusion = f"{size} {'bilateral pleural effusions' if several else f'{side} pleural effusion'}"
    article = "" if several else "a "
    return {
        "side": side,
        "lobe": f"{side} {lobe} lobe",
        "basilar": "bibasilar" if several else f"{side} basilar",
        "size": size,
        "degree": rng.choice(("mild", "mild", "mild", "moderate", "severe", "minimal")),
        "measure": rng.choice((f"{rng.randint(4, 9)} mm", f"{rng.randint(10, 34) / 10:.1f} cm")),
        "rib": rng.choice(("third", "fourth", "fifth", "sixth", "seventh", "ninth")),
        "texture": texture,
        "place": place,
        "opacity": opacity,
        "a_opacity": article + opacity,
        "effusion": effusion,
        "a_effusion": article + effusion,
        "is": "are" if several else "is",
        "layers": "layer" if several else "layers",
        "reflects": "reflect" if several else "reflects",
        "represents": "represent" if several else "represents",
        "tip": rng.choice(("mid SVC", "lower SVC", "cavoatrial junction", "right atrium", "upper SVC")),
        "above": f"{rng.randint(20, 65) / 10:.1f} cm",
        "several": "yes" if several else "",
    }


def _diseases(previous: dict[str, Finding], rng: random.Random) -> tuple[dict[str, Finding], float]:
    """Observations that are present or possible, and the probability of devices with them."""
    shown = {}
    for name, finding in previous.items():
        if finding.status != Status.NEGATIVE and rng.random() < (LASTS if name in _LASTING else PASSES):
            # The next study often resolves a doubt, and sometimes raises one.
            settled = rng.choice((Status.POSITIVE, Status.UNCERTAIN)) if rng.random() < 0.4 else finding.status
            shown[name] = Finding(settled, finding.gaps)
    fresh = rng.random() < NEW_DISEASE_FRACTION if shown else rng.random() >= NORMAL_FRACTION
    if not fresh:
        return shown, 0.12 if shown else STRAY_DEVICE
    device_probability = 0.0
    for _ in range(2 if rng.random() < SECOND_DISEASE_FRACTION else 1):
        _, pattern_probability, observations = rng.choices(_PATTERNS, [weight for weight, _, _ in _PATTERNS])[0]
        device_probability = max(device_probability, pattern_probability)
        for name, (probability, sure) in observations.items():
            if name not in shown and rng.random() < probability:
                status = Status.POSITIVE if rng.random() < sure else Status.UNCERTAIN
                shown[name] = Finding(status, fill_gaps(rng, name))
    return shown, device_probability


def _denials(shown: dict[str, Finding], previous: dict[str, Finding], rng: random.Random) -> dict[str, Finding]:
    gone = {name for name, finding in previous.items() if finding.status != Status.NEGATIVE} - set(shown)
    left = {name: 0.8 if name in gone else probability for name, probability in _DENIED.items() if name not in shown}
    names = {name for name, probability in left.items() if rng.random() < probability}
    if any(name in shown for name in _IN_THE_LUNG):
        names.discard("Lung Opacity")
    # Clear lungs have neither.
    elif "Lung Opacity" in names and rng.random() < 0.8:
        names.add("Consolidation")
    if "Pneumonia" in shown and shown["Pneumonia"].status == Status.POSITIVE:
        names.discard("Consolidation")
    if "Consolidation" in shown:
        names.discard("Pneumonia")
    # A finding that is denied because it has resolved keeps its side.
    return {
        name: Finding(Status.NEGATIVE, previous[name].gaps if name in gone else {})
        for name in _DENIED
        if name in names
    }


def _devices(
    before: dict[str, tuple[Device, Finding]], probability: float, rng: random.Random
) -> dict[str, tuple[Device, Finding]]:
    now = {}
    for name, (device, finding) in before.items():
        if finding.status != Status.POSITIVE:
            continue
        if rng.random() < (DEVICE_PASSES if device.bedside else DEVICE_LASTS):
            now[name] = (device, finding)
        elif device.texts["removed"] and rng.random() < 0.6:
            now[name] = (device, Finding(Status.NEGATIVE, finding.gaps))
    if rng.random() < probability:
        kinds = load_bank().devices
        for device in rng.choices(kinds, [kind.weight for kind in kinds], k=rng.choice((1, 1, 2, 3))):
            now.setdefault(device.name, (device, Finding(Status.POSITIVE, fill_gaps(rng))))
    return now
