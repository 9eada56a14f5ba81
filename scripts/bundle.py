r"""Write one folder that installs, trains, predicts and serves on a machine without a network.

    radrecipes bundle --recipe recipes/smollm2-135m/protocol_lora.yaml --output runs/bundle
    python scripts/bundle.py --recipe recipes/smollm2-135m/protocol_lora.yaml --run runs/smollm2-135m/protocol_lora/seed-42 \
        --output runs/bundle-with-run --no-dependencies

The folder contains the wheels of this project and of everything that it imports, in the versions of constraints.txt, the recipe
with its base model and dataset, a run if one is named, a list of components (CycloneDX), the sha256 of every file, and
install.sh, which compares these and installs. Nothing is signed: who can change the folder can change the sums, so send the
sha256 of SHA256SUMS separately.

pip downloads the wheels with its own settings; wheels that are here already, such as a CPU build of PyTorch, are taken with
--find-links. Without --python and --platform they are for this Python and machine; others must have the same operating system.

Exit codes: 0 written, 1 memory or disk ran out, 2 wrong input or no wheel; no folder was written.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING
from unittest import mock
from zipfile import ZipFile

import yaml

import radrecipes
from radrecipes.cli import run
from radrecipes.errors import InputError, shown
from radrecipes.files import YAML_LIMIT, check_writable, file_sha256, read_text
from radrecipes.shipped import ROOT, find_shipped

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

    from radrecipes.data.prepared import PreparedDataset
    from radrecipes.recipe import Recipe

INSTALL = """\
#!/bin/sh
# Compares every file with SHA256SUMS, then installs into .venv without a network. PYTHON=python3.12 chooses another Python.
set -eu
cd "$(dirname "$0")"
if command -v sha256sum > /dev/null; then sha256sum -c SHA256SUMS > /dev/null; else shasum -a 256 -c SHA256SUMS > /dev/null; fi
test -x .venv/bin/python || "${{PYTHON:-python{python}}}" -m venv {venv}.venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --require-hashes \\
    --find-links wheels --requirement requirements.txt
{check}echo "installed. Next: . .venv/bin/activate && radrecipes train --config {recipe}"
"""
CHECK = ".venv/bin/python -m pip check\n"
README = """\
# radrecipes without a network

Made with radrecipes {version} for Python {python}. Compare the sha256 of `SHA256SUMS` with the one that you were sent, then:

    sh install.sh
    . .venv/bin/activate
    radrecipes recipes check {recipe}
    radrecipes train --config {recipe}

| here | what |
|---|---|
| `wheels/`, `requirements.txt` | the packages, with the sha256 of each |
| `{recipe}` | the recipe, with its base model in `models/` and its data in `{dataset}/` |
| `runs/` | the run, if the bundle contains one: `radrecipes predict --adapter {run} --text TEXT` |
| `sbom.cdx.json` | the components with versions, licences and sha256, in CycloneDX |

Run all commands in this folder. The models write drafts for a person to review; they are not a medical device.
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe", required=True, metavar="RECIPE", help="a YAML file; it decides the base model and dataset"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="the folder to write; must not exist"
    )
    parser.add_argument("--run", metavar="RUN", help="folder of a finished run, to predict with")
    parser.add_argument(
        "--python", metavar="VERSION", help="of the other machine, for example 3.12 (default: this one)"
    )
    parser.add_argument(
        "--platform",
        nargs="+",
        metavar="TAG",
        help="its pip tags, for example manylinux_2_28_x86_64 (default: those of this one)",
    )
    parser.add_argument("--find-links", metavar="FOLDER", help="of wheels that are here already")
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help="of this project (default: built from this checkout)"
    )
    parser.add_argument(
        "--no-dependencies", action="store_true", help="no wheels of other packages; the other machine has them"
    )
    return parser.parse_args()


def main() -> None:
    """Collect everything in a folder that appears when it is complete."""
    args = parse_args()
    check_writable(args.output)
    if args.output.exists():
        raise InputError("exists already; choose another folder, or remove it", str(args.output))
    if args.wheel and not args.wheel.is_file():
        raise InputError("no such file", f"--wheel {args.wheel}")
    import cyclonedx  # noqa: F401  (a missing package is named before any work)

    from radrecipes.data.prepared import load_prepared_dataset
    from radrecipes.models.base import folder_on_this_machine, weights_digest
    from radrecipes.owned_folder import complete_folder
    from radrecipes.recipe import parse_recipe
    from radrecipes.training.run_folder import is_complete, run_of

    recipe = parse_recipe(args.recipe)
    dataset = load_prepared_dataset(
        recipe.arguments.dataset
    )  # compares its files, and makes what follows private if it is closed
    model_id = recipe.model.model_name_or_path
    base = folder_on_this_machine(model_id, recipe.model.model_revision)
    if weights_digest(model_id, recipe.model.model_revision) is None:
        raise InputError(
            f"its base model {model_id} is not on this machine; download it to models/{model_id}/", args.recipe
        )
    if recipe.arguments.start_from:
        raise InputError(
            "continues from another run, which a bundle does not contain; bundle that run, and train here", args.recipe
        )
    trained, of_run, _ = run_of(args.run) if args.run else (None, recipe, None)
    if trained and not is_complete(trained):
        raise InputError("is not a finished run", str(args.run))
    if of_run.model.model_name_or_path != model_id:
        raise InputError(
            f"was trained from {of_run.model.model_name_or_path}, the recipe from {model_id}", str(args.run)
        )

    places = {"recipe": f"recipes/{recipe.name}.yaml", "dataset": f"data/{dataset.folder.name}"}
    places["run"] = f"runs/{'/'.join(trained.resolve().parts[-3:])}" if trained else "RUN"
    python = args.python or f"{sys.version_info.major}.{sys.version_info.minor}"
    with complete_folder(args.output) as folder:
        wheels = collect_wheels(args, folder / "wheels")
        shutil.copytree(base, folder / "models" / model_id)
        shutil.copytree(
            dataset.folder, folder / places["dataset"], ignore=shutil.ignore_patterns(".tokenised", ".scores")
        )
        if trained:
            shutil.copytree(trained, folder / places["run"], ignore=shutil.ignore_patterns("checkpoints", "LOCK"))
        copy_recipe(recipe, folder, places)
        write_texts(folder, wheels, places, python, args.no_dependencies)
        write_sbom(folder, wheels, dataset)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        sums = "".join(f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
        (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"{args.output}: {len(wheels)} wheels, {len(files) + 1} files, {size / 2**20:,.0f} MiB")
    print(f"sha256 of its SHA256SUMS: {file_sha256(args.output / 'SHA256SUMS')}")


def copy_recipe(recipe: "Recipe", folder: Path, places: dict[str, str]) -> None:
    """The recipe with the places of its dataset and chat template in the bundle, and that template."""
    changes = {"dataset": places["dataset"]}
    if template := recipe.training.chat_template_path:
        changes["chat_template_path"] = f"recipes/chat_templates/{Path(template).name}"
        (folder / "recipes" / "chat_templates").mkdir(parents=True)
        shutil.copy(find_shipped(template), folder / changes["chat_template_path"])
    target = folder / places["recipe"]
    target.parent.mkdir(parents=True, exist_ok=True)
    text = read_text(recipe.path, YAML_LIMIT)
    for key, place in changes.items():
        line = yaml.safe_dump({key: place}, allow_unicode=True, width=1000).strip()
        text = re.sub(rf"(?m)^{key}:.*$", lambda _, line=line: line, text)
    target.write_text(text, encoding="utf-8")


def collect_wheels(args: argparse.Namespace, folder: Path) -> list[Path]:
    """The wheels that the other machine installs, downloaded by pip; what has no wheel is built if it is pure Python."""
    folder.mkdir()
    if args.wheel:
        shutil.copy(args.wheel, folder)
    else:
        if not (ROOT / "setup.cfg").is_file():
            raise InputError("name the project's wheel; it is only built in a checkout", "--wheel")
        build_wheel(folder)
    (own,) = folder.iterdir()
    links = [word for place in (folder, args.find_links) if place for word in ("--find-links", place)]
    pinned = [*links, "--constraint", ROOT / "constraints.txt"]
    words = ["--only-binary=:all:", "--dest", folder, *pinned, f"{own}[train,serve]"]
    words += ["--python-version", args.python] if args.python else []
    words += [word for tag in args.platform or () for word in ("--platform", tag)]
    built: set[str] = set()
    while not args.no_dependencies:
        missing = pip("download", *words, may_lack=True)
        if missing is None:
            break
        if missing in built:
            raise InputError(f"there is no wheel of {missing} for this Python and platform", "pip")
        built.add(missing)
        pip("wheel", "--no-deps", "--wheel-dir", folder, *pinned, missing)
        if not any(folder.glob(f"{re.split('[^A-Za-z0-9]', missing)[0]}*-none-any.whl")):
            raise InputError(f"there is no wheel of {missing}, and one that is built here runs only here", "pip")
    return sorted(folder.glob("*.whl"))


def build_wheel(folder: Path) -> None:
    """The wheel of this checkout; what setuptools leaves goes elsewhere, because a next build would take files from there."""
    with tempfile.TemporaryDirectory() as left:
        settings = Path(left, "settings.cfg")
        settings.write_text(f"[build]\nbuild_base = {left}\n[egg_info]\negg_base = {left}\n", encoding="utf-8")
        with mock.patch.dict(os.environ, DIST_EXTRA_CONFIG=str(settings)):
            pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)


def pip(*words: object, may_lack: bool = False) -> str | None:
    """Run pip; with `may_lack` returns the requirement for which it found no wheel."""
    command = [sys.executable, "-m", "pip", *map(str, words), "--progress-bar", "off", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    # Of the project itself, or of what it needs.
    lacking = re.search(
        r"No matching distribution found for (\S+)|requested \(constraint\) (\S+)", done.stdout + done.stderr
    )
    if may_lack and lacking:
        return lacking[1] or lacking[2]
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["failed"]
    raise InputError(f"{shown(lines[-1])}; command: {shown(' '.join(map(quote, command[2:6])))} ...", "pip")


def metadata(wheel: Path) -> dict[str, str]:
    """Name, version and licence of a wheel."""
    with ZipFile(wheel) as archive:
        (name,) = (it for it in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", it))
        fields = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    licence = fields["License-Expression"] or fields["License"] or ""
    return {"name": fields["Name"], "version": fields["Version"], "licence": shown(licence, 80)}


def write_texts(folder: Path, wheels: list[Path], places: dict[str, str], python: str, alone: bool) -> None:
    """The requirements, the script that installs, and the README."""
    facts = {path: metadata(path) for path in wheels}
    lines = [f"{it['name']}=={it['version']} --hash=sha256:{file_sha256(path)}\n" for path, it in facts.items()]
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    # Without wheels of other packages the environment has those that the other machine's Python has.
    facts = {"check": "", "venv": "--system-site-packages "} if alone else {"check": CHECK, "venv": ""}
    (folder / "install.sh").write_text(INSTALL.format(python=python, **facts, **places), encoding="utf-8")
    (folder / "README.md").write_text(
        README.format(version=radrecipes.__version__, python=python, **places), encoding="utf-8"
    )


def write_sbom(folder: Path, wheels: list[Path], dataset: "PreparedDataset") -> None:
    """A CycloneDX list of the wheels, the weights and the dataset."""
    from radrecipes.publishing import components

    def of_bundle() -> "Iterator[Component]":
        for path in wheels:
            yield components.package(**metadata(path), sha256=file_sha256(path))
        for path in sorted(folder.rglob("*.safetensors")):  # of the base model and of the run
            yield components.model(path.relative_to(folder).as_posix(), sha256=file_sha256(path))
        yield components.dataset(dataset.folder.name, dataset.digest)

    components.write_components(folder / "sbom.cdx.json", of_bundle())


if __name__ == "__main__":
    run(main)
