"""A release of a finished run: its adapter, or the model merged with it."""

import argparse
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.errors import InputError
from radrecipes.hub.reference import Reference
from radrecipes.inference.predictors import load_predictor
from radrecipes.models.base import own_chat_template
from radrecipes.publishing.cards.model_card import render_model_card
from radrecipes.publishing.gates import ReleaseFacts
from radrecipes.publishing.licences import BASE_LICENCES
from radrecipes.publishing.memorisation import ROWS, measure_memory
from radrecipes.publishing.merging import merge_and_compare
from radrecipes.publishing.release import Release, assemble_adapter, complete_merged, read_finished_run, texts_of_rows

from publication.visibility import visibility


def adapter_release(args: argparse.Namespace, folder: Path) -> tuple[Release, ReleaseFacts]:
    """Put the release of a run together in `folder`, and say what the gates have to know."""
    finished = read_finished_run(args.run)
    dataset = load_prepared_dataset(args.dataset or finished.dataset_folder)
    if dataset.digest != finished.manifest["data"]["digest"]:
        raise InputError("is not the dataset that the run was trained on; name it with --dataset", str(dataset.folder))
    base = finished.recipe.model.model_name_or_path
    base_licence = BASE_LICENCES.get(base, args.base_license)
    licence = args.license or base_licence
    if licence is None:
        raise InputError(f"the licence of {base} is not known here; name it with --base-license", "--license")
    if (licence == "other") != bool(args.license_name):
        raise InputError(
            "`--license other` and --license-name belong together: the Hub shows the name", "--license-name"
        )

    # Where others find the data
    dataset_repo, dataset_tag = args.dataset_repo, None
    if dataset_repo and "@" in dataset_repo:
        reference = Reference.parse(dataset_repo)
        dataset_repo, dataset_tag = reference.repo_id, reference.revision
        data = finished.manifest["data"] | {"repo": dataset_repo, "tag": dataset_tag}
        finished = replace(finished, manifest=finished.manifest | {"data": data})

    # How far it recites its training texts, and whether the merged model is the same
    memory = None
    if finished.task.writes == "report":
        predictor = load_predictor(finished.folder)
        with tqdm(total=2 * min(ROWS, len(dataset.splits["train"])), unit="text", desc="memory") as bar:
            memory = measure_memory(predictor, dataset, on_progress=bar.update).figures()
        finished = replace(finished, manifest=finished.manifest | {"memory": memory})
    if args.merge:
        with tqdm(total=2 * len(dataset.splits["test"]), unit="row", desc="adapter, then merged") as bar:
            merged = merge_and_compare(finished, dataset, folder, bar.update)
        print(f"merged: {merged['same_answers']} of {merged['answers']} answers are the adapter's")
        finished = replace(finished, manifest=finished.manifest | {"merged": merged})

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
    assemble = complete_merged if args.merge else assemble_adapter
    release = assemble(finished, folder, repo=args.repo, tag=args.tag, card=card)
    facts = ReleaseFacts(
        release.kind,
        dataset.access,
        visibility(args),
        licence,
        source_licences={
            f"the base {base}": base_licence,
            f"the data {dataset.folder.name}": dataset.manifest.get("license"),
        },
        rows=texts_of_rows(dataset),
        base=base,
        writes=finished.task.writes,
        reference=f"{args.repo}@{args.tag}",
        memory=memory,
        base_template=own_chat_template(base, finished.recipe.model.model_revision),
    )
    return release, facts
