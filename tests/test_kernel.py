"""The kernel with the library, as a user meets it: several at once, errors that lose nothing, displays while a cell runs,
interrupts that keep everything."""

import base64
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import write_connection_file
from jupyter_client.manager import KernelManager

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import kernel_speed  # noqa: E402
from environment import JUPYTER  # noqa: E402
from notebooks import FOLDER  # noqa: E402
from session import Session  # noqa: E402


@pytest.fixture(scope="module")
def kernels():
    with Session() as first, Session() as second:  # both start before either is used
        for kernel in (first, second):
            kernel.wait()
            assert kernel.run("use stemm::prelude::*;\ndevice()").text.startswith(("CPU", "CUDA"))
        second.run("let data = blobs(0, device())?;\nlet network = Network::mlp(&[16, 8, 4])?;")
        second.run("let training = Trainer { epochs: 2, ..Trainer::default() }.train(&network, &data, &[0, 1])?;")
        yield first, second


def test_two_kernels_have_variables_of_their_own(kernels):
    for number, kernel in enumerate(kernels):
        kernel.run(f"let own = {number};")
    assert [kernel.run("own").text for kernel in kernels] == ["0", "1"]


def test_errors_leave_earlier_variables_alive(kernels):
    kernel = kernels[0]
    kernel.run("let kept = Tensor::from_slice(&[1f32, 2.0]);")
    assert kernel.run('panic!("a panic");').error_name == "Panic"
    assert kernel.run("let lost = Network::mlp(&[1])?;").error_name == "Error"
    assert kernel.run("kept.no_such_method()").error_name == "CompilationError"
    assert kernel.run("kept.size()").text == "[2]"


def test_tables_and_charts_show_themselves_in_every_form(kernels):
    kernel = kernels[1]
    table = kernel.run("data.frame()").result
    assert "<table" in table["text/html"] and "shape: (3, 5)" in table["text/plain"]
    chart = kernel.run("training.chart()").result
    assert chart["image/svg+xml"].startswith("<svg")
    assert base64.b64decode(chart["image/png"]).startswith(b"\x89PNG")
    assert "Linear" in kernel.run("training.models[0]").result["text/html"]


@pytest.mark.parametrize("code, mime, says", [
    ("training.chart().beside(training.chart())", "image/png", ""),
    ('let lines = Lines::new("a", "x", "y");\nlines', "image/png", ""),
    ("vec![training.chart(), training.chart()]", "image/png", ""),
    ("data.train", "text/html", "samples"),
    ("training.models", "text/html", "2 models of this network"),
    ("training.frame().lazy().filter(col(\"epoch\").eq(lit(2))).collect()?", "text/html", "epoch"),
    ("training.frame().lazy()", "text/plain", "LazyFrame"),
    ("training.frame().column(\"epoch\")?.clone()", "text/html", "Column of"),
    ("Tensor::from_slice(&[1.5f32, 2.0])", "text/plain", "1.5"),
    ("Trainer::default()", "text/plain", "\n    epochs: "),
])
def test_every_value_shows_itself_as_what_it_is(kernels, code, mime, says):
    answer = kernels[1].run(code)
    assert says in answer.result[mime], answer


def test_plain_values_show_their_debug_text(kernels):
    kernel = kernels[1]
    kernel.run('let words = vec![String::from("a"), String::from("b")];')
    assert kernel.run("words.len()").result == {"text/plain": "2"}
    assert kernel.run("words.first()").result == {"text/plain": 'Some("a")'}  # borrows from a variable
    assert kernel.run('for word in &words { println!("{word}"); }').result == {}  # nothing beside what it prints
    assert "Debug" in kernel.run("struct Plain;\nPlain").error
    # A value that cannot be shown takes nothing from those after it, also not from one that moves a variable.
    moved = kernel.run('let lines = Lines::new("a", "x", "y");\nChart::from(lines)')
    assert "image/png" in moved.result, moved


def test_displays_come_while_the_cell_runs_and_can_be_replaced(kernels):
    kernel = kernels[1]
    answer = kernel.run("for _ in 0..3 { show(&training.chart()); std::thread::sleep(std::time::Duration::from_millis(300)); }")
    times = [seconds for seconds, kind, _ in answer.messages if kind == "display_data"]
    assert len(times) == 3 and times[1] - times[0] > 0.25 and times[2] - times[1] > 0.25
    assert all("image/png" in shown for shown in answer.displays)
    assert kernel.run('let shown = show(&"one");\nshown').result == {}
    answer = kernel.run('shown.replace(&"two");')
    updates = [content for _, kind, content in answer.messages if kind == "update_display_data"]
    assert [update["data"]["text/plain"] for update in updates] == ['"two"']
    assert any(kind == "clear_output" for _, kind, _ in kernel.run("clear_output(true);").messages)


def test_progress_is_one_display_that_moves_and_ends_as_one_line(kernels):
    answer = kernels[1].run("let run = Trainer { epochs: 1500, ..Trainer::default() }.train(&network, &data, &[0, 1])?;")
    assert answer.status == "ok" and answer.stdout == ""
    bars = [content for _, kind, content in answer.messages if kind in ("display_data", "update_display_data")]
    assert len({bar["transient"]["display_id"] for bar in bars}) == 1
    assert [kind for _, kind, _ in answer.messages if kind == "display_data"] == ["display_data"]
    assert "<progress" in bars[0]["data"]["text/html"] and " 0.0 steps/s" not in str(bars)
    assert "training 2 models: 3000 steps in " in bars[-1]["data"]["text/html"] and "<progress" not in bars[-1]["data"]["text/html"]


LONG = {
    "training": "Trainer { epochs: 1_000_000, ..Trainer::default() }.train(&network, &data, &[0, 1])?;",
    "STE-MM": "SteMm { epochs: 1_000_000, ..SteMm::default() }.align(&training.models, &data)?;",
    "barriers": "Interpolation { points: 1_000_000, ..Interpolation::default() }.barriers(\"a\", &training.models, &data)?;",
    "curve": "Bezier { epochs: 1_000_000, ..Bezier::default() }.fit(\"a\", &training.models, &data)?;",
    "plane": "Plane { points: 3_000, ..Plane::default() }.around(\"a\", &training.models[0], &data)?;",
    "Hessian trace": "Hutchinson { vectors: 10_000_000, relative_error: None, ..Hutchinson::default() }"
                     ".traces(&[(\"a\", &training.models[0])], &data.train)?;",
    "spectral density": "SpectralDensity { vectors: 1_000_000, ..SpectralDensity::default() }.of((\"a\", &training.models[0]), &data.train)?;",
}


@pytest.mark.parametrize("what", LONG)
def test_an_interrupt_stops_long_work_and_keeps_everything(kernels, what):
    kernel = kernels[1]
    request = kernel.send(f"let long = {LONG[what]}")
    while True:
        message = kernel.client.get_iopub_msg(timeout=60)
        assert message["msg_type"] != "error", message["content"]["evalue"]
        if message["msg_type"] == "display_data":
            break
    start = time.monotonic()
    kernel.manager.interrupt_kernel()
    answer = kernel.collect(request, 60)
    assert time.monotonic() - start < 2
    assert answer.error_name == "Interrupted" and f"interrupted in {what}" in answer.error.replace("curve a", "curve")
    assert " of " in answer.error and "variables of earlier cells are as they were" in answer.error
    assert kernel.run("training.models.len()").text == "2"


def test_a_loop_of_ones_own_can_ask(kernels):
    kernel = kernels[0]
    request = kernel.send('let mut rounds = 0;\nprintln!("begun");\nwhile !interrupted() { rounds += 1; }\nrounds > 0')
    while kernel.client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    answer = kernel.collect(request, 60)
    assert (answer.status, answer.text) == ("ok", "true")


def test_a_kernel_takes_over_the_directory_of_one_that_has_ended():
    own = 'std::env::var("STEMM_KERNEL_DIRECTORY").unwrap()'
    with Session() as session:
        session.wait()
        session.run("let before = 1;")
        first = session.run(own).text
    with Session() as session, Session() as other:
        session.wait()
        other.wait()
        assert session.run("before").error_name == "CompilationError"
        directories = {kernel.run(own).text for kernel in (session, other)}
        assert len(directories) == 2 and first in directories
        assert session.run("let now = 2;\nnow").text == "2"


def test_a_kernel_needs_nothing_of_the_shell_that_starts_it(tmp_path):
    """As VS Code and JupyterHub start it: the specification alone."""
    specification = json.loads((JUPYTER / "kernels" / "stemm" / "kernel.json").read_text())
    connection, _ = write_connection_file(str(tmp_path / "connection.json"))
    argv = [part.replace("{connection_file}", connection) for part in specification["argv"]]
    process = subprocess.Popen(argv, env=specification["env"], cwd=tmp_path)
    # Not a manager's client: that one takes a process which its manager did not start for dead unless it answers in a second.
    client = BlockingKernelClient(connection_file=connection)
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        shown = []
        client.execute_interactive("use stemm::prelude::*;\nTensor::from_slice(&[1.5f32]).numel()", timeout=120,
                                   output_hook=lambda message: shown.append(message["content"]))
        assert any(content.get("data") == {"text/plain": "1"} for content in shown), shown
    finally:
        client.stop_channels()
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("name", ["stemm", "evcxr"])
def test_the_kernels_have_rusts_logo_and_its_licence(name):
    folder = JUPYTER / "kernels" / name
    assert (folder / "logo-64x64.png").read_bytes().startswith(b"\x89PNG") and (folder / "logo-LICENSE.md").exists()


def test_the_library_works_in_evcxrs_own_kernel():
    """The quickstart's first cells in "Rust (evcxr)", where progress comes in whole lines."""
    cells = nbformat.read(FOLDER / "00_quickstart.ipynb", as_version=4).cells
    codes = [cell.source for cell in cells if cell.cell_type == "code"][:2]
    with Session(KernelManager(kernel_name="evcxr"), cwd=str(FOLDER)) as session:
        session.wait()
        for code in codes:
            answer = session.run(code)
            assert answer.trouble == "" and answer.status == "ok", answer
        session.run("let data = blobs(0, device())?;\nlet network = Network::mlp(&[16, 64, 64, 4])?;")
        answer = session.run("let run = Trainer { epochs: 10_000, ..Trainer::default() }.train(&network, &data, &[0])?;\nrun")
        assert "training 1 models [" in answer.stdout and "<table" in answer.result["text/html"]


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="MKL is libtorch's on x86-64 only")
def test_mkl_asks_the_crate_for_its_fast_code(tmp_path):
    log = {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(tmp_path / "bindings")}
    with Session(env=os.environ | log) as session:
        session.wait()
        code = "let a = stemm::tch::Tensor::ones([300, 300], (stemm::tch::Kind::Float, stemm::tch::Device::Cpu));\na.matmul(&a).size()"
        assert session.run(code).text == "[300, 300]"
    bindings = [line for file in tmp_path.iterdir() for line in file.read_text(errors="replace").splitlines()]
    asks = [line for line in bindings if "libtorch_cpu.so" in line and "mkl_serv_intel_cpu_true" in line]
    assert asks and all("libstemm.so" in line for line in asks), asks


def test_memory_grows_little_from_cell_to_cell(capsys):
    speed = kernel_speed.measure()
    assert speed.failures == []
    with capsys.disabled():  # figures for the reader of the log; how long cells take is not a matter for a test
        print(f"\n[kernel] first chart after {speed.first_chart_s:.1f} s, median cell {speed.median_s:.2f} s, "
              f"worst {max(speed.cells_s):.2f} s, {speed.growth_mb:.1f} MB a cell")
    assert speed.growth_mb < 5.0
