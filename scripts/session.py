"""A running kernel and what it answers: for the set-up, the benchmarks and the tests."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_client.manager import KernelManager

LIMIT_S = 3600  # for one cell: the first one compiles the crate with all its dependencies


@dataclass
class Answer:
    """What a cell did: its result and the displays before it by MIME type, its text, and how it failed if it did."""

    result: dict = field(default_factory=dict)
    displays: list[dict] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""
    error_name: str = ""
    error: str = ""
    status: str = ""
    count: int | None = None
    messages: list[tuple[float, str, dict]] = field(default_factory=list)  # seconds, type, content
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The result as text."""
        return self.result.get("text/plain", "")

    @property
    def trouble(self) -> str:
        """Whatever a cell that runs through does not say."""
        return self.error + self.stderr

    def add(self, seconds: float, kind: str, content: dict) -> None:
        self.messages.append((seconds, kind, content))
        if kind == "execute_result":
            self.result = content["data"]
        elif kind == "display_data":
            self.displays.append(content["data"])
        elif kind == "error":
            self.error_name, self.error = content["ename"], content["evalue"]
        elif kind == "stream" and content["name"] == "stdout":
            self.stdout += content["text"]
        elif kind == "stream":
            self.stderr += content["text"]


def bare(folder: Path) -> KernelManager:
    """The kernel without any crate, which compiles in that folder: what no set-up can go below."""
    manager = KernelManager(kernel_name="stemm")
    (folder / "kernel").mkdir()
    own = {"EVCXR_CONFIG_DIR": str(folder), "STEMM_KERNEL_DIRECTORY": str(folder / "kernel"), "STEMM_KERNEL_WARM_UP": "()"}
    manager.kernel_spec.env = manager.kernel_spec.env | own
    return manager


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

    def run(self, code: str, limit: float = LIMIT_S, **request) -> Answer:
        """Runs a cell."""
        return self.collect(self.send(code, **request), limit)

    def send(self, code: str, **request) -> str:
        """Sends a cell without waiting for it; the request's number."""
        return self.client.execute(code, **{"allow_stdin": False} | request)

    def collect(self, request: str, limit: float = LIMIT_S) -> Answer:
        """Waits for what a cell that was sent does; what others do meanwhile is passed over."""
        answer, start = Answer(), time.monotonic()
        while True:
            left = limit - (time.monotonic() - start)
            message = self.client.get_iopub_msg(timeout=max(left, 0.1))
            if message["parent_header"].get("msg_id") != request:
                continue
            answer.add(time.monotonic() - start, message["msg_type"], message["content"])
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        while True:
            reply = self.client.get_shell_msg(timeout=limit)
            if reply["parent_header"].get("msg_id") == request:
                answer.status, answer.count = reply["content"]["status"], reply["content"].get("execution_count")
                answer.seconds = time.monotonic() - start
                return answer
