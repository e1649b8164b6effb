//! A process that does one part of a plan; what it says is in the folder of results.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use stemm::Result;
use stemm::experiment::Plan;

use crate::{FAILED, unwritable};

/// It does not outlive this value, nor, on Linux, the process that started it.
pub struct Process {
    part: usize,
    log: PathBuf,
    child: Child,
    listener: Option<JoinHandle<String>>,
}

impl Process {
    pub fn start(path: &Path, plan: &Plan, (part, parts): (usize, usize), threads: usize) -> Result<Process> {
        let folder = plan.results.join("logs");
        std::fs::create_dir_all(&folder).map_err(unwritable("make", &folder))?;
        let log = folder.join(format!("part{part}.log"));
        let said = File::create(&log).map_err(unwritable("write", &log))?;
        let complained = said.try_clone().map_err(unwritable("write", &log))?;
        let mut command = Command::new(std::env::current_exe().map_err(unwritable("start a process for", &log))?);
        command.arg("run").arg(path).arg(part.to_string()).arg("--of").arg(parts.to_string());
        let threads = threads.to_string();
        command.envs([("OMP_NUM_THREADS", &threads), ("RAYON_NUM_THREADS", &threads)]);
        command.stdin(Stdio::null()).stdout(said).stderr(Stdio::piped());
        ends_with_its_parent(&mut command);
        let mut child = command.spawn().map_err(unwritable("start a process for", &log))?;
        let listener = child.stderr.take().map(|stream| std::thread::spawn(|| listen(stream, complained)));
        Ok(Process { part, log, child, listener })
    }

    /// Nothing while it is at work; then whether it came to its end, or why it did not.
    pub fn end(&mut self) -> Option<std::result::Result<(), String>> {
        let (part, log) = (self.part, self.log.display());
        let status = match self.child.try_wait() {
            Ok(status) => status?,
            Err(error) => return Some(Err(format!("part {part} is lost: {error}"))),
        };
        let last = self.listener.take().and_then(|listener| listener.join().ok()).unwrap_or_default();
        if status.success() || status.code() == Some(i32::from(FAILED)) {
            return Some(Ok(()));
        }
        let how = match status.signal() {
            Some(libc::SIGKILL) => format!("was ended from outside, {status}; if memory ran out, take fewer `--jobs`"),
            Some(libc::SIGTERM | libc::SIGINT | libc::SIGHUP) => format!("was ended from outside, {status}"),
            Some(_) => format!("crashed, {status}"),
            None => format!("ended early, {status}"),
        };
        let said = if last.is_empty() { String::new() } else { format!(": {last}") };
        Some(Err(format!("part {part} {how}{said} ({log})")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes down what a process complains of, and gives its last words: its error, if it says one. They are worth having also where the
/// disk that holds the log is full.
fn listen(stream: impl Read, mut log: File) -> String {
    let mut last = String::new();
    for line in BufReader::new(stream).split(b'\n').map_while(std::result::Result::ok) {
        let _ = log.write_all(&line).and_then(|()| log.write_all(b"\n"));
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if !line.is_empty() && (line.starts_with("stemm: ") || !last.starts_with("stemm: ")) {
            last = line;
        }
    }
    last
}

#[cfg(target_os = "linux")]
fn ends_with_its_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is a bare system call, as what runs between fork and exec has to be.
    unsafe {
        command.pre_exec(|| {
            // Where it is not allowed, parts outlive a sweep that is killed: no reason to start none.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        })
    };
}

#[cfg(not(target_os = "linux"))]
fn ends_with_its_parent(_: &mut Command) {}
