"""What the tests of the runner share."""

import csv
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What differs from run to run.
TIMES = {"seconds", "merge_seconds", "peak_memory_mb"}


@pytest.fixture(scope="session")
def stemm() -> Path:
    """The runner, compiled."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--package", "stemm-runner"], cwd=ROOT, check=True)
    return Path(os.environ["CARGO_TARGET_DIR"]) / "debug" / "stemm"


@pytest.fixture
def one_thread(monkeypatch):
    """The same number of threads in every process, and so the same bits."""
    for name in ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"]:
        monkeypatch.setenv(name, "1")


def timeless(table: Path) -> list[dict]:
    """The rows of a gathered table, bit by bit, without times."""
    with open(table, newline="") as rows:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(rows)]
