"""Label scoring against other ways to get a label: notes per second, each with the run of its recipe."""

import json
import tempfile
from pathlib import Path

import numpy as np
from measuring import BIN, run_with_peak_memory

from radrecipes.errors import InputError
from radrecipes.training.run_folder import is_complete

LANGUAGE_MODEL = "smollm2-135m/protocol_lora"


class ScoringComparison:
    """The probability of every label by one recipe's run, against a side of `scoring_side.py` with the language model's adapter.

    Both answer the same notes, each in its own process. Slow alternatives get fewer `notes`.
    """

    OUR_NOTES = 256

    def __init__(self, alternative: str, what: str, notes: int, recipe: str = LANGUAGE_MODEL):
        self.run, self.other_run = (Path("runs", name, "seed-42") for name in (recipe, LANGUAGE_MODEL))
        for name, run in ((recipe, self.run), (LANGUAGE_MODEL, self.other_run)):
            if not is_complete(run):
                raise InputError(f"no finished run; train it first: make demo RECIPE=recipes/{name}.yaml", str(run))
        self.alternative, self.notes = alternative, notes
        ours = "label scoring (every label's probability)" if recipe == LANGUAGE_MODEL else f"the head of {recipe}"
        self.description = (
            f"notes per second of {ours} against {what}; SmolLM2-135M-Instruct with the adapter of {LANGUAGE_MODEL}, 36 labels, "
            "batches of 32"
        )
        self.folder = Path(tempfile.mkdtemp(prefix="radrecipes-bench-"))

    def ours(self) -> dict[str, float]:
        """Our side."""
        return self._side("score", self.run, self.OUR_NOTES, "ours")

    def theirs(self) -> dict[str, float]:
        """The alternative."""
        return self._side(self.alternative, self.other_run, self.notes, "theirs")

    def checks(self) -> dict:
        """How far the answers of both agree on their common notes."""
        ours, theirs = (json.loads((self.folder / f"{side}.json").read_text("utf-8")) for side in ("ours", "theirs"))
        agreed = np.mean([mine == other for mine, other in zip(ours["labels"], theirs["labels"], strict=False)])
        found = {"same_label": round(float(agreed), 3)}
        if "probabilities" in theirs and self.run == self.other_run:
            count = len(theirs["probabilities"])
            difference = np.abs(np.array(ours["probabilities"][:count]) - np.array(theirs["probabilities"]))
            found["largest_difference_of_a_probability"] = round(float(difference.max()), 4)
        return found

    def _side(self, side: str, run: Path, notes: int, name: str) -> dict[str, float]:
        output = self.folder / f"{name}.json"
        command = [BIN / "python", Path(__file__).with_name("scoring_side.py"), side, run, notes, output]
        peak, _ = run_with_peak_memory(command)
        return {
            "samples_per_second": json.loads(output.read_text("utf-8"))["samples_per_second"],
            "peak_memory_gib": peak,
        }
