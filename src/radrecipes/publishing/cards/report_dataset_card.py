"""The dataset card of prepared reports, and summary tables for the terminal: counts, never text."""

from collections.abc import Mapping
from typing import Any

from radrecipes.data.dataset_folder import SPLITS
from radrecipes.data.report_preparation import FILTERS, LEAST_RECOGNISED
from radrecipes.data.sources.registry import REPORT_SOURCES
from radrecipes.data.sources.report_source import DROP_REASONS
from radrecipes.publishing.cards.front_matter import card_title, dataset_card_data, render_card
from radrecipes.radiology.observations import OBSERVATIONS

_CHANGES = {
    "earlier_studies": "comparison with an earlier study removed",
    "deidentified": "de-identification mark removed or rewritten",
    "details": "side or measurement removed",
}
# What each change did, by its key in the manifest.
_EFFECTS = {"labels_changed": "changed the labels", "findings_lost": "removed a finding"}


def render_report_dataset_card(manifest: Mapping[str, Any]) -> str:
    """The card of reports whose manifest has the facts of [`~data.report_preparation.prepare_reports`]: Markdown with YAML."""
    source = REPORT_SOURCES[manifest["origin"]]
    relabelled = manifest["label_source"] == "relabel"
    data = dataset_card_data(
        manifest,
        task_category="text-generation",
        annotations="machine-generated" if relabelled or manifest["access"] == "synthetic" else "found",
        tags=["chest-x-ray", "radiology-report"],
        extends=None if manifest["generator"] else source.published,
    )
    return render_card(
        "report_dataset_card.md.jinja",
        data,
        title=card_title(manifest),
        synthetic=manifest["access"] == "synthetic",
        manifest=manifest,
        source=source,
        split_names=SPLITS,
        observations=OBSERVATIONS,
        drop_reasons=DROP_REASONS,
        filters=FILTERS,
        changes=_CHANGES,
        effects=_EFFECTS,
        share=recognised_share(manifest),
        relabelled=relabelled,
    )


def recognised_share(manifest: Mapping[str, Any]) -> float | None:
    """Of the sentences, the fraction that the labelling rules recognise; `None` if they labelled none."""
    sentences = manifest["sentences"]
    return sentences["recognised"] / sentences["labelled"] if sentences["labelled"] else None


def recognition_warning(manifest: Mapping[str, Any]) -> str:
    """What to say if the labelling rules recognise too few sentences; empty otherwise."""
    share = recognised_share(manifest)
    if share is None or share >= LEAST_RECOGNISED:
        return ""
    return (
        f"the labelling rules recognise {share:.0%} of the sentences, on chest X-ray reports over 80%; look at the reports: are"
        " they of other exams, or in another language? What is not recognised counts as normal"
    )


def render_report_summary(manifest: Mapping[str, Any]) -> str:
    """Tables for the terminal of what was read, kept and found; reasons that dropped no report are omitted."""
    rows, audit = manifest["rows"], manifest["leakage_audit"]
    counts = [("reports read", rows["read"])]
    counts += [(f"dropped: {DROP_REASONS[reason]}", count) for reason, count in rows["dropped"].items()]
    for name, count in rows["filtered"].items():
        counts.append((f"dropped by a filter: {FILTERS[name]}", count))
        if name == "other_exam":
            counts += [(f"  {exam}", number) for exam, number in rows["other_exams"].items()]
    counts.append(("kept", rows["kept"]))
    for name, count in rows["changed"].items():
        counts.append((f"  shortened: {_CHANGES[name]}", count))
        for key, meaning in _EFFECTS.items():
            if number := rows[key].get(name):
                counts.append((f"    {meaning}", number))
    width = max(len(name) for name, _ in counts) + 2
    lines = [f"{name:<{width}}{count:>9}" for name, count in counts]
    if (share := recognised_share(manifest)) is not None:
        lines += [
            "",
            f"{share:.1%} of {manifest['sentences']['labelled']} sentences name a finding or structure that the rules know",
        ]

    lines += [
        "",
        f"{'split':<12}{'reports':>9}{'groups':>9}{'normal':>9}{'groups in training':>20}{'verbatim in training':>22}",
    ]
    for split in SPLITS:
        figures = manifest["splits"][split]
        line = f"{split:<12}{figures['rows']:>9}{figures['groups']:>9}{figures['normal']:>9}"
        if split in audit:
            line += f"{audit[split]['shared_groups']:>20}{audit[split]['verbatim']:>22}"
        lines.append(line)
    return "\n".join(lines)
