"""The runner as users call it: one table however it is run, stopped and started; exit codes; the manifest for Kubernetes."""

import os
import re
import shutil
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
    # A row that a disk has changed is not there, whatever its file is called.
    row = next((tmp_path / "results of several").glob("?" * 64 + ".parquet"))
    damaged = bytearray(row.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    row.write_bytes(damaged)
    assert run(stemm, "sweep", several, "--jobs", 3).returncode == 0
    assert row.with_name(row.name + ".damaged").exists() and found == table(stemm, several)
    # Where nothing is left to do nothing is started.
    shutil.rmtree(tmp_path / "results of several" / "logs")
    assert run(stemm, "sweep", several, "--jobs", 3).returncode == 0
    assert not (tmp_path / "results of several" / "logs").exists()


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
    assert "JOB_COMPLETION_INDEX" in run(stemm, "run", path, "--of", 3, JOB_COMPLETION_INDEX="3").stderr
    # A worker of HyperQueue in a job of Slurm does its own task.
    assert "HQ_TASK_ID" in run(stemm, "run", path, "--of", 3, SLURM_ARRAY_TASK_ID="0", HQ_TASK_ID="3").stderr
    broken = subprocess.run([stemm, "run", path], env={**os.environb, b"HQ_TASK_ID": b"\xff"}, capture_output=True, text=True)
    assert broken.returncode == 1 and "HQ_TASK_ID" in broken.stderr
    for option in ["--jobs", "--of"]:
        assert run(stemm, {"--jobs": "sweep", "--of": "run"}[option], path, option, 0).returncode == 2
    assert run(stemm, "run", path, "first").returncode == 2
    assert run(stemm, "run", tmp_path / "none.toml").returncode == 1


def test_gather_replaces_nothing_but_its_own_tables(stemm, tmp_path):
    path = plan(tmp_path, "gathered", epochs=1)
    assert run(stemm, "sweep", path, "--jobs", 1).returncode == 0
    results = tmp_path / "results of gathered"
    model = next(results.rglob("seed*.safetensors"))
    other = tmp_path / "notes.csv"
    other.write_text("a,b\n1,2\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in [path, model, other, pipe, tmp_path]:
        before = place.read_bytes() if place.is_file() else place.stat().st_mode
        said = run(stemm, "gather", path, place)
        assert said.returncode == 1 and str(place) in said.stderr, said
        assert before == (place.read_bytes() if place.is_file() else place.stat().st_mode)
    everything, text = results / "all.parquet", tmp_path / "all.csv"
    for table in [everything, everything, text, text]:
        said = run(stemm, "gather", path, table)
        assert said.returncode == 0 and f"{ROWS} of {ROWS} rows" in said.stdout and "missing" not in said.stdout
    # The gathered table may be the only copy of rows that a smaller plan does not have.
    for row in results.glob("?" * 64 + ".parquet"):
        row.unlink()
    whole = path.read_text()
    path.write_text(whole.replace("groups = 2", "groups = 1"))
    for table in [everything, text]:
        said = run(stemm, "gather", path, table)
        assert said.returncode == 1 and f"{ROWS // 2} rows" in said.stderr, said
    text.write_text(text.read_text().replace("experiment\n", "experiment,mine\n", 1))
    said = run(stemm, "gather", path, text)
    assert said.returncode == 1 and "first line" in said.stderr, said
    text.write_text(text.read_text().replace("experiment,mine\n", "experiment\n", 1) + "and this\n")
    said = run(stemm, "gather", path, text)
    assert said.returncode == 1 and f"line {ROWS + 2} " in said.stderr, said
    path.write_text(whole.replace("groups = 2", "groups = 3"))
    said = run(stemm, "gather", path, everything)
    assert f"{ROWS} of {ROWS * 3 // 2} rows" in said.stdout and "says what is missing" in said.stdout
    path.write_text(whole)
    assert run(stemm, "status", path).returncode == 0


def test_what_ends_a_part_is_told_and_nothing_outlives_a_sweep(stemm, tmp_path, one_thread):
    path = plan(tmp_path, "parts", epochs=16_000_000)
    arguments = [stemm, "sweep", path, "--jobs", "2"]

    def parts() -> list[int]:
        listed = subprocess.run(["pgrep", "--full", f"stemm run {path}"], capture_output=True, text=True).stdout.split()
        return [int(process) for process in listed]

    def until(wanted) -> None:
        end = time.monotonic() + 60
        while not wanted():
            assert time.monotonic() < end
            time.sleep(0.05)

    sweep = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: len(parts()) == 2)
    sweep.terminate()
    sweep.communicate()
    until(lambda: not parts())
    sweep = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # All of its parts, as the system does that has no memory left.
    while sweep.poll() is None:
        for process in parts():
            os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    said = sweep.communicate()[1]
    assert sweep.returncode == 1 and "--jobs" in said and "run the same again" in said and "part0.log" in said, said
    # What a part says of itself is told as well.
    path.write_text(path.read_text().replace("Blobs = 0", "Blobs = 1").replace("16, 24, 4", "17, 24, 4").replace("16000000", "1"))
    said = run(*arguments)
    assert said.returncode == 1 and "MLP 17-24-4" in said.stderr, said


def test_whoever_does_not_listen_is_no_reason_to_fail(stemm, tmp_path):
    path = plan(tmp_path, "unheard", epochs=1)
    for command in [f"'{stemm}' status '{path}' | head -1", f"'{stemm}' sweep '{path}' --jobs 2 2>/dev/full"]:
        said = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
        assert "panicked" not in said.stderr and said.returncode in (0, 4), said
    assert run(stemm, "status", path).returncode == 0
    full = subprocess.run(["bash", "-c", f"'{stemm}' status '{path}' >/dev/full"], capture_output=True, text=True)
    assert full.returncode == 1 and "standard output" in full.stderr


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
    for line in ['partition = "gpu\\necho X"', 'account = ""', "tasks = 0", "at_once = 0", "gpus = 0", "cpus = 0"]:
        text = path.read_text()
        path.write_text("\n".join(other for other in text.split("\n") if not other.startswith(line.split()[0] + " =")) + line + "\n")
        said = run(stemm, "sweep", path, "--slurm", "--dry")
        assert said.returncode == 1 and f"`slurm.{line.split()[0]}`" in said.stderr, said
        path.write_text(text)


def test_the_queue_is_told_of_what_was_submitted(stemm, tmp_path):
    path, tools = plan(tmp_path, "queue"), tmp_path / "tools"
    tools.mkdir()
    for name, text in {"sbatch": '[ -e "$(dirname "$0")/once" ] && { echo "no more" >&2; exit 1; }; touch "$(dirname "$0")/once"; echo 42',
                       "squeue": 'echo "$@" >&2; exit 1'}.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    search = f"{tools}:{os.environ['PATH']}"
    said = run(stemm, "sweep", path, "--slurm", PATH=search)
    assert said.returncode == 1 and "no more" in said.stderr and "in the queue" in said.stderr, said
    said = run(stemm, "status", path, PATH=search)
    assert "does not answer" in said.stdout and "--jobs 42" in said.stdout, said


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
    for arguments, code in [(["--pods", "0"], 2), (["--at-once", "0"], 2), (["--mount", "work"], 1), (["--image", ""], 1), (["--claim", ""], 1),
                            (["--image", "a\nb"], 1), (["--mount", "/other"], 1)]:
        assert run(stemm, "kubernetes", "/work/plan.toml", *arguments).returncode == code, arguments
    assert "absolute" in run(stemm, "kubernetes", "work/plan.toml", "--mount", "work").stderr
    with pytest.raises(kubernetes_validate.ValidationError):
        manifest["spec"]["completionz"] = 1
        kubernetes_validate.validate(manifest, "1.32", strict=True)
