"""Where everything of the set-up lies, and the environment in which the tools run. No packages needed."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# What a shell may say of other projects' Python, Rust and libtorch; here each is the set-up's own.
FOREIGN = re.compile(
    r"PYTHON.*|PIP_(TARGET|USER|PREFIX|ROOT|REQUIRE_VIRTUALENV|PYTHON|NO_DEPS)|VIRTUAL_ENV|CONDA_PREFIX"
    r"|RUSTC.*|(CARGO_ENCODED_)?RUST(DOC)?FLAGS|CARGO_(BUILD|PROFILE|TARGET|UNSTABLE)_(?!JOBS$).*|CARGO_INCREMENTAL"
    r"|LIBTORCH.*|TORCH_CUDA_VERSION|C(XX|PP)?FLAGS|LDFLAGS")

ROOT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("STEMM_HOME") or ROOT / ".stemm").resolve()


def own(shared: Path, name: str) -> Path:
    """A folder to write in: the shared one, or the user's own where only others may write in that one."""
    existing = next(folder for folder in [shared, *shared.parents] if folder.exists())
    if os.access(existing, os.W_OK):
        return shared
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "stemm" / hashlib.sha256(str(HOME).encode()).hexdigest()[:16] / name


VENV = HOME / "venv"
PYTHON = VENV / "bin" / "python"
STEMM_KERNEL = HOME / "bin" / "stemm_kernel"
FLUSH = HOME / "bin" / "libstemm_kernel.so"
EVCXR_JUPYTER = HOME / "bin" / "evcxr_jupyter"
RUNNER = HOME / "bin" / "stemm"  # runs plans of experiments; made on request
STAMPS = HOME / "stamps"
JUPYTER = HOME / "jupyter"  # kernel specifications
KERNELS = HOME / "kernels"  # one temporary directory a running kernel
TEMPLATE = KERNELS / "template"  # what each of them is copied from: the crate and its dependencies, compiled
EVCXR_CONFIG = HOME / "evcxr-config"
WRAPPER = HOME / "wrapper"  # tch's C++ code as a shared library, for kernels and programs of the checkout
KERNEL_CARGO = HOME / "kernel-cargo"  # cargo's home for kernels and checkout: the user's, with another program and more settings
TOOLS = HOME / "tools"  # the cargo and rustup that kernels find first
BUILD = HOME / "build"  # what the kernels' programs are compiled from, if it is kept
TARGET = HOME / "target"  # what tests and benchmarks are compiled to
# All that the set-up makes: what `make clean` removes.
MADE = [VENV, STEMM_KERNEL.parent, STAMPS, JUPYTER, KERNELS, EVCXR_CONFIG, WRAPPER, KERNEL_CARGO, TOOLS, BUILD, TARGET]
DATA = ROOT / "data"
# The user's, also where a kernel or `run.py cargo` has started this.
CARGO_HOME = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
if CARGO_HOME == KERNEL_CARGO:
    CARGO_HOME = Path(os.readlink(KERNEL_CARGO / "registry")).parent
OUT = own(ROOT / "out", "out")


def torch_folder() -> Path:
    """The folder of the torch package in the virtual environment: it holds libtorch."""
    found = sorted(VENV.glob("lib/python3*/site-packages/torch"))
    if not found:
        sys.exit("libtorch is not installed: run `make setup`.")
    return found[0]


def toolchain() -> str:
    """The version of Rust; the kernel's directory is outside the checkout, where rust-toolchain.toml does not reach."""
    channel = re.search(r'channel = "(.+)"', (ROOT / "rust-toolchain.toml").read_text()).group(1)
    return os.environ.get("RUSTUP_TOOLCHAIN", channel)


def printed_by_rustc(*arguments: str) -> str:
    """What that version prints."""
    return subprocess.run(["rustc", *arguments], cwd=ROOT, capture_output=True, text=True, check=True,
                          env={**os.environ, "RUSTUP_TOOLCHAIN": toolchain()}).stdout


def toolchain_folder() -> Path:
    return Path(printed_by_rustc("--print", "sysroot").strip())


def host_target() -> str:
    """The name of this machine's kind, and of the folder below cargo's target folder."""
    lines = printed_by_rustc("-vV").splitlines()
    return next(line.removeprefix("host: ") for line in lines if line.startswith("host: "))


def plain_environment() -> dict[str, str]:
    """The variables of the shell without those that are foreign here."""
    return {name: value for name, value in os.environ.items() if not FOREIGN.fullmatch(name)}


def environment() -> dict[str, str]:
    """The variables under which cargo, the kernel and Jupyter find each other."""
    torch = torch_folder()
    # evcxr links cells to Rust's standard library dynamically, and the relative path that rustc notes in them misses it
    # wherever a kernel's directory shares a parent with the toolchain, such as the home directory.
    rust_libraries = printed_by_rustc("--print", "target-libdir").strip()
    library_path = [str(WRAPPER), str(torch / "lib"), rust_libraries, os.environ.get("LD_LIBRARY_PATH", "")]
    data = own(JUPYTER, "jupyter")  # with the signatures of trusted notebooks
    return {
        **plain_environment(),
        "PATH": os.pathsep.join([str(VENV / "bin"), str(RUNNER.parent), os.environ.get("PATH", "")]),
        "LIBTORCH": str(torch),
        "LIBTORCH_LIB": str(torch),
        "LIBTORCH_INCLUDE": str(torch),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, library_path)),
        "RUSTUP_TOOLCHAIN": toolchain(),
        "CARGO_TARGET_DIR": str(own(TARGET, "target")),
        "JUPYTER_DATA_DIR": str(data),
        "JUPYTER_PATH": os.pathsep.join(filter(None, [str(JUPYTER), os.environ.get("JUPYTER_PATH", "")])),
    }


def cargo_environment() -> dict[str, str]:
    """The variables under which cargo compiles the checkout as the kernels' dependencies were compiled, and so not these again."""
    if not (KERNEL_CARGO / "config.toml").exists():
        sys.exit("The set-up is not finished: run `make setup`.")
    variables = environment()
    # As evcxr, which links cells to libraries that kernels share. Variables, since a user's settings come before a file's.
    linker = [] if shutil.which("mold") or not shutil.which("lld") else ["-Clink-arg=-fuse-ld=lld"]
    return {
        **variables,
        "CARGO_HOME": str(KERNEL_CARGO),
        "CARGO_BUILD_TARGET": host_target(),
        "CARGO_BUILD_BUILD_DIR": variables["CARGO_TARGET_DIR"],
        "RUSTFLAGS": " ".join(["-Cprefer-dynamic", *linker]),
        "RUSTC_WORKSPACE_WRAPPER": str(ROOT / "scripts" / "rustc.sh"),
        # What is called cargo in that home is the kernels' stand-in.
        "STEMM_KERNEL_CARGO": str(toolchain_folder() / "bin" / "cargo"),
    }


def compiled(variables: dict[str, str]) -> Path:
    """Where cargo then leaves programs."""
    return Path(variables["CARGO_TARGET_DIR"]) / host_target() / "debug"
