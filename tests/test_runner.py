"""The runner as users call it: one table however it is run, stopped and started; exit codes; the manifest for Kubernetes."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from conftest import ROOT, timeless

PLAN = """
results = "{results}"
data = [{{ set = {{ Blobs = 0 }} }}]
networks = [{{ Mlp = [16, 24, 4] }}, {{ Mlp = [16, 12, 12, 4] }}]
methods = ["Naive", {{ WeightMatching = {{}} }}, {{ SteMm = {{ epochs = {epochs}, batch_size = 64 }} }}]
merges = ["Mean", "GreedySoup"]
counts = [1, 2, 3]
groups = 2
barrier_points = 5
[trainer]
epochs = 10
batch_size = 64
learning_rate = {rate}
"""
ROWS = 2 * 2 * (1 + 2 * 3 * 2)


def plan(folder: Path, name: str, epochs: int = 20, rate: str = "1e-3") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(PLAN.format(results=f"results of {name}", epochs=epochs, rate=rate))
    return path


def run(*arguments, **variables) -> subprocess.CompletedProcess:
    return subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True, env=os.environ | variables)


def table(stemm: Path, path: Path) -> list[dict]:
    file = path.with_suffix(".csv")
    assert run(stemm, "gather", path, file).returncode == 0
    return timeless(file)


def test_one_process_several_and_parts_give_one_table(stemm, tmp_path, one_thread):
    alone, several, parts = (plan(tmp_path, name) for name in ["alone", "several", "parts"])
    assert run(stemm, "status", alone).returncode == 4
    assert run(stemm, "sweep", alone, "--jobs", 1).returncode == 0
    assert run(stemm, "sweep", several, "--jobs", 3).returncode == 0
    # As the three systems number their tasks, models first.
    for part in range(4):
        assert run(stemm, "train", parts, part, "--of", 4).returncode == 0
    models = len(list((tmp_path / "results of parts" / "models").glob("*/*.safetensors")))
    assert models == 2 * 2 * 3
    for part, variable in enumerate(["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "HQ_TASK_ID"]):
        assert run(stemm, "run", parts, "--of", 3, **{variable: str(part)}).returncode == 0
    found = table(stemm, alone)
    assert len(found) == ROWS and len({row["experiment"] for row in found}) == ROWS
    assert found == table(stemm, several) == table(stemm, parts)
    assert run(stemm, "status", alone).returncode == 0


def test_a_sweep_that_is_killed_goes_on(stemm, tmp_path, one_thread):
    straight, killed = plan(tmp_path, "straight", epochs=150), plan(tmp_path, "killed", epochs=150)
    assert run(stemm, "sweep", straight, "--jobs", 1).returncode == 0
    kills = 0
    for moment in range(40):
        process = subprocess.Popen([stemm, "sweep", killed, "--jobs", "2"], start_new_session=True, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(0.3 + 0.1 * moment)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 2
    assert run(stemm, "sweep", killed, "--jobs", 1).returncode == 0
    assert table(stemm, killed) == table(stemm, straight)
    # What is done is not done again.
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "results of killed").rglob("*.parquet")}
    assert run(stemm, "sweep", killed).returncode == 0
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "results of killed").rglob("*.parquet")}


def test_experiments_that_fail_are_told_and_tried_again(stemm, tmp_path):
    path = plan(tmp_path, "failing", rate="1e38")
    swept = run(stemm, "sweep", path)
    assert swept.returncode == 3 and "failed: " in swept.stdout and "loss" in swept.stdout
    status = run(stemm, "status", path)
    assert status.returncode == 3 and f"{ROWS} failed" in status.stdout
    assert len(run(stemm, "status", path, "--missing").stdout.split()) == ROWS
    tries = {file: file.stat().st_mtime_ns for file in (tmp_path / "results of failing").glob("*.failed")}
    assert run(stemm, "run", path).returncode == 3
    assert all(file.stat().st_mtime_ns > before for file, before in tries.items()) and len(tries) == ROWS
    trained = run(stemm, "train", path, 0)
    assert trained.returncode == 3 and "failed: " in trained.stdout
    # With a plan that can work, in the same folder.
    path.write_text(path.read_text().replace("1e38", "1e-3"))
    assert run(stemm, "sweep", path).returncode == 0


@pytest.mark.parametrize(("change", "words"), [
    (("[trainer]\nepochs", "[trainer]\nepoch"), "unknown field `epoch`, expected one of `epochs`"),
    (('"Naive"', '"Naiv"'), "unknown variant `Naiv`"),
    (("counts = [1, 2, 3]", "counts = [0]"), "`counts`"),
    (("groups = 2", "groups = 0"), "`groups`"),
    (("Mlp = [16, 24, 4]", "Mlp = [16]"), ""),
    (("Mlp = [16, 24, 4]", "Mlp = [17, 24, 4]"), "expected"),
    (("networks = [", "networks = []\nnothing = ["), "nothing"),
    (("Blobs = 0", "Mnists = 0"), "unknown variant `Mnists`"),
    (("{ set = { Blobs = 0 } }", "{ set = { Blobs = 0 } }, { set = { Blobs = 0 } }"), "`data`"),
    (("Mlp = [16, 12, 12, 4]", "Mlp = [16, 24, 4]"), "`networks`"),
    (('"Naive", ', '"Naive", "Naive", '), "`methods`"),
    (("groups = 2", "groups = 1000000000000"), "`groups`"),
    (("counts = [1, 2, 3]", "counts = [4000000000]"), "`counts`"),
    (("Blobs = 0", "Mnist"), ""),
])
def test_a_plan_that_cannot_work_is_one_sentence(stemm, tmp_path, change, words):
    path = plan(tmp_path, "wrong")
    path.write_text(path.read_text().replace(*change))
    for jobs in ["1", "2"]:
        found = run(stemm, "sweep", path, "--jobs", jobs)
        said = found.stdout + found.stderr
        assert found.returncode != 0 and words in said and "stemm: " in said and "panicked" not in said, said


def test_numbers_that_are_none_are_refused(stemm, tmp_path):
    path = plan(tmp_path, "numbers")
    assert run(stemm, "run", path, 10_000).returncode == 1
    assert run(stemm, "run", path, 3, "--of", 3).returncode == 1
    assert run(stemm, "run", path, "--of", 3).returncode == 1
    assert "SLURM_ARRAY_TASK_ID" in run(stemm, "run", path, SLURM_ARRAY_TASK_ID="first").stderr
    assert run(stemm, "run", path, "first").returncode == 2
    assert run(stemm, "run", tmp_path / "none.toml").returncode == 1


def test_slurm_gets_what_the_plan_asks_for(stemm, tmp_path):
    path = plan(tmp_path, "it's slurm")
    path.write_text(path.read_text() + """
[slurm]
account = "lab"
partition = "gpu"
time = "01:00:00"
gpus = 1
cpus = 4
memory = "8G"
tasks = 5
at_once = 2
before = ["module load cuda"]
""")
    scripts = run(stemm, "sweep", path, "--slurm", "--dry").stdout.split("\n")[:2]
    train, work = (Path(script).read_text() for script in scripts)
    asked = {"account": "lab", "partition": "gpu", "time": "01:00:00", "gpus-per-task": "1", "cpus-per-task": "4", "mem": "8G",
             "array": "0-4%2", "ntasks": "1"}
    for name, value in asked.items():
        line = f'#SBATCH --{name}="{value}"\n'
        assert line in work and line in train, line
    last = work.split("\n")[-3:-1]
    assert last[0] == "module load cuda" and last[1].endswith(f"run '{str(path).replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}' --of 5")
    subprocess.run(["bash", "-n"], input=work, text=True, check=True)


def test_the_manifest_is_one_of_kubernetes(stemm):
    said = run(stemm, "kubernetes", '/work/a "plan".toml', "--image", "registry/stemm:1", "--pods", 12, "--at-once", 3, "--gpus", 1).stdout
    manifest = yaml.safe_load(said)
    kubernetes_validate.validate(manifest, "1.32", strict=True)
    job, container = manifest["spec"], manifest["spec"]["template"]["spec"]["containers"][0]
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (12, 3, "Indexed")
    assert container["command"][-4:] == ["run", '/work/a "plan".toml', "--of", "12"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    user = re.search(r"useradd .*--uid (\d+)", (ROOT / "Dockerfile").read_text()).group(1)
    assert job["template"]["spec"]["securityContext"]["fsGroup"] == int(user), "the image's user cannot write to the volume"
    with pytest.raises(kubernetes_validate.ValidationError):
        manifest["spec"]["completionz"] = 1
        kubernetes_validate.validate(manifest, "1.32", strict=True)
