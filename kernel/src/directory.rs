//! The directory in which a kernel compiles its cells.
//!
//! Two kernels cannot share one, and compiling the dependencies takes minutes. So each kernel takes over the directory of one
//! that has ended, or the spare one of the set-up, or, if there is none, gets a copy of the set-up's template that is mostly
//! hard links.

use std::fs;
use std::io::{Error, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

/// The template's name beside the kernels' directories.
const TEMPLATE: &str = "template";
/// Says from which set-up a directory was copied; written last.
const VERSION: &str = "made-from";
/// Is there where cargo was stopped before it had compiled all.
pub const UNFINISHED: &str = "unfinished";
/// What cargo and evcxr write again for each cell: in every folder, and in the first one.
const OWN: [&str; 2] = ["incremental", ".cargo-lock"];
const OWN_AT_THE_TOP: [&str; 2] = ["src", ".cargo"];
/// How what is compiled for a cell begins.
const CELL_CRATE: [&str; 4] = ["ctx-", "libctx", "libcode_", "ctx."];
/// Compiled files, which cargo replaces as a whole.
const COMPILED: [&str; 5] = ["rlib", "rmeta", "so", "a", "o"];
/// What cargo notes for other tools and for explanations, and does not need itself.
const NOTES: [&str; 2] = ["d", "json"];

/// A directory of this kernel's own, by the folder of the set-up.
///
/// # Errors
/// The set-up is not complete, or the disk is full.
pub fn of_setup(home: &Path) -> Result<PathBuf> {
    claim(&home.join("kernels"), &version(home)?)
}

/// Copies the template for the next kernel, whose start then takes a second less.
///
/// # Errors
/// As [`of_setup`].
pub fn make_spare(home: &Path) -> Result<()> {
    let kernels = home.join("kernels");
    copy_template(&kernels, &kernels.join("kernel-spare"), &version(home)?)
}

/// What the template was made from.
fn version(home: &Path) -> Result<String> {
    let stamp = home.join("stamps").join("kernel");
    fs::read_to_string(&stamp).map_err(|_| {
        Error::other(format!("the kernel's crates are not compiled ({} is missing): run `make setup`", stamp.display()))
    })
}

fn claim(kernels: &Path, version: &str) -> Result<PathBuf> {
    let own = kernels.join(format!("kernel-{}", std::process::id()));
    if adopt(kernels, &own, version) {
        clean(&own, &kernels.join(TEMPLATE))?;
    } else {
        copy_template(kernels, &own, version)?;
    }
    Ok(own)
}

fn copy_template(kernels: &Path, own: &Path, version: &str) -> Result<()> {
    if own.exists() {
        fs::remove_dir_all(own)?;
    }
    let left_out: Vec<&str> = OWN.into_iter().chain(OWN_AT_THE_TOP).collect();
    mirror(&kernels.join(TEMPLATE), own, &left_out)?;
    fs::write(own.join(VERSION), version)
}

/// Takes over the directory of a kernel that has ended, which is sooner than a copy; removes those of older set-ups.
fn adopt(kernels: &Path, own: &Path, version: &str) -> bool {
    for entry in fs::read_dir(kernels).into_iter().flatten().flatten() {
        let folder = entry.path();
        let Some(owner) = entry.file_name().to_str().and_then(|name| name.strip_prefix("kernel-").map(str::to_owned))
        else {
            continue;
        };
        if owner.parse().is_ok_and(is_alive) && folder != own {
            continue;
        }
        let is_of_version = fs::read_to_string(folder.join(VERSION)).is_ok_and(|made_from| made_from == version);
        let is_whole = is_of_version && !folder.join(UNFINISHED).exists();
        // Another kernel may be faster.
        if is_whole && (folder == own || fs::rename(&folder, own).is_ok()) {
            return true;
        }
        let _ = fs::remove_dir_all(&folder); // half a copy, half compiled, or of another set-up
    }
    false
}

fn is_alive(process: i32) -> bool {
    Pid::from_raw(process).is_some_and(|process| test_kill_process(process) != Err(rustix::io::Errno::SRCH))
}

/// Removes what the cells of the kernel before have left.
fn clean(own: &Path, template: &Path) -> Result<()> {
    for name in OWN_AT_THE_TOP {
        remove(&own.join(name))?;
    }
    for target in folders(&own.join("target")).into_iter().chain([own.join("target")]) {
        remove(&target.join("incremental"))?;
        let debug = target.join("debug");
        remove(&debug.join("incremental"))?;
        for folder in [debug.clone(), debug.join("deps"), debug.join(".fingerprint")] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if is_of_cell(&entry.file_name().to_string_lossy()) {
                    remove(&entry.path())?;
                }
            }
        }
    }
    // The cells may have asked for other crates.
    fs::copy(template.join("Cargo.lock"), own.join("Cargo.lock")).map(drop)
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    result.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn is_of_cell(name: &str) -> bool {
    CELL_CRATE.iter().any(|beginning| name.starts_with(beginning))
}

/// What is compiled becomes hard links: cargo replaces it as a whole. Small files, to which it writes in place, are copied.
fn mirror(template: &Path, own: &Path, left_out: &[&str]) -> Result<()> {
    fs::create_dir(own)?;
    for entry in fs::read_dir(template)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))?;
        let ending = entry.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let is_note = NOTES.contains(&ending) && name != ".rustc_info.json";
        if is_note || left_out.contains(&name.as_str()) || is_of_cell(&name) {
            continue;
        }
        let target = own.join(&name);
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            mirror(&entry, &target, &OWN)?;
        } else if COMPILED.contains(&ending) || metadata.permissions().mode() & 0o100 != 0 {
            // On file systems in layers a link can fail where a copy does not.
            fs::hard_link(&entry, &target).or_else(|_| copy(&entry, &target))?;
        } else {
            copy(&entry, &target)?;
        }
    }
    Ok(())
}

/// Copies a file with its times, which cargo compares.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)?;
    let metadata = from.metadata()?;
    let times = fs::FileTimes::new().set_accessed(metadata.accessed()?).set_modified(metadata.modified()?);
    fs::File::options().write(true).open(to)?.set_times(times)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// An empty folder of the test's own.
    pub fn folder(name: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("stemm-kernel-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn kernels() -> PathBuf {
        let kernels = folder("directory");
        let deps = kernels.join("template/target/x86/debug/deps");
        fs::create_dir_all(&deps).unwrap();
        fs::create_dir_all(kernels.join("template/src")).unwrap();
        for (name, text) in [("libstemm.so", "library"), ("libctx.so", "cell"), ("stemm.d", "note"), ("small", "text")]
        {
            fs::write(deps.join(name), text).unwrap();
        }
        fs::write(kernels.join("template/Cargo.lock"), "lock").unwrap();
        kernels
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_copy_links_what_is_compiled_and_leaves_out_what_cells_have_left() {
        use std::os::unix::fs::MetadataExt;
        let kernels = kernels();
        let own = claim(&kernels, "1").unwrap();
        let deps = own.join("target/x86/debug/deps");
        assert_eq!(names(&deps), ["libstemm.so", "small"]);
        assert_eq!(names(&own), ["Cargo.lock", VERSION, "target"]);
        let links = |name: &str| deps.join(name).metadata().unwrap().nlink();
        assert_eq!((links("libstemm.so"), links("small")), (2, 1));
        let time = |folder: &Path| folder.join("target/x86/debug/deps/small").metadata().unwrap().modified().unwrap();
        assert_eq!(time(&own), time(&kernels.join("template")));
        fs::remove_dir_all(kernels).unwrap();
    }

    #[test]
    fn the_directory_of_an_ended_kernel_is_taken_over_clean() {
        let kernels = kernels();
        let ended = kernels.join("kernel-spare");
        copy_template(&kernels, &ended, "1").unwrap();
        fs::write(ended.join("target/x86/debug/deps/libcode_7.so"), "cell").unwrap();
        fs::write(ended.join("target/x86/debug/deps/mark"), "it is the same").unwrap();
        fs::create_dir(ended.join("src")).unwrap();
        fs::write(ended.join("Cargo.lock"), "other crates").unwrap();
        let own = claim(&kernels, "1").unwrap();
        assert!(!ended.exists());
        assert_eq!(names(&own.join("target/x86/debug/deps")), ["libstemm.so", "mark", "small"]);
        assert_eq!(fs::read_to_string(own.join("Cargo.lock")).unwrap(), "lock");
        assert!(!own.join("src").exists());
        fs::remove_dir_all(kernels).unwrap();
    }

    #[test]
    fn directories_of_living_kernels_stay_and_those_of_other_set_ups_and_half_compiled_ones_go() {
        let kernels = kernels();
        let (living, old) = (kernels.join("kernel-1"), kernels.join("kernel-spare")); // process 1 always lives
        let half = kernels.join("kernel-half");
        copy_template(&kernels, &living, "1").unwrap();
        copy_template(&kernels, &old, "0").unwrap();
        copy_template(&kernels, &half, "1").unwrap();
        fs::write(half.join(UNFINISHED), "").unwrap();
        let own = claim(&kernels, "1").unwrap();
        assert!(living.exists() && !old.exists() && !half.exists() && own.exists());
        assert!(!own.join(UNFINISHED).exists());
        fs::remove_dir_all(kernels).unwrap();
    }
}
