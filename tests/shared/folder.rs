//! A place for the files of a test.

use std::path::PathBuf;

/// An empty place of its own for each process.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stemm-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}
