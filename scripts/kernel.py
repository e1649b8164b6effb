"""Starts the Rust kernel in a temporary directory of its own: python scripts/kernel.py CONNECTION_FILE

Two kernels cannot share a directory, and compiling the dependencies takes minutes. So each kernel gets a copy of the
template with hard links: a second, and hardly any disk space.
"""

import os
import shutil
import sys
from pathlib import Path

from environment import EVCXR, EVCXR_CONFIG, KERNEL_CARGO, KERNELS, TEMPLATE, environment

# What cargo and evcxr write again for each cell must not be shared.
OWN = ["incremental", ".cargo-lock"]
OWN_AT_THE_TOP = ["src", ".cargo"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove_abandoned() -> None:
    for folder in KERNELS.glob("kernel-*"):
        pid = folder.name.removeprefix("kernel-")
        if not (pid.isdigit() and alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def left_out(folder: str, names: list[str]) -> list[str]:
    cell_crate = [name for name in names if name.startswith(("ctx-", "libctx", "libcode_", "ctx."))]
    own = OWN + OWN_AT_THE_TOP if Path(folder) == TEMPLATE else OWN
    return cell_crate + [name for name in names if name in own]


def link_or_copy(source: str, target: str) -> str:
    # Small files may be rewritten in place; what is compiled takes the space, and never is.
    if source.endswith((".rlib", ".rmeta", ".so", ".a", ".o")) or os.access(source, os.X_OK):
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


def main() -> None:
    if not EVCXR.exists() or not TEMPLATE.exists():
        sys.exit("The kernel is not built: run `make setup`.")
    remove_abandoned()
    own = KERNELS / f"kernel-{os.getpid()}"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(TEMPLATE, own, ignore=left_out, copy_function=link_or_copy)
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
