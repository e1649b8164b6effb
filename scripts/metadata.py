"""Answers `cargo metadata` for the rust-analyzer inside the kernel: python scripts/metadata.py CARGO metadata ARGUMENT ...

rust-analyzer finds the types of a cell's variables, and for that it reads every crate that the answer names. Of the 350
that stemm is built from, only those whose types a cell can name matter; a kernel's first chart comes twice as soon without the
others.
"""

import json
import subprocess
import sys

# The crates under stemm that cells name types of; what these need besides stays out.
VISIBLE = {"stemm", "tch", "plotters", "plotters-backend", "polars", "polars-core", "polars-error", "polars-io", "polars-lazy",
           "polars-plan", "polars-utils"}
STANDARD_LIBRARY = {"core", "alloc", "std", "proc_macro"}


def visible_packages(metadata: dict) -> set[str]:
    """The packages to show, by id: whatever cells depend on, but below stemm only the visible ones."""
    names = {package["id"]: package["name"] for package in metadata["packages"]}
    if STANDARD_LIBRARY <= set(names.values()):
        return {package for package, name in names.items() if name in STANDARD_LIBRARY}
    needs = {node["id"]: node["dependencies"] for node in metadata["resolve"]["nodes"]}
    found, open_ends = set(), list(metadata["workspace_members"])
    while open_ends:
        package = open_ends.pop()
        if package not in found:
            found.add(package)
            below_stemm = names[package] in VISIBLE
            open_ends += [need for need in needs[package] if not below_stemm or names[need] in VISIBLE]
    return found


def restricted(metadata: dict) -> dict:
    """The same answer without the packages that are not visible."""
    shown = visible_packages(metadata)
    nodes = [node for node in metadata["resolve"]["nodes"] if node["id"] in shown]
    for node in nodes:
        node["dependencies"] = [need for need in node["dependencies"] if need in shown]
        node["deps"] = [need for need in node["deps"] if need["pkg"] in shown]
    members = {key: [member for member in metadata[key] if member in shown]
               for key in ["workspace_members", "workspace_default_members"]}
    packages = [package for package in metadata["packages"] if package["id"] in shown]
    return metadata | members | {"packages": packages, "resolve": metadata["resolve"] | {"nodes": nodes}}


def main() -> None:
    answer = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        sys.exit(answer.returncode)
    metadata = json.loads(answer.stdout)
    print(json.dumps(restricted(metadata) if metadata["resolve"] else metadata))  # no resolve with --no-deps


if __name__ == "__main__":
    main()
