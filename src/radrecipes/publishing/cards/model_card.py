"""The model card of a published adapter or merged model, filled from the run's manifest and its evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from radrecipes.errors import InputError
from radrecipes.evaluation.label_metrics import ADAPTER
from radrecipes.evaluation.results import results_fit
from radrecipes.models.base import TEXT_PART_KEYS
from radrecipes.publishing.cards.card_checks import check_card
from radrecipes.publishing.cards.front_matter import gated_form
from radrecipes.publishing.licences import BASE_LICENCES
from radrecipes.recipe import RecipeArguments
from radrecipes.reporting import label_page, text_page
from radrecipes.reporting.label_tables import best_baseline, decisions
from radrecipes.reporting.result_tables import difference_with_interval, metric_with_interval, results_table
from radrecipes.tasks import TASKS
from radrecipes.tasks.headline_figures import HEADLINES, figure_value, task_of, writes_text
from radrecipes.tasks.rendering import plain_prompt

_TEMPLATES = Path(__file__).parent / "templates"

# Watts assumed of each processor core and each GPU in use: of a server's share, and the board power of an H100 SXM.
CORE_WATTS = 10
GPU_WATTS = 700

# The inputs of the commands and snippets: invented, and the same whatever the model was trained on.
EXAMPLES = {
    "protocol": "58F r/o renal recurrence, hx RCC",
    "report": "Pleural Effusion: positive; Pneumothorax: negative; Pneumonia: uncertain",
    "impression": "There is a small pleural effusion. The heart is enlarged. No pneumothorax.",
}
_SUMMARIES = {
    "protocol": "Chooses the imaging protocol for the free text of an imaging order, from a fixed list of protocols.",
    "report": "Drafts findings and impression of a chest X-ray report from a list of observations.",
    "impression": "Drafts the impression of a chest X-ray report from its findings.",
}
_TASK_TAGS = {
    "protocol": ["imaging-protocol"],
    "report": ["chest-x-ray", "radiology-report"],
    "impression": ["chest-x-ray", "radiology-report"],
}
# The Hub's metric ids, for those of our figures that it knows.
_METRIC_IDS = {
    "exact_accuracy": "accuracy",
    "macro_f1": "f1",
    "rouge_l": "rouge",
    "bleu": "bleu",
    "label_recall": "recall",
    "label_precision": "precision",
}
_HUB_METRICS = {"label": ["accuracy", "f1"], "report": ["rouge", "bleu", "recall", "precision"]}
_FIELDS = {
    "lora_r": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_dropout": "LoRA dropout",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "max_length": "longest row in tokens",
}
_GPU_SOFTWARE = {"cuda": "CUDA", "driver": "driver"}
_LIBRARIES = ("python", "torch", "transformers", "peft", "trl")


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
    """Write the card of a release.

    Args:
        manifest (`Mapping[str, Any]`):
            `manifest.json` of the run; with `memory` and `merged` where a release measured what the model recites and how well it
            was merged.
        metrics (`Mapping[str, Any]`):
            `evaluation/metrics.json` of the run.
        repo_id (`str`):
            Where it is published: `"org/name"`.
        tag (`str`):
            Under which tag, for example `"v1.0"`.
        license (`str`):
            Licence of the repository, one of the Hub's identifiers.
        license_name, license_link (`str`, *optional*):
            What the licence is called and where it stands, for `license="other"`.
        base_license (`str`, *optional*):
            Licence of the base; left out, as this project knows it.
        results (`Mapping[str, Any]`, *optional*):
            The recipe's `*.results.json` over seeds, where [`results_fit`] says that this run is one of them.
        merged (`bool`, *optional*, defaults to `False`):
            Whether the repository holds the adapter merged into its base.
        dataset (`Mapping[str, Any]`, *optional*):
            `manifest.json` of the training data, for its language, licence and origin.
        dataset_id (`str`, *optional*):
            Where the training data are published on the Hub.
        dataset_tag (`str`, *optional*):
            Under which tag.

    Returns:
        `str`: Markdown with the YAML front matter of a Hub model card, as [`check_card`] accepts it.

    Raises:
        [`InputError`]: the evaluation or the result is of another run, no figure was measured, or [`check_card`] refuses the text.
    """
    fields = manifest["recipe"]["fields"]
    task = TASKS[fields["task"]]
    _check_same_run(manifest, metrics, results)
    dataset = dataset or {}
    licence = {"license": license, "license_name": license_name, "license_link": license_link}
    data = _card_data(manifest, metrics, repo_id, merged, dataset, dataset_id, licence)
    kilowatt_hours, assumption = energy_estimate(manifest)
    question = task.question(task.read_input(EXAMPLES[task.name]))
    chat = manifest["prompt"]["style"] == "chat"
    text = _environment().get_template("model_card.md.jinja").render(
        card_data=data.to_yaml(),
        title=repo_id.split("/")[1],
        summary=_SUMMARIES[task.name],
        repo_id=repo_id,
        tag=tag,
        license=license,
        license_name=license_name,
        merged=merged,
        manifest=manifest,
        metrics=metrics,
        results=results,
        task=task,
        example=EXAMPLES[task.name],
        max_new_tokens=_longest_answer(fields, metrics),
        quantised_bits=_quantised_bits(fields),
        prompt=question if chat else plain_prompt(question),
        chat=chat,
        base=manifest["base"],
        text_part_keys=TEXT_PART_KEYS if manifest["base"].get("text_part") and not merged else None,
        base_license=base_license or BASE_LICENCES.get(manifest["base"]["model_id"]),
        memory=manifest.get("memory"),
        merged_as=manifest.get("merged"),
        method=_method(fields),
        settings=_settings(manifest),
        resumes=_resumes(manifest),
        determinism=manifest.get("determinism"),
        constraints_sha256=manifest.get("constraints_sha256"),
        data=manifest["data"],
        data_name=Path(manifest["data"]["folder"]).name,
        dataset=dataset,
        generator=dataset.get("generator"),
        dataset_id=dataset_id,
        dataset_tag=dataset_tag,
        same_data=metrics["dataset"]["digest"] == manifest["data"]["digest"],
        headlines=HEADLINES[task.name],
        table=_systems_table(metrics),
        system_titles=_system_titles(metrics),
        best_baseline=None if writes_text(metrics) else best_baseline(metrics),
        comparisons=_comparisons(metrics),
        guard=metrics["systems"].get("adapter_guarded", {}).get("guard"),
        thresholds=_thresholds(metrics),
        seeds_table=results_table([results]) if results else None,
        libraries={name: manifest["packages"][name] for name in _LIBRARIES if name in manifest["packages"]},
        machine=_machine(manifest),
        launch=_launch(manifest),
        energy=_energy_words(kilowatt_hours),
        energy_assumption=assumption,
    )  # fmt: skip
    text = text.rstrip() + "\n"
    check_card(text)
    return text


def energy_estimate(manifest: Mapping[str, Any]) -> tuple[float, str]:
    """What training used, estimated from time and hardware; nothing was measured.

    Args:
        manifest (`Mapping[str, Any]`):
            `manifest.json` of the run, with `training` and `hardware`.

    Returns:
        `tuple[float, str]`: kilowatt hours, and the assumption in words.
    """
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
    if task_of(metrics) != task or metrics["seeds"]["training"] != seed:
        raise InputError(
            f"is the evaluation of task {task_of(metrics)}, seed {metrics['seeds']['training']}, and the run is of task "
            f"{task}, seed {seed}; evaluate this run with scripts/evaluate_model.py",
            "metrics.json",
        )
    if results is not None and not results_fit(manifest, results):
        raise InputError(
            "the recipe's result is of other fields, seeds, data, base or prompt than this run; leave it out, or record it anew",
            f"{results['recipe']}.results.json",
        )


def _card_data(
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Any],
    repo_id: str,
    merged: bool,
    dataset: Mapping[str, Any],
    dataset_id: str | None,
    licence: Mapping[str, str | None],
) -> ModelCardData:
    task, base = TASKS[task_of(metrics)], manifest["base"]["model_id"]
    tags = ["radiology", "medical", *_TASK_TAGS[task.name], "trl", "sft", "lora"]
    if not merged:
        tags += ["transformers", f"base_model:adapter:{base}"]  # PEFT's own tags, which the Hub lists adapters by
    access = manifest["data"]["access"]
    return ModelCardData(
        base_model=base,
        # The Hub calls `merge` what was made from several models; one base with its adapter merged in is a fine-tune.
        base_model_relation="finetune" if merged else "adapter",
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        **licence,
        language=[dataset.get("language", "en")],
        datasets=[dataset_id] if dataset_id else None,
        metrics=_HUB_METRICS[task.writes],
        tags=tags,
        model_name=repo_id.split("/")[1],
        eval_results=_eval_results(metrics, dataset_id),
        **gated_form(access, "model"),
    )


def _eval_results(metrics: Mapping[str, Any], dataset_id: str | None) -> list[EvalResult]:
    """The headline figures of this very model; where reports are written, behind the guard and alone."""
    headlines, name = HEADLINES[task_of(metrics)], metrics["dataset"]["name"]
    titles = _system_titles(metrics)
    return [
        EvalResult(
            task_type="text-generation" if writes_text(metrics) else "text-classification",
            task_name=headlines.title,
            dataset_type=dataset_id or name,
            dataset_name=name.replace("_", " "),
            dataset_split=metrics["split"],
            metric_type=_METRIC_IDS.get(figure.name, figure.name),
            metric_value=round(value, 4),
            metric_name=figure.title + (f" ({titles[system].lower()})" if writes_text(metrics) else ""),
        )
        for system in dict.fromkeys((headlines.system, ADAPTER))
        if system in metrics["systems"]
        for figure in headlines.published
        if (value := figure_value(metrics["systems"][system][figure.name])) is not None
    ]


def _system_titles(metrics: Mapping[str, Any]) -> dict[str, str]:
    titles = (text_page if writes_text(metrics) else label_page).SYSTEM_TITLES
    return {name: titles.get(name, name.replace("_", " ")) for name in metrics["systems"]}


def _systems_table(metrics: Mapping[str, Any]) -> str:
    """A row for each system, a column for each headline figure, with intervals."""
    headlines, titles = HEADLINES[task_of(metrics)], _system_titles(metrics)
    rows = [["system", *(figure.heading for figure in headlines.published)]]
    rows.append(["---"] * len(rows[0]))
    for name, system in metrics["systems"].items():
        fewer = system.get("rows", metrics["rows"]) < metrics["rows"]
        title = titles[name] + (f" ({system['rows']:,} {headlines.rows} only)" if fewer else "")
        rows.append([title, *(metric_with_interval(system, figure) for figure in headlines.published)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _comparisons(metrics: Mapping[str, Any]) -> list[str]:
    """The paired comparisons in words."""
    titles = {name: title[0].lower() + title[1:] for name, title in _system_titles(metrics).items()}
    figures = {figure.name: figure.title for figure in HEADLINES[task_of(metrics)].figures}
    lines = []
    for pair in metrics["comparisons"]:
        against = f"{titles[pair['first']]} against {titles[pair['second']]}"
        if writes_text(metrics):
            difference = difference_with_interval(pair["difference"])
            lines.append(f"{against}: {difference} in {figures[pair['figure']]}")
        else:
            difference = difference_with_interval(pair["difference_in_exact_accuracy"])
            lines.append(
                f"{against}: {difference} in {figures['exact_accuracy']}, exact McNemar test p = {pair['p_value']:.2g}"
            )
    return lines


def _thresholds(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the model settles alone at each target accuracy; empty where answers have no probability."""
    rows = [] if writes_text(metrics) else decisions(metrics)
    return [{"target": row["target"], **row["systems"][ADAPTER]} for row in rows if row["systems"].get(ADAPTER)]


def _method(fields: Mapping[str, Any]) -> str:
    bits = _quantised_bits(fields)
    name = "QLoRA" if bits == 4 else "LoRA"
    return f"{name}: a low-rank adapter on the base" + (f" in {bits} bit" if bits else "")


def _quantised_bits(fields: Mapping[str, Any]) -> int | None:
    return next((bits for bits in (4, 8) if fields.get(f"load_in_{bits}bit")), None)


def _longest_answer(fields: Mapping[str, Any], metrics: Mapping[str, Any]) -> int:
    named = fields.get("max_new_tokens") or metrics["decoding"].get("max_new_tokens")
    return named or RecipeArguments.max_new_tokens


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    fields, training = manifest["recipe"]["fields"], manifest["training"]
    settings = {title: fields[name] for name, title in _FIELDS.items() if name in fields}
    if "lora_target_modules" in fields:
        settings["LoRA layers"] = ", ".join(fields["lora_target_modules"])
    return {
        **settings,
        "trained parameters": f"{training['trainable_parameters']:,}",
        "global batch": training["global_batch_size"],
        "steps": f"{training['steps']:,}",
        "seed": training["seed"],
        "prompt style": manifest["prompt"]["style"],
        "base loaded in": manifest["base"]["dtype"],
    }


def _resumes(manifest: Mapping[str, Any]) -> list[str]:
    """Where training was interrupted and continued, and what had changed; none in a manifest that does not say."""
    lines = []
    for resume in manifest["training"].get("resumes", []):
        changes = [f"{name} `{before}` became `{now}`" for name, (before, now) in resume["changed"].items()]
        lines.append(f"after step {resume['step']:,}: {'; '.join(changes) or 'nothing had changed'}")
    return lines


def _machine(manifest: Mapping[str, Any]) -> str:
    hardware, processes = manifest["hardware"], manifest["training"]["processes"]
    parts = [f"{hardware['cores']} processor cores ({hardware['processor']})"]
    if hardware.get("gpus"):
        parts.insert(0, f"{processes} × {hardware['gpus'][0]}")
        parts += [f"{title} {hardware[key]}" for key, title in _GPU_SOFTWARE.items() if hardware.get(key)]
    return ", ".join(parts)


def _launch(manifest: Mapping[str, Any]) -> str:
    """The words of `accelerate launch` that start as many processes on the same kind of hardware."""
    processes = manifest["training"]["processes"]
    if not manifest["hardware"].get("gpus"):
        return "--config_file accelerate_configs/cpu.yaml"
    if processes == 1:
        return "--config_file accelerate_configs/single_gpu.yaml"
    return f"--config_file accelerate_configs/ddp.yaml --num_processes {processes}"


def _energy_words(kilowatt_hours: float) -> str:
    return f"{1000 * kilowatt_hours:.1f} Wh" if kilowatt_hours < 0.1 else f"{kilowatt_hours:.1f} kWh"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["python"] = repr
    return environment
