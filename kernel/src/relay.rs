//! The process between evcxr and the runtime, which holds the variables: passes everything on, in order, and adds records of
//! what evcxr would keep to itself.
//!
//! evcxr takes the relay for the runtime. It is the same program, so that nothing else has to be installed or found.

mod sorter;

use std::io::{BufRead, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use crate::process::{FLUSH, kill, library_of_cells};
use crate::records::{COMPLETE, INNER, Note, PANIC, RUN, Record};
use sorter::Sorter;

/// After so long without output, what is unfinished is shown: half a line, or a display that is not the cell's last word.
const PAUSE: Duration = Duration::from_millis(30);
/// Bytes that are read at once.
const PIECE: usize = 1 << 16;

/// Runs until the runtime or the kernel ends.
pub fn run() -> ! {
    let mut child = match start() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("stemm_kernel: cannot start the process for the variables: {error}");
            std::process::exit(1);
        }
    };
    let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three are piped");
    };
    let runtime = Pid::from_child(&child);
    let input = Arc::new(Mutex::new(input));
    std::thread::spawn({
        let input = input.clone();
        move || pass_on_requests(&input, runtime)
    });
    pass_on_output(output, errors, &input);
    let status = child.wait().unwrap_or_default();
    if Note::Ready.is_there() {
        write_line(&Record::Died { signal: status.signal(), code: status.code() }.line());
    }
    std::process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
}

fn start() -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INNER, "1")
        // evcxr asks for a backtrace: seconds of work for lines of somebody else's code.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Hands lines from evcxr to the runtime; when there are no more, evcxr has ended, and so must the runtime.
fn pass_on_requests(runtime: &Mutex<ChildStdin>, id: Pid) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if line.starts_with(RUN) && Note::Ready.is_there() {
            if Note::Interrupt.is_there() {
                write_line(&Record::NotRun.line());
                // To evcxr this is a panic before the first statement: it forgets the variables of this cell only.
                write_line(PANIC);
                write_line(COMPLETE);
                continue;
            }
            write_line(&Record::Run.line());
        }
        if send(runtime, &line).is_err() {
            return;
        }
    }
    kill(id); // nobody waits for what it computes
}

fn send(runtime: &Mutex<ChildStdin>, line: &str) -> std::io::Result<()> {
    let mut runtime = runtime.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(runtime, "{line}").and_then(|()| runtime.flush())
}

/// Hands output of the runtime to evcxr, until there is no more.
fn pass_on_output(mut output: ChildStdout, errors: ChildStderr, runtime: &Mutex<ChildStdin>) {
    // After each cell it runs another one, which hands on what the cell has begun to write.
    let library = library_of_cells().and_then(|library| library.into_os_string().into_string().ok());
    let flush = library.filter(|library| !library.contains(' ')).map(|library| format!("{RUN}{library} {FLUSH}"));
    let mut errors = Errors(Some(errors));
    let mut sorter = Sorter::new(flush.is_some());
    let mut piece = vec![0; PIECE];
    loop {
        let (output_waits, errors_wait) = wait(&output, &errors, sorter.is_waiting().then_some(PAUSE));
        let lines = if errors_wait {
            // Errors first: what was written there before a line of standard output comes before it.
            sorter.errors(&errors.read())
        } else if output_waits {
            match output.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => sorter.output(&piece[..length], &mut || errors.rest()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
        } else {
            sorter.pause()
        };
        hand_over(lines);
        if let Some(flush) = flush.as_ref().filter(|_| sorter.wants_flush()) {
            let _ = send(runtime, flush); // else the runtime has ended, which is seen above
        }
    }
    hand_over(sorter.errors(&errors.rest()));
    hand_over(sorter.end());
}

/// Standard error of the runtime, while it is open.
struct Errors(Option<ChildStderr>);

impl Errors {
    fn read(&mut self) -> Vec<u8> {
        let mut piece = vec![0; PIECE];
        let length = self.0.as_mut().map_or(0, |errors| errors.read(&mut piece).unwrap_or(0));
        if length == 0 {
            self.0 = None;
        }
        piece.truncate(length);
        piece
    }

    /// What has been written and not been read.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        while let Some(errors) = &self.0
            && poll(&mut [PollFd::new(errors, PollFlags::IN)], Some(&Timespec::default())) == Ok(1)
        {
            rest.append(&mut self.read());
        }
        rest
    }
}

/// Waits for output on either pipe, or until the time is over; says which has some.
fn wait(output: &ChildStdout, errors: &Errors, limit: Option<Duration>) -> (bool, bool) {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let mut pipes = vec![PollFd::new(output, PollFlags::IN)];
    if let Some(errors) = &errors.0 {
        pipes.push(PollFd::new(errors, PollFlags::IN));
    }
    while poll(&mut pipes, limit.as_ref()) == Err(rustix::io::Errno::INTR) {}
    let waits = |index: usize| pipes.get(index).is_some_and(|pipe: &PollFd| !pipe.revents().is_empty());
    (waits(0), waits(1))
}

/// Writes lines for evcxr. Before somebody reads, records would make it wait for ever, so it gets only its own.
fn hand_over(lines: Vec<String>) {
    let ready = Note::Ready.is_there();
    for line in lines.iter().filter(|line| ready || Record::of(line).is_none()) {
        write_line(line);
    }
}

fn write_line(line: &str) {
    let mut out = std::io::stdout().lock();
    // The kernel may be gone; then the other thread ends everything.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
