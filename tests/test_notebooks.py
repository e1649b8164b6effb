"""Every notebook runs in the real kernel, and its committed outputs are those of its cells."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from notebooks import FOLDER, execute, problems, shows_a_value, sources_digest  # noqa: E402

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def skeleton(notebook) -> list:
    """Kinds of outputs by cell, and the words of tables: what must not change while numbers and verdicts on them do."""
    result = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            values = [output.data for output in cell.outputs if "data" in output]
            kinds = [sorted(value) for value in values]
            words = [re.sub(r">(holds|does not)<|[\d.e+-]+", "#", value.get("text/html", "")) for value in values]
            result.append((kinds, words))
    return result


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def run(request):
    return nbformat.read(request.param, as_version=4), execute(request.param)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_runs_without_errors_or_empty_outputs(run):
    _, fresh = run
    assert problems(fresh) == []


def test_committed_outputs_are_complete_and_not_stale(run):
    committed, fresh = run
    assert committed.metadata["stemm"]["sources_sha256"] == sources_digest(committed), "run `make notebooks`"
    assert problems(committed) == []
    assert skeleton(committed) == skeleton(fresh), "run `make notebooks`"


def test_values_are_told_from_statements():
    assert shows_a_value("let x = 1;\nx")
    assert not shows_a_value("let x = 1;")
    assert not shows_a_value("")
