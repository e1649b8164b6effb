"""Compiles the template by running a kernel in the template directory itself; cargo's progress goes to standard error."""

import subprocess
import sys

from jupyter_client.manager import KernelManager

from environment import TEMPLATE

# The last has an error on purpose: where rust-analyzer finds no type, evcxr asks `cargo check`, which has its own build.
FIRST_CELLS = ["use stemm::prelude::*;\ndevice()", "let x = Tensor::from_slice(&[1f32, 2.0]);\nx.size()",
               "let y = no_such_function();"]
HOUR = 3600


def main() -> None:
    manager = KernelManager(kernel_name="stemm")
    manager.kernel_spec.argv = [sys.executable, __file__, "{connection_file}"]
    manager.start_kernel(stdout=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=HOUR)
        for cell in FIRST_CELLS:
            answers = []
            client.execute_interactive(cell, timeout=HOUR, allow_stdin=False, output_hook=answers.append)
            expected = "execute_result" if cell != FIRST_CELLS[-1] else "error"
            if not any(answer["msg_type"] == expected for answer in answers):
                sys.exit(f"The kernel does not run its first cells: {[answer['content'] for answer in answers]}")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from kernel import launch

        launch(TEMPLATE)
    main()
