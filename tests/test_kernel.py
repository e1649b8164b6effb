"""The kernel as a user meets it: several at once, errors that lose nothing, tables and charts that show themselves."""

import base64
import sys
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import kernel_speed  # noqa: E402

LIMIT_S = 600


class Kernel:
    def __init__(self):
        self.manager = KernelManager(kernel_name="stemm")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()

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

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernels():
    pair = [Kernel(), Kernel()]  # both start before either is used
    try:
        for kernel in pair:
            kernel.client.wait_for_ready(timeout=LIMIT_S)
            assert kernel.run("use stemm::prelude::*;\ndevice()")["text/plain"].startswith(("CPU", "CUDA"))
        yield pair
    finally:
        for kernel in pair:
            kernel.stop()


def test_two_kernels_have_variables_of_their_own(kernels):
    for number, kernel in enumerate(kernels):
        kernel.run(f"let own = {number};")
    assert [kernel.run("own")["text/plain"] for kernel in kernels] == ["0", "1"]


def test_errors_leave_earlier_variables_alive(kernels):
    kernel = kernels[0]
    kernel.run("let kept = Tensor::from_slice(&[1f32, 2.0]);")
    kernel.run('panic!("a panic");')
    kernel.run("let lost = Network::mlp(&[1])?;")
    assert "error" in kernel.run("kept.no_such_method()")
    assert kernel.run("kept.size()")["text/plain"] == "[2]"


def test_tables_and_charts_show_themselves_in_every_form(kernels):
    kernel = kernels[1]
    kernel.run("let data = blobs(0, device())?;")
    table = kernel.run("data.frame()")
    assert "<table>" in table["text/html"] and "shape: (3, 5)" in table["text/plain"]
    kernel.run("let network = Network::mlp(&[16, 8, 4])?;")
    kernel.run("let training = Trainer { epochs: 2, ..Trainer::default() }.train(&network, &data, &[0])?;")
    chart = kernel.run("training.chart()")
    assert chart["image/svg+xml"].startswith("<svg")
    assert base64.b64decode(chart["image/png"]).startswith(b"\x89PNG")
    assert "Linear" in kernel.run("training.models[0]")["text/html"]


def test_plain_values_show_their_debug_text(kernels):
    kernel = kernels[1]
    kernel.run('let words = vec![String::from("a"), String::from("b")];')
    assert kernel.run("words.len()") == {"text/plain": "2"}
    assert kernel.run("words.first()") == {"text/plain": 'Some("a")'}  # borrows from a variable
    assert kernel.run('for word in &words { println!("{word}"); }') == {}  # nothing beside what it prints
    assert "Debug" in kernel.run("struct Plain;\nPlain")["error"]


def test_memory_grows_little_from_cell_to_cell(capsys):
    speed = kernel_speed.measure()
    assert speed.failures == []
    with capsys.disabled():  # figures for the reader of the log; how long cells take is not a matter for a test
        print(f"\n[kernel] first chart after {speed.first_chart_s:.1f} s, median cell {speed.median_s:.2f} s, "
              f"worst {max(speed.cells_s):.2f} s, {speed.growth_mb:.1f} MB a cell")
    assert speed.growth_mb < 5.0
