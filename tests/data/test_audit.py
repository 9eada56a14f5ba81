from radrecipes.data.audit import audit_leakage


def audit_of(splits, threshold=0.8):
    return audit_leakage(splits, threshold, "note", "label")


def row(note, label="CT", group="g"):
    return {"note": note, "label": label, "group": group}


LONG = "rule out pulmonary embolism in a patient with known metastatic renal cell carcinoma and chest pain"


def test_every_kind_of_leak_is_counted():
    audit = audit_of(
        {
            "train": [row("R/O PE", group="p1"), row(LONG, group="p2")],
            "validation": [row("r/o pe?", group="p3"), row("knee pain after a fall", group="p4")],
            "test": [
                row("R/O PE", group="p5"),
                row(LONG + " today", group="p1"),
                row("follow up of a liver lesion", label="MR Liver", group="p6"),
            ],
        }
    )
    assert audit["validation"] == {
        "rows": 2,
        "verbatim": 0,
        "normalised": 1,
        "near_duplicate": 1,
        "largest_similarity": 1.0,
        "shared_groups": 0,
        "labels_missing_from_training": [],
    }
    assert audit["test"] == {
        "rows": 3,
        "verbatim": 1,
        "normalised": 1,
        "near_duplicate": 2,
        "largest_similarity": 1.0,
        "shared_groups": 1,
        "labels_missing_from_training": ["MR Liver"],
    }


def test_the_threshold_decides_what_is_near():
    splits = {"train": [row(LONG)], "validation": [], "test": [row(LONG + " since yesterday", group="h")]}
    near = {threshold: audit_of(splits, threshold)["test"]["near_duplicate"] for threshold in (0.5, 0.8, 0.95)}
    assert near == {0.5: 1, 0.8: 1, 0.95: 0}
    assert 0.8 < audit_of(splits)["test"]["largest_similarity"] < 0.95


def test_clean_splits_and_an_empty_one():
    audit = audit_of({"train": [row(LONG)], "validation": [], "test": [row("knee pain", group="h")]})
    assert audit["validation"]["rows"] == 0
    assert audit["test"]["near_duplicate"] == audit["test"]["shared_groups"] == 0
