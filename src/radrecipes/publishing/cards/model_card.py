"""The model card of a published adapter, fine-tuned or merged model, filled from the run's manifest and its evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from radrecipes.errors import InputError
from radrecipes.evaluation.label_systems import ADAPTER
from radrecipes.evaluation.results import results_fit
from radrecipes.models.base import TEXT_PART_KEYS
from radrecipes.models.weights import FullModel
from radrecipes.publishing.cards.card_checks import check_card
from radrecipes.publishing.cards.front_matter import gated_form, render_card
from radrecipes.publishing.licences import BASE_LICENCES
from radrecipes.recipe import RecipeArguments
from radrecipes.reporting import label_page, text_page
from radrecipes.reporting.label_tables import best_baseline, calibration, decisions, duration, processors, speed
from radrecipes.reporting.result_tables import difference_with_interval, metric_with_interval, results_table
from radrecipes.tasks import TASKS, LabelTask, ReportWritingTask, Task, metric_value
from radrecipes.tasks.rendering import write_question

# Assumed watts per CPU core and GPU in use: a core's fraction of a server, and the board power of an H100 SXM.
CORE_WATTS = 10
GPU_WATTS = 700


def render_model_card(
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    *,
    repo_id: str,
    tag: str,
    license: str,
    license_name: str | None = None,
    license_link: str | None = None,
    base_license: str | None = None,
    results: Mapping[str, Any] | None = None,
    merged: bool = False,
    dataset: Mapping[str, Any] | None = None,
    dataset_id: str | None = None,
    dataset_tag: str | None = None,
) -> str:
    """The card of a release: Markdown with the YAML front matter of a Hub model card, as [`check_card`] accepts it.

    Args:
        manifest: `manifest.json` of the run; includes `memory` and `merged` if the release measured memorisation and the merge.
        metrics: `evaluation/metrics.json` of the run; an [`InputError`] if they are from another run.
        license_name, license_link: Name and URL of the licence, for `license="other"`.
        base_license: Licence of the base model, if this project does not know it.
        results: The recipe's `*.results.json` over seeds, if [`results_fit`] accepts it for this run.
        dataset: `manifest.json` of the training data; `dataset_id` and `dataset_tag` are where they are published.
    """
    fields, base = manifest["recipe"]["fields"], manifest["base"]
    task, dataset = TASKS[fields["task"]], dataset or {}
    _check_same_run(manifest, metrics, results)
    licence = {"license": license, "license_name": license_name, "license_link": license_link}
    data = _card_data(task, manifest, metrics, repo_id, merged, dataset, dataset_id, licence)
    text = render_card(
        "model_card.md.jinja",
        data,
        repo_id=repo_id,
        tag=tag,
        license=license,
        license_name=license_name,
        merged=merged,
        is_model=merged or FullModel.NAME in manifest,  # which needs neither PEFT nor its base model
        has_adapter=FullModel.NAME not in manifest,
        weights_dtype=manifest.get(FullModel.NAME, base)["dtype"],
        manifest=manifest,
        metrics=metrics,
        results=results,
        task=task,
        checks_reports=isinstance(task, ReportWritingTask),
        text_part_keys=TEXT_PART_KEYS
        if base.get("text_part") and FullModel.NAME not in manifest and not merged
        else None,
        base_license=base_license or BASE_LICENCES.get(base["model_id"]),
        data_name=Path(manifest["data"]["folder"]).name,
        dataset=dataset,
        earlier_data=[
            data for data in manifest.get("start", {}).get("data", ()) if data["digest"] != manifest["data"]["digest"]
        ],
        dataset_id=dataset_id,
        dataset_tag=dataset_tag,
        seeds_table=results_table([results]) if results else None,
        **_values(task, manifest, metrics),
    )
    check_card(text)
    return text


def energy_estimate(manifest: Mapping[str, Any]) -> tuple[float, str]:
    """Training energy in kilowatt hours, estimated from time and hardware, and a sentence with the assumption."""
    training, hardware = manifest["training"], manifest["hardware"]
    processes = training["processes"]
    cores, gpus = hardware["threads"] * processes, processes if hardware.get("gpus") else 0
    watts = CORE_WATTS * cores + GPU_WATTS * gpus
    parts = [f"{CORE_WATTS} W for each of {cores} processor threads"]
    if gpus:
        parts.append(f"{GPU_WATTS} W for each of {gpus} GPUs (the board power of an H100; smaller ones draw less)")
    return watts * training["seconds"] / 3.6e6, " and ".join(parts)


def _check_same_run(
    manifest: Mapping[str, Any], metrics: Mapping[str, Any], results: Mapping[str, Any] | None
) -> None:
    task, seed = manifest["recipe"]["fields"]["task"], manifest["training"]["seed"]
    if metrics["task"] != task or metrics["seeds"]["training"] != seed:
        raise InputError(
            f"is the evaluation of task {metrics['task']}, seed {metrics['seeds']['training']}, and the run is of task "
            f"{task}, seed {seed}; evaluate this run with scripts/evaluate_model.py",
            "metrics.json",
        )
    if results is not None and not results_fit(manifest, results):
        raise InputError(
            "the recipe's results are of other fields, seeds, data, base or prompt than this run; leave it out, or record it again",
            f"{results['recipe']}.results.json",
        )


def _card_data(
    task: Task,
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    repo_id: str,
    merged: bool,
    dataset: Mapping[str, Any],
    dataset_id: str | None,
    licence: Mapping[str, str | None],
) -> ModelCardData:
    base, name, titles = manifest["base"]["model_id"], metrics["dataset"]["name"], _system_titles(task, metrics)
    # For a text task with and without guard.
    systems = [system for system in dict.fromkeys((task.main_system, ADAPTER)) if system in metrics["systems"]]
    results = [
        EvalResult(
            task_type=task.hub_task,
            task_name=task.words.title,
            dataset_type=dataset_id or name,
            dataset_name=name.replace("_", " "),
            dataset_split=metrics["split"],
            metric_type=metric.hub_id or metric.name,
            metric_value=round(value, 4),
            metric_name=metric.title + (f" ({titles[system].lower()})" if len(systems) > 1 else ""),
        )
        for system in systems
        for metric in task.published(metrics)
        if (value := metric_value(metrics["systems"][system].get(metric.name))) is not None
    ]
    has_adapter = FullModel.NAME not in manifest
    stage = "grpo" if manifest["recipe"].get("resolved", {}).get("stage") == "grpo" else "sft"
    tags = ["radiology", "medical", *task.words.tags, "trl", stage, *(["lora"] if has_adapter else [])]
    is_model = merged or not has_adapter
    if not is_model:
        tags += ["transformers", f"base_model:adapter:{base}"]  # PEFT's own tags, by which the Hub lists adapters
    return ModelCardData(
        base_model=base,
        # On the Hub a `merge` combines several models; a base model with its adapter merged in is a fine-tune.
        base_model_relation="finetune" if is_model else "adapter",
        library_name="transformers" if is_model else "peft",
        pipeline_tag="text-classification" if _has_head(metrics) else "text-generation",
        **licence,
        language=[dataset.get("language", "en")],
        datasets=[dataset_id] if dataset_id else None,
        metrics=[metric.hub_id for metric in task.published(metrics) if metric.hub_id],
        tags=tags,
        model_name=repo_id.split("/")[1],
        eval_results=results,
        **gated_form(manifest["data"]["access"], "model"),
    )


def _values(task: Task, manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the template cannot read from the two documents as it stands."""
    fields, is_label = manifest["recipe"]["fields"], isinstance(task, LabelTask)
    titles, example = _system_titles(task, metrics), task.read_input(task.words.example)
    written = write_question(task, example, manifest["prompt"]["style"])
    kilowatt_hours, assumption = energy_estimate(manifest)
    longest = fields.get("max_new_tokens") or metrics["decoding"].get("max_new_tokens")
    rows, calibrated = (decisions(metrics), calibration(metrics)) if is_label else ([], None)
    return {
        "is_label": is_label,
        "has_head": _has_head(metrics),
        "temperature": round(calibrated["temperature"], 6) if calibrated else 1.0,
        "prompt": written,
        "max_new_tokens": longest or RecipeArguments.max_new_tokens,
        "quantised_bits": next((bits for bits in (4, 8) if fields.get(f"load_in_{bits}bit")), None),
        "energy": f"{1000 * kilowatt_hours:.1f} Wh" if kilowatt_hours < 0.1 else f"{kilowatt_hours:.1f} kWh",
        "energy_assumption": assumption,
        "metric_with_interval": metric_with_interval,
        "system_titles": titles,
        "best_baseline": best_baseline(metrics),
        "calibration": calibrated,
        "costs": {
            name: (duration(cost["training_seconds"]), speed(cost["rows_per_second"]), processors([cost]))
            for name, system in metrics["systems"].items()
            if (cost := system.get("cost"))
        },
        "unseen_titles": text_page.UNSEEN_TITLES,
        "comparisons": _comparisons(task, metrics, titles),
        "guard": metrics["systems"].get(task.main_system, {}).get("guard"),
        "thresholds": [
            {"target": row["target"], **row["systems"][ADAPTER]} for row in rows if row["systems"].get(ADAPTER)
        ],
    }


def _has_head(metrics: Mapping[str, Any]) -> bool:
    return metrics["decoding"]["method"] == "head"


def _system_titles(task: Task, metrics: Mapping[str, Any]) -> dict[str, str]:
    titles = (label_page if isinstance(task, LabelTask) else text_page).SYSTEM_TITLES
    return {name: titles.get(name, name.replace("_", " ")) for name in metrics["systems"]}


def _comparisons(task: Task, metrics: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """The paired comparisons as sentences."""
    titles = {name: title[0].lower() + title[1:] for name, title in titles.items()}
    names = {metric.name: metric.title for metric in task.headline}
    lines = []
    for pair in metrics["comparisons"]:
        against = f"{titles[pair['first']]} against {titles[pair['second']]}"
        metric = names[pair.get("figure", "exact_accuracy")]
        difference = difference_with_interval(
            pair["difference" if "difference" in pair else "difference_in_exact_accuracy"]
        )
        test = f", exact McNemar test p = {pair['p_value']:.2g}" if "p_value" in pair else ""
        unseen = "".join(
            f"; {difference_with_interval(part['difference'])} with {text_page.UNSEEN_TITLES[name]}"
            for name, part in pair.get("unseen", {}).items()
            if part
        )
        lines.append(f"{against}: {difference} in {metric}{test}{unseen}")
    return lines
