"""Writes what the product is made of as a CycloneDX bill of materials: every package of a lock file, with its hashes.

The hashes are those of all files that a package may be installed from, since the lock file accepts each of them. A
package that only some systems need is marked as optional.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def product() -> Component:
    """Describe what the bill is for."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref=project["name"],
        description=project["description"],
        licenses=[LicenseFactory().make_from_string(project["license"])],
    )


def packages(lock: str) -> Iterator[Component]:
    """Describe every package that a lock file names."""
    for entry in lock.replace("\\\n", " ").splitlines():
        if not entry.strip() or entry.startswith("#"):
            continue
        requirement = Requirement(entry.partition("--hash=")[0])
        (pin,) = requirement.specifier
        name = canonicalize_name(requirement.name)
        purl = PackageURL("pypi", name=name, version=pin.version)
        yield Component(
            name=name,
            version=pin.version,
            type=ComponentType.LIBRARY,
            bom_ref=str(purl),
            purl=purl,
            scope=ComponentScope.OPTIONAL if requirement.marker else ComponentScope.REQUIRED,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in HASH.findall(entry)],
        )


def bill_of(lock: str) -> str:
    """Return the bill of materials of a lock file, as JSON."""
    bom = Bom(components=packages(lock))
    bom.metadata.component = product()
    bom.register_dependency(bom.metadata.component, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def main() -> None:
    """Write the bill of the lock file on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock_file", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    options.output.write_text(bill_of(options.lock_file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
