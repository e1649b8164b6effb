"""Where everything of the set-up lies, and the environment in which the tools run. No packages needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("STEMM_HOME") or ROOT / ".stemm").resolve()

VENV = HOME / "venv"
PYTHON = VENV / "bin" / "python"
STEMM_KERNEL = HOME / "bin" / "stemm_kernel"
FLUSH = HOME / "bin" / "libstemm_kernel.so"
EVCXR_JUPYTER = HOME / "bin" / "evcxr_jupyter"
JUPYTER = HOME / "jupyter"  # kernel specification and the signatures of trusted notebooks
KERNELS = HOME / "kernels"  # one temporary directory a running kernel
TEMPLATE = KERNELS / "template"  # what each of them is copied from: the crate and its dependencies, compiled
EVCXR_CONFIG = HOME / "evcxr-config"
WRAPPER = HOME / "wrapper"  # tch's C++ code as a shared library, for kernels
KERNEL_CARGO = HOME / "kernel-cargo"  # cargo's home as kernels see it: the user's, but for the program
TOOLS = HOME / "tools"  # the cargo and rustup that kernels find first
DATA = ROOT / "data"
OUT = ROOT / "out"


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


def environment() -> dict[str, str]:
    """The variables under which cargo, the kernel and Jupyter find each other."""
    torch = torch_folder()
    # evcxr links cells to Rust's standard library dynamically, and the relative path that rustc notes in them misses it
    # wherever a kernel's directory shares a parent with the toolchain, such as the home directory.
    rust_libraries = printed_by_rustc("--print", "target-libdir").strip()
    library_path = [str(WRAPPER), str(torch / "lib"), rust_libraries, os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(VENV / "bin"), os.environ.get("PATH", "")]),
        "LIBTORCH": str(torch),
        "LIBTORCH_LIB": str(torch),
        "LIBTORCH_INCLUDE": str(torch),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, library_path)),
        "RUSTUP_TOOLCHAIN": toolchain(),
        "CARGO_TARGET_DIR": str(HOME / "target"),
        "JUPYTER_DATA_DIR": str(JUPYTER),
    }
