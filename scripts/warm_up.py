"""Compiles the template by running a kernel in the template directory itself, and says what it prints meanwhile."""

import sys

from jupyter_client.manager import KernelManager

from environment import TEMPLATE

FIRST_CELLS = ["use stemm::prelude::*;\ndevice()", "let x = Tensor::from_slice(&[1f32, 2.0]);\nx.size()"]
HOUR = 3600


def main() -> None:
    manager = KernelManager(kernel_name="stemm")
    manager.kernel_spec.argv = [sys.executable, __file__, "{connection_file}"]
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=HOUR)
        for cell in FIRST_CELLS:
            reply = client.execute_interactive(cell, timeout=HOUR, allow_stdin=False)
            if reply["content"]["status"] != "ok":
                sys.exit("The kernel does not run its first cells; see above.")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from kernel import launch

        launch(TEMPLATE)
    main()
