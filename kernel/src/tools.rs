//! The `cargo` and `rustup` that evcxr and rust-analyzer find first: this program under other names.
//!
//! A cell changes one file and nothing else, but cargo looks at 350 crates to see that: half a second of a second. So the
//! compiler's command for a cell is noted when cargo gives it, and from then on run without cargo, for as long as all that
//! cargo would decide by is the same. The answers to `cargo metadata` are noted likewise.
//!
//! evcxr also asks cargo about a manifest that holds nothing but a new dependency; cargo would then forget the versions of all
//! others and choose, and compile, newer ones. So whatever made the lock file shorter is undone.

mod metadata;
mod noted;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};

use crate::DIRECTORY;
use noted::{Call, Noted};

/// The real programs.
const CARGO: &str = "STEMM_KERNEL_CARGO";
const RUSTC: &str = "STEMM_KERNEL_RUSTC";
/// Set where cargo is to hand the cell's compiler command to this program: the file to note it in.
const NOTE_IN: &str = "STEMM_KERNEL_NOTE_IN";
/// The level at which cells are optimised, for loops of one's own: `:build_env STEMM_KERNEL_OPT=3`.
pub const LEVEL: &str = "STEMM_KERNEL_OPT";
/// In the environment of what evcxr asks of cargo.
const ASKED_BY_EVCXR: &str = "EVCXR_CORE_EXTERN";
/// evcxr's name for the crate of a cell.
const CELL: &str = "ctx";

/// Does what the program's name or environment asks for and does not return, if it asks for a tool.
pub fn run_if_asked() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().map(PathBuf::from).unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    match name.file_name().and_then(OsStr::to_str) {
        Some("cargo") => cargo(&arguments),
        Some("rustup") => rustup(&name, &arguments),
        _ => {}
    }
    if let Some(file) = std::env::var_os(NOTE_IN) {
        compiler(Path::new(&file), &arguments);
    }
}

/// As the compiler's wrapper for workspace members: notes the cell's command, and becomes the compiler.
fn compiler(file: &Path, arguments: &[OsString]) -> ! {
    let mut arguments = arguments.to_vec();
    if arguments.windows(2).any(|pair| pair[0] == "--crate-name" && pair[1] == CELL) {
        // Cells are glue: at level 1, and without optimising their units together once more, they are compiled in little more than
        // half of the time. evcxr's own level is that of all dependencies.
        let level = std::env::var(LEVEL).unwrap_or_else(|_| "1".into());
        arguments.extend(["-C", "lto=off", "-C", &format!("opt-level={level}")].map(OsString::from));
        Noted::command(&arguments).write(file);
    }
    let (program, arguments) = arguments.split_first().unwrap_or_else(|| fail("cargo names no compiler"));
    become_program(Command::new(program).args(arguments).env_remove(NOTE_IN))
}

fn rustup(own: &Path, arguments: &[OsString]) -> ! {
    let folder = own.parent().unwrap_or(Path::new(""));
    match arguments {
        [which, tool] if which == "which" && tool == "cargo" => println!("{}", folder.join("cargo").display()),
        [which, tool] if which == "which" && tool == "rustc" && std::env::var_os(RUSTC).is_some() => {
            println!("{}", std::env::var(RUSTC).unwrap_or_default());
        }
        _ => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut others =
                std::env::split_paths(&path).filter(|other| other != folder).map(|other| other.join("rustup"));
            let Some(real) = others.find(|program| program.is_file()) else { exit(1) }; // evcxr then does without
            become_program(Command::new(real).args(arguments));
        }
    }
    exit(0);
}

fn cargo(arguments: &[OsString]) -> ! {
    let Some(real) = std::env::var_os(CARGO) else { fail("STEMM_KERNEL_CARGO does not name the real cargo") };
    let asks = |name: &str| arguments.iter().any(|argument| argument == name);
    let by_evcxr = std::env::var_os(ASKED_BY_EVCXR).is_some();
    let call = std::env::var_os(DIRECTORY).and_then(|directory| Call::new(Path::new(&directory), arguments, by_evcxr));
    match call {
        Some(call) if by_evcxr && (asks("build") || asks("check")) => compile(&real, arguments, &call),
        Some(call) if asks("metadata") && !asks("--no-deps") => answer_metadata(&real, arguments, &call, by_evcxr),
        _ => become_program(Command::new(real).args(arguments)),
    }
}

/// Compiles a cell: by the noted command, or by cargo, noting the command.
fn compile(cargo: &OsStr, arguments: &[OsString], call: &Call) -> ! {
    let unfinished = call.unfinished();
    if let Some(noted) = Noted::read(&call.file("command")).filter(|_| !unfinished.exists()) {
        exit(noted.run(call));
    }
    let new = call.file("new");
    let own = std::env::current_exe().unwrap_or_else(|error| fail(&error.to_string()));
    let _ = std::fs::write(&unfinished, ""); // on a full disk cargo says what is wrong
    let mut command = Command::new(cargo);
    command.args(arguments).env("RUSTC_WORKSPACE_WRAPPER", own).env(NOTE_IN, &new);
    let code =
        call.with_lock(|| command.status()).map_or_else(|error| fail(&error.to_string()), |status| status.code());
    // Cargo has come to the cell, so all that it needs is compiled.
    if Noted::read(&new).is_some() {
        let _ = std::fs::remove_file(&unfinished);
        // What cargo has written into the lock file is part of what it decides by.
        if let Some(call) = call.again() {
            let _ = std::fs::rename(&new, call.file("command")); // else cargo is asked again
        }
    }
    exit(code.unwrap_or(1));
}

/// Answers `cargo metadata`, for rust-analyzer without the crates that cells cannot name.
fn answer_metadata(cargo: &OsStr, arguments: &[OsString], call: &Call, by_evcxr: bool) -> ! {
    let noted = Noted::read(&call.file("metadata")).unwrap_or_else(|| {
        let mut command = Command::new(cargo);
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = call.with_lock(|| command.output()).unwrap_or_else(|error| fail(&error.to_string()));
        if !output.status.success() {
            let _ = std::io::stdout().write_all(&output.stdout); // whoever asked may have gone
            exit(output.status.code().unwrap_or(1));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let noted = Noted::answer(if by_evcxr { text } else { metadata::restricted(&text).unwrap_or(text) }, call);
        if let Some(call) = call.again() {
            noted.write(&call.file("metadata"));
        }
        noted
    });
    let _ = std::io::stdout().write_all(noted.text(call).as_bytes());
    exit(0);
}

fn become_program(command: &mut Command) -> ! {
    let error = command.exec();
    fail(&format!("cannot run {}: {error}", command.get_program().to_string_lossy()))
}

fn fail(what: &str) -> ! {
    eprintln!("error: {what}");
    exit(101);
}
