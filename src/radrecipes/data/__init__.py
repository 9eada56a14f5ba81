"""Label sets, sources, cleaning, splits, audits, synthetic data; `prepared` loads a dataset folder, `dataset_folder` writes it."""
