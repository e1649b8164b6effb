"""Machines that are not like ours: foreign variables, folders of others, old or missing tools, little room."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

import environment  # noqa: E402
import machine  # noqa: E402
import setup  # noqa: E402


def setup_with(home: Path | str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-E", SCRIPTS / "setup.py", *arguments], capture_output=True, text=True,
                          env=os.environ | {"STEMM_HOME": str(home)} | variables)


@pytest.fixture
def home(tmp_path):
    """A folder that was set up, with a blank and more in its name, and a file of the user's."""
    folder = tmp_path / "a set-up, \"quoted\" é😀"
    for name in ["stamps", "venv/bin", "kernels/template", "target"]:
        (folder / name).mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    return folder


def test_cleaning_removes_what_was_set_up_and_nothing_else(home, tmp_path):
    beside = tmp_path / "a"  # where a blank would end the name
    beside.mkdir()
    result = setup_with(home, "clean")
    assert result.returncode == 0, result.stderr
    assert [entry.name for entry in home.iterdir()] == ["notes.txt"] and beside.exists()
    (home / "notes.txt").unlink()
    (home / "stamps").mkdir()
    assert setup_with(home, "clean").returncode == 0 and not home.exists()


@pytest.mark.parametrize("arguments", [["clean"], []])
def test_folders_with_other_things_are_neither_set_up_nor_cleaned(arguments, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("mine")
    user = {"HOME": str(tmp_path / "empty")}
    (tmp_path / "empty").mkdir()
    for folder in ["/", tmp_path, tmp_path / "empty", ROOT]:
        result = setup_with(folder, *arguments, **user)
        assert result.returncode == 1 and "name an empty folder" in result.stderr, (folder, result)
    assert (tmp_path / "bin" / "tool").exists()


def test_an_unknown_step_is_named(tmp_path):
    result = setup_with(tmp_path / "new", "kernal")
    assert result.returncode == 1 and "No such step: kernal. Steps: front, " in result.stderr
    assert not (tmp_path / "new").exists()


def test_variables_of_other_projects_are_left_out_and_those_of_the_network_stay(monkeypatch):
    foreign = ["PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "RUSTC_WRAPPER",
               "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_PROFILE_DEV_OPT_LEVEL", "LIBTORCH", "LIBTORCH_USE_PYTORCH", "CXXFLAGS"]
    honoured = ["PIP_INDEX_URL", "CARGO_BUILD_JOBS", "CARGO_HOME", "CARGO_NET_OFFLINE", "CXX", "https_proxy", "RUSTUP_HOME"]
    for name in foreign + honoured:
        monkeypatch.setenv(name, "elsewhere")
    kept = environment.plain_environment()
    assert [name for name in foreign if name in kept] == [] and [name for name in honoured if name not in kept] == []


def test_the_set_up_runs_in_a_shell_with_foreign_variables(tmp_path):
    foreign = {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "RUSTFLAGS": "--no-such-flag", "RUSTC_WRAPPER": "false",
               "CARGO_BUILD_TARGET": "no-such-target", "LIBTORCH": "/nowhere", "PIP_TARGET": "/nowhere"}
    result = subprocess.run(["make", "--silent", "setup"], cwd=ROOT, capture_output=True, text=True, env=os.environ | foreign)
    assert result.returncode == 0 and "kernel: done before" in result.stdout, result


@pytest.mark.parametrize("said, sentence", [
    ("rustc 1.70.0 (90c541806 2023-05-31)", "is too old: install Rust 1."),
    ("", "is not installed: run `rustup toolchain install"),
])
def test_rust_that_is_too_old_or_not_there_is_named(said, sentence, tmp_path, monkeypatch, capsys):
    for tool in ["cargo", "rustc"]:
        (tmp_path / tool).write_text(f"#!/bin/sh\necho '{said}'\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + "/bin")
    with pytest.raises(SystemExit, match=sentence):
        machine.check_rust()


def test_missing_tools_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="cargo is missing: install Rust"):
        machine.check_rust()
    monkeypatch.setattr(machine, "check_home", lambda: None)
    monkeypatch.setattr(machine, "check_rust", lambda: None)
    monkeypatch.setattr(machine, "STAMPS", tmp_path)
    with pytest.raises(SystemExit, match=r"C\+\+ compiler is missing"):
        machine.check()
    for done in ["wrapper", "python", "kernel"]:  # what is set up needs none of them
        (tmp_path / done).touch()
    machine.check()


@pytest.mark.parametrize("system, processor, libc", [("darwin", "arm64", ""), ("linux", "aarch64", "glibc"), ("linux", "x86_64", "")])
def test_other_systems_are_told_of_the_image(system, processor, libc, monkeypatch):
    monkeypatch.setattr(machine, "check_home", lambda: None)
    monkeypatch.setattr(machine.sys, "platform", system)
    monkeypatch.setattr(machine.platform, "machine", lambda: processor)
    monkeypatch.setattr(machine.platform, "libc_ver", lambda: (libc, ""))
    with pytest.raises(SystemExit, match="use the Docker image"):
        machine.check()


def test_too_little_disk_or_memory_is_said_before_anything_is_downloaded(monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 3e9})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(SystemExit, match="3.0 GB are free in .*STEMM_HOME="):
        machine.check_space()
    usage.free = 1e12
    monkeypatch.delenv("CARGO_BUILD_JOBS", raising=False)
    monkeypatch.setattr(machine, "MEMORY_GB", 1e6)
    with pytest.raises(SystemExit, match="GB of memory are free.*CARGO_BUILD_JOBS=1"):
        machine.check_space()
    monkeypatch.setenv("CARGO_BUILD_JOBS", "1")
    machine.check_space()


def test_a_command_that_fails_says_so_in_its_own_words(capfd):
    with pytest.raises(SystemExit) as failure:
        setup.command("sh", "-c", "echo first >&2; echo the disk is on fire >&2; exit 3", what="Trying")
    assert str(failure.value).startswith("Trying failed:\n  first\n  the disk is on fire\n")
    assert "the disk is on fire" in capfd.readouterr().err
    with pytest.raises(SystemExit, match="sh ended with status 3"):
        setup.command("sh", "-c", "exit 3", what="Trying")


def test_cuda_is_chosen_by_the_variable_before_the_driver(monkeypatch):
    for answer in [True, False]:
        monkeypatch.setattr(setup, "nvidia_answers", lambda: answer)
        for said, wanted in [("0", False), ("1", True), ("", answer)]:
            monkeypatch.setenv("STEMM_CUDA", said)
            assert setup.wants_cuda() == wanted
    monkeypatch.setenv("STEMM_CUDA", "yes")
    with pytest.raises(SystemExit, match="set it to 0 for the CPU, to 1 for CUDA"):
        setup.wants_cuda()


def test_python_compares_with_the_same_torch():
    assert f"torch=={setup.TORCH_VERSION}\n" in (SCRIPTS / "requirements-torch.txt").read_text()


def test_any_path_is_a_string_of_toml():
    tomllib = pytest.importorskip("tomllib")
    path = 'native=/home/é 😀/a "quoted" \\ folder'
    assert tomllib.loads(f"path = {setup.toml(path)}") == {"path": path}


USES_A_FOREIGN_SET_UP = """
mount --bind "$STEMM_HOME" "$STEMM_HOME" && mount -o remount,bind,ro "$STEMM_HOME" || exit 77
mount --bind . . && mount -o remount,bind,ro . || exit 77
cd .
make --silent setup && python3 scripts/run.py python scripts/one_cell.py "$0"
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting needs root")
def test_a_set_up_of_somebody_elses_serves_kernels_without_a_copy(tmp_path):
    cell = "use stemm::prelude::*;\nblobs(0, device())?.train.len() > 0"
    own = {"STEMM_HOME": str(environment.HOME), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    rust = {name: os.environ.get(name) or str(Path.home() / folder) for name, folder in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")]}
    result = subprocess.run(["unshare", "--mount", "sh", "-c", USES_A_FOREIGN_SET_UP, cell], cwd=ROOT, capture_output=True,
                            text=True, env=os.environ | own | rust)
    if result.returncode == 77:
        pytest.skip("this container may not mount")
    assert result.returncode == 0 and result.stdout.split()[-1] == "true", result
    assert "set up by somebody else" in result.stdout
    size = sum(file.lstat().st_size for file in (tmp_path / "cache").rglob("*"))
    assert size < 2e8, f"{size / 1e6:.0f} MB"


def test_student_copies_have_neither_outputs_nor_answers_and_overwrite_nothing(tmp_path):
    import nbformat

    command = [sys.executable, SCRIPTS / "student_copies.py", tmp_path / "copies"]
    assert subprocess.run(command).returncode == 0
    copies = {copy.name: nbformat.read(copy, as_version=4) for copy in (tmp_path / "copies").iterdir()}
    originals = {path.name: nbformat.read(path, as_version=4) for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert copies.keys() == originals.keys()
    for name, copy in copies.items():
        text = "\n".join(cell.source for cell in copy.cells)
        assert "Answers" not in text and "<details>" not in text
        assert ("## Exercises" in text) == any("## Exercises" in cell.source for cell in originals[name].cells)
        code = [cell for cell in copy.cells if cell.cell_type == "code"]
        assert [cell.source for cell in code] == [cell.source for cell in originals[name].cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1 and "nothing was written" in again.stderr


def test_each_claim_can_fail():
    import reproduce

    good = {"model 0": (0.32, 0.886), "model 1": (0.34, 0.880), "naive": (2.1, 0.23), "weight matching": (0.36, 0.878), "ste-mm": (0.33, 0.884)}
    assert [holds for *_, holds in reproduce.judge(good)] == [True] * 6
    worse = [{"model 1": (0.34, 0.85)}, {"naive": (1.2, 0.5)}, {"weight matching": (0.40, 0.87)}, {"ste-mm": (0.355, 0.884)},
             {"weight matching": (0.32, 0.884)}, {"ste-mm": (0.33, 0.86)}]
    for number, change in enumerate(worse):
        assert [holds for *_, holds in reproduce.judge(good | change)] == [index != number for index in range(6)], change


def test_a_bundle_is_refused_where_it_would_not_run_or_was_damaged(tmp_path):
    import bundle

    here = bundle.kind()
    bundle.check(here, here)
    for name in here:
        with pytest.raises(SystemExit, match=f"{name} is .* here and elsewhere there"):
            bundle.check(here | {name: "elsewhere"}, here)
    file = tmp_path / "set-up.tar.gz"
    file.write_bytes(b"damaged")
    for noted in [None, "0" * 64 + "  set-up.tar.gz\n"]:
        if noted:
            Path(f"{file}.sha256").write_text(noted)
        with pytest.raises(SystemExit, match="copy both files again"):
            bundle.unpack(file)


def test_the_checkout_compiles_no_dependency_of_the_kernels_again():
    command = ["cargo", "test", "--workspace", "--locked", "--no-run", "--quiet", "--message-format=json"]
    result = subprocess.run(command, cwd=ROOT, env=environment.cargo_environment(), stdout=subprocess.PIPE, text=True, check=True)
    artifacts = [message for message in map(json.loads, result.stdout.splitlines()) if message["reason"] == "compiler-artifact"]
    files = [Path(file) for artifact in artifacts if artifact["package_id"].startswith("registry+") for file in artifact["filenames"]]
    libraries = [file for file in files if file.suffix in [".rlib", ".rmeta", ".so"]]
    kernels = {file.name: file for folder in (environment.TEMPLATE / "target").rglob("deps") for file in folder.iterdir()}
    crates = {name.rpartition("-")[0] for name in kernels}  # libpolars_core-0123456789abcdef.rlib

    def made(file: Path) -> tuple[int, int]:
        return file.stat().st_size, file.stat().st_mtime_ns

    shared = [file for file in libraries if file.name in kernels and made(file) == made(kernels[file.name])]
    again = [file.name for file in libraries if file.name.rpartition("-")[0] in crates and file not in shared]
    assert again == [] and any(file.name.startswith("libpolars_core-") for file in shared)
