r"""Check a finished run or a prepared dataset and publish it to the Hub; repositories are private by default.

    python scripts/publish.py adapter --run runs/all-minilm-l6-v2/protocol_head/seed-42 \
        --repo your-org/protocol-minilm --tag v1.0 --dry-run
    python scripts/publish.py adapter --run runs/all-minilm-l6-v2/protocol_head/seed-42 \
        --repo your-org/protocol-minilm --tag v1.0
    python scripts/publish.py adapter --run runs/smollm2-135m/protocol_lora/seed-42 \
        --repo your-org/protocol-smollm2-merged --tag v1.0 --merge
    python scripts/publish.py dataset --dataset data/protocol_synthetic \
        --repo your-org/protocol-synthetic --tag v1.0 --acknowledge identifiers

--dry-run shows what would leave this machine: files, sizes, hashes, the findings of every gate, and the card. It needs no
network. A release is uploaded only if every finding is fixed or acknowledged with --acknowledge: in one commit, which is read
back, and tagged last. Run the same command again to continue an interrupted upload; a complete release does not change. The
token is the one of `hf auth login`, or HF_TOKEN.

--sbom writes, beside the release, what it was made with: packages, base model and dataset, as a CycloneDX list.

--merge merges the adapter into its base model, in the recipe's dtype and never into a quantised one, and publishes a model that
needs neither PEFT nor the base model; its answers are compared with the adapter's first.

Data of access `credentialed` or `registered` are never published. Models trained on them are published only privately or gated,
with --acknowledge credentialed: anyone who can read the repository must be allowed to read the data.

Exit codes: 0 published, already published, or publishable with --dry-run, 1 memory or disk ran out, 2 a gate stopped the
release, the input is wrong, or the Hub refused; the message says what to do.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run
from radrecipes.errors import InputError
from radrecipes.files import check_writable, scratch_folder
from radrecipes.publishing import ACKNOWLEDGEMENTS

if TYPE_CHECKING:
    from radrecipes.data.prepared import PreparedDataset
    from radrecipes.publishing.gates import ReleaseFacts
    from radrecipes.publishing.release import FinishedRun, Release

_SHOWN = 20  # findings shown per gate; --dry-run shows all


def main() -> None:
    """Assemble the release, check it with every gate, and publish it."""
    args = _arguments()
    if sbom := getattr(args, "sbom", None):
        import cyclonedx  # noqa: F401  (a missing package is named before any work)

        check_writable(sbom)
    from radrecipes.data.dataset_folder import CARD_FILE
    from radrecipes.hub.publish import publish_folder
    from radrecipes.publishing.gates import check_release

    with scratch_folder("radrecipes-release-") as scratch:
        # The release, on this machine only
        make = _dataset_release if args.what == "dataset" else _model_release
        release, facts = make(args, Path(scratch, "release"))
        print(f"{release.repo}@{release.tag} ({release.kind})")
        for name, sha256 in release.files.items():
            print(f"{(release.folder / name).stat().st_size:>14,}  {sha256}  {name}")
        if args.dry_run:
            print(f"\n{(release.folder / CARD_FILE).read_text(encoding='utf-8', errors='replace')}")

        # All gates, before any call to the network
        progress = partial(tqdm, unit="text", desc="gates")
        results = check_release(release.folder, facts, args.acknowledge, progress)
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
        if sbom:
            _write_sbom(release, sbom)
        if args.dry_run:
            print(f"{release.repo}@{release.tag} can be published; nothing was sent, because of --dry-run")
            return

        # One commit, the tag last, every file read back
        published = publish_folder(
            release.folder,
            release.repo,
            repo_type=release.repo_type,
            private=not (args.public or args.gated),
            gated="manual" if args.gated else None,
            tag=release.tag,
            on_step=print,
        )
        done = "published" if published.changed else "nothing to do, already published:"
        print(
            f"{done} {release.repo}@{release.tag}, commit {published.commit}, {len(published.files)} files read back"
        )


def _model_release(args: argparse.Namespace, folder: Path) -> tuple["Release", "ReleaseFacts"]:
    from radrecipes.access import access_of, strictest
    from radrecipes.data.prepared import load_prepared_dataset
    from radrecipes.publishing.cards.model_card import render_model_card
    from radrecipes.publishing.gates import ReleaseFacts
    from radrecipes.publishing.release import assemble_model, read_finished_run, texts_of_rows
    from radrecipes.tasks import TextTask

    finished = read_finished_run(args.run)
    dataset = load_prepared_dataset(args.dataset or finished.dataset_folder)
    if dataset.digest != finished.manifest["data"]["digest"]:
        raise InputError("is not the dataset that the run was trained on; name it with --dataset", str(dataset.folder))
    base, (licence, base_licence) = finished.recipe.model.model_name_or_path, _licences(args, finished)

    dataset_repo, dataset_tag = _dataset_repo(args.dataset_repo)  # where others find the data
    if dataset_tag:
        finished = finished.with_facts(data=finished.manifest["data"] | {"repo": dataset_repo, "tag": dataset_tag})

    # Memorisation of training texts, and whether the merged model gives the same answers
    memory = _memorisation(finished, dataset) if isinstance(finished.task, TextTask) else None
    if memory:
        finished = finished.with_facts(memory=memory)
    if args.merge:
        finished = finished.with_facts(merged=_merge(finished, dataset, folder))

    card = render_model_card(
        finished.manifest,
        finished.metrics,
        repo_id=args.repo,
        tag=args.tag,
        license=licence,
        license_name=args.license_name,
        license_link=args.license_link,
        base_license=base_licence,
        results=finished.recorded_results(),
        merged=args.merge,
        dataset=dataset.manifest,
        dataset_id=dataset_repo,
        dataset_tag=dataset_tag,
    )
    release = assemble_model(finished, folder, repo=args.repo, tag=args.tag, card=card, merged=args.merge)
    facts = ReleaseFacts(
        release.kind,
        strictest(access_of(finished.manifest), dataset.access, *(data["access"] for data in finished.earlier_data)),
        _visibility(args),
        licence,
        source_licences={
            f"the base {base}": base_licence,
            f"the data {dataset.folder.name}": dataset.manifest.get("license"),
            **finished.earlier_licences,
        },
        rows=texts_of_rows(dataset),
        base=base,
        task=finished.task,
        reference=f"{args.repo}@{args.tag}",
        memory=memory,
        **_base_texts(base, finished.recipe.model.model_revision),
    )
    return release, facts


def _write_sbom(release: "Release", path: Path) -> None:
    from radrecipes.files import read_json
    from radrecipes.hub.release_files import MANIFEST_FILE
    from radrecipes.publishing import components

    made_with = components.components_of_run(read_json(release.folder / MANIFEST_FILE))
    weights = [
        components.model(f"{release.repo}/{name}", release.tag, sha256)
        for name, sha256 in release.files.items()
        if name.endswith(".safetensors")
    ]
    components.write_components(path, [*weights, *made_with])
    print(f"{path}: {len(weights) + len(made_with)} components")


def _base_texts(base: str, revision: str | None) -> dict[str, Any]:
    """What of a release may equal the base model's: its chat template and its vocabulary."""
    from radrecipes.models.base import folder_on_this_machine, own_chat_template
    from radrecipes.publishing.release_texts import base_vocabulary

    return {
        "base_template": own_chat_template(base, revision),
        "base_vocabulary": base_vocabulary(folder_on_this_machine(base, revision)),
    }


def _dataset_repo(name: str | None) -> tuple[str | None, str | None]:
    """Repository and tag of `org/name@tag`; the tag may be missing."""
    from radrecipes.hub.reference import Reference

    if not name or "@" not in name:
        return name, None
    reference = Reference.parse(name)
    return reference.repo_id, reference.revision


def _memorisation(finished: "FinishedRun", dataset: "PreparedDataset") -> dict:
    from radrecipes.inference.predictors import load_predictor
    from radrecipes.publishing.memorisation import ROWS, measure_memory

    predictor = load_predictor(finished.folder)
    with tqdm(total=2 * min(ROWS, len(dataset.splits["train"])), unit="text", desc="memory") as bar:
        return measure_memory(predictor, dataset, on_progress=bar.update).figures()


def _merge(finished: "FinishedRun", dataset: "PreparedDataset", folder: Path) -> dict:
    from radrecipes.publishing.merging import merge_and_compare

    with tqdm(total=2 * len(dataset.splits["test"]), unit="row", desc="adapter, then merged") as bar:
        merged = merge_and_compare(finished, dataset, folder, bar.update)
    print(f"merged: {merged['same_answers']} of {merged['answers']} answers are the adapter's")
    return merged


def _licences(args: argparse.Namespace, finished: "FinishedRun") -> tuple[str, str | None]:
    """Licence of the repository and of the base model."""
    from radrecipes.publishing.licences import BASE_LICENCES

    base = finished.recipe.model.model_name_or_path
    base_licence = BASE_LICENCES.get(base, args.base_license)
    licence = args.license or base_licence
    if licence is None:
        raise InputError(f"the licence of {base} is not known here; name it with --base-license", "--license")
    if (licence == "other") != bool(args.license_name):
        raise InputError(
            "`--license other` and --license-name belong together: the Hub shows the name", "--license-name"
        )
    return licence, base_licence


def _dataset_release(args: argparse.Namespace, folder: Path) -> tuple["Release", "ReleaseFacts"]:
    from radrecipes.data.prepared import load_prepared_dataset
    from radrecipes.publishing.gates import ReleaseFacts
    from radrecipes.publishing.release import assemble_dataset

    dataset = load_prepared_dataset(args.dataset)
    own = dataset.manifest.get("license")
    release = assemble_dataset(dataset, folder, repo=args.repo, tag=args.tag)
    return release, ReleaseFacts(release.kind, dataset.access, _visibility(args), str(own), {"the data": own}, rows=())


def _visibility(args: argparse.Namespace) -> str:
    return "public" if args.public else "gated" if args.gated else "private"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True, metavar="{adapter,dataset}")
    adapter = kinds.add_parser("adapter", aliases=["model"], help="a finished and evaluated run")
    adapter.add_argument("--run", required=True, help="folder of the run")
    adapter.add_argument("--merge", action="store_true", help="publish the merged model instead of the adapter")
    adapter.add_argument(
        "--sbom", type=Path, metavar="FILE", help="list of components to write, for example sbom.cdx.json"
    )
    adapter.add_argument("--dataset", help="folder of the run's dataset, if it was moved")
    adapter.add_argument(
        "--dataset-repo",
        metavar="ORG/NAME@TAG",
        help="where the dataset is published; with its tag, scripts/reproduce.py fetches it from there",
    )
    adapter.add_argument("--license", help="licence of the repository; default: the base model's")
    adapter.add_argument("--license-name", help="name of the licence, for `--license other`")
    adapter.add_argument("--license-link", help="where the text of such a licence is")
    adapter.add_argument("--base-license", help="licence of the base model, if this project does not know it")
    dataset = kinds.add_parser("dataset", help="a prepared dataset")
    dataset.add_argument("--dataset", required=True, help="folder of the dataset")
    for kind in (adapter, dataset):
        kind.add_argument(
            "--repo", required=True, metavar="ORG/NAME", help="repository on the Hub; created if it is missing"
        )
        kind.add_argument("--tag", required=True, help="name of this release, for example v1.0")
        visibility = kind.add_mutually_exclusive_group()
        visibility.add_argument("--gated", action="store_true", help="anyone sees the page; you approve each reader")
        visibility.add_argument("--public", action="store_true", help="anyone can read it (default: private)")
        kind.add_argument(
            "--acknowledge",
            action="append",
            default=[],
            choices=ACKNOWLEDGEMENTS,
            help="accept the findings of a gate, after looking at each; can be repeated for another gate",
        )
        kind.add_argument("--dry-run", action="store_true", help="show everything, send nothing")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
