"""The steps of recording and checking: the scripts that users run, each in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from radrecipes.errors import InterruptedRunError
from radrecipes.evaluation.label_metrics import BASE
from radrecipes.evaluation.reproduction import standing_evaluation

INTERRUPTED = InterruptedRunError.exit_code


def train_run(launch: str, *words: object, may_stop: bool = False, **environment: str) -> None:
    """Run scripts/sft.py, which continues what was interrupted and leaves what is finished."""
    accepted = (0, INTERRUPTED) if may_stop else (0,)
    run_step(
        ["scripts/launch.py", "--quiet", "--config_file", launch, "scripts/sft.py", *words], accepted, **environment
    )


def evaluate_run(
    folder: Path,
    dataset_digest: str,
    with_base: bool,
    name: str | None = None,
    output: Path | None = None,
    options: Sequence[object] = (),
) -> dict:
    """Figures of a run on the test split of a dataset; an evaluation that fits is kept."""
    output = output or folder / "evaluation"
    metrics = standing_evaluation(folder, output, dataset_digest)
    if metrics is None or (with_base and BASE not in metrics["systems"]):
        words = [*options, *([] if with_base else ["--skip-base"])]
        run_step(["scripts/evaluate_model.py", "--run", name or folder, "--restart", *words])
        metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def run_step(words: Sequence[object], accepted: Sequence[int] = (0,), **environment: str) -> None:
    """Run a step; where it fails, this script ends with the same exit code. What stops this script stops the step first.

    A step that a signal handed on from here ended, before it could stop in order, counts as interrupted as well.
    """
    command = [sys.executable, *map(str, words)]
    # In a session of its own, so that Ctrl-C in a terminal reaches it once, from here.
    step = subprocess.Popen(command, start_new_session=True, env=os.environ | environment)
    handed_on: set[int] = set()

    def hand_on(number: int, frame: FrameType | None) -> None:
        handed_on.add(number)
        step.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    try:
        code = step.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if any(code in (-number, 128 + number, INTERRUPTED) for number in handed_on):
        code = INTERRUPTED
    elif code in accepted:
        return
    if code == INTERRUPTED:
        print("interrupted; run the same command again, it continues", file=sys.stderr)
    else:
        print("this step failed, see above; run the same command again once it is mended", file=sys.stderr)
    sys.exit(code if code > 0 else 128 - code)
