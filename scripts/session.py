"""A running kernel and what it answers: for the set-up, the benchmarks and the tests."""

from jupyter_client.manager import KernelManager

LIMIT_S = 3600  # for one cell: the first one compiles the crate with all its dependencies


class Session:
    """A kernel from its start to its end, as a context; keywords go to the process that is started."""

    def __init__(self, manager: KernelManager | None = None, **process):
        self.manager = manager or KernelManager(kernel_name="stemm")
        self.manager.start_kernel(**process)
        self.client = self.manager.client()
        self.client.start_channels()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def wait(self) -> None:
        """Returns when the kernel answers."""
        self.client.wait_for_ready(timeout=LIMIT_S)

    def run(self, code: str) -> dict:
        """What a cell shows, by mime type; what it writes to standard error or fails with is under "error"."""
        shown = {}

        def hook(message):
            content = message["content"]
            if message["msg_type"] == "execute_result":
                shown.update(content["data"])
            elif message["msg_type"] == "error":
                shown["error"] = shown.get("error", "") + content["evalue"]
            elif message["msg_type"] == "stream" and content["name"] == "stderr":
                shown["error"] = shown.get("error", "") + content["text"]

        self.client.execute_interactive(code, timeout=LIMIT_S, allow_stdin=False, output_hook=hook)
        return shown
