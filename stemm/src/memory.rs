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
pub fn available() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024);
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    Some(limit.and_then(|limit| limit.trim().parse().ok()).map_or(free, |limit: u64| limit.min(free)))
}

/// What `work` gives, and by how many megabytes the memory of the process rose meanwhile, where the system says so.
pub(crate) fn measured<T>(work: impl FnOnce() -> T) -> (T, Option<f64>) {
    let before = status_mb("VmRSS:");
    // Sets the high-water mark back to what is resident now; where that is not allowed nothing is known.
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let result = work();
    let most = status_mb("VmHWM:").filter(|_| reset);
    (result, most.zip(before).map(|(most, before)| (most - before).max(0.0)))
}

fn status_mb(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_and_freed_meanwhile_is_seen() {
        let (length, most) = measured(|| std::hint::black_box(vec![1u8; 200 << 20]).len());
        assert_eq!(length, 200 << 20);
        assert!(most.is_none_or(|most| (150.0..2_000.0).contains(&most)), "{most:?}");
    }
}
