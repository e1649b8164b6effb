"""Copies the notebooks without outputs and without the answers to their exercises: python3 scripts/student_copies.py FOLDER"""

import re
import sys
from pathlib import Path

import nbformat

from notebooks import FOLDER

ANSWERS = re.compile(r"\s*<details><summary>Answers</summary>.*?</details>", re.DOTALL)


def stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = ANSWERS.sub("", cell.source)
    return notebook


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = Path(sys.argv[1]).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    notebooks = sorted(FOLDER.glob("*.ipynb"))
    if taken := [notebook.name for notebook in notebooks if (target / notebook.name).exists()]:
        sys.exit(f"{target} has {', '.join(taken)} already: name another folder; nothing was written.")
    for notebook in notebooks:
        nbformat.write(stripped(nbformat.read(notebook, as_version=4)), target / notebook.name)
    print(f"[students] {len(notebooks)} notebooks in {target}")


if __name__ == "__main__":
    main()
