"""Offline checks of a card before it is published."""

import re
from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from radrecipes.errors import InputError, shown
from radrecipes.files import BoundedLoader
from radrecipes.publishing.licences import check_licence

_REQUIRED = {
    "model": (
        "base_model", "base_model_relation", "library_name", "pipeline_tag", "license", "language", "metrics", "tags",
        "model-index",
    ),
    "dataset": (
        "license", "language", "pretty_name", "size_categories", "task_categories", "annotations_creators",
        "source_datasets", "tags", "configs",
    ),
}  # fmt: skip
# Relations of a model to its base model that the Hub knows.
_RELATIONS = ("adapter", "merge", "finetune", "quantized")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
_PLACEHOLDERS = re.compile(r"more information needed|\{\{|\}\}|\{%", re.IGNORECASE)
_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"(#{1,6})\s+(\S.*)")


def check_card(text: str, repo_type: str = "model", where: str = "README.md") -> dict[str, Any]:
    """Refuse a card that the Hub would reject or a reader could not use, naming the line, and return its front matter."""
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if not lines or lines[0].rstrip() != "---" or end is None:
        raise InputError("has no front matter; a card begins with YAML between two lines of `---`", where)
    try:
        data = BoundedLoader("\n".join(lines[1:end])).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 2}" if mark else where
        raise InputError(
            f"the front matter is not valid YAML: {shown(getattr(error, 'problem', None))}", line
        ) from error
    if not isinstance(data, dict):
        raise InputError("the front matter is not a mapping of `key: value` lines", where)
    for key in _REQUIRED[repo_type]:
        if not data.get(key):
            raise InputError(f"the front matter lacks `{key}`", where)
    _check_values(data, where)
    if repo_type == "model":
        _check_model(data, where)
    for number, line in enumerate(lines, 1):
        if found := _PLACEHOLDERS.search(line):
            raise InputError(
                f"contains the placeholder `{found.group()}`; fill it in, or leave it out", f"{where}:{number}"
            )
    _check_sections(lines, end + 1, where)
    return data


def _check_values(data: Mapping[str, Any], where: str) -> None:
    check_licence(data["license"], where)
    if data["license"] == "other" and not data.get("license_name"):
        raise InputError("`license: other` needs `license_name`, the name of the licence", where)
    if "license_name" in data and not _LICENCE_NAME.fullmatch(str(data["license_name"])):
        raise InputError("`license_name` must be an identifier, for example `our-terms-1.0`", where)
    for language in _listed(data["language"]):
        if not _LANGUAGE.fullmatch(str(language)):
            raise InputError(f"`{language}` is not a language code of ISO 639, for example `en`", where)
    for dataset in _listed(data.get("datasets") or []):
        if not _REPOSITORY.fullmatch(str(dataset)):
            raise InputError(f"`datasets` names {dataset!r}, which is not a Hub id `org/name`", where)


def _check_model(data: Mapping[str, Any], where: str) -> None:
    for base in _listed(data["base_model"]):
        if not _REPOSITORY.fullmatch(str(base)):
            raise InputError(f"`base_model` is {base!r}, which is not a Hub id `org/name`", where)
    if data["base_model_relation"] not in _RELATIONS:
        raise InputError(f"`base_model_relation` must be one of {', '.join(_RELATIONS)}", where)
    try:
        results = ModelCardData(**data).eval_results
    except (ValueError, TypeError) as error:
        raise InputError(
            "the Hub cannot read `model-index`; every result needs task, dataset, metrics", where
        ) from error
    if not results or any(not isinstance(result.metric_value, int | float) for result in results):
        raise InputError("`model-index` has no results, or one whose value is not a number", where)


def _check_sections(lines: list[str], start: int, where: str) -> None:
    """Every heading is followed by text or by a lower-level heading."""
    open_heading: tuple[int, int] | None = None  # level and line
    fence: str | None = None
    for number, line in enumerate([*lines[start:], "# end"], start + 1):
        mark = _FENCE.match(line)
        heading = _HEADING.fullmatch(line.rstrip()) if fence is None else None
        if heading:
            level = len(heading.group(1))
            if open_heading and level <= open_heading[0]:
                raise InputError(
                    "the section under this heading is empty; write it, or leave it out", f"{where}:{open_heading[1]}"
                )
            open_heading = (level, number)
        elif line.strip():
            open_heading = None
        if mark and fence in (None, mark.group(1)):
            fence = None if fence else mark.group(1)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
