"""The bundle for machines with a GPU, with small sizes on whatever is here, so that it does not rot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import gpu  # noqa: E402
from environment import environment  # noqa: E402


@pytest.fixture(scope="module")
def bundle() -> Path:
    gpu.bundle()
    return gpu.BUNDLE


def row(bundle: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([bundle / "gpu", *arguments], cwd=bundle, env=environment(), capture_output=True, text=True)


def values(bundle: Path, name: str) -> dict:
    result = row(bundle, name, "--small")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_it_is_small_enough_to_carry(bundle):
    assert sum(file.stat().st_size for file in bundle.rglob("*")) < 60e6


def test_the_program_needs_nothing_of_this_machines_rust_and_answers_mkl(bundle):
    """Whatever is linked to the crate answers the question of stemm/src/mkl.rs, or is slow on AMD's processors."""
    exported = subprocess.run(["nm", "--dynamic", "--defined-only", bundle / "gpu"], capture_output=True, text=True, check=True).stdout
    needed = subprocess.run(["readelf", "--dynamic", bundle / "gpu"], capture_output=True, text=True, check=True).stdout
    assert "mkl_serv_intel_cpu_true" in exported
    assert "libtch.so" in needed and "libstd" not in needed and "libstemm" not in needed


def test_the_device_computes_what_the_cpu_does(bundle):
    found = values(bundle, "same_results")
    assert found["relative difference of losses"] < 1e-4
    for count in [2, 3]:
        assert found[f"weight matching of {count}: same permutations"]
    assert found["STE-MM: merged loss on the device"] == pytest.approx(found["STE-MM: merged loss on the CPU"], rel=1e-3)


def test_errors_leave_the_device_usable(bundle):
    found = values(bundle, "errors")
    assert "memory" in found["out of memory"] and found["usable after it"] is True
    assert "label" in found["label without an output"] and found["usable after that"] is True


def test_every_row_measures_something(bundle):
    rows = row(bundle).stdout.split()
    assert rows[:3] == ["device", "same_results", "errors"] and len(rows) == len(set(rows))
    results = {"card": "none", "torch": "2.11.0", "small": True, "rows": {name: values(bundle, name) for name in rows[3:]}}
    for name, found in results["rows"].items():
        times = [time for value in found.values() for time in (value.values() if isinstance(value, dict) else [value])]
        assert times and all(isinstance(time, float) and time > 0 for time in times), (name, found)
    file = bundle / "results.json"
    file.write_text(json.dumps(results))
    page = gpu.report(file)
    assert all(f"## {name}" in page for name in rows[3:]) and "say nothing of speed" in page


def test_an_unknown_row_is_refused(bundle):
    assert row(bundle, "no_such_row").returncode != 0
