"""Whether a published result holds here: what differs from the time it was made, and which figures lie where they should."""

import json
from pathlib import Path
from typing import Any

from radrecipes import models, run_folder


def standing_evaluation(run: Path, folder: Path, dataset_digest: str) -> dict[str, Any] | None:
    """An evaluation of a run that can be kept: of the adapter that the run holds, on the whole test split of this dataset.

    Args:
        run (`Path`):
            A finished run, or a release as it was pulled.
        folder (`Path`):
            The evaluation's folder.
        dataset_digest (`str`):
            Digest of the dataset that it must have measured.

    Returns:
        `dict` or `None`: content of its `metrics.json`; `None` where there is none, or of something else.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        whole = metrics["rows"] == run_folder.read_manifest(run)["data"]["rows"]["test"]
        fits = metrics["split"] == "test" and whole and metrics["dataset"]["digest"] == dataset_digest
    except (OSError, ValueError, LookupError, TypeError):
        return None
    adapter = models.adapter_digest(run_folder.adapter_folder(run))
    return metrics if fits and metrics.get("adapter_sha256") == adapter else None
