//! Whether there is memory for what is asked: an allocation that fails would end the process and take all variables along.

use crate::error::{Error, Result};

/// Refuses what needs more bytes than this machine can give.
pub(crate) fn check(what: &str, bytes: u64) -> Result<()> {
    match available() {
        Some(available) if bytes > available => {
            let gigabytes = |bytes: u64| bytes as f64 / 1e9;
            let (needed, free) = (gigabytes(bytes), gigabytes(available));
            Err(Error::OutOfMemory(format!("{what} would take {needed:.1} GB, and {free:.1} GB are free")))
        }
        _ => Ok(()),
    }
}

/// Bytes that the system can still give, where it says so; within a container, no more than its limit.
pub(crate) fn available() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024);
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    Some(limit.and_then(|limit| limit.trim().parse().ok()).map_or(free, |limit: u64| limit.min(free)))
}
