"""How long a kernel takes to its first chart and for a cell, and how its memory grows; beside a kernel without dependencies.

The cells are those of a first hour in a notebook, with next to no work of their own: what they take is the kernel's.
"""

import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from jupyter_client.manager import KernelManager

from session import Session, bare

TO_THE_FIRST_CHART = [
    "use stemm::prelude::*;\ndevice()",
    "let data = blobs(0, device())?;\ndata",
    "let network = Network::mlp(&[16, 8, 4])?;\n"
    "let trainer = Trainer { epochs: 2, progress: Progress::Silent, ..Trainer::default() };\n"
    "let training = trainer.train(&network, &data, &[0, 1, 2])?;\ntraining.chart()",
]
CELLS = [
    "let naive = Alignment::naive(&training.models)?;",
    "let matching = WeightMatching { progress: Progress::Silent, ..WeightMatching::default() };\n"
    "let matched = matching.align(&training.models, &data)?;\nmatched",
    "let table = compare(&training, &[&naive, &matched], &data)?;\ntable",
    "let walk = Interpolation { points: 3, progress: Progress::Silent, ..Interpolation::default() };\n"
    'let barriers = walk.barriers("aligned", &matched.apply(&training.models)?, &data)?;\nbarriers.chart()',
    "let history = training.frame();\nhistory",
    'history.clone().lazy().filter(col("epoch").eq(lit(2))).select([col("seed"), col("train_loss_nats")]).collect()?',
    'let last = history.column("train_loss_nats")?.f64()?.get(0);',
    "last",
    "let points = Tensor::randn([3, 4], (Kind::Float, Device::Cpu));\npoints.size()",
    "let total = points.sum(Kind::Float).double_value(&[]);",
    "training.models[0]",
    "network.chart()",
    "for model in &training.models { println!(\"{}\", model.params.numel()); }",
    "1 + 1",
]
ROUNDS = 2  # of CELLS: memory is compared after the first
BARE = ["1 + 1", "let a = 1;\na", "let b = a + 1;\nb"]


@dataclass
class Speed:
    """Seconds from the start to the first chart; of each later cell; growth of memory a cell in MB; answers that failed."""

    first_chart_s: float
    cells_s: list[float]
    growth_mb: float
    failures: list[str]

    @property
    def median_s(self) -> float:
        return statistics.median(self.cells_s)


def measure() -> Speed:
    """The kernel "Rust (stemm)"."""
    return run(KernelManager(kernel_name="stemm"), TO_THE_FIRST_CHART, CELLS)


def measure_bare() -> Speed:
    """evcxr without dependencies: what no set-up can go below."""
    with tempfile.TemporaryDirectory() as folder:
        return run(bare(Path(folder)), BARE, BARE)


def run(manager: KernelManager, first: list[str], later: list[str]) -> Speed:
    start = time.monotonic()
    failures = []
    with Session(manager, stderr=subprocess.DEVNULL) as session:

        def seconds(cell: str) -> float:
            begin = time.monotonic()
            if error := session.run(cell).trouble:
                failures.append(f"{cell}: {error}")
            return time.monotonic() - begin

        session.wait()
        for cell in first:
            seconds(cell)
        first_chart = time.monotonic() - start
        cells = [seconds(cell) for cell in later]
        before = memory_mb(manager.provisioner.pid)
        for _ in range(ROUNDS - 1):
            cells += [seconds(cell) for cell in later]
        growth = (memory_mb(manager.provisioner.pid) - before) / (len(later) * (ROUNDS - 1))
        return Speed(first_chart, cells, growth, failures)


def memory_mb(pid: int) -> float:
    """Memory of a process and its children that belongs to them alone or by share (Linux; 0 elsewhere)."""
    total = 0.0
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(memory_mb(int(child)) for child in (task / "children").read_text().split())
    except OSError:
        pass  # ended meanwhile, or no Linux
    return total
