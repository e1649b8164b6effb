//! Processes that end with each other.

use std::ffi::c_void;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::time::Duration;

use libloading::Library;
use rustix::process::{Pid, Signal, getpid, kill_process};

/// The library's function (lib.rs).
pub const FLUSH: &str = "stemm_kernel_flush";
const PACE: Duration = Duration::from_millis(50);

/// In the process with the variables: ends it when its parent has ended, however that ended; meanwhile hands on what cells have
/// begun to write.
pub fn serve_cells() {
    let parent = parent_id();
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    std::thread::spawn(move || {
        let flush = flush_of_cells();
        while parent_id() == parent {
            std::thread::sleep(PACE);
            if let Some(flush) = &flush {
                flush();
            }
        }
        kill(getpid()); // not exit(): destructors of libraries would run beside their threads
    });
}

/// The library beside this program, whose functions share standard output with the cells.
pub fn library_of_cells() -> Option<PathBuf> {
    let name = format!("{}stemm_kernel{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::env::current_exe().ok().map(|program| program.with_file_name(name)).filter(|library| library.exists())
}

/// Its function; without it, half lines are shown when they are whole.
fn flush_of_cells() -> Option<impl Fn()> {
    // SAFETY: the library is built from lib.rs, does nothing when it is loaded, and stays loaded with the function.
    let library: &'static Library = Box::leak(Box::new(unsafe { Library::new(library_of_cells()?) }.ok()?));
    // SAFETY: the function has this type, and does nothing with its argument.
    let flush = unsafe { library.get::<extern "C" fn(*mut c_void) -> *mut c_void>(FLUSH) }.ok()?;
    Some(move || {
        flush(std::ptr::null_mut());
    })
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
