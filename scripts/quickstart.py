"""Runs the quickstart notebook; leaves notebook, page, table and charts in out/quickstart, and prints the table."""

import csv
import sys
import time

import nbformat
from nbconvert import HTMLExporter

from environment import OUT
from notebooks import FOLDER, execute, problems

TARGET = OUT / "quickstart"


def main() -> None:
    print("[quickstart] running notebooks/00_quickstart.ipynb in the Rust kernel, about 3 minutes on 2 cores ...", flush=True)
    start = time.monotonic()
    TARGET.mkdir(parents=True, exist_ok=True)
    table = TARGET / "results.csv"
    table.unlink(missing_ok=True)  # an old table must not pass for a new one
    notebook = execute(nbformat.read(FOLDER / "00_quickstart.ipynb", as_version=4))
    nbformat.write(notebook, TARGET / "quickstart.ipynb")
    page, _ = HTMLExporter().from_notebook_node(notebook)
    (TARGET / "quickstart.html").write_text(page)
    if found := problems(notebook):
        sys.exit("The notebook did not run through:\n" + "\n".join(found))
    with table.open() as file:
        rows = [row[:5] for row in csv.reader(file)]  # the sixth, repair, says something only with batch norm
    print(f"[quickstart] {time.monotonic() - start:.0f} s; results in {TARGET}\n")
    for number, row in enumerate(rows):
        cells = row if number == 0 else [*row[:2], *(f"{float(cell):.4f}" for cell in row[2:4]), f"{float(row[4]):.1f}"]
        print("  ".join(cell.ljust(15) if column == 0 else cell.rjust(13) for column, cell in enumerate(cells)))


if __name__ == "__main__":
    main()
