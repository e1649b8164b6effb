"""Runs every benchmark beside its floor and its rivals; writes out/bench/results.csv and the table and chart of stemm/benches/RESULTS.md."""

import csv
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy
from lap import lapjvr
from scipy.optimize import linear_sum_assignment

from environment import OUT, ROOT, cargo_environment
from kernel_speed import measure, measure_bare

FOLDER = OUT / "bench"
REPORT = ROOT / "stemm" / "benches" / "RESULTS.md"
COLUMNS = ["bench", "params", "ours_ms", "floor_ms", "ratio", "peak_mb"]
# The table stands between these lines; the rest of the report is written by hand.
BEGIN, END = "<!-- table: written by `make bench` -->", "<!-- end of the table -->"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [row for ours in rust_benchmarks() for row in beside_rivals(ours)] + kernel_rows()
    with open(FOLDER / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    chart = ROOT / "stemm" / "benches" / "growth.png"
    subprocess.run([*CARGO_BENCH, "growth", str(FOLDER / "results.csv"), str(chart)], cwd=ROOT, env=cargo_environment(), check=True)
    report = REPORT.read_text()
    before, after = report.split(BEGIN)[0], report.split(END)[1]
    REPORT.write_text(f"{before}{BEGIN}\n{table(rows)}{END}{after}")
    print(f"[bench] {FOLDER / 'results.csv'}, {REPORT}, {chart}")


# The build of the tests and of notebook cells, which is what users run.
CARGO_BENCH = ["cargo", "bench", "--quiet", "--locked", "--profile", "dev", "--package", "stemm", "--bench", "speed", "--"]


def rust_benchmarks() -> list[dict]:
    rows = []
    with subprocess.Popen(CARGO_BENCH, cwd=ROOT, env=cargo_environment(), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.count(",") == len(COLUMNS) - 1:
                rows.append(dict(zip(COLUMNS, line.rstrip("\n").split(","))))
    if process.returncode != 0:
        sys.exit("The benchmarks failed (see above).")
    return rows[1:]  # the first is the heading


# Other solvers of the assignment problem, each with the format of its numbers that it is fastest with.
RIVALS = {"SciPy": (linear_sum_assignment, numpy.float64), "lapx": (lambda cost: lapjvr(cost, return_cost=False), numpy.float32)}


def beside_rivals(row: dict) -> list[dict]:
    """A cold assignment once for each rival, with the rival's time on the same matrix as its floor."""
    if row["bench"] != "assignment_cold":
        return [row]
    kind, n = row["params"].split(" n=")
    matrix = numpy.fromfile(FOLDER / "matrices" / f"{kind}_{n}.f32", dtype=numpy.float32).reshape(int(n), int(n))
    rows = []
    for rival, (solve, number) in RIVALS.items():
        cost = -matrix.astype(number)
        times = []
        for _ in range(3 if int(n) > 1024 else 15):
            start = time.perf_counter()
            solve(cost)
            times.append(1e3 * (time.perf_counter() - start))
        floor = sorted(times)[len(times) // 2]
        print(f"{rival} on {row['params']}: {floor:.2f} ms", flush=True)
        params = f"{row['params']}; floor: {rival}"
        rows.append(row | {"params": params, "floor_ms": f"{floor:.4f}", "ratio": f"{float(row['ours_ms']) / floor:.3f}"})
    return rows


def kernel_rows() -> list[dict]:
    ours, bare = measure(), measure_bare()
    if ours.failures or bare.failures:
        sys.exit(f"A cell failed: {ours.failures + bare.failures}")

    def row(bench: str, params: str, seconds: float, floor: float, memory: str = "") -> dict:
        values = [bench, params, f"{1e3 * seconds:.0f}", f"{1e3 * floor:.0f}", f"{seconds / floor:.3f}", memory]
        return dict(zip(COLUMNS, values))

    growth = f"{ours.growth_mb:.1f}"
    count = len(ours.cells_s)
    return [
        row("kernel_first_chart", "start to the chart of the third cell", ours.first_chart_s, bare.first_chart_s),
        row("kernel_cell", f"median of {count} cells; memory: growth a cell", ours.median_s, bare.median_s, growth),
        row("kernel_cell", f"worst of {count} cells", max(ours.cells_s), max(bare.cells_s)),
    ]


def table(rows: list[dict]) -> str:
    """The rows as Markdown, under a line that names the machine."""
    lines = [f"Machine: {machine()}.", "", "| bench | params | ours (ms) | floor (ms) | ratio | peak (MB) |",
             "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        cells = [f"`{row['bench']}`", row["params"], number(row["ours_ms"]), number(row["floor_ms"]),
                 number(row["ratio"]), number(row["peak_mb"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def number(text: str) -> str:
    """Three significant digits."""
    if not text:
        return ""
    value = float(text)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{os.cpu_count()} cores of {model}, {platform.system()}"


if __name__ == "__main__":
    main()
