"""Starts the Rust kernel in a temporary directory of its own: python scripts/kernel.py CONNECTION_FILE

Two kernels cannot share a directory, and compiling the dependencies takes minutes. So each kernel takes over the directory
of one that has ended, or the spare one of the set-up, or, if there is none, gets a copy of the template that is mostly hard
links.
"""

import os
import shutil
import sys
from pathlib import Path

from environment import EVCXR, EVCXR_CONFIG, HOME, KERNEL_CARGO, KERNELS, TEMPLATE, environment

# What cargo and evcxr write again for each cell.
OWN = {"incremental", ".cargo-lock"}
OWN_AT_THE_TOP = {"src", ".cargo"}
CELL_CRATE = ("ctx-", "libctx", "libcode_", "ctx.")
COMPILED = (".rlib", ".rmeta", ".so", ".a", ".o")
# Says from which set-up a directory was copied; written last.
VERSION = "made-from"
# What cargo notes for other tools and for explanations, and does not need itself.
NOTES = (".d", ".json")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def adopt(own: Path, version: str) -> bool:
    """Takes over the directory of a kernel that has ended, which is sooner than a copy; removes those of older set-ups."""
    for folder in KERNELS.glob("kernel-*"):
        pid = folder.name.removeprefix("kernel-")
        if pid.isdigit() and folder != own and alive(int(pid)):
            continue
        try:
            if (folder / VERSION).read_text() == version:
                folder.rename(own)
                return True
        except OSError:
            pass  # half a copy, or another kernel was faster
        shutil.rmtree(folder, ignore_errors=True)
    return False


def clean(own: Path) -> None:
    """Removes what the cells of the kernel before have left."""
    incremental = [*own.glob("target/*/incremental"), *own.glob("target/*/debug/incremental")]
    for left in [*(own / name for name in OWN_AT_THE_TOP), *incremental]:
        shutil.rmtree(left, ignore_errors=True)
    for folder in own.glob("target/*/debug"):
        for left in [*folder.iterdir(), *(folder / "deps").iterdir(), *(folder / ".fingerprint").iterdir()]:
            if left.name.startswith(CELL_CRATE):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    shutil.copy(TEMPLATE / "Cargo.lock", own)  # the cells may have asked for other crates


def mirror(template: Path, own: Path, left_out: set[str]) -> None:
    """What is compiled becomes hard links: cargo replaces it as a whole. Small files it writes to in place: copies."""
    own.mkdir()
    for entry in os.scandir(template):
        target = own / entry.name
        note = entry.name.endswith(NOTES) and entry.name != ".rustc_info.json"
        if note or entry.name in left_out or entry.name.startswith(CELL_CRATE):
            continue
        if entry.is_dir():
            mirror(Path(entry.path), target, OWN)
        elif entry.name.endswith(COMPILED) or entry.stat().st_mode & 0o100:
            os.link(entry.path, target)
        else:
            target.write_bytes(Path(entry.path).read_bytes())
            os.utime(target, ns=(entry.stat().st_atime_ns, entry.stat().st_mtime_ns))  # cargo compares times


def copy_template(own: Path, version: str) -> None:
    """Makes a directory for a kernel of a set-up."""
    shutil.rmtree(own, ignore_errors=True)
    mirror(TEMPLATE, own, OWN | OWN_AT_THE_TOP)
    (own / VERSION).write_text(version)


def main() -> None:
    stamp = HOME / "stamps" / "kernel"
    if not stamp.exists():
        sys.exit("The kernel is not built: run `make setup`.")
    own = KERNELS / f"kernel-{os.getpid()}"
    if adopt(own, stamp.read_text()):
        clean(own)
    else:
        copy_template(own, stamp.read_text())
    launch(own)


def launch(folder: Path) -> None:
    """Becomes the kernel, so that the process that Jupyter knows is the kernel itself."""
    variables = environment()
    variables.pop("CARGO_TARGET_DIR")
    variables |= {
        "EVCXR_CONFIG_DIR": str(EVCXR_CONFIG),
        "EVCXR_TMPDIR": str(folder),
        "CARGO_HOME": str(KERNEL_CARGO),
    }
    os.execve(EVCXR, [str(EVCXR), "--control_file", sys.argv[1]], variables)


if __name__ == "__main__":
    main()
