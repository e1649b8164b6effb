"""The kernel as a user meets it: several at once, errors that lose nothing, tables and charts that show themselves."""

import base64
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import kernel_speed  # noqa: E402
from environment import KERNELS  # noqa: E402
from session import Session  # noqa: E402


@pytest.fixture(scope="module")
def kernels():
    with Session() as first, Session() as second:  # both start before either is used
        for kernel in (first, second):
            kernel.wait()
            assert kernel.run("use stemm::prelude::*;\ndevice()")["text/plain"].startswith(("CPU", "CUDA"))
        yield first, second


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


def test_a_kernel_takes_over_the_directory_of_one_that_has_ended():
    def directories():
        return {folder.name for folder in KERNELS.glob("kernel-*")}

    with Session() as session:
        session.wait()
        session.run("let before = 1;")
        first = directories()
    with Session() as session:
        session.wait()
        assert len(directories()) == len(first) and directories() != first
        assert "error" in session.run("before")
        assert session.run("let now = 2;\nnow") == {"text/plain": "2"}


def test_memory_grows_little_from_cell_to_cell(capsys):
    speed = kernel_speed.measure()
    assert speed.failures == []
    with capsys.disabled():  # figures for the reader of the log; how long cells take is not a matter for a test
        print(f"\n[kernel] first chart after {speed.first_chart_s:.1f} s, median cell {speed.median_s:.2f} s, "
              f"worst {max(speed.cells_s):.2f} s, {speed.growth_mb:.1f} MB a cell")
    assert speed.growth_mb < 5.0
