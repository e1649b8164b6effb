"""A sweep on a real Slurm: a task and a node are killed in the middle, and the table is that of a run on one machine, bit by bit."""

import subprocess

import pytest

import slurm_cluster
from conftest import timeless

PLAN = """
results = "{results}"
data = [{{ set = {{ Blobs = 0 }} }}]
networks = [{{ Mlp = [16, 24, 24, 4] }}]
methods = ["Naive", {{ WeightMatching = {{}} }}, {{ SteMm = {{ epochs = {epochs}, batch_size = 64 }} }}]
merges = ["Mean", "GreedySoup"]
counts = [2, 3]
groups = 3
barrier_points = 5
[trainer]
epochs = 20
batch_size = 64
[slurm]
cpus = 1
tasks = 12
"""


@pytest.mark.skipif(slurm_cluster.missing() is not None, reason=f"no Slurm: {slurm_cluster.missing()}")
def test_a_sweep_that_loses_a_task_and_a_node_gives_the_table_of_one_machine(stemm, tmp_path, one_thread):
    plans = {}
    for name in ["here", "cluster"]:
        plans[name] = tmp_path / f"{name}.toml"
        plans[name].write_text(PLAN.format(results=f"results of {name}", epochs=400))
    run = lambda *arguments: subprocess.run([stemm, *arguments], check=True, capture_output=True, text=True)
    run("sweep", plans["here"])
    results = tmp_path / "results of cluster"
    with slurm_cluster.Cluster() as cluster:
        submitted = subprocess.run([stemm, "sweep", plans["cluster"], "--slurm"], env=cluster.environment, check=True,
                                   capture_output=True, text=True).stdout
        job = submitted.split("run: job ")[1].split()[0]
        done = lambda: len(list(results.glob("*.parquet")))
        running = lambda: [task for task, state in cluster.states().items() if state == "RUNNING" and task.startswith(f"{job}_")]
        # One task dies of itself: somebody has to requeue it.
        cluster.wait(120, lambda: done() >= 2 and running() and cluster.tasks("n1"))
        victim = cluster.tasks("n1")[0]
        number = next(entry.split(b"=")[1].decode() for entry in slurm_cluster.variables(victim) if entry.startswith(b"SLURM_ARRAY_TASK_ID="))
        slurm_cluster.kill(victim)
        cluster.wait(60, lambda: f"{job}_{number}" not in running())
        cluster.run("scontrol", "requeue", f"{job}_{number}")
        # A node dies with all that it does: Slurm does the same by itself.
        cluster.wait(120, lambda: cluster.tasks("n2"))
        cluster.crash("n2")
        cluster.start("n2")
        # What was lost with a node is held back for two minutes, which nobody needs to wait for here.
        hurry = lambda: cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
        cluster.wait(300, lambda: not cluster.states() or hurry() is None)
        status = subprocess.run([stemm, "status", plans["cluster"]], env=cluster.environment, capture_output=True, text=True)
        assert status.returncode == 0, status.stdout + "".join(log.read_text() for log in (results / "slurm").glob("run*.log"))
        assert "in the queue: nothing" in status.stdout
    for name in plans:
        run("gather", plans[name], tmp_path / f"{name}.csv")
    here, there = timeless(tmp_path / "here.csv"), timeless(tmp_path / "cluster.csv")
    assert len(here) == 3 * 3 * 2 * 2 and here == there
