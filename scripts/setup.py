"""Sets everything up in one folder (.stemm, or $STEMM_HOME): Python environment, libtorch, evcxr, kernel, data.

    python3 scripts/setup.py [STEP ...]     all steps but the last, or some of them: front python libtorch wrapper kernel data runner
    python3 scripts/setup.py clean          removes what was set up

Each step leaves a stamp with what it was made from; a step with a valid stamp is skipped, an interrupted one is done
again. Needs Rust, Python 3.10 or newer and a C++ compiler; no root.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import machine
from environment import (BUILD, CARGO_HOME, DATA, EVCXR_CONFIG, EVCXR_JUPYTER, FLUSH, HOME, JUPYTER, KERNEL_CARGO,
                         KERNELS, MADE, PYTHON, ROOT, RUNNER, STAMPS, STEMM_KERNEL, TARGET, TEMPLATE, TOOLS, VENV, WRAPPER,
                         cargo_environment, compiled, environment, host_target, plain_environment, printed_by_rustc,
                         toolchain_folder, torch_folder)

KERNEL_SOURCES = ROOT / "kernel"
TORCH_VERSION = "2.11.0"  # what tch 0.24 is made for
# libtorch_cpu.so needs these two CUDA libraries even without a GPU; the whole CUDA set is several times as large.
CPU_SET = [f"torch=={TORCH_VERSION}", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]


def main(names: list[str]) -> None:
    if names == ["clean"]:
        return clean()
    if unknown := set(names) - set(STEPS):
        sys.exit(f"No such step: {', '.join(sorted(unknown))}. Steps: {', '.join(STEPS)}, or clean.")
    chosen = [name for name in STEPS if name in names or not names and name != "runner"]
    if not os.access(HOME, os.W_OK) and (STAMPS / "kernel").exists():
        return say(f"{HOME} is set up by somebody else, and used as it is")
    machine.check()
    STAMPS.mkdir(parents=True, exist_ok=True)  # says whose folder it is
    with ThreadPoolExecutor() as pool:
        # The kernels need nothing of the others, which spend their time on the network and on one core.
        front = pool.submit(STEPS["front"]) if "front" in chosen else None
        for name in chosen[1:] if front else chosen:
            if front and name == "kernel":
                front.result()
            STEPS[name]()
        if front:
            front.result()


def front() -> None:
    step("front", front_key(), build_front)


def python() -> None:
    requirements = ROOT / "scripts" / "requirements.txt"
    step("python", digest(requirements.read_bytes()), lambda: install_python(requirements))


def libtorch() -> None:
    cuda = wants_cuda()
    step("libtorch", f"{TORCH_VERSION} {'cuda' if cuda else 'cpu'}", lambda: install_libtorch(cuda))


def wrapper() -> None:
    step("wrapper", f"{TORCH_VERSION} {locked_version('torch-sys')}", build_wrapper)


def kernel() -> None:
    if step("kernel", kernel_key(), build_kernel):
        # The first kernel takes it over, instead of copying the template.
        command(STEMM_KERNEL, "--spare", what="Copying the kernel's directory", env=os.environ | {"STEMM_HOME": str(HOME)})


def data() -> None:
    """The data lie in the checkout, not beside the stamps; verifying them takes a second."""
    command(sys.executable, DATA / "fetch.py", "fashion-mnist", what="Fetching Fashion-MNIST")


def runner() -> None:
    """The program that runs plans of experiments: nothing else needs it."""
    step("runner", runner_key(), build_runner)


STEPS = {"front": front, "python": python, "libtorch": libtorch, "wrapper": wrapper, "kernel": kernel, "data": data, "runner": runner}


def clean() -> None:
    """Removes what the set-up has made, and the folder if nothing else is in it."""
    machine.check_home()
    for made in sorted(MADE, key=STAMPS.__eq__):  # the mark of the set-up last
        if made.is_dir():
            say(f"removing {made}")
            shutil.rmtree(made)
    if HOME.is_dir() and not any(HOME.iterdir()):
        HOME.rmdir()


def wants_cuda() -> bool:
    """What STEMM_CUDA says, 0 or 1; else whether there is a GPU of NVIDIA's."""
    said = os.environ.get("STEMM_CUDA", "")
    if said not in ["", "0", "1"]:
        sys.exit(f"STEMM_CUDA is {said!r}: set it to 0 for the CPU, to 1 for CUDA, or leave it out.")
    return said == "1" or said == "" and nvidia_answers()


def nvidia_answers() -> bool:
    try:
        return subprocess.run(["nvidia-smi"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def step(name: str, key: str, action) -> bool:
    """Does what was not done before with the same key; says whether it was done now."""
    stamp = STAMPS / name
    if stamp.exists() and stamp.read_text() == key:
        say(f"{name}: done before")
        return False
    say(f"{name} ...")
    start = time.monotonic()
    stamp.unlink(missing_ok=True)
    action()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    say(f"{name}: {time.monotonic() - start:.0f} s")
    return True


def say(text: str) -> None:
    """A line of its own, also beside those of another step."""
    print(f"[setup] {text}\n", end="", flush=True)


def command(*arguments, what: str, **keywords) -> None:
    """Runs a command; its words go to standard error, and its last ones say why it failed."""
    said: deque[str] = deque(maxlen=8)
    arguments = [str(argument) for argument in arguments]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, errors="replace", **keywords) as process:
        for line in process.stderr:
            said.append(line.rstrip())
            sys.stderr.write(line)
    if process.returncode != 0:
        reason = "\n  ".join(filter(None, said)) or f"{arguments[0]} ended with status {process.returncode}"
        sys.exit(f"{what} failed:\n  {reason}\nThe steps before it are done: mend this, then run the command again.")


def digest(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def install_python(requirements: Path) -> None:
    command(sys.executable, "-m", "venv", "--clear", VENV, what="Making the Python environment")
    command(PYTHON, "-m", "pip", "install", "--quiet", "--requirement", requirements, what="Installing Jupyter")
    (STAMPS / "libtorch").unlink(missing_ok=True)  # it lies in the environment that was just cleared


def install_libtorch(cuda: bool) -> None:
    packages = [f"torch=={TORCH_VERSION}"] if cuda else ["--no-deps", *CPU_SET]
    command(PYTHON, "-m", "pip", "install", "--quiet", *packages, what="Installing libtorch")


def front_key() -> str:
    sources = [path for path in sorted(KERNEL_SOURCES.rglob("*")) if path.is_file() and "target" not in path.parts]
    return digest(printed_by_rustc("--version").encode(), *(path.read_bytes() for path in sources))


def build_front() -> None:
    """Compiles the programs of both kernels, which share evcxr and rust-analyzer."""
    arguments = ["--release", "--locked", "--manifest-path", KERNEL_SOURCES / "Cargo.toml", "--target-dir", BUILD]
    what = "Compiling the kernels"
    command("cargo", "build", *arguments, "--bins", what=what, cwd=ROOT)
    # Cells are linked to Rust's standard library dynamically; so is this, to share standard output with them.
    libraries = printed_by_rustc("--print", "target-libdir").strip()
    command("cargo", "rustc", *arguments, "--lib", "--", "-C", "prefer-dynamic", "-C", f"link-arg=-Wl,-rpath,{libraries}",
            what=what, cwd=ROOT)
    STEMM_KERNEL.parent.mkdir(parents=True, exist_ok=True)
    for program in [STEMM_KERNEL, EVCXR_JUPYTER, FLUSH]:
        program.unlink(missing_ok=True)  # it may be running
        shutil.copy(BUILD / "release" / program.name, program)
    if not os.environ.get("STEMM_KEEP_BUILD"):
        shutil.rmtree(BUILD, ignore_errors=True)


def build_wrapper() -> None:
    """Compiles tch's C++ code as a shared library.

    Cells are linked to `stemm` as a shared library, which hides the C++ code that tch links statically; what of tch is
    generic is compiled in the cell and calls that code.
    """
    sources = torch_sys_folder() / "libtch"
    torch = torch_folder()
    WRAPPER.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX") or next(tool for tool in machine.COMPILERS if shutil.which(tool))
    command(*shlex.split(compiler), "-shared", "-fPIC", "-O1", "-w", "-std=c++17", f"-I{torch / 'include'}",
            f"-I{torch / 'include/torch/csrc/api/include'}", sources / "torch_api.cpp", sources / "torch_api_generated.cpp",
            f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch / 'lib'}", "-o", WRAPPER / "libtch.so",
            what="Compiling tch's C++ code")


def locked_version(package: str) -> str:
    return re.search(rf'name = "{package}"\nversion = "(.+)"', (ROOT / "Cargo.lock").read_text()).group(1)


def torch_sys_folder() -> Path:
    """Where cargo keeps the sources of the crate torch-sys."""
    metadata = subprocess.run(["cargo", "metadata", "--locked", "--format-version", "1"], cwd=ROOT, check=True,
                              stdout=subprocess.PIPE, text=True).stdout
    packages = json.loads(metadata)["packages"]
    return next(Path(package["manifest_path"]).parent for package in packages if package["name"] == "torch-sys")


def kernel_key() -> str:
    """Changes with whatever is compiled into the kernel's template."""
    rustc = printed_by_rustc("--version").encode()
    scripts = [ROOT / "scripts" / name for name in ["environment.py", "setup.py", "warm_up.py", "session.py"]]
    parts = [path.read_bytes() for path in [*crate_files(), *scripts]]
    # What kernels note of cargo's decisions (kernel/src/tools.rs) is part of the template.
    return digest(str(ROOT).encode(), str(torch_folder()).encode(), rustc, front_key().encode(), *parts)


def crate_files() -> list[Path]:
    """What the crate is compiled from."""
    crate = ROOT / "stemm"
    return [ROOT / "Cargo.lock", ROOT / "Cargo.toml", crate / "Cargo.toml", *files_in(crate / "src"), *files_in(crate / "assets")]


def files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def runner_key() -> str:
    sources = [*crate_files(), *files_in(ROOT / "runner"), ROOT / "scripts" / "rustc.sh"]
    return digest(printed_by_rustc("--version").encode(), *(path.read_bytes() for path in sources))


def build_runner() -> None:
    variables = cargo_environment()
    command("cargo", "build", "--locked", "--package", "stemm-runner", what="Compiling the runner", env=variables, cwd=ROOT)
    RUNNER.parent.mkdir(parents=True, exist_ok=True)
    RUNNER.unlink(missing_ok=True)  # it may be running
    shutil.copy(compiled(variables) / RUNNER.name, RUNNER)


def build_kernel() -> None:
    """Compiles the crate and its dependencies as the kernel will ask for them, by running the kernel once."""
    EVCXR_CONFIG.mkdir(parents=True, exist_ok=True)
    TEMPLATE.mkdir(parents=True, exist_ok=True)
    # What was noted of cargo's decisions about the crate as it was, megabytes each time, is of no more use.
    shutil.rmtree(TEMPLATE / "target" / "noted", ignore_errors=True)
    shutil.copy(ROOT / "Cargo.lock", TEMPLATE / "Cargo.lock")
    shutil.rmtree(KERNELS / ".cargo", ignore_errors=True)  # earlier versions had cargo's settings there
    make_tools()
    write_specification("stemm", "Rust (stemm)", [STEMM_KERNEL, "{connection_file}"])
    write_specification("evcxr", "Rust (evcxr)", [STEMM_KERNEL, "--evcxr", "{connection_file}"])
    copy_logo()
    crate = toml(str(ROOT / "stemm"))
    (EVCXR_CONFIG / "evcxr.toml").write_text(f"[dependencies]\nstemm = {{ path = {crate} }}\n")
    command(PYTHON, ROOT / "scripts" / "warm_up.py", what="Building the kernel", env=environment(), cwd=ROOT)
    share_dependencies()


def share_dependencies() -> None:
    """Hands what the template was compiled from to cargo in the checkout, whose profiles and flags are the same."""
    for folder in [Path("debug"), Path(host_target()) / "debug"]:
        for part in ["deps", "build", ".fingerprint"]:
            shutil.copytree(TEMPLATE / "target" / folder / part, TARGET / folder / part, copy_function=hand_over,
                            ignore=shutil.ignore_patterns("*stemm*", "*ctx*", "libcode_*"), dirs_exist_ok=True)


def hand_over(source: str, target: str) -> None:
    """Compiled files take no room, as cargo replaces them as a whole; it writes into others."""
    if os.path.exists(target) and os.path.samefile(source, target):
        return
    new = Path(f"{target}.new")  # a build may be reading the file that is there
    new.unlink(missing_ok=True)
    try:
        (os.link if Path(source).suffix in [".rlib", ".rmeta", ".so"] else shutil.copy2)(source, new)
    except OSError:  # a disk without links
        shutil.copy2(source, new)
    os.replace(new, target)


def toml(text: str) -> str:
    """A string of TOML, which has no surrogates."""
    return json.dumps(text, ensure_ascii=False)


def write_specification(name: str, title: str, arguments: list) -> None:
    """Tells Jupyter of a kernel. It finds all it needs by absolute paths, whoever starts it and from wherever."""
    variables = environment()
    variables["PATH"] = os.pathsep.join([str(TOOLS), variables["PATH"]])
    toolchain = toolchain_folder() / "bin"
    found = ["PATH", "LIBTORCH", "LIBTORCH_LIB", "LIBTORCH_INCLUDE", "LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN"]
    specification = JUPYTER / "kernels" / name
    specification.mkdir(parents=True, exist_ok=True)
    (specification / "kernel.json").write_text(json.dumps({
        "argv": [str(argument) for argument in arguments],
        "display_name": title,
        "language": "rust",
        "interrupt_mode": "message",
        "env": {variable: variables[variable] for variable in found} | {
            "STEMM_HOME": str(HOME),
            "EVCXR_CONFIG_DIR": str(EVCXR_CONFIG),
            "CARGO_HOME": str(KERNEL_CARGO),
            # The whole crate is a dependency of a cell; rust-analyzer reads only what this machine compiles.
            "CARGO_BUILD_TARGET": host_target(),
            "STEMM_KERNEL_CARGO": str(toolchain / "cargo"),
            "STEMM_KERNEL_RUSTC": str(toolchain / "rustc"),
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME") or str(Path.home() / ".rustup"),
            # Run in the kernel while nobody waits: it loads libtorch, and leaves nothing behind.
            "STEMM_KERNEL_WARM_UP": "{ let _ = stemm::device(); }",
        },
    }, indent=1))


def copy_logo() -> None:
    """Gives the kernels Rust's logo, with its licence, as evcxr_jupyter carries it."""
    with tempfile.TemporaryDirectory() as folder:
        command(EVCXR_JUPYTER, "--install", what="Reading the kernels' logo", stdout=subprocess.DEVNULL,
                env=os.environ | {"JUPYTER_PATH": folder})
        for file in Path(folder).glob("kernels/*/logo-*"):
            for specification in (JUPYTER / "kernels").iterdir():
                shutil.copy(file, specification)


def dependency_profiles() -> str:
    """The sections of the workspace's Cargo.toml that say how dependencies are compiled."""
    sections = re.split(r"^(?=\[)", (ROOT / "Cargo.toml").read_text(), flags=re.MULTILINE)
    return "".join(section for section in sections if section.startswith("[profile.dev.package"))


def make_tools() -> None:
    """The kernel's program under the names of the tools for which it stands in; rust-analyzer looks in cargo's home first."""
    shutil.rmtree(TOOLS, ignore_errors=True)
    shutil.rmtree(KERNEL_CARGO, ignore_errors=True)
    for folder in [TOOLS, KERNEL_CARGO / "bin"]:
        folder.mkdir(parents=True)
        (folder / "cargo").symlink_to(STEMM_KERNEL)
    (TOOLS / "rustup").symlink_to(STEMM_KERNEL)
    for entry in CARGO_HOME.iterdir():
        if entry.name not in ["bin", "config", "config.toml"]:
            (KERNEL_CARGO / entry.name).symlink_to(entry)
    (KERNEL_CARGO / "config.toml").write_text(cargo_settings())


def cargo_settings() -> str:
    """The user's settings of cargo, and what makes kernels and checkout compile dependencies alike."""
    users = next((file for file in [CARGO_HOME / "config", CARGO_HOME / "config.toml"] if file.exists()), CARGO_HOME / "config.toml")
    (KERNEL_CARGO / "user.toml").symlink_to(users)  # cargo includes nothing without this ending
    return ('include = [{ path = "user.toml", optional = true }]\n'
            # In place of what torch-sys's build script would compile and link statically.
            f'[target.{host_target()}.tch]\nrustc-link-lib = ["dylib=tch"]\n'
            f'rustc-link-search = [{toml("native=" + str(WRAPPER))}]\n' + dependency_profiles())


if __name__ == "__main__":
    for foreign in set(os.environ) - set(plain_environment()):
        del os.environ[foreign]
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("Interrupted; the steps that are done stay done.")
