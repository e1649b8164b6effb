//! What the shell that starts a kernel says, and a kernel must not hear.

use std::thread::available_parallelism;

/// Beginnings of variables that would have cargo compile all of the crates anew, and otherwise; evcxr sets its own later.
const FOREIGN: [&str; 9] = [
    "CARGO_BUILD_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_UNSTABLE_",
    "RUSTC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];
/// How many threads libtorch starts.
const THREADS: &str = "OMP_NUM_THREADS";

/// Leaves such variables out, and keeps libtorch to the processors that a container was given.
///
/// # Safety
/// No other thread runs yet.
pub unsafe fn settle() {
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(&name.to_string_lossy())) {
        // SAFETY: as the caller says.
        unsafe { std::env::remove_var(name) };
    }
    if let Some(threads) = threads_of_quota().filter(|_| std::env::var_os(THREADS).is_none()) {
        // SAFETY: as the caller says.
        unsafe { std::env::set_var(THREADS, threads.to_string()) };
    }
}

fn is_foreign(name: &str) -> bool {
    FOREIGN.iter().any(|beginning| name.starts_with(beginning)) && name != "CARGO_BUILD_JOBS"
}

/// The processors of a quota, which libtorch does not know of, where it is less than those of the machine.
fn threads_of_quota() -> Option<usize> {
    let cores = rustix::thread::sched_getaffinity(None).ok()?.count() as usize;
    available_parallelism().ok().map(usize::from).filter(|&given| given < cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_for_other_builds_are_foreign_and_those_of_the_network_are_not() {
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS"]
        {
            assert!(is_foreign(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_BUILD_JOBS", "RUSTUP_HOME", "RUST_BACKTRACE", "PATH"] {
            assert!(!is_foreign(name), "{name}");
        }
    }
}
