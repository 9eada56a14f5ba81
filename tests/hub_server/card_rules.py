"""Whether the YAML on top of a card is what the Hub accepts, written from its documentation.

Sources: `modelcard.md`, `datasetcard.md` and `docs/hub/` of https://github.com/huggingface/hub-docs, and the tasks of
https://github.com/huggingface/huggingface.js (August 2026). The Hub's own check is not public.
"""

import re
from pathlib import Path

import yaml

_VALUES = yaml.safe_load(Path(__file__).with_name("card_values.yaml").read_text(encoding="utf-8"))
LICENSES, TASKS, SIZES, RELATIONS, _FIELD_TYPES = (
    frozenset(_VALUES[name].split()) for name in ("licenses", "tasks", "sizes", "relations", "gate_fields")
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_CONFIG_NAME = re.compile(r'[^<>:/\\|?*"]+')
_LISTS = ("tags", "datasets", "metrics", "language", "annotations_creators", "source_datasets", "task_ids")


def check_card(content: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Check a card.

    Args:
        content (`str`):
            The whole README.
        repo_type (`str`):
            `model` or `dataset`.

    Returns:
        `tuple[list[str], list[str]]`: Errors, for which the Hub refuses the card, and warnings.
    """
    text = front_matter(content)
    if text is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        card = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"YAML: {' '.join(str(error).split())}"], []
    if not isinstance(card, dict):
        return ["the YAML on top of the card must be a mapping"], []
    errors = _check_common(card)
    errors += _check_model(card) if repo_type == "model" else _check_dataset(card)
    return errors, [] if card.get("license") else ["no license is given"]


def front_matter(content: str) -> str | None:
    """The YAML between the first two lines of `---`, `None` if a card has none."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?\n|)---[ \t]*(\r?\n|$)", content, re.DOTALL)
    return None if match is None else match[1]


def _check_common(card: dict) -> list[str]:
    errors = []
    for key in _LISTS:
        for value in _as_list(card.get(key)):
            if not isinstance(value, str):
                errors.append(f'"{key}" must be a string or a list of strings')
    for license_id in _as_list(card.get("license")):
        if license_id not in LICENSES:
            errors.append(f'"license" must be one of the known identifiers, not {license_id!r}')
    for key in ("license_name", "license_link"):
        if key in card and card.get("license") != "other":
            errors.append(f'"{key}" is for "license: other" only')
    if card.get("license") == "other" and not card.get("license_name"):
        errors.append('"license: other" needs a "license_name"')
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", str(card.get("license_name", "name"))):
        errors.append('"license_name" must be an identifier such as my-license-1.0')
    link = str(card.get("license_link", "LICENSE"))
    if link not in ("LICENSE", "LICENSE.md") and not link.startswith(("https://", "http://")):
        errors.append('"license_link" must be LICENSE, LICENSE.md or an address')
    for language in _as_list(card.get("language")):
        if not _LANGUAGE.fullmatch(str(language)):
            errors.append(f'"language" must hold ISO 639 codes, not {language!r}')
    for dataset in _as_list(card.get("datasets")):
        if not _HUB_ID.fullmatch(str(dataset)):
            errors.append(f'"datasets" with value {dataset!r} is not valid')
    return errors + _check_gate(card)


def _check_model(card: dict) -> list[str]:
    errors = []
    for base in _as_list(card.get("base_model")):
        if not _HUB_ID.fullmatch(str(base)):
            errors.append(f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.')
    if card.get("base_model_relation", "adapter") not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of {", ".join(sorted(RELATIONS))}')
    if card.get("pipeline_tag", "other") not in TASKS:
        errors.append(f'"pipeline_tag" {card["pipeline_tag"]!r} is not a task of the Hub')
    if not isinstance(card.get("library_name", ""), str):
        errors.append('"library_name" must be a string')
    return errors + _check_model_index(card.get("model-index"))


def _check_model_index(index: object) -> list[str]:
    """The results of a model card. `type` and `name` of the data set, and type and value of each metric are required."""
    if index is None:
        return []
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        return ['"model-index" must be a list of mappings']
    errors = []
    for model_number, model in enumerate(index):
        at = f"model-index[{model_number}]"
        if not isinstance(model.get("name"), str) or not model["name"]:
            errors.append(f'"{at}.name" is required')
        if not isinstance(model.get("results"), list):
            errors.append(f'"{at}.results" is required')
            continue
        for number, result in enumerate(model["results"]):
            errors += _check_result(result, f"{at}.results[{number}]")
    return errors


def _check_result(result: object, at: str) -> list[str]:
    if not isinstance(result, dict):
        return [f'"{at}" must be a mapping']
    errors = []
    for part, keys in {"task": ("type",), "dataset": ("type", "name")}.items():
        for key in keys:
            if not isinstance(result.get(part), dict) or not isinstance(result[part].get(key), str):
                errors.append(f'"{at}.{part}.{key}" is required')
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        errors.append(f'"{at}.metrics" is required')
    for number, metric in enumerate(metrics if isinstance(metrics, list) else ()):
        if not isinstance(metric, dict) or not isinstance(metric.get("type"), str) or metric.get("value") is None:
            errors.append(f'"{at}.metrics[{number}]" needs "type" and "value"')
    source = result.get("source")
    if source is not None and not str((source or {}).get("url", "")).startswith("http"):
        errors.append(f'"{at}.source.url" is required')
    return errors


def _check_dataset(card: dict) -> list[str]:
    errors = []
    for size in _as_list(card.get("size_categories")):
        if size not in SIZES:
            errors.append(f'"size_categories" must be one of {", ".join(sorted(SIZES))}, not {size!r}')
    for task in _as_list(card.get("task_categories")):
        if task not in TASKS:
            errors.append(f'"task_categories" {task!r} is not a task of the Hub')
    if not isinstance(card.get("pretty_name", ""), str):
        errors.append('"pretty_name" must be a string')
    names = []
    for number, config in enumerate(_as_list(card.get("configs"))):
        if not isinstance(config, dict) or not _CONFIG_NAME.fullmatch(str(config.get("config_name", ""))):
            errors.append(f'"configs[{number}].config_name" is required')
            continue
        names.append(config["config_name"])
        for entry in config["data_files"] if isinstance(config.get("data_files"), list) else ():
            if isinstance(entry, dict) and not ("path" in entry and isinstance(entry.get("split", "train"), str)):
                errors.append(f'"configs[{number}].data_files" needs "split" and "path"')
    if len(names) != len(set(names)):
        errors.append('"configs" names one configuration twice')
    return errors


def _check_gate(card: dict) -> list[str]:
    """The form in front of a gated repository."""
    errors = []
    for key in ("extra_gated_prompt", "extra_gated_heading", "extra_gated_description", "extra_gated_button_content"):
        if not isinstance(card.get(key, ""), str):
            errors.append(f'"{key}" must be a string')
    fields = card.get("extra_gated_fields", {})
    if isinstance(fields, list) and all(isinstance(field, dict) for field in fields):
        fields = {name: kind for field in fields for name, kind in field.items()}
    if not isinstance(fields, dict):
        return [*errors, '"extra_gated_fields" must be a mapping of names to types']
    for name, kind in fields.items():
        if (
            (kind.get("type") not in ("select", *_FIELD_TYPES))
            if isinstance(kind, dict)
            else (kind not in _FIELD_TYPES)
        ):
            errors.append(f'"extra_gated_fields.{name}" has no known type')
    return errors


def _as_list(value: object) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]
