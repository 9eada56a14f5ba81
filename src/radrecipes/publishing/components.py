"""Lists of components in CycloneDX, of a bundle or of what a release was made with."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from radrecipes.files import write_atomically


def write_components(path: Path, components: Iterable[Component]) -> None:
    """Write a CycloneDX 1.6 list in JSON."""
    text = JsonV1Dot6(Bom(components=list(components))).output_as_string(indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text + "\n")


def package(name: str, version: str, licence: str | None = None, sha256: str | None = None) -> Component:
    """A Python package, with the licence that it states and the sha256 of its wheel."""
    purl = PackageURL("pypi", name=re.sub(r"[-_.]+", "-", name).lower(), version=version)
    return Component(
        name=name, version=version, purl=purl, bom_ref=str(purl), type=ComponentType.LIBRARY,
        licenses=[DisjunctiveLicense(name=licence)] if licence else None, hashes=_hashes(sha256),
    )  # fmt: skip


def model(name: str, revision: str | None = None, sha256: str | None = None) -> Component:
    """A model on the Hub with its revision, or one of its files with its sha256."""
    return Component(name=name, version=revision, type=ComponentType.MACHINE_LEARNING_MODEL, hashes=_hashes(sha256))


def dataset(name: str, digest: str) -> Component:
    """A prepared dataset; its digest is its version."""
    return Component(name=name, version=digest, type=ComponentType.DATA)


def components_of_run(manifest: Mapping[str, Any]) -> list[Component]:
    """What the manifest of a run says that it was made with: packages, base model and dataset."""
    base, data = manifest["base"], manifest["data"]
    return [
        # Python is no package of the index.
        *(package(name, version) for name, version in manifest["packages"].items() if name != "python"),
        model(base["model_id"], base["revision"]),
        dataset(Path(data["folder"]).name, data["digest"]),
    ]


def _hashes(sha256: str | None) -> list:
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []
