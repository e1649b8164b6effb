//! The directory in which a kernel compiles its cells.
//!
//! Two kernels cannot share one, and compiling the dependencies takes minutes. So each kernel takes over the directory of one
//! that has ended, or the spare one of the set-up, or, if there is none, gets a copy of the set-up's template that is mostly
//! hard links. Whose a directory is says a lock on the file beside it, which the system releases when its owner ends, in
//! whatever container or on whatever machine that was; numbers of processes say nothing there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::io::{FdFlags, fcntl_setfd};

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

/// A directory of this process's own, by the folder of the set-up, for as long as it lives; also as another program if it
/// becomes one.
///
/// # Errors
/// The set-up is not complete, or the disk is full.
pub fn of_setup(home: &Path, becomes_another: bool) -> Result<PathBuf> {
    let Claim { directory, lock } = claim_of_setup(home)?;
    if becomes_another {
        fcntl_setfd(&lock, FdFlags::empty())?;
    }
    let _ = lock.into_raw_fd(); // never closed
    Ok(directory)
}

/// Copies the template for the next kernel, whose start then takes a second less.
///
/// # Errors
/// As [`of_setup`].
pub fn make_spare(home: &Path) -> Result<()> {
    claim_of_setup(home).map(drop)
}

/// A directory of one's own until the lock is closed.
struct Claim {
    directory: PathBuf,
    lock: File,
}

fn claim_of_setup(home: &Path) -> Result<Claim> {
    let (shared, version) = (home.join("kernels"), version(home)?);
    let template = shared.join(TEMPLATE);
    match claim(&shared, &template, &version) {
        // A set-up of somebody else's.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            let own = of_user(home)?;
            fs::create_dir_all(&own)?;
            claim(&own, &template, &version)
        }
        claimed => claimed,
    }
}

/// The user's own folder for kernels of a set-up in which only others may write.
fn of_user(home: &Path) -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|cache| cache.is_absolute());
    let cache = cache.or_else(|| std::env::home_dir().map(|user| user.join(".cache")));
    let cache = cache.ok_or_else(|| Error::other("HOME is not set: set it to a folder of your own"))?;
    let mut hasher = DefaultHasher::new();
    home.hash(&mut hasher);
    Ok(cache.join("stemm").join(format!("{:016x}", hasher.finish())).join("kernels"))
}

/// What the template was made from.
fn version(home: &Path) -> Result<String> {
    let stamp = home.join("stamps").join("kernel");
    fs::read_to_string(&stamp).map_err(|_| {
        Error::other(format!("the kernel's crates are not compiled ({} is missing): run `make setup`", stamp.display()))
    })
}

/// Takes over a directory that nobody has any more, which is sooner than a copy; removes those of older set-ups.
fn claim(kernels: &Path, template: &Path, version: &str) -> Result<Claim> {
    let numbers = numbers(kernels);
    for number in &numbers {
        let Some(claim) = lock(kernels, *number)? else { continue };
        if is_whole(&claim.directory, version) {
            clean(&claim.directory, template)?;
            return Ok(claim);
        }
        let _ = fs::remove_dir_all(&claim.directory); // half a copy, half compiled, or of another set-up
    }
    for number in 1.. {
        let Some(claim) = lock(kernels, number)? else { continue };
        if claim.directory.exists() {
            fs::remove_dir_all(&claim.directory)?;
        }
        let left_out: Vec<&str> = OWN.into_iter().chain(OWN_AT_THE_TOP).collect();
        mirror(template, &claim.directory, &left_out)?;
        fs::write(claim.directory.join(VERSION), version)?;
        return Ok(claim);
    }
    unreachable!("some number is free")
}

/// The numbers of the directories that there are.
fn numbers(kernels: &Path) -> BTreeSet<u32> {
    let entries = fs::read_dir(kernels).into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("kernel-")?.parse().ok()).collect()
}

/// The directory of a number, unless another process has it.
fn lock(kernels: &Path, number: u32) -> Result<Option<Claim>> {
    let directory = kernels.join(format!("kernel-{number}"));
    let lock = File::create(directory.with_extension("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Claim { directory, lock })),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn is_whole(directory: &Path, version: &str) -> bool {
    let is_of_version = fs::read_to_string(directory.join(VERSION)).is_ok_and(|made_from| made_from == version);
    is_of_version && !directory.join(UNFINISHED).exists()
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

/// What is compiled becomes links: cargo replaces it as a whole. Hard ones stay as they are when the set-up compiles the
/// crate anew. Small files, to which cargo writes in place, are copied.
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
            // Files on another file system or of another user can only be named.
            fs::hard_link(&entry, &target).or_else(|_| symlink(&entry, &target))?;
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

    fn claim_in(kernels: &Path, version: &str) -> Claim {
        claim(kernels, &kernels.join(TEMPLATE), version).unwrap()
    }

    #[test]
    fn a_copy_links_what_is_compiled_and_leaves_out_what_cells_have_left() {
        use std::os::unix::fs::MetadataExt;
        let kernels = kernels();
        let own = claim_in(&kernels, "1").directory;
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
        let ended = claim_in(&kernels, "1").directory;
        fs::write(ended.join("target/x86/debug/deps/libcode_7.so"), "cell").unwrap();
        fs::write(ended.join("target/x86/debug/deps/mark"), "it is the same").unwrap();
        fs::create_dir(ended.join("src")).unwrap();
        fs::write(ended.join("Cargo.lock"), "other crates").unwrap();
        let own = claim_in(&kernels, "1").directory;
        assert_eq!(own, ended);
        assert_eq!(names(&own.join("target/x86/debug/deps")), ["libstemm.so", "mark", "small"]);
        assert_eq!(fs::read_to_string(own.join("Cargo.lock")).unwrap(), "lock");
        assert!(!own.join("src").exists());
        fs::remove_dir_all(kernels).unwrap();
    }

    #[test]
    fn directories_of_living_kernels_stay_and_those_of_other_set_ups_and_half_compiled_ones_go() {
        let kernels = kernels();
        let old = claim_in(&kernels, "0");
        let living = claim_in(&kernels, "1");
        let (half, other) = (claim_in(&kernels, "1"), claim_in(&kernels, "1"));
        let places: BTreeSet<_> = [&old, &living, &half, &other].map(|claim| claim.directory.clone()).into();
        assert_eq!(places.len(), 4);
        fs::write(living.directory.join("mark"), "").unwrap();
        fs::write(other.directory.join("mark"), "").unwrap();
        fs::write(half.directory.join(UNFINISHED), "").unwrap();
        let ended = |claim: Claim| claim.directory;
        let (old, half) = (ended(old), ended(half));
        let own = claim_in(&kernels, "1");
        assert!(living.directory.join("mark").exists() && other.directory.join("mark").exists());
        assert_eq!((own.directory, old.exists(), half.exists()), (old.clone(), true, false));
        assert_eq!(fs::read_to_string(old.join(VERSION)).unwrap(), "1");
        fs::remove_dir_all(kernels).unwrap();
    }
}
