"""Writes synthetic reports as a user does."""

import json

import pytest


@pytest.fixture(autouse=True)
def in_an_own_folder(shared_workspace, monkeypatch):
    monkeypatch.chdir(shared_workspace)


def test_a_tree_is_written_once(call, tmp_path):
    words = ("synthetic-reports", "--output", tmp_path / "cxr", "--seed", "7", "--patients", "6", "--studies", "14")
    done = call("prepare_data", *words)
    assert done.code == 0, done.stderr
    assert "14 synthetic reports of 6 patients" in done.stdout
    assert "14/14" in done.stderr
    assert len(list((tmp_path / "cxr" / "files").glob("p1?/p1*/s5*.txt"))) == 14
    assert json.loads((tmp_path / "cxr" / "generator.json").read_text("utf-8"))["seed"] == 7

    again = call("prepare_data", *words)
    assert again.code == 2
    assert again.stderr.strip() == f"error: {tmp_path / 'cxr'}: exists already; choose another --output or remove it"


def test_numbers_that_do_not_fit_are_refused(call, tmp_path):
    done = call(
        "prepare_data", "synthetic-reports", "--output", tmp_path / "cxr", "--patients", "2", "--studies", "17"
    )
    assert done.code == 2
    assert "17 studies of 2 patients cannot be made" in done.stderr
    assert list(tmp_path.iterdir()) == []
