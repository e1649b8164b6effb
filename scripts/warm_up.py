"""Compiles the template by running a kernel in the template directory itself; cargo's progress goes to standard error."""

import subprocess
import sys

from jupyter_client.manager import KernelManager

from environment import TEMPLATE
from session import Session

FIRST_CELLS = ["use stemm::prelude::*;\ndevice()", "let x = Tensor::from_slice(&[1f32, 2.0]);\nx.size()"]
# Where rust-analyzer finds no type, evcxr asks `cargo check`, which has its own build.
WRONG_CELL = "let y = no_such_function();"


def main() -> None:
    manager = KernelManager(kernel_name="stemm")
    manager.kernel_spec.env |= {"STEMM_KERNEL_DIRECTORY": str(TEMPLATE)}
    with Session(manager, stdout=subprocess.DEVNULL) as session:
        session.wait()
        answers = [session.run(cell) for cell in FIRST_CELLS]
        wrong = session.run(WRONG_CELL)
        if not all(answer.result and not answer.error for answer in answers) or wrong.error_name != "CompilationError":
            sys.exit(f"The kernel does not run its first cells: {answers}, {wrong}")


if __name__ == "__main__":
    main()
