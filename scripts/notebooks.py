"""Runs notebooks in the kernel "Rust (stemm)": python scripts/notebooks.py keeps the outputs of all of them in place."""

import hashlib
import re
import sys
import textwrap
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from environment import DATA, OUT, ROOT

FOLDER = ROOT / "notebooks"
CELL_LIMIT_S = 1800


def sources_digest(notebook) -> str:
    """Says which cells the outputs belong to; stored in the notebook when it is run."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def answers(notebook) -> list[str]:
    """The code in the answers to the exercises, which readers run below the last cell."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return [textwrap.dedent(code) for text in texts for code in re.findall(r"^ *```rust\n(.*?)^ *```$", text, re.M | re.S)]


def working_folder() -> Path:
    """Where `../data` and `../out` of the notebooks' cells lead to what they mean, also in a checkout that only others write to."""
    folder = OUT.parent / "notebooks"
    if folder != FOLDER:
        folder.mkdir(parents=True, exist_ok=True)
        data = OUT.parent / "data"
        data.unlink(missing_ok=True)
        data.symlink_to(DATA)
    return folder


def execute(notebook):
    """Runs the notebook; errors in cells stay in the outputs."""
    client = NotebookClient(notebook, timeout=CELL_LIMIT_S, startup_timeout=CELL_LIMIT_S, kernel_name="stemm",
                            allow_errors=True, resources={"metadata": {"path": str(working_folder())}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps would make every run a change
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    notebook.metadata["stemm"] = {"sources_sha256": sources_digest(notebook)}
    return notebook


def joined(outputs: list) -> list:
    """Neighbouring pieces of one stream as one output."""
    result = []
    for output in outputs:
        if result and output.output_type == "stream" == result[-1].output_type and output.name == result[-1].name:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def is_progress(output) -> bool:
    """Whether an output is a line of progress, which quick work on a fast machine does not leave."""
    return output.get("metadata", {}).get("stemm") == "progress"


def shows_a_value(source: str) -> bool:
    """Whether a cell ends with an expression, whose value belongs in its output."""
    lines = [line.strip() for line in source.splitlines() if line.strip() and not line.strip().startswith("//")]
    return bool(lines) and not lines[-1].endswith((";", "}")) and not lines[-1].startswith(":")


def problems(notebook) -> list[str]:
    """What a reader would miss: errors, anything on standard error, empty outputs."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        fails_on_purpose = "raises-exception" in cell.metadata.get("tags", [])
        if fails_on_purpose:
            if not any(output.output_type == "error" for output in cell.outputs):
                found.append(f"cell {number} was to fail and did not")
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number}: {output.ename}: {output.evalue}")
            elif output.output_type == "stream" and output.name == "stderr":
                found.append(f"cell {number} wrote to standard error: {output.text}")
        values = [output for output in cell.outputs
                  if "data" in output and any(output.data.values()) and not is_progress(output)]
        if shows_a_value(cell.source) and not values:
            found.append(f"cell {number} shows nothing: {cell.source}")
    return found


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        start = time.monotonic()
        notebook = execute(nbformat.read(path, as_version=4))
        if found := problems(notebook):
            sys.exit(f"{path.name}: " + "\n".join(found))
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
