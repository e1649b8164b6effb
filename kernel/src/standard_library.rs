//! Keeps rust-analyzer from reading Rust's standard library twice.
//!
//! evcxr compiles a first line before it knows of any crate, and reads everything anew when its configuration adds one. The first
//! line needs no types, so for it the standard library is an empty one: two seconds less until the first cell.

use std::fs;
use std::path::PathBuf;

/// Where rust-analyzer looks for the sources first.
const PLACE: &str = "RUST_SRC_PATH";

/// Does what needs no types. Where evcxr's configuration adds no crate, nothing is read later, so everything is read now.
pub fn without<T>(start: impl FnOnce() -> T) -> T {
    let empty = if configuration_adds_crates() && std::env::var_os(PLACE).is_none() { empty_library() } else { None };
    let Some(empty) = empty else { return start() };
    // SAFETY: variables are changed under a lock of the standard library's, and no foreign code that reads them runs in the
    // kernel's own process.
    unsafe { std::env::set_var(PLACE, empty) };
    let result = start();
    // SAFETY: as above.
    unsafe { std::env::remove_var(PLACE) };
    result
}

/// Whether `:load_config` will name a crate: evcxr reads the file in the working directory, else that of its configuration.
fn configuration_adds_crates() -> bool {
    let folders = [std::env::current_dir().ok(), evcxr::config_dir()];
    let files = folders.into_iter().flatten().map(|folder| folder.join("evcxr.toml"));
    let text = files.filter_map(|file| fs::read_to_string(file).ok()).next().unwrap_or_default();
    let below = text.split_once("[dependencies]").map(|(_, below)| below).unwrap_or_default();
    below.lines().take_while(|line| !line.starts_with('[')).any(|line| line.contains('='))
}

/// A folder like that of the sources, with nothing in it.
fn empty_library() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os(crate::DIRECTORY)?).join("no-sources");
    let core = folder.join("core").join("src");
    fs::create_dir_all(&core).and_then(|()| fs::write(core.join("lib.rs"), "")).ok()?;
    Some(folder)
}
