"""Takes the crate to a machine with a GPU that has Python and PyTorch, and neither Rust nor a network.

    python3 scripts/run.py python scripts/gpu.py bundle           makes out/gpu: copy it there and run `python3 run.py`
    python3 scripts/run.py python scripts/gpu.py report FILE      writes stemm/benches/GPU.md from results.json
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from environment import DATA, OUT, ROOT, WRAPPER, cargo_environment

BUNDLE = OUT / "gpu"
REPORT = ROOT / "stemm" / "benches" / "GPU.md"
BUILD = ["cargo", "bench", "--locked", "--profile", "dev", "--package", "stemm", "--bench", "gpu", "--no-run",
         "--message-format=json-render-diagnostics"]


def bundle() -> None:
    """The program with tch's C++ code, the runner and Fashion-MNIST in one folder."""
    shutil.rmtree(BUNDLE, ignore_errors=True)
    BUNDLE.mkdir(parents=True)
    program = BUNDLE / "gpu"
    shutil.copy(built(), program)
    shutil.copy(WRAPPER / "libtch.so", BUNDLE)
    for file in [program, BUNDLE / "libtch.so"]:
        subprocess.run(["strip", file], check=True)
    shutil.copy(ROOT / "scripts" / "gpu_run.py", BUNDLE / "run.py")
    shutil.copytree(DATA / "fashion-mnist", BUNDLE / "data" / "fashion-mnist")
    size = sum(file.stat().st_size for file in BUNDLE.rglob("*") if file.is_file())
    print(f"[gpu] {BUNDLE}: {size / 1e6:.0f} MB")


def built() -> Path:
    messages = subprocess.run(BUILD, cwd=ROOT, env=cargo_environment(), stdout=subprocess.PIPE, text=True, check=True).stdout
    artifacts = [json.loads(line) for line in messages.splitlines()]
    return next(Path(artifact["executable"]) for artifact in artifacts
                if artifact.get("executable") and artifact["target"]["name"] == "gpu")


def report(file: Path) -> str:
    """The results as a page."""
    results = json.loads(file.read_text())
    lines = ["# On a GPU", "", f"Card: {results['card']}, PyTorch {results['torch']}. Written by `scripts/gpu.py report`; times in milliseconds, "
             "but where they say otherwise."]
    if results["small"]:
        lines += ["", "Small sizes, as the tests have them: these figures say nothing of speed."]
    for row, values in results["rows"].items():
        lines += ["", f"## {row}", "", "| | |", "|---|---:|"]
        lines += [f"| {name} | {shown(value)} |" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def shown(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(own)}" for name, own in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("\n", " ").replace("|", "/")


if __name__ == "__main__":
    if sys.argv[1:] == ["bundle"]:
        bundle()
    elif sys.argv[1:2] == ["report"] and len(sys.argv) == 3:
        REPORT.write_text(report(Path(sys.argv[2])))
        print(f"[gpu] {REPORT}")
    else:
        sys.exit(__doc__)
