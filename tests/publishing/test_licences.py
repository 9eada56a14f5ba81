import pytest
import yaml
from conftest import REPOSITORY

from radrecipes.errors import InputError
from radrecipes.publishing.licences import BASE_LICENCES, HUB_LICENCES, check_licence, licence_conflicts
from radrecipes.recipe import find_recipes


def test_no_licence_has_two_kinds_of_terms():
    path = REPOSITORY / "src" / "radrecipes" / "publishing" / "licences.yaml"
    by_terms = yaml.safe_load(path.read_text("utf-8"))
    assert by_terms.pop("base_models") == BASE_LICENCES
    listed = [licence for licences in by_terms.values() for licence in licences]
    assert len(listed) == len(HUB_LICENCES) > 70
    assert {"apache-2.0", "mit", "gemma", "llama3.3", "cc-by-nc-sa-4.0", "other", "unknown"} <= HUB_LICENCES


def test_the_licence_of_every_base_of_the_recipes_is_known():
    for path in find_recipes(REPOSITORY / "recipes"):
        base = yaml.safe_load(path.read_text("utf-8"))["model_name_or_path"]
        assert BASE_LICENCES[base] in HUB_LICENCES


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("Apache-2.0", "apache-2.0"), ("MIT", "mit"), ("apache2.0", "apache-2.0"), ("cc-by-nc-4", "cc-by-nc-4.0")],
)
def test_a_licence_that_the_hub_does_not_know_is_refused_with_the_nearest(wrong, meant):
    with pytest.raises(InputError, match=rf"^card\.md: `{wrong}` is not .*did you mean `{meant}`\?$"):
        check_licence(wrong, "card.md")
    check_licence(meant, "card.md")


def test_where_none_is_near_the_way_out_is_named():
    with pytest.raises(InputError, match="`license_name`"):
        check_licence("whatever our lawyers wrote", "card.md")


@pytest.mark.parametrize(
    ("repository", "base", "data"),
    [
        ("apache-2.0", "apache-2.0", "apache-2.0"),
        ("apache-2.0", "mit", "cc-by-4.0"),
        ("cc-by-nc-4.0", "apache-2.0", "cc-by-nc-4.0"),
        ("cc-by-nc-sa-4.0", "mit", "cc-by-nc-2.0"),
        ("llama3.2", "llama3.2", "cc0-1.0"),
        ("other", "apache-2.0", "other"),
        ("cc0-1.0", "unlicense", "cc0-1.0"),
    ],
)
def test_licences_that_go_together(repository, base, data):
    assert licence_conflicts(repository, {"the base": base, "the data": data}) == []


@pytest.mark.parametrize(
    ("repository", "licence", "reason"),
    [
        ("apache-2.0", "llama3.2", "same terms"),
        ("mit", "gemma", "same terms"),
        ("apache-2.0", "gpl-3.0", "same terms"),
        ("apache-2.0", "other", "same terms"),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "same terms"),
        ("apache-2.0", "cc-by-nc-4.0", "forbids commercial use"),
        ("other", "cc-by-nc-4.0", "forbids commercial use"),
        ("cc-by-nd-4.0", "cc-by-nd-4.0", "forbids redistributing"),
        ("cc0-1.0", "apache-2.0", "requires attribution"),
        ("apache-2.0", "unknown", "is unknown"),
        ("apache-2.0", None, "is unknown"),
        ("apache-2.0", "Apache-2.0", "is unknown"),
    ],
)
def test_each_conflict_names_its_source_and_its_reason(repository, licence, reason):
    (conflict,) = licence_conflicts(repository, {"the base org/model": licence, "the data": "cc0-1.0"})
    assert conflict.startswith("the base org/model: ") and reason in conflict


def test_sources_that_exclude_each_other_leave_no_licence():
    sources = {"base": "llama3.2", "data": "cc-by-sa-4.0"}
    assert all(licence_conflicts(repository, sources) for repository in HUB_LICENCES)
