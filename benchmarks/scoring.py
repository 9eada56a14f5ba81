"""Label scoring against other ways to get a label: notes per second, with the adapter that `make demo` trains."""

import json
import tempfile
from pathlib import Path

import numpy as np
from measuring import BIN, run_with_peak_memory

from radrecipes.errors import InputError
from radrecipes.training.run_folder import is_complete

RUN = Path("runs/smollm2-135m/protocol_lora/seed-42")


class ScoringComparison:
    """Label scoring, 36 labels, against a side of `scoring_side.py` on the same notes, each in its own process.

    Slow alternatives get fewer `notes`.
    """

    OUR_NOTES = 256

    def __init__(self, alternative: str, what: str, notes: int):
        if not is_complete(RUN):
            raise InputError("no finished run; train it first: make demo", str(RUN))
        self.alternative, self.notes = alternative, notes
        self.description = (
            f"notes per second of label scoring (every label's probability) against {what}; SmolLM2-135M-Instruct with the default "
            "recipe's adapter, 36 labels, batches of 32, bfloat16"
        )
        self.folder = Path(tempfile.mkdtemp(prefix="radrecipes-bench-"))

    def ours(self) -> dict[str, float]:
        """Our side."""
        return self._side("score", self.OUR_NOTES)

    def theirs(self) -> dict[str, float]:
        """The alternative."""
        return self._side(self.alternative, self.notes)

    def checks(self) -> dict:
        """How far the answers of both agree on their common notes."""
        ours, theirs = (
            json.loads((self.folder / f"{side}.json").read_text("utf-8")) for side in ("score", self.alternative)
        )
        agreed = np.mean([mine == other for mine, other in zip(ours["labels"], theirs["labels"], strict=False)])
        found = {"same_label": round(float(agreed), 3)}
        if "probabilities" in theirs:
            count = len(theirs["probabilities"])
            difference = np.abs(np.array(ours["probabilities"][:count]) - np.array(theirs["probabilities"]))
            found["largest_difference_of_a_probability"] = round(float(difference.max()), 4)
        return found

    def _side(self, side: str, notes: int) -> dict[str, float]:
        output = self.folder / f"{side}.json"
        command = [BIN / "python", Path(__file__).with_name("scoring_side.py"), side, RUN, notes, output]
        peak, _ = run_with_peak_memory(command)
        return {
            "samples_per_second": json.loads(output.read_text("utf-8"))["samples_per_second"],
            "peak_memory_gib": peak,
        }
