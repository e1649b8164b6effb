//! The Jupyter kernel "Rust (stemm)": a front of its own for the library evcxr, which compiles cells and keeps variables.
//!
//! ```text
//! Jupyter <- five sockets -> kernel (front, engine with evcxr) <- lines -> relay <- pipes -> runtime with the variables
//! ```
//!
//! All three are this program.

mod cell;
mod code;
mod directory;
mod display;
mod engine;
mod failure;
mod front;
mod log;
mod memory;
mod process;
mod pump;
mod records;
mod relay;
mod request;
mod shell;
mod standard_library;
mod tools;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use front::Result;

const USAGE: &str = "usage: stemm_kernel CONNECTION_FILE
       stemm_kernel --evcxr CONNECTION_FILE   runs evcxr's own kernel in a directory of its own
       stemm_kernel --spare                   prepares the directory of a kernel to come
STEMM_HOME names the folder of the set-up.";
/// Names the directory of the kernel, instead of one of its own from the set-up.
pub const DIRECTORY: &str = "STEMM_KERNEL_DIRECTORY";

/// rust-analyzer allocates much and small.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    tools::run_if_asked();
    if std::env::var_os(records::IS_RUNTIME).is_some() {
        if std::env::var_os(records::INNER).is_none() {
            relay::run();
        }
        process::serve_cells();
    }
    // Does not return in the runtime, nor where cargo takes this program for rustc's wrapper.
    evcxr::runtime_hook();
    // SAFETY: no other thread runs yet.
    unsafe { shell::settle() };
    let argument = std::env::args().nth(1);
    let result = match argument.as_deref() {
        None | Some("--help" | "-h") => {
            println!("{USAGE}");
            return;
        }
        Some("--evcxr") => run_evcxr(std::env::args_os().nth(2)),
        Some("--spare") => home().and_then(|home| Ok(directory::make_spare(&home)?)),
        Some(file) => run(Path::new(file)),
    };
    if let Err(error) = result {
        eprintln!("stemm_kernel: {error}");
        std::process::exit(1);
    }
    std::process::exit(0); // without waiting for the engine's thread
}

/// The directory in which cells are compiled, for this program or for the one that it becomes.
fn directory(becomes_another: bool) -> Result<PathBuf> {
    match std::env::var_os(DIRECTORY) {
        Some(directory) => Ok(PathBuf::from(directory)),
        None => Ok(directory::of_setup(&home()?, becomes_another)?),
    }
}

/// Runs the kernel.
fn run(connection_file: &Path) -> Result<()> {
    let directory = directory(false)?;
    // SAFETY: no other thread runs yet.
    unsafe {
        std::env::set_var("EVCXR_TMPDIR", &directory);
        std::env::set_var(DIRECTORY, &directory);
        std::env::set_var(records::NOTES, &directory);
    }
    records::Note::Ready.clear();
    records::Note::Interrupt.clear();
    front::serve(connection_file)
}

/// Becomes evcxr's own kernel, the program beside this one.
fn run_evcxr(connection_file: Option<OsString>) -> Result<()> {
    let connection_file = connection_file.ok_or(USAGE)?;
    let program = std::env::current_exe()?.with_file_name("evcxr_jupyter");
    let mut command = Command::new(program);
    let directory = directory(true)?;
    command.arg("--control_file").arg(connection_file).env("EVCXR_TMPDIR", &directory).env(DIRECTORY, &directory);
    Err(command.exec().into())
}

fn home() -> Result<PathBuf> {
    Ok(std::env::var_os("STEMM_HOME")
        .map(PathBuf::from)
        .ok_or("STEMM_HOME is not set: start the kernel from Jupyter")?)
}
