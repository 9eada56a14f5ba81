"""Publish a finished run or a prepared dataset to the Hub, behind gates; private unless you say otherwise.

    python scripts/publish.py adapter --run runs/smollm2-135m/protocol_lora/seed-42 \
        --repo your-org/protocol-smollm2 --tag v1.0 --dry-run
    python scripts/publish.py adapter --run runs/smollm2-135m/protocol_lora/seed-42 \
        --repo your-org/protocol-smollm2 --tag v1.0
    python scripts/publish.py adapter --run runs/smollm2-135m/protocol_lora/seed-42 \
        --repo your-org/protocol-smollm2-merged --tag v1.0 --merge
    python scripts/publish.py dataset --dataset data/protocol_synthetic \
        --repo your-org/protocol-synthetic --tag v1.0 --acknowledge identifiers

--dry-run shows what would leave this machine: files, sizes, hashes, the findings of every gate, and the card. It needs no
network. Publishing goes on only where no gate has a finding that you did not vouch for with --acknowledge; then it makes one
commit, reads every file back, and sets the tag last. An interrupted one is continued by the same command; the same release
again changes nothing. The token is the one of `hf auth login`, or HF_TOKEN.

--merge adds the adapter to its base, in the recipe's dtype and never to a quantised base, and publishes a model that needs
neither PEFT nor the base; its answers are compared with the adapter's first.

Data of access `credentialed` or `registered` are never published, and what was trained on them only privately and after
--acknowledge credentialed: everybody who can read the repository must be allowed to read the data.
"""

import argparse
import tempfile
from pathlib import Path

from tqdm import tqdm

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run
from radrecipes.data.dataset_folder import CARD_FILE
from radrecipes.errors import InputError
from radrecipes.hub.publish import publish_folder
from radrecipes.publishing.gates import ACKNOWLEDGEMENTS, check_release, texts_to_search
from radrecipes.publishing.release import Release

from publication.adapter import adapter_release
from publication.dataset import dataset_release

_SHOWN = 20  # findings of a gate; --dry-run shows all


def main() -> None:
    """Put the release together, look at it with every gate, publish it."""
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="radrecipes-release-") as scratch:
        # The release, on this machine only
        make = adapter_release if args.what == "adapter" else dataset_release
        release, facts = make(args, Path(scratch, "release"))
        _show_files(release)
        if args.dry_run:
            print(f"\n{(release.folder / CARD_FILE).read_text(encoding='utf-8', errors='replace')}")

        # Gates, all of them, before any call to the network
        with tqdm(total=texts_to_search(release.folder), unit="text", desc="gates") as bar:
            results = check_release(release.folder, facts, args.acknowledge, bar.update)
        for result in results:
            verdict = "ok" if not result.findings else "acknowledged" if result.passed else "STOP"
            print(f"{result.gate:<12} {verdict:<13} {result.looked_at}")
            shown = result.findings if args.dry_run else result.findings[:_SHOWN]
            for finding in shown:
                print(f"{'':<12} {finding}")
            if len(shown) < len(result.findings):
                print(f"{'':<12} and {len(result.findings) - len(shown)} more; --dry-run shows all")
        if closed := [result.gate for result in results if not result.passed]:
            raise InputError(f"stopped by: {', '.join(closed)}; nothing left this machine", release.repo)
        if args.dry_run:
            print(f"nothing stands against {release.repo}@{release.tag}; nothing was sent, because of --dry-run")
            return

        # One commit, the tag last, every file read back
        published = publish_folder(
            release.folder,
            release.repo,
            repo_type=release.repo_type,
            private=not (args.public or args.gated),
            gated="manual" if args.gated else None,
            tag=release.tag,
            message=f"Release {release.tag}",
            on_step=print,
        )
        done = "published" if published.changed else "nothing to do, it stands there already:"
        print(
            f"{done} {release.repo}@{release.tag}, commit {published.commit}, {len(published.files)} files read back"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True, metavar="{adapter,dataset}")
    adapter = kinds.add_parser("adapter", help="a finished and evaluated run")
    adapter.add_argument("--run", required=True, help="folder of the run")
    adapter.add_argument("--merge", action="store_true", help="publish the merged model instead of the adapter")
    adapter.add_argument("--dataset", help="where the run's dataset lies now, if it moved")
    adapter.add_argument(
        "--dataset-repo",
        metavar="ORG/NAME@TAG",
        help="where the dataset is published; with its tag, scripts/reproduce.py fetches it from there",
    )
    adapter.add_argument("--license", help="licence of the repository; default: the base's")
    adapter.add_argument("--license-name", help="what a licence is called that is `other` to the Hub")
    adapter.add_argument("--license-link", help="where the text of such a licence stands")
    adapter.add_argument("--base-license", help="the base's licence, where this project does not know it")
    dataset = kinds.add_parser("dataset", help="a prepared dataset")
    dataset.add_argument("--dataset", required=True, help="folder of the dataset")
    for kind in (adapter, dataset):
        kind.add_argument(
            "--repo", required=True, metavar="ORG/NAME", help="repository on the Hub; made where it is missing"
        )
        kind.add_argument("--tag", required=True, help="name of this release, for example v1.0")
        seen_by = kind.add_mutually_exclusive_group()
        seen_by.add_argument("--gated", action="store_true", help="everybody sees it, you admit readers one by one")
        seen_by.add_argument("--public", action="store_true", help="everybody can read it; default: private")
        kind.add_argument(
            "--acknowledge",
            action="append",
            default=[],
            choices=ACKNOWLEDGEMENTS,
            help="vouch for the findings of a gate, after looking at each; can be given again for another",
        )
        kind.add_argument("--dry-run", action="store_true", help="show everything, send nothing")
    return parser.parse_args()


def _show_files(release: Release) -> None:
    print(f"{release.repo}@{release.tag} ({release.kind})")
    for name, sha256 in release.files.items():
        print(f"{(release.folder / name).stat().st_size:>14,}  {sha256}  {name}")


if __name__ == "__main__":
    run(main)
