"""The kernel's own front, on a kernel without crates: what a cell's end looks like, and what evcxr's private marks become.

The front relies on seven strings that evcxr keeps to itself (kernel/src/records.rs). Each has a test here that fails when a
new evcxr says it otherwise.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from session import Session, bare  # noqa: E402

LIMIT_S = 60  # whatever takes longer hangs


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Session(bare(tmp_path_factory.mktemp("kernel"))) as session:
        session.wait()
        yield session


def run(kernel, code: str, **request):
    return kernel.run(code, LIMIT_S, **request)


def children(pid: int) -> set[int]:
    """A process and all below it."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found |= children(int(child))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# One test for each string of evcxr


def test_a_panic_is_an_error_with_the_line_of_the_cell(kernel):
    run(kernel, "let kept = vec![1, 2, 3];")
    answer = run(kernel, "let i = 7;\nlet x = kept[i];")
    assert (answer.status, answer.error_name) == ("error", "Panic")
    assert answer.error == ("index out of bounds: the len is 3 but the index is 7\n"
                            "  in line 2 of this cell: let x = kept[i];")
    assert answer.stderr == "" and run(kernel, "kept").text == "[1, 2, 3]"


def test_a_failed_question_mark_is_an_error_with_its_line(kernel):
    answer = run(kernel, 'println!("before");\nlet n: i32 = "a".parse()?;')
    assert (answer.status, answer.error_name, answer.stdout) == ("error", "Error", "before\n")
    assert answer.error == 'invalid digit found in string\n  in line 2 of this cell: let n: i32 = "a".parse()?;'


def test_a_variable_of_another_type_is_replaced(kernel):
    run(kernel, "struct Point { x: i32 }\nlet point = Point { x: 1 };")
    answer = run(kernel, "struct Point { x: i32, y: i32 }\nlet point = Point { x: 1, y: 2 };\npoint.y")
    assert (answer.status, answer.text) == ("ok", "2"), answer


def test_the_last_display_is_the_result_and_others_are_shown_at_once(kernel):
    display = 'println!("EVCXR_BEGIN_CONTENT text/html\\n<b>{i}</b>\\nEVCXR_END_CONTENT");'
    answer = run(kernel, f"for i in 0..3 {{ {display} std::thread::sleep(std::time::Duration::from_millis(300)); }}")
    assert [shown["text/html"] for shown in answer.displays] == ["<b>0</b>", "<b>1</b>", "<b>2</b>"]
    times = [seconds for seconds, kind, _ in answer.messages if kind == "display_data"]
    assert times[1] - times[0] > 0.2 and times[2] - times[1] > 0.2
    answer = run(kernel, f"{{ let i = 7; {display} }};")
    assert answer.result == {"text/html": "<b>7</b>"} and not answer.displays


def test_a_cell_can_end_with_an_unfinished_line(kernel):
    assert run(kernel, 'print!("half");').stdout == "half"
    answer = run(kernel, 'print!("more");\n1 + 1')
    assert (answer.stdout, answer.text) == ("more", "2")


def test_questions_to_the_user_are_asked_or_refused_with_a_sentence(kernel):
    # What the crate evcxr_input writes.
    ask = ('use std::io::BufRead;\nprintln!("EVCXR_INPUT_REQUEST:name?");\nlet mut line = String::new();\n'
           'std::io::stdin().lock().read_line(&mut line)?;\nline.trim().len()')
    answer = run(kernel, ask)
    assert answer.text == "0" and "gives a cell no input" in answer.stderr
    request = kernel.send(ask, allow_stdin=True)
    asked = kernel.client.get_stdin_msg(timeout=LIMIT_S)
    assert asked["content"]["prompt"] == "name?"
    kernel.client.input("Ada")
    assert kernel.collect(request, LIMIT_S).text == "3"


def test_output_comes_whole_and_in_order(kernel):
    answer = run(kernel, 'for i in 0..20_000 { println!("line {i}"); }')
    assert answer.stdout == "".join(f"line {i}\n" for i in range(20_000))
    assert sum(kind == "stream" for _, kind, _ in answer.messages) < 2000
    answer = run(kernel, 'println!("EVCXR_BEGIN_CONTENT text/html\\n{}\\nEVCXR_END_CONTENT", "x".repeat(8_000_000));')
    assert len(answer.result["text/html"]) == 8_000_000


# Streams


def test_text_without_an_end_of_line_is_shown_while_the_cell_runs(kernel):
    code = 'for i in 0..4 { print!("\\rstep {i}"); std::thread::sleep(std::time::Duration::from_millis(300)); }'
    answer = run(kernel, code)
    assert answer.stdout == "\rstep 0\rstep 1\rstep 2\rstep 3"
    times = [seconds for seconds, kind, _ in answer.messages if kind == "stream"]
    assert len(times) == 4 and times[-1] - times[0] > 0.7


def test_standard_error_that_is_no_failure_is_shown_as_such(kernel):
    answer = run(kernel, 'eprintln!("a warning");\nprintln!("and on");')
    assert (answer.status, answer.stderr, answer.stdout) == ("ok", "a warning\n", "and on\n")


# Errors


def test_an_error_of_the_compiler_shows_the_line_and_marks_the_place(kernel):
    answer = run(kernel, "let a = 1;\nlet b = nothing;")
    assert answer.error_name == "CompilationError" and "cannot find value `nothing`" in answer.error
    shown = "\n".join(content["traceback"][0] for _, kind, content in answer.messages if kind == "error")
    assert "   2 | let b = nothing;\n     |         \x1b[1m^^^^^^^" in shown


def test_cells_behind_a_failed_one_are_aborted_unless_asked_otherwise(kernel):
    requests = [kernel.send(code) for code in ['let n: i32 = "a".parse()?;', "1", "2"]]
    assert [kernel.collect(request, LIMIT_S).status for request in requests] == ["error", "aborted", "aborted"]
    requests = [kernel.send(code, stop_on_error=False) for code in ['let n: i32 = "a".parse()?;', "1"]]
    assert [kernel.collect(request, LIMIT_S).status for request in requests] == ["error", "ok"]


@pytest.mark.parametrize("code", ["let network = String::", "let x: Vec<", "let all = [1, 2].iter().map(|x| x + 1);", "fn f( {",
                                  'let s = "', "1 +", "}", "let x = |a| a;"])
def test_broken_cells_are_an_error_each_and_the_next_one_answers(kernel, code):
    run(kernel, "let before = 5;")
    assert run(kernel, code).status == "error"
    assert run(kernel, "before").text == "5"


def test_a_crash_says_what_is_lost_and_later_cells_say_why(kernel):
    run(kernel, "fn still_there() -> i32 { 8 }\nlet gone = 1;")
    count = kernel.send("std::process::abort();")
    answer = kernel.collect(count, LIMIT_S)
    assert answer.error_name == "Crash" and "signal 6" in answer.error and "all variables are lost" in answer.error
    answer = run(kernel, "gone + 1")
    shown = "".join(line for _, kind, content in answer.messages if kind == "error" for line in content["traceback"])
    assert "`gone` was lost when its process ended" in shown
    assert run(kernel, "still_there()").text == "8"
    assert "exit code 3" in run(kernel, "std::process::exit(3);").error


def test_restart_forgets_the_variables_and_keeps_the_rest(kernel):
    run(kernel, "fn kept_function() -> i32 { 4 }\nlet forgotten = 1;")
    assert run(kernel, ":restart\nkept_function()").text == "4"
    assert run(kernel, "forgotten").error_name == "CompilationError"


# Interrupts


def test_an_interrupt_while_a_cell_is_compiled_keeps_everything(kernel):
    run(kernel, "let kept = 42;")
    request = kernel.send('std::fs::write("/tmp/it-ran", "")?;\n' + "let v = vec![1u8];\n" * 300)
    time.sleep(0.3)
    kernel.manager.interrupt_kernel()
    answer = kernel.collect(request, LIMIT_S)
    assert answer.error_name == "Interrupted" and "before it ran" in answer.error
    assert run(kernel, "kept").text == "42"


SEVEN = "pub fn seven() -> u8 { 7 }\n"


def own_crate(folder: Path, code: str) -> tuple[str, Path]:
    """A crate of the user's own: how it is named as a dependency, and its source."""
    crate = folder / "own"
    (crate / "src").mkdir(parents=True)
    (crate / "Cargo.toml").write_text('[package]\nname = "own"\nversion = "0.1.0"\nedition = "2024"\n')
    source = crate / "src/lib.rs"
    source.write_text(code)
    return f'own = {{ path = "{crate}" }}', source


def test_an_interrupt_while_a_crate_is_compiled_keeps_the_crates(tmp_path):
    slow = "const _: u64 = { let mut i = 0; while i < 1 << 40 { i += 1; } i };\n"
    dependency, source = own_crate(tmp_path, SEVEN)
    with Session(bare(tmp_path)) as kernel:
        kernel.wait()
        run(kernel, f":dep {dependency}\nlet kept = own::seven();")
        source.write_text("#![allow(long_running_const_eval)]\n" + slow + SEVEN)
        request = kernel.send("let lost = own::seven();")
        time.sleep(4)
        kernel.manager.interrupt_kernel()
        assert kernel.collect(request, LIMIT_S).error_name == "Interrupted"
        # Cargo has removed the crate that it was to compile anew.
        source.write_text(SEVEN)
        assert run(kernel, "own::seven() + kept").text == "14"


def test_a_library_that_does_not_compile_fails_cells_until_it_is_mended(tmp_path):
    dependency, source = own_crate(tmp_path, SEVEN.replace("7", "wrong"))
    (tmp_path / "evcxr.toml").write_text(f"[dependencies]\n{dependency}\n")
    with Session(bare(tmp_path)) as kernel:
        kernel.wait()
        answer = run(kernel, "1 + 1")
        assert answer.status == "error" and "does not compile: mend it" in answer.error, answer
        assert "cannot find value `wrong`" in answer.error, answer.error
        source.write_text(SEVEN)
        assert run(kernel, "own::seven()").text == "7"


def test_the_first_interrupt_hints_and_the_second_ends_the_process(kernel):
    run(kernel, "let lost = 1;")
    request = kernel.send('println!("begun");\nloop { std::thread::sleep(std::time::Duration::from_millis(5)); }')
    while kernel.client.get_iopub_msg(timeout=LIMIT_S)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    time.sleep(4)
    kernel.manager.interrupt_kernel()
    answer = kernel.collect(request, LIMIT_S)
    assert "Interrupt again to end its process" in answer.stderr
    assert answer.error_name == "Interrupted" and "all variables are lost" in answer.error
    assert run(kernel, "1 + 1").text == "2"


def test_an_interrupt_while_nothing_runs_is_nothing(kernel):
    run(kernel, "let kept = 3;")
    kernel.manager.interrupt_kernel()
    time.sleep(0.3)
    assert run(kernel, "kept").text == "3"


# Beside the running cell


def test_the_kernel_answers_while_a_cell_runs(kernel):
    run(kernel, "let kept_variable = 1;")
    request = kernel.send("std::thread::sleep(std::time::Duration::from_secs(4));")
    time.sleep(1.5)
    start = time.monotonic()
    assert kernel.client.kernel_info(reply=True, timeout=LIMIT_S)["content"]["implementation"] == "stemm_kernel"
    assert kernel.client.complete("kept_v", 6, reply=True, timeout=LIMIT_S)["content"]["matches"] == ["kept_variable"]
    assert time.monotonic() - start < 1.0
    assert kernel.collect(request, LIMIT_S).status == "ok"


def test_names_and_documentation_are_found_while_nothing_runs(kernel):
    run(kernel, "let numbers = vec![1, 2, 3];")
    matches = kernel.client.complete("numbers.is_em", 13, reply=True, timeout=LIMIT_S)["content"]["matches"]
    assert any(match.startswith("is_empty") for match in matches) and not any("…" in match for match in matches)
    for cursor in [8, 10, 16, 17]:  # before the name, in it, at its end, among the arguments
        found = kernel.client.inspect("numbers.split_at()", cursor, reply=True, timeout=LIMIT_S)["content"]
        assert found["found"] and "split_at" in found["data"]["text/plain"], cursor


def test_silent_cells_and_expressions_of_the_front_end(kernel):
    before = run(kernel, "1").count
    silent = run(kernel, "let quiet = 6;\nquiet", silent=True)
    assert silent.result == {} and run(kernel, "quiet", store_history=False).count == before
    request = kernel.send("1", user_expressions={"sum": "quiet + 1", "wrong": "nothing"})
    kernel.collect(request, LIMIT_S)
    request = kernel.client.execute("1", user_expressions={"sum": "quiet + 1", "wrong": "nothing"}, reply=True,
                                    timeout=LIMIT_S)["content"]
    assert request["user_expressions"]["sum"]["data"]["text/plain"] == "7"
    assert request["user_expressions"]["wrong"]["status"] == "error"


@pytest.mark.parametrize("command, says", [(":vars", "Variable"), ("!echo \\)", ")"), (":help", ":dep"), (":version", "0.22"), (":timing", "Timing")])
def test_commands_of_evcxr_work(kernel, command, says):
    answer = run(kernel, command)
    assert says in str(answer.result)
    if command == ":timing":
        assert "Took" in run(kernel, "1").stdout
        run(kernel, ":timing")


def test_cells_are_optimised_as_much_as_asked_for(kernel):
    notes = Path(kernel.manager.kernel_spec.env["STEMM_KERNEL_DIRECTORY"]) / "target" / "noted"

    def is_noted(level: int) -> bool:
        return any(f"opt-level={level}" in note.read_text() for note in notes.glob("*.command"))

    run(kernel, "1 + 2")
    assert is_noted(1) and not is_noted(3)
    run(kernel, ":build_env STEMM_KERNEL_OPT=3")
    assert run(kernel, "1 + 3").text == "4" and is_noted(3)
    run(kernel, ":build_env STEMM_KERNEL_OPT=1")


# The end


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_kernel_that_is_ended_in_a_computation(tmp_path, end):
    session = Session(bare(tmp_path))
    session.wait()
    session.run("1", LIMIT_S)
    request = session.send('println!("begun");\nloop {}')
    while session.client.get_iopub_msg(timeout=LIMIT_S)["msg_type"] != "stream":
        pass
    processes = children(session.manager.provisioner.pid)
    assert len(processes) >= 3 and request
    os.kill(session.manager.provisioner.pid, end)
    time.sleep(2)
    assert [process for process in processes if is_alive(process)] == []
    session.client.stop_channels()


def test_a_kernel_ends_when_jupyter_is_killed(tmp_path):
    (tmp_path / "kernel").mkdir()
    script = (f"import sys, time; sys.path.insert(0, {str(Path(__file__).resolve().parent.parent / 'scripts')!r})\n"
              "from pathlib import Path\nfrom session import Session, bare\n"
              f"folder = Path({str(tmp_path)!r}) / 'own'; folder.mkdir()\n"
              "session = Session(bare(folder)); session.wait(); session.send('loop {}')\n"
              "time.sleep(6); print(session.manager.provisioner.pid, flush=True); time.sleep(600)")
    jupyter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    kernel = int(jupyter.stdout.readline())
    processes = children(kernel)
    jupyter.kill()
    time.sleep(3)
    assert [process for process in processes if is_alive(process)] == []


def test_a_client_that_stops_reading_stops_nobody_else(kernel):
    idle = BlockingKernelClient()  # with an identity of its own, as another page has
    idle.load_connection_file(kernel.manager.connection_file)
    idle.start_channels()
    idle.wait_for_ready(timeout=LIMIT_S)  # and never reads again
    answer = run(kernel, 'for _ in 0..600 { println!("{}", "x".repeat(100_000)); }')
    assert len(answer.stdout) == 600 * 100_001
    idle.stop_channels()
