//! Files: read whole, named for what they are if they are not what they should be, and written atomically, so that a
//! reader sees the old file or the new one, whole.

mod checkpoint;
mod format;
mod tensors;

pub(crate) use checkpoint::{Checkpoint, Resumed, place_of, prefixed, reserved};
pub(crate) use format::not_a;
pub(crate) use tensors::{Contents, RESERVED, Stored, bytes_of, digest_of, read_stored, read_tensors, write_tensors};

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

const WRITE_HINT: &str = "check the folder's permissions and the free disk space";

/// What to do about a checkpoint that cannot be read.
pub(crate) const CHECKPOINT_HINT: &str = "give `checkpoints` another folder to start anew; the file stays as it is";

/// Whether an error is one of the machine or the user, so that a file that was being read may be as good as before.
pub(crate) fn spared_by(error: &Error) -> bool {
    use Error::{File, Interrupted, OutOfMemory, Threads, Torch};
    matches!(error, File { .. } | OutOfMemory(_) | Torch(_) | Threads { .. } | Interrupted { .. })
}

pub(crate) type Metadata = HashMap<String, String>;

/// JSON of a plain value.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    // Only types of this crate come here: no maps with non-string keys, no failing `Serialize`.
    serde_json::to_string(value).unwrap_or_default()
}

/// Floats in JSON, which has no NaN and no infinities: these are written as text.
pub(crate) mod any_float {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.collect_str(value) }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Float {
            Number(f64),
            Text(String),
        }
        match Float::deserialize(deserializer)? {
            Float::Number(value) => Ok(value),
            Float::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

/// The same of floats that may be missing.
pub(crate) mod any_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Any(#[serde(with = "super::any_float")] f64);

    pub(crate) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Any).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Any>::deserialize(deserializer)?.map(|value| value.0))
    }
}

/// Reads a value back from a file's metadata.
pub(crate) fn from_metadata<T: DeserializeOwned>(path: &Path, metadata: &Metadata, key: &str) -> Result<T> {
    let hint = "give the path of a file that this version of stemm wrote; the file stays as it is";
    let corrupt = |reason: String| Error::Corrupt { path: path.into(), format: "stemm safetensors", reason, hint };
    let json = metadata.get(key).ok_or_else(|| corrupt(format!("its metadata has no `{key}`")))?;
    serde_json::from_str(json).map_err(|error| corrupt(format!("its metadata `{key}` cannot be read: {error}")))
}

/// The bytes of a file; the hint says what to do if it cannot be read.
pub(crate) fn read(path: &Path, hint: &'static str) -> Result<Vec<u8>> {
    let failed = |hint| move |source| Error::File { action: "read", path: path.into(), source, hint };
    let metadata = std::fs::metadata(path).map_err(failed(hint))?;
    if metadata.is_dir() {
        let reason = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(failed("give the path of a file in this folder")(reason));
    }
    // A device or a pipe may have no end.
    if !metadata.is_file() {
        return Err(failed("copy what it gives into a file first")(std::io::Error::other("no regular file")));
    }
    crate::memory::check(&path.display().to_string(), metadata.len())?;
    std::fs::read(path).map_err(failed(hint))
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// A finished SHA-256 in hexadecimal.
pub(crate) fn hexadecimal(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a folder, if it is not there yet.
pub(crate) fn make_folder(folder: &Path, hint: &'static str) -> Result<()> {
    let failed = |source| Error::File { action: "make", path: folder.into(), source, hint };
    std::fs::create_dir_all(folder).map_err(failed)
}

/// Writes a file under a temporary name beside its place, then moves it there; makes the folder if need be. Where there is a link,
/// the file is that to which it leads. Devices and pipes are no places for it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |hint| move |source| Error::File { action: "write", path: path.into(), source, hint };
    if path.is_dir() || path.file_name().is_none() {
        let reason = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(failed("add the name of a file to this folder")(reason));
    }
    let place = end_of_links(path).map_err(failed("remove the link, or give another path"))?;
    let path = place.as_path();
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(failed("give the path of a file")(std::io::Error::other("no regular file")));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder).map_err(failed(WRITE_HINT))?;
    // A name of its own for each write of each process on each machine (process numbers are alike in containers), and a short one:
    // the file's may be as long as a name can be.
    let random = RandomState::new().build_hasher().finish();
    let partial = folder.join(format!(".stemm-{random:016x}.partial"));
    let write = || {
        let mut file = std::fs::File::create_new(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&partial); // the first error is the one to report
        failed(WRITE_HINT)(source)
    })
}

/// Where a path leads, also to a file that is not there yet.
fn end_of_links(path: &Path) -> std::io::Result<PathBuf> {
    let mut place = path.to_owned();
    // As many as the system follows.
    for _ in 0..40 {
        match std::fs::read_link(&place) {
            Ok(next) => place = place.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Ok(place),
        }
    }
    Err(std::io::Error::other("too many links"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_and_what_is_no_file_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("stemm-links-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        let (first, second, file) = (folder.join("first"), folder.join("second"), folder.join("deep/file"));
        symlink("second", &first).unwrap();
        symlink("deep/file", &second).unwrap();
        write_atomically(&first, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert!(first.is_symlink() && second.is_symlink());
        symlink("circle", folder.join("circle")).unwrap();
        write_atomically(&folder.join("circle"), b"").unwrap_err();
        symlink("/dev/null", folder.join("device")).unwrap();
        let error = write_atomically(&folder.join("device"), b"").unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
