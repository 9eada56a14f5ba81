"""A release of a prepared dataset."""

import argparse
from pathlib import Path

from radrecipes.data.prepared import load_prepared_dataset
from radrecipes.publishing.gates import ReleaseFacts
from radrecipes.publishing.release import Release, assemble_dataset

from publication.visibility import visibility


def dataset_release(args: argparse.Namespace, folder: Path) -> tuple[Release, ReleaseFacts]:
    """Put the release of a dataset together in `folder`, and say what the gates have to know."""
    dataset = load_prepared_dataset(args.dataset)
    own = dataset.manifest.get("license")
    release = assemble_dataset(dataset, folder, repo=args.repo, tag=args.tag)
    return release, ReleaseFacts(release.kind, dataset.access, visibility(args), str(own), {"the data": own}, rows=())
