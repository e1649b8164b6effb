"""Other ways to run a notebook: nbconvert, papermill with parameters in Rust, and the console."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
KERNEL = {"kernelspec": {"name": "stemm", "display_name": "Rust (stemm)", "language": "rust"}}


def notebook(folder: Path, *cells, tags=()) -> Path:
    codes = [nbformat.v4.new_code_cell(cell) for cell in cells]
    codes[0].metadata["tags"] = list(tags)
    path = folder / "in.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=codes, metadata=KERNEL), path)
    return path


def run(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)


def test_papermill_gives_parameters_in_rust(tmp_path):
    path = notebook(tmp_path, 'let epochs = 10;\nlet rate = 0.1;\nlet name = "";\nlet seeds = vec![0];',
                    'format!("{} {} {name} {:?}", epochs + 1, rate * 2.0, seeds)', tags=["parameters"])
    done = run(sys.executable, ROOT / "scripts" / "papermill_rust.py", path, tmp_path / "out.ipynb", "-p", "epochs", "20",
               "-p", "rate", "0.25", "-p", "name", 'a "b"', "-y", "seeds: [1, 2]")
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert cells[-1].outputs[0].data["text/plain"] == '"21 0.5 a \\"b\\" [1, 2]"'


@pytest.mark.parametrize("code", ['let n: i32 = "a".parse()?;', 'panic!("no");', "nothing"])
def test_an_unattended_run_fails_where_a_cell_fails(tmp_path, code):
    path = notebook(tmp_path, "1 + 1", code, "2 + 2")
    done = run("jupyter", "nbconvert", "--to", "notebook", "--execute", "--output", "out", path)
    assert done.returncode != 0 and "CellExecutionError" in done.stderr


def test_a_page_is_made_of_a_run(tmp_path):
    path = notebook(tmp_path, 'println!("said");\n1 + 1')
    done = run("jupyter", "nbconvert", "--to", "html", "--execute", path)
    assert done.returncode == 0, done.stderr
    assert "said" in (tmp_path / "in.html").read_text()
