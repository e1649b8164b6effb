"""What rust-analyzer gets to see of the crates that a kernel is built from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from metadata import restricted  # noqa: E402


def metadata(members: list[str], needs: dict[str, list[str]]) -> dict:
    nodes = [{"id": name, "dependencies": of, "deps": [{"pkg": need} for need in of]} for name, of in needs.items()]
    packages = [{"id": name, "name": name} for name in needs]
    return {"workspace_members": members, "workspace_default_members": members, "packages": packages,
            "resolve": {"nodes": nodes, "root": members[0]}, "version": 1}


def shown(answer: dict) -> set[str]:
    nodes = {node["id"] for node in answer["resolve"]["nodes"]}
    assert nodes == {package["id"] for package in answer["packages"]}
    for node in answer["resolve"]["nodes"]:
        assert set(node["dependencies"]) <= nodes and {need["pkg"] for need in node["deps"]} <= nodes
    return nodes


def test_under_stemm_only_crates_whose_types_cells_name_are_shown():
    needs = {"ctx": ["stemm"], "stemm": ["polars", "tch", "rayon"], "polars": ["polars-core", "polars-ooc"], "tch": ["zip"],
             "rayon": [], "polars-core": ["rayon"], "polars-ooc": [], "zip": []}
    assert shown(restricted(metadata(["ctx"], needs))) == {"ctx", "stemm", "polars", "polars-core", "tch"}


def test_whatever_else_a_notebook_depends_on_is_shown_whole():
    needs = {"ctx": ["stemm", "ndarray"], "stemm": ["rayon"], "rayon": [], "ndarray": ["rayon", "num"], "num": []}
    assert shown(restricted(metadata(["ctx"], needs))) == {"ctx", "stemm", "ndarray", "rayon", "num"}


def test_of_the_standard_library_only_its_own_crates_are_shown():
    needs = {"std": ["core", "hashbrown"], "core": [], "alloc": ["core"], "proc_macro": [], "hashbrown": []}
    answer = restricted(metadata(["std", "hashbrown"], needs))
    assert shown(answer) == {"std", "core", "alloc", "proc_macro"} and answer["workspace_members"] == ["std"]
