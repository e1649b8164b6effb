"""What the tests of the runner share."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from environment import cargo_environment, compiled  # noqa: E402

# What differs from run to run.
TIMES = {"seconds", "merge_seconds", "peak_memory_mb"}


@pytest.fixture(scope="session")
def stemm() -> Path:
    """The runner, compiled."""
    variables = cargo_environment()
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--package", "stemm-runner"], cwd=ROOT, env=variables, check=True)
    return compiled(variables) / "stemm"


@pytest.fixture
def one_thread(monkeypatch):
    """The same number of threads in every process, and so the same bits."""
    for name in ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"]:
        monkeypatch.setenv(name, "1")


def timeless(table: Path) -> list[dict]:
    """The rows of a gathered table, bit by bit, without times."""
    with open(table, newline="") as rows:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(rows)]
