"""Publish a run and its dataset to a small Hub on this machine, pull both into an empty cache, and compare.

    python tests/demo_publish.py --run runs/all-minilm-l6-v2/protocol_head/seed-42 --dataset data/protocol_synthetic

What is started is what a user starts: publish.py, predict.py and evaluate_model.py of scripts/. Only the Hub is the tests' own.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from hub_server import HubServer

ADAPTER, DATASET, TAG = "radiology/protocol", "radiology/protocol-orders", "v1.0"
TOKEN = "token-that-writes"
NOTE = "Notes: rule out renal recurrence History: RCC, sp partial nephrectomy, knee OA"
PULL = "import sys; from radrecipes.hub.pull import pull; print(pull(sys.argv[1], repo_type=sys.argv[2]))"


def main() -> None:
    """Publish, pull, predict, evaluate, compare; exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a finished and evaluated run")
    parser.add_argument("--dataset", required=True, help="the dataset that it was trained on")
    args, words = parser.parse_known_args()

    with tempfile.TemporaryDirectory(prefix="radrecipes-hub-") as scratch, HubServer(Path(scratch, "hub")) as hub:
        hub.add_user("radiology", TOKEN)
        publisher = environment(hub.url, Path(scratch, "publisher"))
        reader = environment(hub.url, Path(scratch, "reader"))

        # Publish both
        publish = ("scripts/publish.py", "dataset", "--dataset", args.dataset, "--repo", DATASET, "--tag", TAG)
        # The synthetic orders contain dates and high ages, which the gate for identifiers finds; they belong to no one.
        python(publisher, *publish, "--acknowledge", "identifiers")
        publish = ("scripts/publish.py", "adapter", "--run", args.run, "--repo", ADAPTER, "--tag", TAG)
        python(publisher, *publish, "--dataset-repo", f"{DATASET}@{TAG}", *words)

        # Pull both into an empty cache, and compare every byte with what the Hub has
        different = 0
        pulled = {}
        for repo, kind in ((ADAPTER, "model"), (DATASET, "dataset")):
            pulled[kind] = Path(python(reader, "-c", PULL, f"{repo}@{TAG}", kind, quiet=True).splitlines()[-1])
            print(f"\n{repo}@{TAG}: sha256 on the Hub, sha256 of what was pulled")
            for name, data in hub.repo(repo, kind).files(TAG).items():
                there, here = (
                    hashlib.sha256(data).hexdigest(),
                    hashlib.sha256((pulled[kind] / name).read_bytes()).hexdigest(),
                )
                different += there != here
                print(f"{there}  {here}  {name}{'' if there == here else '  DIFFERENT'}")

        # The card's own snippet, which needs nothing of radrecipes, with the base from where the adapter says
        manifest, card = (
            (pulled["model"] / name).read_text(encoding="utf-8") for name in ("manifest.json", "README.md")
        )
        if (pulled["model"] / "adapter_config.json").is_file():
            base = json.loads(manifest)["base"]
            hub.add_model(base["model_id"], Path("models", base["model_id"]), base["revision"])
        print("\nthe snippet of the card, without radrecipes")
        (snippet,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
        written = python(reader, "-c", snippet, quiet=True)
        print(written, end="")

        # What was pulled answers and measures as what was trained
        print("\npredicting with the run, then with what was pulled")
        predict = ("scripts/predict.py", "--note", NOTE, "--adapter")
        answers = [python(publisher, *predict, args.run), python(reader, *predict, f"{ADAPTER}@{TAG}")]
        print("\nmetrics of the run, then of what was pulled on what was pulled")
        evaluate = ("scripts/evaluate_model.py", "--run")
        python(publisher, *evaluate, args.run)
        python(reader, *evaluate, f"{ADAPTER}@{TAG}", "--dataset", f"{DATASET}@{TAG}", "--restart")
        before, after = (systems(folder) for folder in (args.run, f"runs/pulled/{ADAPTER}@{TAG}"))

    # The run may have been evaluated without the base, which takes longest.
    figures = {name: before[name] == after[name] for name in before.keys() & after.keys()}
    print("\nevery figure to the last digit: " + ", ".join(f"{name} {same}" for name, same in sorted(figures.items())))
    same = not different and answers[0] == answers[1] and figures.get("adapter") and all(figures.values())
    print("\nfiles, answer and figures are the same" if same else "\nerror: what was pulled is not what was published")
    sys.exit(0 if same else 1)


def systems(folder: str) -> dict[str, dict]:
    """Figures by system of an evaluation, but for what it cost."""
    metrics = json.loads(Path(folder, "evaluation", "metrics.json").read_text(encoding="utf-8"))
    return {
        name: {key: value for key, value in figures.items() if key != "cost"}
        for name, figures in metrics["systems"].items()
    }


def environment(url: str, home: Path) -> dict[str, str]:
    """A machine of its own, as far as the Hub's clients can tell: nothing cached, and only this Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return kept | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }


def python(environment: dict[str, str], *words: str, quiet: bool = False) -> str:
    """Run a script, show and return its output. Ends this program if it fails."""
    if not quiet:
        print(f"\n$ python {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout)
        sys.exit(done.returncode)
    if not quiet:
        print(done.stdout, end="", flush=True)
    return done.stdout


if __name__ == "__main__":
    main()
