"""The quickstart's claims, on the table that its notebook leaves behind."""

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import quickstart  # noqa: E402


@pytest.fixture(scope="module")
def results():
    quickstart.main()
    with (quickstart.TARGET / "results.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def loss(row) -> float:
    return float(row["test_loss"])


def test_quickstart_keeps_its_promises(results):
    models = [results[f"model {index}"] for index in range(3)]
    mean = sum(loss(row) for row in models) / 3
    assert all(float(row["test_accuracy"]) >= 0.86 for row in models)
    assert loss(results["naive"]) > 1.0
    assert loss(results["weight matching"]) <= mean + 0.10
    assert loss(results["ste-mm"]) <= mean + 0.03
    assert [row["n_models"] for row in results.values()] == ["1", "1", "1", "3", "3", "3"]


def test_charts_and_page_are_left_behind(results):
    for name in ["curves.png", "barriers.png", "sharpness.png"]:
        assert (quickstart.TARGET / name).read_bytes().startswith(b"\x89PNG"), name
    for name in ["quickstart.html", "quickstart.ipynb"]:
        assert (quickstart.TARGET / name).stat().st_size > 100_000, name
