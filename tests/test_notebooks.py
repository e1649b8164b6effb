"""Every notebook runs in the real kernel, with the answers to its exercises, and its committed outputs are those of its cells."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from notebooks import FOLDER, answers, execute, is_progress, problems, shows_a_value, sources_digest  # noqa: E402

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def skeleton(notebook) -> list:
    """Kinds of outputs by cell, and the words of tables: what must not change while numbers and verdicts on them do.

    Where a table is sorted by what was measured, its rows come in any order.
    """
    result = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            values = [output.data for output in cell.outputs if "data" in output and not is_progress(output)]
            kinds = [sorted(value) for value in values]
            words = [re.sub(r">(holds|does not)<|[\d.e+-]+", "#", value.get("text/html", "")) for value in values]
            result.append((kinds, [sorted(re.split("</?tr>", text)) for text in words]))
    return result


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def run(request):
    """The notebook as committed, as run now, and the answers to its exercises, run after it in the same kernel."""
    committed, fresh = [nbformat.read(request.param, as_version=4) for _ in range(2)]
    end = len(fresh.cells)
    fresh.cells += [nbformat.v4.new_code_cell(code) for code in answers(fresh)]
    execute(fresh)
    answered = nbformat.v4.new_notebook(cells=fresh.cells[end:])
    fresh.cells = fresh.cells[:end]
    return committed, fresh, answered


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_runs_without_errors_or_empty_outputs(run):
    _, fresh, _ = run
    assert problems(fresh) == []


def test_answers_to_the_exercises_run(run):
    committed, _, answered = run
    asks = any("## Exercises" in cell.source for cell in committed.cells if cell.cell_type == "markdown")
    assert asks == bool(answered.cells)
    assert problems(answered) == []


def test_committed_outputs_are_complete_and_not_stale(run):
    committed, fresh, _ = run
    assert committed.metadata["stemm"]["sources_sha256"] == sources_digest(committed), "run `make notebooks`"
    assert problems(committed) == []
    assert skeleton(committed) == skeleton(fresh), "run `make notebooks`"


def test_values_are_told_from_statements():
    assert shows_a_value("let x = 1;\nx")
    assert not shows_a_value("let x = 1;")
    assert not shows_a_value("")
