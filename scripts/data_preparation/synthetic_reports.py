"""`scripts/prepare_data.py synthetic-reports`: write invented reports in the layout of MIMIC-CXR."""

import argparse

from tqdm import tqdm

from radrecipes.data.synthetic_reports import write_synthetic_tree


def make_synthetic_reports(arguments: argparse.Namespace) -> None:
    """Write one tree."""
    # The bar begins with the first report, so that a refusal stands by itself.
    bar = None

    def progress(done: int) -> None:
        nonlocal bar
        bar = bar or tqdm(total=arguments.studies, unit=" reports", smoothing=0.05)
        bar.update(done)

    facts = write_synthetic_tree(
        arguments.output,
        seed=arguments.seed,
        patients=arguments.patients,
        studies=arguments.studies,
        on_progress=progress,
    )
    bar.close()
    print(f"{facts['studies']} synthetic reports of {facts['patients']} patients, {facts['normal_studies']} normal")
    print(f"written to {arguments.output}; prepare them with --source mimic-cxr --root {arguments.output}")
