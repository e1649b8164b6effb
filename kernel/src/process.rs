//! Processes that end with each other.

use std::io::Write;
use std::os::unix::process::parent_id;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};

const PACE: Duration = Duration::from_millis(50);

/// Ends this process when its parent has ended, however that ended; meanwhile shows what is half written to standard output.
///
/// `print!` keeps a line to itself until it is whole. Cells share the standard library with this program (it is linked
/// dynamically), so that this thread can hand on what they have begun.
pub fn end_with_parent() {
    let parent = parent_id();
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    std::thread::spawn(move || {
        while parent_id() == parent {
            std::thread::sleep(PACE);
            let _ = std::io::stdout().flush();
        }
        kill(getpid()); // not exit(): destructors of libraries would run beside their threads
    });
}

/// Ends a process at once.
pub fn kill(process: Pid) {
    let _ = kill_process(process, Signal::KILL); // it may have ended by itself
}

/// Ends the programs that compile a cell: cargo, or the linker that starts it, with what they have started.
///
/// evcxr then reports that the compilation failed, and keeps everything. Processes are found in `/proc`, so elsewhere than on
/// Linux a compilation goes on to its end, and the cell does not begin then.
pub fn kill_compiler() {
    for child in children(std::process::id()) {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        if ["cargo", "mold", "rustc"].contains(&name.trim()) {
            kill_tree(child);
        }
    }
}

fn kill_tree(process: u32) {
    for child in children(process) {
        kill_tree(child);
    }
    if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(process, Signal::TERM);
    }
}

fn children(process: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>()).collect()
}
