"""Says in a sentence what this machine lacks, before anything is downloaded."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from environment import HOME, ROOT, STAMPS, printed_by_rustc, toolchain

COMPILERS = ["c++", "g++", "clang++"]
DISK_GB = 7  # what the set-up needs at its height
MEMORY_GB = 3  # what rustc needs for polars' largest crates, two at a time


def check() -> None:
    """Ends the program with what is missing."""
    check_home()
    if sys.version_info < (3, 10):
        sys.exit(f"Python {sys.version.split()[0]} is too old: install Python 3.10 or newer, and name it: make PYTHON=python3.12.")
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or platform.libc_ver()[0] != "glibc":
        sys.exit("The set-up is made and tested for Linux on x86-64 with glibc, as Debian, Ubuntu and Fedora have it: "
                 "here use the Docker image (README.md).")
    check_rust()
    if is_to_do("wrapper") and not any(shutil.which(tool) for tool in COMPILERS):
        sys.exit("A C++ compiler is missing: install one, such as Debian's package g++.")
    if is_to_do("python"):
        check_venv()
    if is_to_do("kernel"):
        check_space()


def is_to_do(step: str) -> bool:
    """Whether a step of the set-up was never done; what is done needs less."""
    return not (STAMPS / step).exists()


def check_venv() -> None:
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        sys.exit("Python's venv module is incomplete: install it, such as Debian's package python3-venv.")


def check_home() -> None:
    """The folder is the set-up's alone, or becomes it: whatever is made there may be removed again."""
    foreign = HOME == Path(HOME.anchor) or HOME.exists() and not STAMPS.exists() and any(HOME.iterdir())
    if foreign or HOME in [Path.home().resolve(), ROOT]:
        sys.exit(f"STEMM_HOME is {HOME}, which holds other things: name an empty folder or one that is not there yet.")


def check_rust() -> None:
    for tool in ["cargo", "rustc"]:
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing: install Rust from https://rustup.rs, then run the command again.")
    wanted = toolchain()
    asked = subprocess.run(["rustc", "--version"], capture_output=True, text=True, env=os.environ | {"RUSTUP_TOOLCHAIN": wanted})
    found = re.match(r"rustc (\d+)\.(\d+)", asked.stdout)
    if not found:
        sys.exit(f"Rust {wanted} is not installed: run `rustup toolchain install {wanted} --component rust-src`.\n  "
                 + asked.stderr.strip())
    needed = tuple(int(part) for part in re.search(r'rust-version = "(\d+)\.(\d+)"', (ROOT / "Cargo.toml").read_text()).groups())
    if tuple(int(part) for part in found.groups()) < needed:
        sys.exit(f"{asked.stdout.strip()} is too old: install Rust {'.'.join(map(str, needed))} or newer, from https://rustup.rs.")
    if not (Path(printed_by_rustc("--print", "sysroot").strip()) / "lib/rustlib/src/rust/library").exists():
        sys.exit("The sources of Rust's standard library are missing, which the kernel's completion reads: run "
                 f"`rustup component add rust-src --toolchain {wanted}`.")


def check_space() -> None:
    place = next(folder for folder in [HOME, *HOME.parents] if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free < DISK_GB:
        sys.exit(f"{free:.1f} GB are free in {place}, and the set-up needs {DISK_GB}: name another place, STEMM_HOME=/where/there/is/room.")
    meminfo = Path("/proc/meminfo")
    available = re.search(r"MemAvailable: +(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    if available and int(available.group(1)) / 1e6 < MEMORY_GB and not os.environ.get("CARGO_BUILD_JOBS"):
        sys.exit(f"{int(available.group(1)) / 1e6:.1f} GB of memory are free, and compiling takes {MEMORY_GB}: close something, "
                 "or compile one crate at a time with CARGO_BUILD_JOBS=1, which takes twice as long.")
