"""The bill of materials: it names what is locked, all of it and nothing else, in CycloneDX's form."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.resources import files
from typing import Any

import pytest

from tests.test_supply_chain import HASH, LOCKS, ROOT, entries, pins

jsonschema: Any = importlib.import_module("jsonschema_rs")


@pytest.fixture(scope="module", params=LOCKS)
def lock(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bill(lock: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Write the bill of a lock file as `make sbom` does."""
    path = tmp_path_factory.mktemp("sbom") / "sbom.cdx.json"
    subprocess.run([sys.executable, "-W", "error", "tools/sbom.py", lock, str(path)], cwd=ROOT, check=True)
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return written


def schema(name: str) -> dict[str, Any]:
    """Return one of the published schemas, which come with the library."""
    text = files("cyclonedx.schema").joinpath("_res", f"{name}.SNAPSHOT.schema.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_bill_is_cyclonedx(bill: dict[str, Any]) -> None:
    """It is valid under the published schema, which refuses a bill that lacks something."""
    place = "http://cyclonedx.org/schema/{}.SNAPSHOT.schema.json"
    registry = jsonschema.Registry([(place.format(name), schema(name)) for name in ("spdx", "jsf-0.82")])
    validator = jsonschema.Draft7Validator(schema("bom-1.6"), registry=registry)
    assert [error.message for error in validator.iter_errors(bill)] == []
    assert not validator.is_valid({**bill, "components": [{"name": "x"}]})
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")


def test_the_bill_names_what_is_locked(bill: dict[str, Any], lock: str) -> None:
    """Every locked package is in it once, with its version, its package URL and every hash that is accepted; no other is."""
    components = bill["components"]
    assert {each["name"]: each["version"] for each in components} == pins(lock)
    assert len(components) == len(pins(lock))
    hashes = {each["name"]: [item["content"] for item in each["hashes"]] for each in components}
    for entry, name in zip(entries(lock), pins(lock), strict=True):
        locked = [match.rpartition(":")[2] for match in HASH.findall(entry)]
        assert sorted(hashes[name]) == sorted(locked), name
    for each in components:
        assert each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}"
        assert {item["alg"] for item in each["hashes"]} == {"SHA-256"}


def test_the_bill_is_of_this_product(bill: dict[str, Any], lock: str) -> None:
    """It says whose it is, and that the product depends on all of them; what only some systems need is optional."""
    about = bill["metadata"]["component"]
    assert (about["name"], about["type"]) == ("aipasta-gateway", "application")
    assert about["licenses"] == [{"license": {"id": "MIT"}}]
    needs = next(each for each in bill["dependencies"] if each["ref"] == about["bom-ref"])
    assert sorted(needs["dependsOn"]) == sorted(each["bom-ref"] for each in bill["components"])
    optional = {each["name"] for each in bill["components"] if each["scope"] == "optional"}
    conditional = {name for entry, name in zip(entries(lock), pins(lock), strict=True) if " ; " in entry}
    assert optional == conditional
    assert "uvloop" in optional


def test_the_bill_says_nothing_of_where_it_was_written(bill: dict[str, Any]) -> None:
    """No path and no address of a package index is in it."""
    text = json.dumps({**bill, "$schema": ""})
    assert "://" not in text
    assert str(ROOT) not in text
