#!/usr/bin/env python3
"""Checks bills of materials and provenance statements: each artefact has both, the bills are valid CycloneDX by the
schema of the project's own library, digests are those of the files, every module of a binary is in its bill.

usage: attested.py DIST; needs cyclonedx-python-lib[json-validation].
"""
import hashlib
import json
import pathlib
import subprocess
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def check(ok, text):
    if not ok:
        sys.exit(text)


def artefacts(dist):
    """Yields each artefact's file and the name of its bill and statement."""
    for path in sorted(dist.glob("sluice-linux-*")):
        yield path, path.name
    for path in sorted(dist.glob("packages/*/*.*")):
        yield path, str(path.relative_to(dist))
    for path in sorted(dist.glob("image/sluice-*")):
        yield path, str(path.relative_to(dist))
    yield dist / "oci" / "index.json", "oci"


def modules(binary):
    """What Go wrote into the binary, as name@version."""
    text = subprocess.run(["go", "version", "-m", binary], check=True, capture_output=True, text=True).stdout
    lines = [line.split("\t") for line in text.splitlines()]
    return {f"{line[2]}@{line[3]}" for line in lines if len(line) > 3 and line[1] == "dep"}


def bill(dist, path, name, digest, validator):
    text = (dist / "sbom" / f"{name}.cdx.json").read_text()
    error = validator.validate_str(text)
    check(error is None, f"{name}: not valid CycloneDX 1.6: {error}")
    content = json.loads(text)
    hashes = {h["content"] for h in content["metadata"]["component"]["hashes"]}
    check(hashes == {digest}, f"{name}: the bill is of another file")
    have = {f"{c['name']}@{c.get('version')}" for c in content["components"]}
    for component in content["components"]:
        check(component.get("licenses"), f"{name}: {component['name']} has no licence")
        if component["name"] == "sluice":
            arch = component["bom-ref"].removeprefix("sluice-linux-")
            binary = dist / f"sluice-linux-{arch}"
            check(component["hashes"][0]["content"] == sha256(binary), f"{name}: hash of {binary}")
            check(modules(binary) <= have, f"{name}: misses {sorted(modules(binary) - have)}")
    if name.startswith("image/"):
        packages = {c["name"] for c in content["components"] if c.get("purl", "").startswith("pkg:deb/debian/")}
        check({"systemd", "rauc", "libc6"} <= packages and any(p.startswith("linux-image-") for p in packages), f"{name}: Debian packages are missing")
    refs = [content["metadata"]["component"]["bom-ref"]] + [c["bom-ref"] for c in content["components"]]
    check(len(refs) == len(set(refs)), f"{name}: a bom-ref stands twice")
    for dependency in content["dependencies"]:
        check({dependency["ref"], *dependency.get("dependsOn", [])} <= set(refs), f"{name}: a dependency that is no component")
    return len(content["components"])


def statement(dist, path, name, digest):
    content = json.loads((dist / "provenance" / f"{name}.intoto.json").read_text())
    check(content["_type"] == "https://in-toto.io/Statement/v1", f"{name}: no in-toto statement")
    check(content["predicateType"] == "https://slsa.dev/provenance/v1", f"{name}: no SLSA provenance")
    check(content["subject"] == [{"name": str(path.relative_to(dist)), "digest": {"sha256": digest}}], f"{name}: subject {content['subject']}")
    check(content["predicate"]["runDetails"]["builder"]["id"], f"{name}: no builder")
    materials = content["predicate"]["buildDefinition"]["resolvedDependencies"]
    check(any("gitCommit" in m.get("digest", {}) or m.get("annotations") for m in materials), f"{name}: no source")
    check(sum("dirHash" in m.get("digest", {}) for m in materials) >= 10, f"{name}: modules are missing")


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main():
    dist, validator, count = pathlib.Path(sys.argv[1]), JsonStrictValidator(SchemaVersion.V1_6), 0
    for path, name in artefacts(dist):
        digest = sha256(path)
        components = bill(dist, path, name, digest, validator)
        statement(dist, path, name, digest)
        count += 1
    for kind in "sbom", "provenance":
        files = sum(1 for p in (dist / kind).rglob("*.json"))
        check(files == count, f"{files} files in {kind} for {count} artefacts")
    print(f"{count} bills of materials are valid CycloneDX 1.6 (the last has {components} components); {count} provenance statements fit their files")


main()
