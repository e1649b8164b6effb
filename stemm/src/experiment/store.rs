//! Where experiments keep what they made: a folder that any number of processes can share.
//!
//! ```text
//! <hash of the experiment>.parquet                  its row, once it is there
//! <hash of the experiment>.failed                   the error of its last try
//! models/<hash of the training>/seed7.safetensors   checkpoints and models
//! alignments/<hash>.safetensors                     permutations, with what was measured along the way
//! *.parquet of other names                          rows that were gathered
//! *.damaged                                         what could not be read, and was made anew
//! ```
//!
//! Everything is written atomically, and everything is named by what decides it: whoever comes second finds it or makes the same.

use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rows::{self, Row};
use crate::error::{Error, Result};
use crate::file;
use crate::progress;

const WRITABLE: &str = "give `results` a folder that can be written to";

const MOVE_OUT: &str =
    "move it out of the folder of results, where what it held is measured anew, or copy it here again";

/// A folder of results.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Rows of the gathered files, by experiment.
    gathered: HashMap<String, Row>,
}

/// How far experiments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its row is there.
    Done,
    /// Its last try ended in an error.
    Failed,
    /// It was not run yet, or is running.
    Missing,
}

impl Store {
    /// The results in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// A folder that cannot be made or read, tables in it that are not of experiments.
    pub fn open(folder: impl AsRef<Path>) -> Result<Store> {
        let folder = folder.as_ref().to_owned();
        file::make_folder(&folder, WRITABLE)?;
        let mut gathered = HashMap::new();
        for path in files(&folder)? {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|ending| ending == "parquet") && !is_hash(stem) {
                let rows = rows::load(&path).map_err(|error| match error {
                    Error::Corrupt { path, format: format @ "Parquet", reason, .. } => {
                        Error::Corrupt { path, format, reason, hint: MOVE_OUT }
                    }
                    other => other,
                })?;
                let good = rows.into_iter().filter(|row| row.measured.is_ok());
                gathered.extend(good.map(|row| (row.experiment.clone(), row)));
            }
        }
        Ok(Store { folder, gathered })
    }

    /// The row of an experiment, if it is there.
    pub(super) fn row(&self, hash: &str) -> Result<Option<Row>> {
        let path = self.row_path(hash);
        if path.exists() {
            match rows::load(&path) {
                Ok(rows) => return Ok(rows.into_iter().find(|row| row.experiment == hash)),
                Err(Error::Corrupt { .. }) => set_aside(&path)?,
                Err(error) => return Err(error),
            }
        }
        Ok(self.gathered.get(hash).cloned())
    }

    /// Keeps a row, or the error of one.
    pub(super) fn keep(&self, row: &Row) -> Result<()> {
        let failed = self.folder.join(format!("{}.failed", row.experiment));
        match &row.measured {
            Ok(_) => {
                rows::save(std::slice::from_ref(row), &self.row_path(&row.experiment))?;
                let _ = std::fs::remove_file(failed); // of an earlier try, if there was one
                Ok(())
            }
            Err(error) => file::write_atomically(&failed, error.as_bytes()),
        }
    }

    /// How far each of some experiments is, by the names of the files alone.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn outcomes<'a>(&self, hashes: impl IntoIterator<Item = &'a str>) -> Result<Vec<Outcome>> {
        let names = files(&self.folder)?.into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let names: HashSet<String> = names.collect();
        let outcome = |hash: &str| {
            if names.contains(&format!("{hash}.parquet")) || self.gathered.contains_key(hash) {
                Outcome::Done
            } else if names.contains(&format!("{hash}.failed")) {
                Outcome::Failed
            } else {
                Outcome::Missing
            }
        };
        Ok(hashes.into_iter().map(outcome).collect())
    }

    /// The error of the last try of an experiment.
    pub fn error(&self, hash: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.join(format!("{hash}.failed"))).ok()
    }

    /// Where the models of a training are.
    pub(super) fn models(&self, training: &str) -> PathBuf {
        self.folder.join("models").join(&training[..16])
    }

    /// Where an alignment is.
    pub(super) fn alignment(&self, hash: &str) -> PathBuf {
        self.folder.join("alignments").join(format!("{}.safetensors", &hash[..32]))
    }

    pub(super) fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.folder)
    }

    fn row_path(&self, hash: &str) -> PathBuf {
        self.folder.join(format!("{hash}.parquet"))
    }
}

/// Moves a file that cannot be used out of the way, so that what should be in it is made anew.
pub(super) fn set_aside(path: &Path) -> Result<()> {
    let mut aside = path.with_added_extension("damaged");
    // One that was set aside before stays as well.
    for count in 1.. {
        if !aside.exists() {
            break;
        }
        aside = path.with_added_extension(format!("{count}.damaged"));
    }
    match std::fs::rename(path, &aside) {
        // Another process has seen the damage as well.
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { action: "move aside", path: path.into(), source, hint: WRITABLE })
        }
        _ => Ok(()),
    }
}

/// What is in a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::File {
        action: "read",
        path: folder.into(),
        source,
        hint: "give `results` a folder that can be read",
    };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

/// Holds what no other process may make at the same time; the system releases it, however this process ends.
#[derive(Debug)]
pub(super) struct Claim {
    _file: Option<File>,
}

impl Claim {
    /// Waits until nobody else makes `path`. Where a file system knows no locks, both make the same.
    pub fn of(path: &Path) -> Result<Claim> {
        let path = path.with_extension("lock");
        if let Some(folder) = path.parent() {
            file::make_folder(folder, WRITABLE)?;
        }
        let Ok(file) = File::create(&path) else { return Ok(Claim { _file: None }) };
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Claim { _file: Some(file) }),
                Err(TryLockError::WouldBlock) => {
                    progress::check()?;
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(TryLockError::Error(_)) => return Ok(Claim { _file: None }),
            }
        }
    }
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_claims_others_wait_for() {
        let folder = std::env::temp_dir().join(format!("stemm-claim-{}", std::process::id()));
        let path = folder.join("x.safetensors");
        let claim = Claim::of(&path).unwrap();
        let order = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let _second = Claim::of(&path).unwrap();
                order.lock().unwrap().push("second");
            });
            std::thread::sleep(Duration::from_millis(300));
            order.lock().unwrap().push("first");
            drop(claim);
        });
        assert_eq!(*order.lock().unwrap(), ["first", "second"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
